//! Whether the two schemas of a service say the same.

use std::collections::BTreeSet;

use berth_service::{ManualClock, Timestamp};

use crate::{Database, DatabaseError, Engine, Migrations, Statement, args};

/// Columns: table, name, kind, whether it can't be null, its place in the primary key, whether it has a default.
const COLUMNS: Statement = Statement {
    sqlite: "SELECT m.name, c.name, c.type, c.\"notnull\" OR c.pk > 0, c.pk, c.dflt_value IS NOT NULL \
        FROM sqlite_schema m JOIN pragma_table_info(m.name) c \
        WHERE m.type = 'table' AND m.name NOT IN ('_sqlx_migrations', 'sequences')",
    postgres: "SELECT t.relname::text, a.attname::text, \
        CASE format_type(a.atttypid, NULL) WHEN 'bigint' THEN 'INTEGER' WHEN 'boolean' THEN 'INTEGER' \
            WHEN 'text' THEN 'TEXT' WHEN 'bytea' THEN 'BLOB' ELSE format_type(a.atttypid, NULL) END, \
        a.attnotnull, coalesce(array_position(k.indkey::int2[], a.attnum) + 1, 0)::bigint, a.atthasdef \
        FROM pg_class t JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum > 0 AND NOT a.attisdropped \
        LEFT JOIN pg_index k ON k.indrelid = t.oid AND k.indisprimary \
        WHERE t.relkind IN ('r', 'p') AND NOT t.relispartition AND t.relnamespace = current_schema()::regnamespace \
        AND t.relname <> '_sqlx_migrations'",
};

/// Indexes that were made by name: table, name, whether unique, whether on a part of the rows, columns.
const INDEXES: Statement = Statement {
    sqlite: "SELECT m.name, i.name, i.\"unique\", i.partial, \
        (SELECT group_concat(name, ', ' ORDER BY seqno) FROM pragma_index_info(i.name)) \
        FROM sqlite_schema m JOIN pragma_index_list(m.name) i \
        WHERE m.type = 'table' AND i.origin = 'c'",
    postgres: "SELECT t.relname::text, i.relname::text, k.indisunique, k.indpred IS NOT NULL, \
        (SELECT string_agg(a.attname, ', ' ORDER BY c.place) FROM unnest(k.indkey::int2[]) WITH ORDINALITY \
            AS c(attnum, place) JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum = c.attnum) \
        FROM pg_index k JOIN pg_class t ON t.oid = k.indrelid JOIN pg_class i ON i.oid = k.indexrelid \
        WHERE t.relnamespace = current_schema()::regnamespace AND t.relname <> '_sqlx_migrations' \
        AND NOT t.relispartition AND NOT EXISTS (SELECT 1 FROM pg_constraint c WHERE c.conindid = k.indexrelid AND c.contype IN ('p', 'u', 'x'))",
};

/// Foreign keys: table, column, the table and column it leads to.
const FOREIGN_KEYS: Statement = Statement {
    sqlite: "SELECT m.name, f.\"from\", f.\"table\", coalesce(f.\"to\", (SELECT c.name \
            FROM pragma_table_info(f.\"table\") c WHERE c.pk = f.seq + 1)) \
        FROM sqlite_schema m JOIN pragma_foreign_key_list(m.name) f WHERE m.type = 'table'",
    postgres: "SELECT t.relname::text, a.attname::text, r.relname::text, b.attname::text \
        FROM pg_constraint c JOIN pg_class t ON t.oid = c.conrelid JOIN pg_class r ON r.oid = c.confrelid \
        CROSS JOIN unnest(c.conkey, c.confkey) AS pair(own, far) \
        JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum = pair.own \
        JOIN pg_attribute b ON b.attrelid = r.oid AND b.attnum = pair.far \
        WHERE c.contype = 'f' AND c.connamespace = current_schema()::regnamespace",
};

/// What a unit of work takes numbers from.
const SEQUENCES: Statement = Statement {
    sqlite: "SELECT s.name || '_sequence' FROM sequences s",
    postgres: "SELECT sequencename::text FROM pg_sequences WHERE schemaname = current_schema()",
};

const HAS_SEQUENCES: Statement =
    Statement { sqlite: "SELECT 1 FROM sqlite_schema WHERE name = 'sequences'", postgres: "SELECT 1" };

impl Database {
    /// Everything in the schema that both engines know, a line each.
    async fn schema(&self) -> Result<BTreeSet<String>, DatabaseError> {
        let mut lines = BTreeSet::new();
        for row in self.read_all(&COLUMNS, args![]).await? {
            let (table, name): (String, String) = (row.get(0)?, row.get(1)?);
            let kind: String = row.get(2)?;
            let required = if row.get(3)? { " NOT NULL" } else { "" };
            let place: i64 = row.get(4)?;
            let default = if row.get(5)? { " DEFAULT" } else { "" };
            lines.insert(format!("column {table}.{name} {kind}{required}{default}, key {place}"));
        }
        for row in self.read_all(&INDEXES, args![]).await? {
            let (table, name): (String, String) = (row.get(0)?, row.get(1)?);
            let (unique, partial): (bool, bool) = (row.get(2)?, row.get(3)?);
            let columns: String = row.get(4)?;
            lines.insert(format!("index {name} on {table} ({columns}) unique {unique} partial {partial}"));
        }
        for row in self.read_all(&FOREIGN_KEYS, args![]).await? {
            let (table, column): (String, String) = (row.get(0)?, row.get(1)?);
            let (far, to): (String, String) = (row.get(2)?, row.get(3)?);
            lines.insert(format!("foreign key {table}.{column} to {far}.{to}"));
        }
        if self.read_optional(&HAS_SEQUENCES, args![]).await?.is_some() {
            for row in self.read_all(&SEQUENCES, args![]).await? {
                lines.insert(format!("sequence {}", row.get::<String>(0)?));
            }
        }
        Ok(lines)
    }

    /// Compares what a service's migrations make of both engines: tables, columns, keys, indexes, sequences.
    ///
    /// # Panics
    /// When they differ, with every line that only one of them has.
    pub async fn compare_schemas(migrations: Migrations) -> Result<(), DatabaseError> {
        let clock = ManualClock::at(Timestamp(0));
        let Some(postgres) = Self::for_tests(Engine::Postgres, migrations, clock.clone()).await? else {
            return Ok(());
        };
        let Some(sqlite) = Self::for_tests(Engine::Sqlite, migrations, clock).await? else { return Ok(()) };
        let (sqlite, postgres) = (sqlite.schema().await?, postgres.schema().await?);
        assert!(!sqlite.is_empty(), "the migrations make no table");
        let only: Vec<String> = sqlite
            .symmetric_difference(&postgres)
            .map(|line| format!("{}: {line}", if sqlite.contains(line) { "SQLite" } else { "PostgreSQL" }))
            .collect();
        assert!(only.is_empty(), "only one engine has\n{}", only.join("\n"));
        Ok(())
    }
}
