//! SQLite: one writer task with group commit, and a small set of read-only connections.

use std::{
    collections::VecDeque,
    error::Error as _,
    panic::AssertUnwindSafe,
    path::Path,
    sync::{Arc, OnceLock},
    time::Duration,
};

use berth_service::{SharedClock, Tasks};
use futures::{FutureExt as _, future::BoxFuture};
use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use sqlx::{
    Connection as _, SqliteConnection,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous},
};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::{
    Arg, DatabaseError, Row, Statement,
    transaction::Connection,
    transaction::Transaction,
    value,
    watch::{Changes, Watch},
};

/// The most units that one COMMIT answers.
const MAX_BATCH: usize = 64;
/// The most units that wait for the writer; more wait for a place.
const QUEUE: usize = 1024;
/// How long a unit waits for a place in the queue before it is answered 503.
const QUEUE_WAIT: Duration = Duration::from_secs(5);
const READERS: usize = 4;

/// What is left of a unit once its SQL ran: keep it or not, and its answer, which needs the fate of the COMMIT.
struct Done {
    keep: bool,
    answer: Answer,
}

type Answer = Box<dyn FnOnce(Result<(), DatabaseError>) + Send>;

/// A queued unit: it either runs, or is answered without having run.
trait Unit: Send {
    fn run<'t>(self: Box<Self>, transaction: &'t mut Transaction) -> BoxFuture<'t, Done>
    where
        Self: 't;
    fn refuse(self: Box<Self>, error: DatabaseError);
}

struct Call<T, E, F> {
    unit: F,
    caller: oneshot::Sender<Result<T, E>>,
}

impl<T, E, F> Unit for Call<T, E, F>
where
    T: Send + 'static,
    E: From<DatabaseError> + Send + 'static,
    F: for<'t> Fn(&'t mut Transaction) -> BoxFuture<'t, Result<T, E>> + Send + Sync + 'static,
{
    fn run<'t>(self: Box<Self>, transaction: &'t mut Transaction) -> BoxFuture<'t, Done>
    where
        Self: 't,
    {
        Box::pin(async move {
            let Self { unit, caller } = *self;
            let result = unit(transaction).await;
            Done {
                keep: result.is_ok(),
                answer: Box::new(move |committed| {
                    let answer = match committed {
                        Ok(()) => result,
                        Err(error) => Err(error.into()),
                    };
                    // A caller that left takes no answer; the unit has run all the same.
                    let _ = caller.send(answer);
                }),
            }
        })
    }

    fn refuse(self: Box<Self>, error: DatabaseError) {
        let _ = self.caller.send(Err(error.into()));
    }
}

struct Job {
    name: &'static str,
    unit: Box<dyn Unit>,
}

#[derive(Clone)]
pub(crate) struct Sqlite {
    jobs: mpsc::Sender<Job>,
    readers: Arc<Readers>,
    watch: Arc<OnceLock<Watch>>,
    statements: Counter,
}

struct Readers {
    free: Semaphore,
    connections: Mutex<Vec<SqliteConnection>>,
}

impl Sqlite {
    pub(crate) async fn open(
        path: &Path,
        migrator: &sqlx::migrate::Migrator,
        clock: SharedClock,
        tasks: &Tasks,
    ) -> Result<Self, DatabaseError> {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(Duration::from_secs(5))
            .pragma("cache_size", "-16384")
            // Pages in the log before they are folded into the file: at 1,000, which is usual, one commit of thirty waited
            // for that, in a large database for milliseconds.
            .pragma("wal_autocheckpoint", "4000")
            .pragma("temp_store", "MEMORY")
            .statement_cache_capacity(256);
        let mut writer = SqliteConnection::connect_with(&options.clone().create_if_missing(true)).await?;
        // A process that was killed may have left its last COMMIT written and not synced. It is read from here on, so it
        // must not be lost any more: folding the log into the file syncs both.
        sqlx::query("PRAGMA wal_checkpoint(PASSIVE)").execute(&mut writer).await?;
        migrator.run_direct(None, &mut writer, false).await?;
        let mut connections = Vec::with_capacity(READERS);
        for _ in 0..READERS {
            let reader = options.clone().read_only(true).thread_name(|id| format!("sqlite-read-{id}"));
            connections.push(SqliteConnection::connect_with(&reader).await?);
        }
        let (jobs, queue) = mpsc::channel(QUEUE);
        let watch = Arc::<OnceLock<Watch>>::default();
        let (connection, seen) = (Some(Box::new(writer)), Arc::clone(&watch));
        let statements = Counter::default();
        let counted = statements.clone();
        let writer = Writer { connection, options, clock, watch: seen, notes: false, statements: counted };
        tasks.spawn("database writer", writer.work(queue, tasks.stopping()));
        let readers = Readers { free: Semaphore::new(READERS), connections: Mutex::new(connections) };
        Ok(Self { jobs, readers: Arc::new(readers), watch, statements })
    }

