//! Requests that have their effect once, however often they come: the record of a request, in the transaction of its
//! effect.
//!
//! A service's migration makes the table `idempotency_keys (scope, key, fingerprint, response, created_at)` with the
//! primary key `(scope, key)` and an index on `created_at`.

use std::time::Duration;

use berth_oci::{ErrorCode, Problem};

use crate::{Database, DatabaseError, Statement, Transaction, args};

/// How long a key is kept at least.
pub const KEPT: Duration = Duration::from_secs(24 * 3600);
/// The longest key, in bytes.
const LONGEST_KEY: usize = 255;
/// The longest fingerprint, in bytes.
const LONGEST_FINGERPRINT: usize = 64;
/// The most keys that one transaction forgets.
const BATCH: i64 = 1000;

crate::statements! {
    // On PostgreSQL a holder that has not committed yet makes it wait.
    CLAIM = "INSERT INTO idempotency_keys (scope, key, fingerprint, response, created_at) VALUES ($1, $2, $3, $4, $5) \
        ON CONFLICT DO NOTHING";
    FIND = "SELECT fingerprint, response FROM idempotency_keys WHERE scope = $1 AND key = $2";
    ANSWER = "UPDATE idempotency_keys SET response = $3 WHERE scope = $1 AND key = $2";
    FORGET = sqlite "DELETE FROM idempotency_keys WHERE (scope, key) IN \
        (SELECT k.scope, k.key FROM idempotency_keys k WHERE k.created_at < $1 ORDER BY k.created_at LIMIT $2)"
        postgres "DELETE FROM idempotency_keys WHERE (scope, key) IN \
        (SELECT k.scope, k.key FROM idempotency_keys k WHERE k.created_at < $1 ORDER BY k.created_at LIMIT $2 \
        FOR UPDATE SKIP LOCKED)";
}

/// The statements of this module, for a service's test that prepares all of its own.
pub const STATEMENTS: &[(&str, &Statement)] = ALL;

/// Why a request is not to have its effect.
#[derive(Clone, Debug, thiserror::Error)]
pub enum OnceError {
    /// The key came with another request before.
    #[error("the idempotency key was used for another request")]
    Reused,
    /// The database failed.
    #[error(transparent)]
    Database(#[from] DatabaseError),
}

impl From<OnceError> for Problem {
    fn from(error: OnceError) -> Self {
        match error {
            OnceError::Reused => Self::new(
                ErrorCode::IdempotencyKeyReused,
                "this idempotency key came with another request in the last 24 hours; use a new key for a new request",
            ),
            OnceError::Database(error) => error.into(),
        }
    }
}

/// A request that has its effect once. [`Once::begin`] is the first thing that its unit of work does, [`Once::end`] the
/// last. A unit that fails leaves no trace: the request may be tried again.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Once {
    scope: String,
    key: String,
    fingerprint: Vec<u8>,
}

impl Once {
    /// A request with a key, which means something within its scope: a principal in an instance. The fingerprint is of
    /// all that was asked for. Without a key there is nothing to compare: `None`.
    pub fn read(scope: String, key: String, fingerprint: Vec<u8>) -> Result<Option<Self>, Problem> {
        if key.is_empty() {
            return Ok(None);
        }
        if key.len() > LONGEST_KEY || !key.bytes().all(|byte| byte.is_ascii_graphic()) {
            let message = format!("an idempotency key has 1 to {LONGEST_KEY} visible ASCII characters");
            return Err(Problem::new(ErrorCode::RequestInvalid, message));
        }
        if fingerprint.len() > LONGEST_FINGERPRINT {
            let message = format!("a request's fingerprint has at most {LONGEST_FINGERPRINT} bytes");
            return Err(Problem::new(ErrorCode::RequestInvalid, message));
        }
        Ok(Some(Self { scope, key, fingerprint }))
    }

    /// The key.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// What was answered to this request before; `None`: it was not done yet, or is being done.
    pub async fn known(&self, database: &Database) -> Result<Option<Vec<u8>>, OnceError> {
        let row = database.read_optional(&FIND, args![&self.scope, &self.key]).await?;
        let Some(row) = row else { return Ok(None) };
        if row.get::<Vec<u8>>(0)? != self.fingerprint {
            return Err(OnceError::Reused);
        }
        Ok(Some(row.get(1)?))
    }

    /// Takes the key for this transaction: `None`, and the request is to have its effect. Else it had it already, and
    /// this was the response. While another transaction holds the key, it waits for that one's outcome.
    pub async fn begin(&self, tx: &mut Transaction) -> Result<Option<Vec<u8>>, OnceError> {
        let now = tx.now();
        let claim = args![&self.scope, &self.key, &self.fingerprint, Vec::new(), now];
        if tx.execute(&CLAIM, claim).await? == 1 {
            return Ok(None);
        }
        let Some(row) = tx.optional(&FIND, args![&self.scope, &self.key]).await? else {
            // Forgotten between the two statements.
            return Err(tx.again().into());
        };
        if row.get::<Vec<u8>>(0)? != self.fingerprint {
            return Err(OnceError::Reused);
        }
        Ok(Some(row.get(1)?))
    }

    /// Records the response, in the transaction in which [`Once::begin`] took the key.
    pub async fn end(&self, tx: &mut Transaction, response: Vec<u8>) -> Result<(), DatabaseError> {
        tx.execute(&ANSWER, args![&self.scope, &self.key, response]).await?;
        Ok(())
    }
}

/// Forgets keys that are older than [`KEPT`], a bounded number of them; how many.
pub async fn forget(database: &Database) -> Result<u64, DatabaseError> {
    database
        .write("forget_idempotency_keys", |tx| {
            Box::pin(async move {
                let before = tx.now().minus(KEPT);
                tx.execute(&FORGET, args![before, BATCH]).await
            })
        })
        .await
}
