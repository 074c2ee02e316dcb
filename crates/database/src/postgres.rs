//! PostgreSQL: a pool, READ COMMITTED, and a bounded number of restarts.

use std::{panic::AssertUnwindSafe, time::Duration};

use berth_service::Timestamp;
use futures::{FutureExt as _, future::BoxFuture};
use prometheus_client::metrics::counter::Counter;
use secrecy::{ExposeSecret as _, SecretString};
use sqlx::{
    Connection as _, PgConnection, PgPool, Row as _,
    postgres::{PgConnectOptions, PgPoolOptions},
};

use crate::{Arg, DatabaseError, Row, Statement, transaction::Connection, transaction::Transaction, value};

/// How often a unit runs again after a serialisation failure, a deadlock or a lost foreign key.
const RESTARTS: usize = 3;
/// How often a unit may ask to run again because another came between. Each time that other one has got on.
const ASKED_RESTARTS: usize = 16;

/// A connection that was idle for longer is tested before it is used: the server may have been restarted since. Under
/// load connections are never idle for as long, and nothing is asked.
const UNTESTED: Duration = Duration::from_secs(1);

/// How to reach PostgreSQL.
#[derive(Clone, Debug)]
pub struct PostgresOptions {
    /// `postgres://user:password@host:port/database`. With `pooler` this is the pooler's.
    pub url: SecretString,
    /// The same for migrations, past a pooler, which can't run them; absent: `url`.
    pub direct_url: Option<SecretString>,
    /// The schema that holds the service's tables; made when it is absent.
    pub schema: String,
    /// The most connections of this process.
    pub max_connections: u32,
    /// How long a request waits for a free connection before it is answered 503.
    pub acquire_timeout: Duration,
    /// The longest that one statement may run, and that a transaction may sit idle.
    pub statement_timeout: Duration,
    /// Whether a transaction-mode pooler stands in front: then no start-up options and no named statements are used,
    /// and the role's own settings have to name the schema (`ALTER ROLE … SET search_path`) and the time-outs.
    pub pooler: bool,
}

impl PostgresOptions {
    /// The usual settings for `url` and `schema`.
    pub fn new(url: SecretString, schema: impl Into<String>) -> Self {
        Self {
            url,
            direct_url: None,
            schema: schema.into(),
            max_connections: 16,
            acquire_timeout: Duration::from_secs(3),
            statement_timeout: Duration::from_secs(10),
            pooler: false,
        }
    }

    fn connect(&self, url: &SecretString) -> Result<PgConnectOptions, DatabaseError> {
        let options: PgConnectOptions = url.expose_secret().parse().map_err(DatabaseError::from)?;
        Ok(options.application_name("berth"))
    }

    fn quoted_schema(&self) -> String {
        format!("\"{}\"", self.schema.replace('"', "\"\""))
    }

    fn pooled(&self) -> Result<PgConnectOptions, DatabaseError> {
        let options = self.connect(&self.url)?;
        if self.pooler {
            // A pooler refuses start-up parameters that it doesn't know; no floating point number is read here.
            return Ok(options.statement_cache_capacity(0).extra_float_digits(None));
        }
        let limit = self.statement_timeout.as_millis().to_string();
        Ok(options.statement_cache_capacity(256).options([
            ("search_path", self.quoted_schema().as_str()),
            ("statement_timeout", &limit),
            ("idle_in_transaction_session_timeout", &limit),
        ]))
    }
}

#[derive(Clone)]
pub(crate) struct Postgres {
    pool: PgPool,
    persistent: bool,
    statements: Counter,
}

impl Postgres {
    pub(crate) async fn open(
        options: &PostgresOptions,
        migrator: &sqlx::migrate::Migrator,
    ) -> Result<Self, DatabaseError> {
        migrate(options, migrator).await?;
        let pool = PgPoolOptions::new()
            .max_connections(options.max_connections)
            .acquire_timeout(options.acquire_timeout)
            .test_before_acquire(false)
            .before_acquire(|connection, about| {
                Box::pin(async move {
                    if about.idle_for > UNTESTED {
                        connection.ping().await?;
                    }
                    Ok(true)
                })
            })
            .connect_lazy_with(options.pooled()?);
        let postgres = Self { pool, persistent: !options.pooler, statements: Counter::default() };
        if options.pooler {
            postgres.check_schema(&options.schema).await?;
        }
        Ok(postgres)
    }

    /// Behind a pooler the role's settings name the schema; a role without them would find no table, or other ones.
    async fn check_schema(&self, schema: &str) -> Result<(), DatabaseError> {
        let mut transaction = self.pool.begin().await?;
        let query = sqlx::query("SELECT current_schema()::text, current_user::text").persistent(false);
        let row = query.fetch_one(&mut *transaction).await?;
        let (found, role): (Option<String>, String) = (row.try_get(0)?, row.try_get(1)?);
        transaction.commit().await?;
        if found.as_deref() == Some(schema) {
            return Ok(());
        }
        let message = format!(
            "behind the pooler the role {role:?} works in the schema {found:?}, not {schema:?}; \
             ALTER ROLE \"{role}\" SET search_path = \"{schema}\""
        );
        Err(sqlx::Error::Configuration(message.into()).into())
    }

