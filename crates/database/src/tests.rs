//! What both engines promise to a unit of work.

use std::{
    panic::AssertUnwindSafe,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use berth_service::{ManualClock, Timestamp};
use futures::{FutureExt as _, future::join_all};

use crate::{
    BytesList, Changes, Constraint, DataLock, Database, DatabaseError, Engine, LockError, Migrations, Once,
    OnceError, TextList, Touched, Watched, args, idempotency, statements,
};

static SQLITE: sqlx::migrate::Migrator = sqlx::migrate!("tests-migrations/sqlite");
static DIFFERING: sqlx::migrate::Migrator = sqlx::migrate!("tests-migrations/differing");
static POSTGRES: sqlx::migrate::Migrator = sqlx::migrate!("tests-migrations/postgres");

statements! {
    INSERT = "INSERT INTO things (name, count, bytes, flag) VALUES ($1, $2, $3, $4)";
    PART = "INSERT INTO parts (thing) VALUES ($1)";
    COUNT = "SELECT count FROM things WHERE name = $1";
    LOCK = "SELECT count FROM things WHERE name = $1" for update;
    NAMES = "SELECT name, bytes, flag FROM things ORDER BY name";
    SET = "UPDATE things SET count = $2 WHERE name = $1";
    RENAME = "UPDATE things SET name = $2 WHERE name = $1";
    DROP = "DELETE FROM things WHERE name = $1";
    SET_ALL = "UPDATE things SET count = count + 1";
    AGE_KEY = "UPDATE idempotency_keys SET created_at = -100000000000 WHERE key = $1";
    BY_NAMES = sqlite "SELECT name FROM things WHERE name IN (SELECT value FROM json_each($1)) ORDER BY name"
        postgres "SELECT name FROM things WHERE name = ANY($1) ORDER BY name";
    BY_BYTES = sqlite "SELECT name FROM things WHERE bytes IN (SELECT unhex(value) FROM json_each($1)) ORDER BY name"
        postgres "SELECT name FROM things WHERE bytes = ANY($1) ORDER BY name";
}

async fn database(engine: Engine) -> Option<Database> {
    let clock = ManualClock::at(Timestamp(1_000_000));
    let migrations = Migrations { sqlite: &SQLITE, postgres: &POSTGRES };
    Database::for_tests(engine, migrations, clock).await.unwrap()
}

macro_rules! on_both {
    ($($name:ident),* $(,)?) => {
        mod sqlite {
            $(#[tokio::test(flavor = "multi_thread")] async fn $name() {
                super::$name(super::database(super::Engine::Sqlite).await.unwrap()).await;
            })*
        }
        mod postgres {
            $(#[tokio::test(flavor = "multi_thread")] async fn $name() {
                if let Some(database) = super::database(super::Engine::Postgres).await {
                    super::$name(database).await;
                }
            })*
        }
    };
}

on_both!(
    values_come_back_as_they_went_in,
    a_failing_unit_leaves_its_neighbours_alone,
    a_panicking_unit_takes_nobody_along,
    a_constraint_is_named_by_kind,
    a_sequence_grows,
    a_counter_under_contention_is_exact,
    every_statement_is_prepared,
    what_has_a_key_is_done_once,
    a_key_is_not_for_another_request,
    what_failed_under_a_key_is_tried_again,
    a_key_is_forgotten_after_a_day,
);

async fn insert(database: &Database, name: &str) -> Result<(), DatabaseError> {
    let name = name.to_owned();
    database
        .write("insert", move |tx| {
            let name = name.clone();
            Box::pin(async move {
                tx.execute(&INSERT, args![name, 0, Some(vec![0u8, 255]), true]).await?;
                Ok(())
            })
        })
        .await
}

