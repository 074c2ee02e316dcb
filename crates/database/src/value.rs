//! What goes into a statement and what comes out of it.

use sqlx::{
    Decode, Row as _, Type,
    postgres::{PgArguments, PgRow, Postgres},
    sqlite::{Sqlite, SqliteArguments, SqliteRow},
};

use crate::DatabaseError;

/// One bound parameter. Made by [`args!`](crate::args) from the types that convert into it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Arg {
    /// BIGINT.
    Int(Option<i64>),
    /// TEXT.
    Text(Option<String>),
    /// BYTEA, BLOB.
    Bytes(Option<Vec<u8>>),
    /// BOOLEAN; 0 or 1 in SQLite.
    Bool(Option<bool>),
    /// A list for `= ANY($1)`, or for `IN (SELECT value FROM json_each($1))`.
    TextList(Vec<String>),
    /// A list for `= ANY($1)`, or for `IN (SELECT unhex(value) FROM json_each($1))`.
    BytesList(Vec<Vec<u8>>),
}

/// A list of texts as one parameter.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct TextList(pub Vec<String>);

/// A list of byte strings as one parameter.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct BytesList(pub Vec<Vec<u8>>);

macro_rules! from {
    ($($type:ty => $variant:ident, $value:ident -> $owned:expr;)*) => {$(
        impl From<$type> for Arg {
            fn from($value: $type) -> Self {
                Self::$variant(Some($owned))
            }
        }
        impl From<Option<$type>> for Arg {
            fn from(value: Option<$type>) -> Self {
                Self::$variant(value.map(|$value| $owned))
            }
        }
    )*};
}

from! {
    i64 => Int, value -> value;
    &str => Text, value -> value.to_owned();
    String => Text, value -> value;
    &String => Text, value -> value.clone();
    Vec<u8> => Bytes, value -> value;
    &Vec<u8> => Bytes, value -> value.clone();
    &[u8] => Bytes, value -> value.to_vec();
    bool => Bool, value -> value;
    berth_service::Timestamp => Int, value -> value.0;
}

impl From<TextList> for Arg {
    fn from(list: TextList) -> Self {
        Self::TextList(list.0)
    }
}

impl From<BytesList> for Arg {
    fn from(list: BytesList) -> Self {
        Self::BytesList(list.0)
    }
}

/// The parameters of a statement: `args![id, digest.to_bytes(), now]`.
#[macro_export]
macro_rules! args {
    ($($value:expr),* $(,)?) => { vec![$($crate::Arg::from($value)),*] };
}

fn hexadecimal(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

pub(crate) fn sqlite_arguments(args: Vec<Arg>) -> Result<SqliteArguments, DatabaseError> {
    use sqlx::Arguments as _;
    let mut bound = SqliteArguments::default();
    for arg in args {
        match arg {
            Arg::Int(value) => bound.add(value),
            Arg::Text(value) => bound.add(value),
            Arg::Bytes(value) => bound.add(value),
            Arg::Bool(value) => bound.add(value),
            Arg::TextList(list) => bound.add(serde_json::Value::from(list).to_string()),
            Arg::BytesList(list) => {
                let list: Vec<String> = list.iter().map(|bytes| hexadecimal(bytes)).collect();
                bound.add(serde_json::Value::from(list).to_string())
            }
        }
        .map_err(|error| DatabaseError::from(sqlx::Error::Encode(error)))?;
    }
    Ok(bound)
}

pub(crate) fn postgres_arguments(args: Vec<Arg>) -> Result<PgArguments, DatabaseError> {
    use sqlx::Arguments as _;
    let mut bound = PgArguments::default();
    for arg in args {
        match arg {
            Arg::Int(value) => bound.add(value),
            Arg::Text(value) => bound.add(value),
            Arg::Bytes(value) => bound.add(value),
            Arg::Bool(value) => bound.add(value),
            Arg::TextList(list) => bound.add(list),
            Arg::BytesList(list) => bound.add(list),
        }
        .map_err(|error| DatabaseError::from(sqlx::Error::Encode(error)))?;
    }
    Ok(bound)
}

/// A type that a column reads as, on both engines.
pub trait Column:
    for<'r> Decode<'r, Sqlite> + Type<Sqlite> + for<'r> Decode<'r, Postgres> + Type<Postgres>
{
}

impl<T> Column for T where
    T: for<'r> Decode<'r, Sqlite> + Type<Sqlite> + for<'r> Decode<'r, Postgres> + Type<Postgres>
{
}

/// One row of an answer.
pub struct Row(pub(crate) Inner);

pub(crate) enum Inner {
    Sqlite(SqliteRow),
    Postgres(PgRow),
}

impl Row {
    /// The column at `index`, counted from 0: `i64`, `String`, `Vec<u8>`, `bool`, or an `Option` of them.
    pub fn get<T: Column>(&self, index: usize) -> Result<T, DatabaseError> {
        match &self.0 {
            Inner::Sqlite(row) => row.try_get(index),
            Inner::Postgres(row) => row.try_get(index),
        }
        .map_err(DatabaseError::from)
    }
}

impl std::fmt::Debug for Row {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Row")
    }
}
