//! Opening a database, and what can be done with an open one.

use std::{path::Path, sync::Arc};

use berth_service::{SharedClock, Tasks};
use futures::future::BoxFuture;
use prometheus_client::metrics::counter::Counter;

use crate::{
    Arg, DatabaseError, Migrator, PostgresOptions, Row, Statement,
    postgres::Postgres,
    sqlite::Sqlite,
    transaction::Transaction,
    watch::{Listener, Watch, Watched},
};

/// The two database engines.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Engine {
    /// A file in the data folder, one process.
    Sqlite,
    /// A server, any number of processes.
    Postgres,
}

/// A service's migrations for both engines.
#[derive(Clone, Copy, Debug)]
pub struct Migrations {
    /// For SQLite.
    pub sqlite: &'static Migrator,
    /// For PostgreSQL.
    pub postgres: &'static Migrator,
}

impl Migrations {
    /// Those for one engine.
    pub fn of(&self, engine: Engine) -> &'static Migrator {
        match engine {
            Engine::Sqlite => self.sqlite,
            Engine::Postgres => self.postgres,
        }
    }
}

/// An open database. Clones share it.
#[derive(Clone)]
pub struct Database {
    backend: Backend,
    /// What has to live as long as the database: a test's folder.
    keep: Option<Arc<dyn Send + Sync>>,
}

#[derive(Clone)]
enum Backend {
    Sqlite(Sqlite),
    Postgres(Postgres),
}

impl Database {
    /// Opens (and makes) a SQLite file and brings its tables up to date. Whoever opens it holds the folder's
    /// [`DataLock`](crate::DataLock).
    ///
    /// The writer runs among `tasks`, a group that is stopped after everybody who writes: then it does what is queued
    /// and ends. It also ends with the last clone of the database.
    pub async fn open_sqlite(
        path: &Path,
        migrator: &'static Migrator,
        clock: SharedClock,
        tasks: &Tasks,
    ) -> Result<Self, DatabaseError> {
        let backend = Backend::Sqlite(Sqlite::open(path, migrator, clock, tasks).await?);
        Ok(Self { backend, keep: None })
    }

    /// Connects to PostgreSQL and brings the schema's tables up to date.
    pub async fn open_postgres(
        options: &PostgresOptions,
        migrator: &'static Migrator,
    ) -> Result<Self, DatabaseError> {
        let backend = Backend::Postgres(Postgres::open(options, migrator).await?);
        Ok(Self { backend, keep: None })
    }

    /// Which engine this is.
    pub fn engine(&self) -> Engine {
        match self.backend {
            Backend::Sqlite(_) => Engine::Sqlite,
            Backend::Postgres(_) => Engine::Postgres,
        }
    }

    /// Counts the statements that are sent to the database, BEGIN and its kin included.
    pub fn statements(&self) -> Counter {
        match &self.backend {
            Backend::Sqlite(sqlite) => sqlite.statements().clone(),
            Backend::Postgres(postgres) => postgres.statements().clone(),
        }
    }

    /// Runs a unit of work in a transaction and answers after its COMMIT; an error of the unit rolls it back.
    ///
    /// The unit awaits nothing but SQL, touches a bounded number of rows, and has no effect besides: PostgreSQL may run
    /// it up to four times. On SQLite a unit that was queued runs even when its caller is gone; on PostgreSQL it is
    /// then rolled back, so a caller that must know the outcome runs detached from its request.
    pub async fn write<T, E, F>(&self, name: &'static str, unit: F) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<DatabaseError> + Send + 'static,
        F: for<'t> Fn(&'t mut Transaction) -> BoxFuture<'t, Result<T, E>> + Send + Sync + 'static,
    {
        match &self.backend {
            Backend::Sqlite(sqlite) => sqlite.write(name, unit).await,
            Backend::Postgres(postgres) => postgres.write(name, unit).await,
        }
    }

    /// Reads the first row of one statement, without a transaction and without a lock.
    pub async fn read_optional(
        &self,
        statement: &Statement,
        args: Vec<Arg>,
    ) -> Result<Option<Row>, DatabaseError> {
        match &self.backend {
            Backend::Sqlite(sqlite) => sqlite.read_optional(statement, args).await,
            Backend::Postgres(postgres) => postgres.read_optional(statement, args).await,
        }
    }

    /// Reads all rows of one statement, which bounds their number.
    pub async fn read_all(&self, statement: &Statement, args: Vec<Arg>) -> Result<Vec<Row>, DatabaseError> {
        match &self.backend {
            Backend::Sqlite(sqlite) => sqlite.read_all(statement, args).await,
            Backend::Postgres(postgres) => postgres.read_all(statement, args).await,
        }
    }

    /// Has `listener` told which rows of `tables` every COMMIT changed, after it and before anybody who waits for it is
    /// answered. Only where this process alone writes: on PostgreSQL nothing is told, and the answer is false.
    pub fn watch(&self, tables: &'static [Watched], listener: Listener) -> bool {
        match &self.backend {
            Backend::Sqlite(sqlite) => sqlite.watch(Watch { tables, listener }),
            Backend::Postgres(_) => false,
        }
    }

    /// Prepares every statement, and names those that the engine refuses.
    pub async fn prepare_all(&self, statements: &[(&str, &Statement)]) -> Result<(), String> {
        let mut refused = Vec::new();
        for (name, statement) in statements {
            let outcome = match &self.backend {
                Backend::Sqlite(sqlite) => sqlite.prepare(statement.sqlite).await,
                Backend::Postgres(postgres) => postgres.prepare(statement.postgres).await,
            };
            if let Err(error) = outcome {
                refused.push(format!("{name}: {error}"));
            }
        }
        if refused.is_empty() { Ok(()) } else { Err(refused.join("\n")) }
    }

    /// Gives back the connections to PostgreSQL; SQLite's close with the last clone.
    pub async fn close(&self) {
        if let Backend::Postgres(postgres) = &self.backend {
            postgres.close().await;
        }
    }

    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn keeping(mut self, kept: Arc<dyn Send + Sync>) -> Self {
        self.keep = Some(kept);
        self
    }
}

impl std::fmt::Debug for Database {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Database")
            .field("engine", &self.engine())
            .field("kept", &self.keep.is_some())
            .finish()
    }
}