async fn values_come_back_as_they_went_in(database: Database) {
    insert(&database, "b").await.unwrap();
    insert(&database, "a").await.unwrap();
    let rows = database.read_all(&NAMES, args![]).await.unwrap();
    assert_eq!(rows.len(), 2);
    assert_eq!(rows[0].get::<String>(0).unwrap(), "a");
    assert_eq!(rows[0].get::<Option<Vec<u8>>>(1).unwrap(), Some(vec![0, 255]));
    assert!(rows[0].get::<bool>(2).unwrap());
    let names = TextList(vec!["a".to_owned(), "zz".to_owned()]);
    assert_eq!(database.read_all(&BY_NAMES, args![names]).await.unwrap().len(), 1);
    let bytes = BytesList(vec![vec![0, 255], vec![1]]);
    assert_eq!(database.read_all(&BY_BYTES, args![bytes]).await.unwrap().len(), 2);
    let now =
        database.write("now", |tx| Box::pin(async move { Ok::<_, DatabaseError>(tx.now()) })).await.unwrap();
    assert_eq!(now == Timestamp(1_000_000), database.engine() == Engine::Sqlite);
}

async fn a_failing_unit_leaves_its_neighbours_alone(database: Database) {
    insert(&database, "taken").await.unwrap();
    let outcomes = join_all((0..40).map(|number| {
        let database = database.clone();
        async move {
            insert(&database, &if number % 4 == 0 { "taken".to_owned() } else { format!("n{number:02}") })
                .await
        }
    }))
    .await;
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 30);
    assert_eq!(database.read_all(&NAMES, args![]).await.unwrap().len(), 31);
}

async fn a_panicking_unit_takes_nobody_along(database: Database) {
    let units = (0..12).map(|number| {
        database.write("panics", move |tx| {
            Box::pin(async move {
                tx.execute(&INSERT, args![format!("n{number}"), 0, None::<Vec<u8>>, false]).await?;
                assert!(number % 3 != 0, "on purpose");
                Ok::<_, DatabaseError>(())
            })
        })
    });
    let outcomes = join_all(units).await;
    let stored = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
    let panicked =
        outcomes.iter().filter(|outcome| matches!(outcome, Err(DatabaseError::Panicked("panics"))));
    assert_eq!(panicked.count(), 4);
    assert_eq!(stored, 8);
    assert_eq!(database.read_all(&NAMES, args![]).await.unwrap().len(), 8);
    insert(&database, "after").await.unwrap();
}

async fn a_constraint_is_named_by_kind(database: Database) {
    insert(&database, "a").await.unwrap();
    let twice = insert(&database, "a").await;
    assert!(matches!(twice, Err(DatabaseError::Conflict { constraint: Constraint::Unique, .. })));
    let foreign: Result<(), DatabaseError> = database
        .write("part", |tx| {
            Box::pin(async move {
                tx.execute(&PART, args!["absent"]).await?;
                Ok(())
            })
        })
        .await;
    assert!(matches!(foreign, Err(DatabaseError::Conflict { constraint: Constraint::ForeignKey, .. })));
    let check: Result<(), DatabaseError> = database
        .write("check", |tx| {
            Box::pin(async move {
                tx.execute(&SET, args!["a", -1]).await?;
                Ok(())
            })
        })
        .await;
    assert!(matches!(check, Err(DatabaseError::Conflict { constraint: Constraint::Check, .. })));
}

async fn a_sequence_grows(database: Database) {
    let mut last = 0;
    for _ in 0..3 {
        let next =
            database.write("next", |tx| Box::pin(async move { tx.sequence("event").await })).await.unwrap();
        assert!(next > last);
        last = next;
    }
}

async fn a_counter_under_contention_is_exact(database: Database) {
    insert(&database, "counter").await.unwrap();
    let units = (0..32).map(|_| {
        database.write("count", |tx| {
            Box::pin(async move {
                let count: i64 = tx.one(&LOCK, args!["counter"]).await?.get(0)?;
                tx.execute(&SET, args!["counter", count + 1]).await?;
                Ok::<_, DatabaseError>(())
            })
        })
    });
    for outcome in join_all(units).await {
        outcome.unwrap();
    }
    let row = database.read_optional(&COUNT, args!["counter"]).await.unwrap().unwrap();
    assert_eq!(row.get::<i64>(0).unwrap(), 32);
}

async fn every_statement_is_prepared(database: Database) {
    database.prepare_all(ALL).await.unwrap();
    let wrong = crate::Statement { sqlite: "SELECT nothing", postgres: "SELECT nothing" };
    assert!(database.prepare_all(&[("WRONG", &wrong)]).await.unwrap_err().starts_with("WRONG: "));
}

