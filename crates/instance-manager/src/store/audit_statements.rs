//! The statements of the audit: rows are added, read, and deleted once they are older than what is kept. Nothing else may
//! be said of this table; `nothing_changes_what_was_recorded` looks.

use berth_database::Statement;

berth_database::statements! {
    pub(crate) ADD = "INSERT INTO audit (occurred_at, event_id, instance_id, type, principal, credential, address, \
        request_id, result, subject, name, repository_id, repository, digest, tag, count, last_at, recorded_at) \
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18) ON CONFLICT DO NOTHING";

    /// In the order of recording, between two moments and before a third. By the index on (instance_id, recorded_at,
    /// event_id).
    pub(crate) EXPORT = "SELECT occurred_at, event_id, type, principal, credential, address, request_id, result, subject, \
        name, repository_id, repository, digest, tag, count, last_at, recorded_at FROM audit \
        WHERE instance_id = $1 AND occurred_at >= $2 AND occurred_at < $3 AND recorded_at >= $4 \
        AND (recorded_at, event_id) > ($4, $5) AND recorded_at < $6 ORDER BY recorded_at, event_id LIMIT $7";
    /// Whatever is recorded later is so at this moment or after it, since no transaction that began earlier goes on; and the
    /// time. Where one writer commits in order, that is always so. A transaction is seen a little after it began.
    pub(crate) SETTLED =
        sqlite "SELECT 9223372036854775807, 0"
        postgres "SELECT LEAST((EXTRACT(EPOCH FROM clock_timestamp()) * 1000000)::bigint - 250000, \
            (SELECT (EXTRACT(EPOCH FROM min(xact_start)) * 1000000)::bigint FROM pg_stat_activity \
            WHERE datname = current_database() AND usename = current_user AND pid <> pg_backend_pid())), \
            (EXTRACT(EPOCH FROM clock_timestamp()) * 1000000)::bigint";

    /// Where rows lie in one table: the oldest that are before a moment, so many at most.
    pub(crate) DROP_OLD =
        sqlite "DELETE FROM audit WHERE (occurred_at, event_id) IN (SELECT occurred_at, event_id FROM audit \
            WHERE occurred_at < $1 ORDER BY occurred_at, event_id LIMIT $2)"
        postgres "SELECT audit_drop_strays($1, $2)";
    /// The month of a moment, where months are partitions.
    pub(crate) MAKE_MONTH = sqlite "SELECT FALSE WHERE $1 > 0" postgres "SELECT audit_make_month($1)";
    /// The oldest month, if all of it is before a moment.
    pub(crate) DROP_MONTH = sqlite "SELECT NULL WHERE $1 < 0" postgres "SELECT audit_drop_month($1)";
}

/// Statements that differ in what leads them to an index; what else is asked for is looked at row by row. PostgreSQL knows how
/// much each leaves; SQLite is told.
macro_rules! pages {
    ($($name:ident by $lead:literal in $index:literal;)*) => {
        $(pub(crate) const $name: Statement = Statement {
            sqlite: pages!(@text ["INDEXED BY " $index " "] $lead),
            postgres: pages!(@text [] $lead),
        };)*

        /// Every one of them, by name, and its index.
        #[cfg(test)]
        pub(crate) const PAGES: &[(&str, &Statement, &str)] = &[$((stringify!($name), &$name, $index)),*];
    };
    (@text [$($hint:literal)*] $lead:literal) => {
        concat!(
            "SELECT occurred_at, event_id, type, principal, credential, address, request_id, result, subject, name, ",
            "repository_id, repository, digest, tag, count, last_at, recorded_at FROM audit ",
            $($hint,)*
            "WHERE instance_id = $1 ", $lead, "AND occurred_at >= $2 AND occurred_at <= $3 ",
            "AND (occurred_at, event_id) < ($3, $4) ",
            "AND ($5 = '' OR principal = $5) AND ($6 = '' OR type = $6) AND ($7 = '' OR repository = $7) ",
            "AND ($8 = '' OR repository_id = $8) AND ($9 = '' OR request_id = $9) AND ($10 = '' OR result = $10) ",
            "AND ($11 = '' OR (repository >= $11 AND repository < $12) OR (name = $13 AND subject LIKE 'namespace:%')) ",
            "ORDER BY occurred_at DESC, event_id DESC LIMIT $14",
        )
    };
}

pages! {
    PAGE_BY_TIME by "" in "audit_by_time";
    PAGE_BY_PRINCIPAL by "AND principal = $5 " in "audit_by_principal";
    PAGE_BY_TYPE by "AND type = $6 " in "audit_by_type";
    PAGE_BY_REPOSITORY by "AND repository = $7 " in "audit_by_repository";
    PAGE_BY_REPOSITORY_ID by "AND repository_id = $8 " in "audit_by_repository_id";
    PAGE_BY_REQUEST by "AND request_id = $9 " in "audit_by_request";
}
