//! SQL texts, written down as constants, so that a test can prepare each on both engines.

/// One statement in both dialects. Parameters are `$1`, `$2` … in both.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Statement {
    /// The text for SQLite.
    pub sqlite: &'static str,
    /// The text for PostgreSQL.
    pub postgres: &'static str,
}

/// Defines statements, and `ALL` with every one of them by name.
///
/// ```
/// berth_database::statements! {
///     /// The same text on both engines.
///     pub FIND = "SELECT digest FROM tags WHERE name = $1";
///     /// PostgreSQL locks the row; SQLite's one writer needs no lock.
///     pub LOCK = "SELECT digest FROM tags WHERE name = $1" for update;
///     /// Two texts.
///     pub AGE = sqlite "SELECT unixepoch() - $1" postgres "SELECT extract(epoch FROM now())::bigint - $1";
/// }
/// assert_eq!(LOCK.postgres, "SELECT digest FROM tags WHERE name = $1 FOR update");
/// assert_eq!(ALL.len(), 3);
/// ```
#[macro_export]
macro_rules! statements {
    (@one $sql:literal) => { $crate::Statement { sqlite: $sql, postgres: $sql } };
    (@one $sql:literal for $($lock:ident)+) => {
        $crate::Statement { sqlite: $sql, postgres: concat!($sql, " FOR ", stringify!($($lock)+)) }
    };
    (@one sqlite $sqlite:literal postgres $postgres:literal) => {
        $crate::Statement { sqlite: $sqlite, postgres: $postgres }
    };
    (@munch [$($done:ident)*]) => {
        /// Every statement of this module, by name.
        pub(crate) const ALL: &[(&str, &$crate::Statement)] = &[$((stringify!($done), &$done)),*];
    };
    (@munch [$($done:ident)*]
        $(#[$meta:meta])* $vis:vis $name:ident = $sql:literal ; $($rest:tt)*) => {
        $(#[$meta])* $vis const $name: $crate::Statement = $crate::statements!(@one $sql);
        $crate::statements!(@munch [$($done)* $name] $($rest)*);
    };
    (@munch [$($done:ident)*]
        $(#[$meta:meta])* $vis:vis $name:ident = $sql:literal for $($lock:ident)+ ; $($rest:tt)*) => {
        $(#[$meta])* $vis const $name: $crate::Statement = $crate::statements!(@one $sql for $($lock)+);
        $crate::statements!(@munch [$($done)* $name] $($rest)*);
    };
    (@munch [$($done:ident)*]
        $(#[$meta:meta])* $vis:vis $name:ident = sqlite $sqlite:literal postgres $postgres:literal ; $($rest:tt)*) => {
        $(#[$meta])* $vis const $name: $crate::Statement =
            $crate::statements!(@one sqlite $sqlite postgres $postgres);
        $crate::statements!(@munch [$($done)* $name] $($rest)*);
    };
    ($($input:tt)*) => { $crate::statements!(@munch [] $($input)*); };
}