    pub(crate) fn statements(&self) -> &Counter {
        &self.statements
    }

    /// Tells of every change from the next transaction on. There is one listener; a second one is not taken.
    pub(crate) fn watch(&self, watch: Watch) -> bool {
        self.watch.set(watch).is_ok()
    }

    pub(crate) async fn write<T, E, F>(&self, name: &'static str, unit: F) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<DatabaseError> + Send + 'static,
        F: for<'t> Fn(&'t mut Transaction) -> BoxFuture<'t, Result<T, E>> + Send + Sync + 'static,
    {
        let (caller, answer) = oneshot::channel();
        let job = Job { name, unit: Box::new(Call { unit, caller }) };
        if self.jobs.send_timeout(job, QUEUE_WAIT).await.is_err() {
            return Err(DatabaseError::from(sqlx::Error::PoolTimedOut).into());
        }
        // Dropped without an answer only by a panic.
        answer.await.unwrap_or_else(|_| Err(DatabaseError::Panicked(name).into()))
    }

    pub(crate) async fn read_optional(
        &self,
        statement: &Statement,
        args: Vec<Arg>,
    ) -> Result<Option<Row>, DatabaseError> {
        self.statements.inc();
        let mut reader = self.reader().await?;
        let query = sqlx::query_with(statement.sqlite, value::sqlite_arguments(args)?);
        let row = query.fetch_optional(reader.connection()?).await?;
        Ok(row.map(|row| Row(value::Inner::Sqlite(row))))
    }

    pub(crate) async fn read_all(
        &self,
        statement: &Statement,
        args: Vec<Arg>,
    ) -> Result<Vec<Row>, DatabaseError> {
        self.statements.inc();
        let mut reader = self.reader().await?;
        let query = sqlx::query_with(statement.sqlite, value::sqlite_arguments(args)?);
        let rows = query.fetch_all(reader.connection()?).await?;
        Ok(rows.into_iter().map(|row| Row(value::Inner::Sqlite(row))).collect())
    }

    pub(crate) async fn prepare(&self, statement: &'static str) -> Result<(), DatabaseError> {
        use sqlx::{Executor as _, SqlSafeStr as _};
        let mut reader = self.reader().await?;
        reader.connection()?.prepare(statement.into_sql_str()).await?;
        Ok(())
    }

    async fn reader(&self) -> Result<Reader<'_>, DatabaseError> {
        let permit = self.readers.free.acquire().await.map_err(|_| sqlx::Error::PoolClosed)?;
        let connection = self.readers.connections.lock().pop();
        Ok(Reader { readers: &self.readers, connection, _permit: permit })
    }
}

/// A read-only connection on loan. It goes back even when the read is dropped half-way: the worker thread behind it
/// ends that statement before the next.
struct Reader<'a> {
    readers: &'a Readers,
    connection: Option<SqliteConnection>,
    _permit: tokio::sync::SemaphorePermit<'a>,
}

impl Reader<'_> {
    fn connection(&mut self) -> Result<&mut SqliteConnection, DatabaseError> {
        self.connection.as_mut().ok_or_else(|| sqlx::Error::PoolClosed.into())
    }
}

impl Drop for Reader<'_> {
    fn drop(&mut self) {
        self.readers.connections.lock().extend(self.connection.take());
    }
}

struct Writer {
    /// None only after a connection was given up and before it is opened again.
    connection: Option<Box<SqliteConnection>>,
    options: SqliteConnectOptions,
    clock: SharedClock,
    watch: Arc<OnceLock<Watch>>,
    /// Whether the connection notes which rows change.
    notes: bool,
    statements: Counter,
}