    pub(crate) async fn write<T, E, F>(&self, name: &'static str, unit: F) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<DatabaseError> + Send + 'static,
        F: for<'t> Fn(&'t mut Transaction) -> BoxFuture<'t, Result<T, E>> + Send + Sync + 'static,
    {
        let (mut restarts, mut asked) = (0, 0);
        loop {
            let mut transaction = self.begin().await?;
            let run = AssertUnwindSafe(async { unit(&mut transaction).await }).catch_unwind().await;
            let Ok(result) = run else {
                tracing::error!(unit = name, "a unit of work panicked and was rolled back");
                return Err(DatabaseError::Panicked(name).into());
            };
            let broken = transaction.broken.take();
            if let Some(error) = broken.as_ref().filter(|error| error.is_restartable()) {
                let is_asked = matches!(error, DatabaseError::Again(None));
                let (count, limit) =
                    if is_asked { (&mut asked, ASKED_RESTARTS) } else { (&mut restarts, RESTARTS) };
                if *count < limit {
                    *count += 1;
                    tracing::debug!(unit = name, restarts = *count, %error, "a transaction runs again");
                    // Dropping the transaction rolls it back; a short, growing wait lets the other one finish.
                    let wait = Duration::from_millis(2 * *count as u64);
                    drop(transaction);
                    tokio::time::sleep(wait).await;
                    continue;
                }
            }
            let value = result?;
            if let Some(error) = broken {
                // The server would answer COMMIT with a silent ROLLBACK.
                return Err(error.into());
            }
            if let Connection::Postgres { transaction, .. } = transaction.connection {
                berth_service::crash::point("database.before_commit");
                self.statements.inc();
                transaction.commit().await.map_err(DatabaseError::from)?;
                berth_service::crash::point("database.committed");
            }
            return Ok(value);
        }
    }

    pub(crate) fn statements(&self) -> &Counter {
        &self.statements
    }

    async fn begin(&self) -> Result<Transaction, DatabaseError> {
        // With BEGIN.
        self.statements.inc_by(2);
        let mut transaction = self.pool.begin().await?;
        let query =
            sqlx::query("SELECT (extract(epoch FROM now()) * 1000000)::bigint").persistent(self.persistent);
        let now = Timestamp(query.fetch_one(&mut *transaction).await?.try_get(0)?);
        let connection =
            Connection::Postgres { transaction: Box::new(transaction), persistent: self.persistent };
        Ok(Transaction { connection, now, broken: None, statements: self.statements.clone() })
    }

    /// A statement without a name is parsed and run in two steps. Between them a pooler may change the server, which
    /// then lacks the statement or runs another client's, unless a transaction keeps it.
    async fn begin_read(&self) -> Result<sqlx::Transaction<'static, sqlx::Postgres>, DatabaseError> {
        // With COMMIT.
        self.statements.inc_by(2);
        Ok(self.pool.begin_with("BEGIN READ ONLY").await?)
    }

    pub(crate) async fn read_optional(
        &self,
        statement: &Statement,
        args: Vec<Arg>,
    ) -> Result<Option<Row>, DatabaseError> {
        let query = sqlx::query_with(statement.postgres, value::postgres_arguments(args)?);
        let query = query.persistent(self.persistent);
        self.statements.inc();
        let row = if self.persistent {
            query.fetch_optional(&self.pool).await?
        } else {
            let mut transaction = self.begin_read().await?;
            let row = query.fetch_optional(&mut *transaction).await?;
            transaction.commit().await?;
            row
        };
        Ok(row.map(|row| Row(value::Inner::Postgres(row))))
    }

    pub(crate) async fn read_all(
        &self,
        statement: &Statement,
        args: Vec<Arg>,
    ) -> Result<Vec<Row>, DatabaseError> {
        let query = sqlx::query_with(statement.postgres, value::postgres_arguments(args)?);
        let query = query.persistent(self.persistent);
        self.statements.inc();
        let rows = if self.persistent {
            query.fetch_all(&self.pool).await?
        } else {
            let mut transaction = self.begin_read().await?;
            let rows = query.fetch_all(&mut *transaction).await?;
            transaction.commit().await?;
            rows
        };
        Ok(rows.into_iter().map(|row| Row(value::Inner::Postgres(row))).collect())
    }

    pub(crate) async fn prepare(&self, statement: &'static str) -> Result<(), DatabaseError> {
        use sqlx::{Executor as _, SqlSafeStr as _};
        let mut transaction = self.pool.begin().await?;
        if !self.persistent {
            // It prepares under a name, which another client of the pooler may have left on this server.
            sqlx::query("DEALLOCATE ALL").persistent(false).execute(&mut *transaction).await?;
        }
        (&mut *transaction).prepare(statement.into_sql_str()).await?;
        Ok(())
    }

    /// Closes the pool; what is asked later is answered with [`DatabaseError::Unavailable`].
    pub(crate) async fn close(&self) {
        self.pool.close().await;
    }
}

/// Runs the migrations on a direct connection of its own, under the migrator's lock.
async fn migrate(options: &PostgresOptions, migrator: &sqlx::migrate::Migrator) -> Result<(), DatabaseError> {
    let direct = options.connect(options.direct_url.as_ref().unwrap_or(&options.url))?;
    let direct = direct.options([("search_path", options.quoted_schema())]);
    let mut connection = PgConnection::connect_with(&direct).await?;
    sqlx::query("SELECT pg_advisory_lock(hashtext('berth schema'))").execute(&mut connection).await?;
    // The name is the operator's own setting and is quoted.
    let create = sqlx::AssertSqlSafe(format!("CREATE SCHEMA IF NOT EXISTS {}", options.quoted_schema()));
    let exists = sqlx::query("SELECT 1 FROM pg_namespace WHERE nspname = $1")
        .bind(&options.schema)
        .fetch_optional(&mut connection)
        .await?;
    if exists.is_none() {
        sqlx::query(create).execute(&mut connection).await?;
    }
    migrator.run_direct(None, &mut connection, false).await?;
    connection.close().await?;
    Ok(())
}