#[tokio::test(flavor = "multi_thread")]
async fn schemas_that_differ_are_told_apart() {
    let migrations = Migrations { sqlite: &SQLITE, postgres: &POSTGRES };
    Database::compare_schemas(migrations).await.unwrap();
    if std::env::var_os("BERTH_TEST_POSTGRES").is_some() {
        let differing = Migrations { sqlite: &DIFFERING, postgres: &POSTGRES };
        let compared = AssertUnwindSafe(Database::compare_schemas(differing)).catch_unwind();
        let told = compared.await.unwrap_err();
        let told = told.downcast::<String>().unwrap();
        let lines: Vec<&str> = told.lines().collect();
        assert_eq!(
            lines,
            [
                "only one engine has",
                "SQLite: column parts.more TEXT, key 0",
                "PostgreSQL: column things.bytes BLOB, key 0",
                "SQLite: column things.bytes TEXT, key 0",
                "PostgreSQL: column things.count INTEGER NOT NULL, key 0",
                "SQLite: column things.count INTEGER, key 0",
                "SQLite: index parts_by_thing on parts (thing) unique false partial false",
            ]
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadlock_on_postgresql_runs_again() {
    let Some(database) = database(Engine::Postgres).await else { return };
    insert(&database, "a").await.unwrap();
    insert(&database, "b").await.unwrap();
    let runs = Arc::new(AtomicUsize::new(0));
    let unit = |first: &'static str, second: &'static str| {
        let (database, runs) = (database.clone(), Arc::clone(&runs));
        async move {
            database
                .write("crossed", move |tx| {
                    runs.fetch_add(1, Ordering::SeqCst);
                    Box::pin(async move {
                        tx.execute(&SET, args![first, 1]).await?;
                        tokio::time::sleep(Duration::from_millis(100)).await;
                        tx.execute(&SET, args![second, 1]).await?;
                        Ok::<_, DatabaseError>(())
                    })
                })
                .await
        }
    };
    let (one, two) = tokio::join!(unit("a", "b"), unit("b", "a"));
    one.unwrap();
    two.unwrap();
    assert!(runs.load(Ordering::SeqCst) > 2);
}

const BACKEND: crate::Statement = crate::Statement {
    sqlite: "",
    postgres: "SELECT pg_backend_pid()::bigint, pg_terminate_backend(nullif($1, 0)::int) FROM pg_sleep(0.2)",
};

#[tokio::test(flavor = "multi_thread")]
async fn t08_nothing_fails_once_a_restarted_postgresql_is_back() {
    let Some(database) = database(Engine::Postgres).await else { return };
    let Some(other) = self::database(Engine::Postgres).await else { return };
    let idle = join_all((0..8).map(|_| database.read_all(&BACKEND, args![0]))).await;
    for answer in idle {
        let process: i64 = answer.unwrap()[0].get(0).unwrap();
        other.read_all(&BACKEND, args![process]).await.unwrap();
    }
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let reads = (0..8).map(|_| database.read_all(&NAMES, args![]));
    for answer in join_all(reads).await {
        answer.unwrap();
    }
    insert(&database, "after").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_swallowed_error_on_postgresql_is_not_a_commit() {
    let Some(database) = database(Engine::Postgres).await else { return };
    insert(&database, "a").await.unwrap();
    let outcome: Result<(), DatabaseError> = database
        .write("swallows", |tx| {
            Box::pin(async move {
                let _ = tx.execute(&INSERT, args!["a", 0, None::<Vec<u8>>, false]).await;
                Ok(())
            })
        })
        .await;
    assert!(outcome.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_leaves_does_not_stop_its_unit_on_sqlite() {
    let database = database(Engine::Sqlite).await.unwrap();
    for number in 0..20 {
        let name = format!("left{number:02}");
        let write = insert(&database, &name);
        let _ = tokio::time::timeout(Duration::from_nanos(1), write).await;
    }
    insert(&database, "last").await.unwrap();
    assert_eq!(database.read_all(&NAMES, args![]).await.unwrap().len(), 21);
}

/// SQLite reports a full disk when the file reaches its page limit.
const SMALL: crate::Statement = crate::Statement { sqlite: "PRAGMA max_page_count = 1", postgres: "" };

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_the_batch_and_the_writer_goes_on() {
    let database = database(Engine::Sqlite).await.unwrap();
    insert(&database, "before").await.unwrap();
    database
        .write("limit", |tx| {
            Box::pin(async move {
                tx.all(&SMALL, args![]).await?;
                Ok::<_, DatabaseError>(())
            })
        })
        .await
        .unwrap();
    let outcomes = join_all((0..8).map(|number| {
        database.write("big", move |tx| {
            Box::pin(async move {
                let bytes = vec![7u8; 1 << 20];
                tx.execute(&INSERT, args![format!("big{number}"), 0, bytes, false]).await?;
                Ok::<_, DatabaseError>(())
            })
        })
    }))
    .await;
    // The limit is the connection's own and goes with it when the writer opens another.
    assert!(matches!(outcomes[0], Err(DatabaseError::Full(_))), "{outcomes:?}");
    assert!(
        outcomes.iter().all(|outcome| matches!(outcome, Ok(()) | Err(DatabaseError::Full(_)))),
        "{outcomes:?}"
    );
    let stored = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
    insert(&database, "after").await.unwrap();
    assert_eq!(database.read_all(&NAMES, args![]).await.unwrap().len(), stored + 2);
}

#[test]
fn a_second_process_is_refused_in_plain_words() {
    let folder = tempfile::tempdir().unwrap();
    let held = DataLock::acquire(folder.path()).unwrap();
    let refused = DataLock::acquire(folder.path()).unwrap_err();
    assert!(matches!(refused, LockError::InUse(_)));
    assert!(refused.to_string().contains(&folder.path().display().to_string()));
    drop(held);
    DataLock::acquire(folder.path()).unwrap();
}

const THINGS: &[Watched] = &[Watched { table: "things", key: ("name", "bytes") }];

async fn run(database: &Database, statement: &'static crate::Statement, args: Vec<crate::Arg>, fail: bool) {
    let outcome = database
        .write("run", move |tx| {
            let args = args.clone();
            Box::pin(async move {
                tx.execute(statement, args).await?;
                if fail { Err(tx.again()) } else { Ok::<_, DatabaseError>(()) }
            })
        })
        .await;
    assert_eq!(outcome.is_err(), fail);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_commit_tells_which_rows_it_changed_before_it_is_answered() {
    let database = database(Engine::Sqlite).await.unwrap();
    insert(&database, "before").await.unwrap();
    let told: Arc<parking_lot::Mutex<Vec<Changes>>> = Arc::default();
    let hears = Arc::clone(&told);
    assert!(database.watch(THINGS, Arc::new(move |changes| hears.lock().push(changes))));
    assert!(!database.watch(THINGS, Arc::new(|_| {})), "there is one listener");
    let rows = |names: &[&str]| {
        let key = |name: &&str| Touched { table: "things", key: (name.as_bytes().to_vec(), vec![0, 255]) };
        vec![Changes::Rows(names.iter().map(key).collect())]
    };
    let heard = || std::mem::take(&mut *told.lock());
    insert(&database, "a").await.unwrap();
    assert_eq!(heard(), rows(&["a"]));
    run(&database, &SET, args!["a", 2], false).await;
    assert_eq!(heard(), rows(&["a"]));
    run(&database, &RENAME, args!["a", "b"], false).await;
    assert_eq!(heard(), rows(&["a", "b"]));
    run(&database, &SET, args!["b", 3], true).await;
    assert_eq!(heard(), vec![], "what was rolled back changed nothing");
    run(&database, &SET, args!["absent", 3], false).await;
    assert_eq!(heard(), vec![]);
    run(&database, &DROP, args!["b"], false).await;
    assert_eq!(heard(), rows(&["b"]));
    for number in 0..1100 {
        insert(&database, &format!("many{number}")).await.unwrap();
    }
    heard();
    run(&database, &SET_ALL, args![], false).await;
    assert_eq!(heard(), vec![Changes::TooMany]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_is_opened_again_tells_as_well() {
    let database = database(Engine::Sqlite).await.unwrap();
    let told = Arc::new(AtomicUsize::new(0));
    let hears = Arc::clone(&told);
    let listener = move |_| {
        hears.fetch_add(1, Ordering::SeqCst);
    };
    assert!(database.watch(THINGS, Arc::new(listener)));
    run(&database, &SMALL, args![], false).await;
    let big = database
        .write("big", |tx| {
            Box::pin(async move {
                tx.execute(&INSERT, args!["big", 0, vec![7_u8; 1 << 20], false]).await?;
                Ok::<_, DatabaseError>(())
            })
        })
        .await;
    assert!(matches!(big, Err(DatabaseError::Full(_))), "{big:?}");
    let before = told.load(Ordering::SeqCst);
    insert(&database, "after").await.unwrap();
    assert_eq!(told.load(Ordering::SeqCst), before + 1);
}

fn once(key: &str, request: &str) -> Once {
    Once::read("user:1 I1".to_owned(), key.to_owned(), request.as_bytes().to_vec()).unwrap().unwrap()
}

/// Makes a thing under a key; its answer is the number that this attempt would have given it.
async fn make(database: &Database, once: &Once, name: &str, number: i64) -> Result<Vec<u8>, OnceError> {
    let input = Arc::new((once.clone(), name.to_owned()));
    database
        .write("make", move |tx| {
            let input = Arc::clone(&input);
            Box::pin(async move {
                let (once, name) = &*input;
                if let Some(response) = once.begin(tx).await? {
                    return Ok(response);
                }
                tx.execute(&INSERT, args![name, number, None::<Vec<u8>>, true]).await?;
                let response = number.to_be_bytes().to_vec();
                once.end(tx, response.clone()).await?;
                Ok(response)
            })
        })
        .await
}

async fn what_has_a_key_is_done_once(database: Database) {
    let request = once("k1", "make one");
    let attempts = (0..20).map(|number| make(&database, &request, "one", number));
    let answers: Vec<_> = join_all(attempts).await.into_iter().map(Result::unwrap).collect();
    assert_eq!(database.read_all(&NAMES, args![]).await.unwrap().len(), 1);
    assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:?}");
    // Another principal's key of the same name, and another key, are others.
    let other = Once::read("user:2 I1".to_owned(), "k1".to_owned(), b"make one".to_vec()).unwrap().unwrap();
    make(&database, &other, "two", 2).await.unwrap();
    make(&database, &once("k2", "make one"), "three", 3).await.unwrap();
    assert_eq!(database.read_all(&NAMES, args![]).await.unwrap().len(), 3);
}

async fn a_key_is_not_for_another_request(database: Database) {
    make(&database, &once("k1", "make one"), "one", 1).await.unwrap();
    let refused = make(&database, &once("k1", "make two"), "two", 2).await.unwrap_err();
    assert!(matches!(refused, OnceError::Reused));
    assert_eq!(berth_oci::Problem::from(refused).code, berth_oci::ErrorCode::IdempotencyKeyReused);
    assert_eq!(database.read_all(&NAMES, args![]).await.unwrap().len(), 1);
    let read = |key: &str| Once::read("s".to_owned(), key.to_owned(), Vec::new());
    assert_eq!(read("").unwrap(), None);
    for key in ["a b", "a\0", "\u{e9}", &"k".repeat(256)] {
        assert_eq!(read(key).unwrap_err().code, berth_oci::ErrorCode::RequestInvalid, "{key}");
    }
}

async fn what_failed_under_a_key_is_tried_again(database: Database) {
    insert(&database, "taken").await.unwrap();
    let request = once("k1", "make it");
    assert!(matches!(make(&database, &request, "taken", 1).await, Err(OnceError::Database(_))));
    assert_eq!(make(&database, &request, "free", 2).await.unwrap(), 2_i64.to_be_bytes());
    assert_eq!(make(&database, &request, "free", 3).await.unwrap(), 2_i64.to_be_bytes());
}

async fn a_key_is_forgotten_after_a_day(database: Database) {
    make(&database, &once("k1", "make one"), "one", 1).await.unwrap();
    make(&database, &once("k2", "make two"), "two", 2).await.unwrap();
    assert_eq!(idempotency::forget(&database).await.unwrap(), 0);
    // As old as can be, whatever the clock says.
    run(&database, &AGE_KEY, args!["k1"], false).await;
    assert_eq!(idempotency::forget(&database).await.unwrap(), 1);
    assert_eq!(idempotency::forget(&database).await.unwrap(), 0);
    make(&database, &once("k1", "make something else"), "three", 3).await.unwrap();
    let refused = make(&database, &once("k2", "make something else"), "four", 4).await;
    assert!(matches!(refused, Err(OnceError::Reused)));
}