impl Writer {
    /// Works until the last handle is gone, or until it is told to stop and what was queued before is done.
    async fn work(mut self, mut queue: mpsc::Receiver<Job>, stopping: CancellationToken) {
        loop {
            let first = tokio::select! {
                first = queue.recv() => first,
                () = stopping.cancelled(), if !queue.is_closed() => {
                    queue.close();
                    continue;
                }
            };
            let Some(first) = first else { break };
            let mut batch = vec![first];
            while batch.len() < MAX_BATCH
                && let Ok(job) = queue.try_recv()
            {
                batch.push(job);
            }
            self.run(batch).await;
        }
        if let Some(connection) = self.connection.take() {
            // Closing folds the write-ahead log into the file; not doing so loses nothing.
            let _ = connection.close().await;
        }
    }

    /// One transaction for the whole batch, and only then the answers.
    async fn run(&mut self, batch: Vec<Job>) {
        let connection = match self.connect().await {
            Ok(connection) => connection,
            Err(error) => {
                tracing::error!(%error, source = ?error.source(), "the database file can't be opened");
                for job in batch {
                    job.unit.refuse(error.clone());
                }
                return;
            }
        };
        let now = self.clock.now();
        let (connection, statements) = (Connection::Sqlite(connection), self.statements.clone());
        let mut transaction = Transaction { connection, now, broken: None, statements };
        let mut ran = Vec::with_capacity(batch.len());
        let mut waiting = VecDeque::from(batch);
        let mut changes = None;
        let fate = run_batch(&mut transaction, &mut waiting, &mut ran, self.watch.get(), &mut changes).await;
        if let Connection::Sqlite(mut connection) = transaction.connection {
            if fate.is_err() && sqlx::query("ROLLBACK").execute(&mut *connection).await.is_err() {
                // The engine has rolled back already or the connection is beyond use; a new one is right for both.
                let _ = connection.close().await;
            } else {
                self.connection = Some(connection);
            }
        }
        if let Err(error) = &fate {
            tracing::error!(%error, source = ?error.source(), units = ran.len(), "a transaction failed");
            for job in waiting {
                job.unit.refuse(error.clone());
            }
        }
        if let (Some(changes), Some(watch)) = (changes, self.watch.get()) {
            (watch.listener)(changes);
        }
        for answer in ran {
            answer(fate.clone());
        }
    }

    async fn connect(&mut self) -> Result<Box<SqliteConnection>, DatabaseError> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => {
                self.notes = false;
                Box::new(SqliteConnection::connect_with(&self.options).await?)
            }
        };
        if let (Some(watch), false) = (self.watch.get(), self.notes) {
            // A connection on which this fails half-way is closed, and the next one begins anew.
            watch.begin(&mut connection).await?;
            self.notes = true;
        }
        Ok(connection)
    }
}

/// Runs what waits as savepoints of one transaction and commits it. An error means that nothing was stored.
async fn run_batch(
    transaction: &mut Transaction,
    waiting: &mut VecDeque<Job>,
    ran: &mut Vec<Answer>,
    watch: Option<&Watch>,
    changes: &mut Option<Changes>,
) -> Result<(), DatabaseError> {
    transaction.control("BEGIN IMMEDIATE").await?;
    // A unit alone needs no savepoint: when it fails, the whole transaction is rolled back.
    let alone = waiting.len() == 1;
    let mut kept = 0;
    while let Some(job) = waiting.pop_front() {
        if !alone {
            transaction.control("SAVEPOINT unit").await?;
        }
        let done = AssertUnwindSafe(async { job.unit.run(transaction).await }).catch_unwind().await;
        let keep = done.as_ref().is_ok_and(|done| done.keep);
        match done {
            Ok(done) => ran.push(done.answer),
            Err(_) => tracing::error!(unit = job.name, "a unit of work panicked and was rolled back"),
        }
        if let Some(error) = transaction.broken.take() {
            return Err(error);
        }
        kept += usize::from(keep);
        if !alone {
            if !keep {
                transaction.control("ROLLBACK TO unit").await?;
            }
            transaction.control("RELEASE unit").await?;
        }
    }
    if kept == 0 {
        return transaction.control("ROLLBACK").await;
    }
    berth_service::crash::point("database.before_commit");
    match (watch, &mut transaction.connection) {
        (Some(watch), Connection::Sqlite(connection)) => {
            // When it fails, whether it was stored may not be known.
            *changes = Some(Changes::TooMany);
            transaction.statements.inc();
            *changes = watch.commit(connection).await?;
        }
        _ => transaction.control("COMMIT").await?,
    }
    berth_service::crash::point("database.committed");
    Ok(())
}
