//! Collection: what nothing needs any more goes, a row at a time. Each review takes one row of a queue, looks again at
//! what it speaks of, and keeps or deletes it in the same transaction; what that frees is queued before anything is
//! locked for deletion. A collector waits for nobody: what somebody works on is looked at again later.
//!
//! The lock order is that of every unit: manifest, link and blob queue, then link, blob, manifest. A queue row and the row
//! it speaks of are taken with SKIP LOCKED, so a collector is in no cycle of waiting.

mod blob;
mod link;
mod manifest;
mod now;
mod object;
mod removal;
mod repository;
mod session;

use std::{sync::Arc, time::Duration};

use berth_database::{Arg, DatabaseError, Statement, args};
use parking_lot::Mutex;

use crate::{
    Metadata,
    error::{Error, Result},
};

pub(crate) use object::Claimed;

/// Who deletes, in events.
const PRINCIPAL: &str = "system:collection";
/// The longest wait before a review or a delete that failed is tried again.
const MAX_BACK_OFF: Duration = Duration::from_secs(24 * 3600);

/// What is worked through.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Queue {
    Manifest,
    Link,
    Blob,
    Repository,
    Session,
    Object,
    Removal,
}

impl Queue {
    /// In the order in which one frees what is in the next.
    pub(crate) const ALL: [Self; 7] = [
        Self::Removal,
        Self::Manifest,
        Self::Link,
        Self::Blob,
        Self::Session,
        Self::Repository,
        Self::Object,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Manifest => "manifest",
            Self::Link => "link",
            Self::Blob => "blob",
            Self::Repository => "repository",
            Self::Session => "session",
            Self::Object => "object",
            Self::Removal => "removal",
        }
    }

    /// Its column in statements about all queues, after the first.
    pub(crate) fn column(self) -> usize {
        self as usize
    }
}

/// What one review came to.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Verdict {
    /// Something needs it, or it was gone already: the review is done.
    Kept,
    /// It is deleted.
    Deleted,
    /// Looked at again later.
    PutOff,
}

impl Verdict {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Kept => "kept",
            Self::Deleted => "deleted",
            Self::PutOff => "put_off",
        }
    }
}

/// Whether a review changes what there is; most only find that something is needed.
fn is_deleted(outcome: &Result<Option<Verdict>>) -> bool {
    matches!(outcome, Ok(Some(Verdict::Deleted)))
}

/// The row under review, as far as the unit got to know it: its key, and its failed attempts.
#[derive(Clone, Default, Debug)]
pub(crate) struct Seen(Arc<Mutex<Option<Row>>>);

type Row = (Vec<Arg>, i64);

impl Seen {
    /// Notes the row's key and its failed attempts.
    fn note(&self, key: Vec<Arg>, attempts: i64) {
        *self.0.lock() = Some((key, attempts));
    }
}

impl Metadata {
    /// How long after a dissociation by the collector its own consequences are reviewed.
    pub(crate) fn freed_after(&self) -> Duration {
        self.config.review_floor()
    }

    /// How long a row that somebody holds is left alone.
    pub(crate) fn busy_wait(&self) -> Duration {
        self.config.review_floor().min(Duration::from_secs(60))
    }

    /// The wait before attempt `attempts + 1`: doubling, spread over half of itself.
    pub(crate) fn back_off(&self, attempts: i64) -> Duration {
        let doublings = u32::try_from(attempts.clamp(0, 20)).unwrap_or_default();
        let whole = Duration::from_secs(1).saturating_mul(1 << doublings).min(MAX_BACK_OFF);
        let permille = 750 + u32::try_from(self.ids.below(501)).unwrap_or_default();
        whole.saturating_mul(permille) / 1000
    }

    /// Puts off the review of a row whose unit failed, unless it was the database that was away.
    async fn settle<T>(&self, outcome: Result<T>, seen: &Seen, back_off: &'static Statement) -> Result<T> {
        let Err(error) = outcome else { return outcome };
        let known = seen.0.lock().clone();
        if let Some((key, attempts)) = known
            && !matches!(error, Error::Database(DatabaseError::Unavailable(_) | DatabaseError::Full(_)))
        {
            let wait = self.back_off(attempts);
            self.database
                .write("back_off_review", move |tx| {
                    let mut args = key.clone();
                    Box::pin(async move {
                        args.push(tx.now().plus(wait).into());
                        tx.execute(back_off, args).await
                    })
                })
                .await?;
        }
        Err(error)
    }

    /// Takes or renews the right to be the one collector; false while another has it.
    pub(crate) async fn claim_collection(&self, holder: &str, lease: Duration) -> Result<bool> {
        self.claim_work("collection", holder, lease).await
    }

    /// The same for the one scrubber.
    pub(crate) async fn claim_scrub(&self, holder: &str, lease: Duration) -> Result<bool> {
        self.claim_work("scrub", holder, lease).await
    }

    /// The same for the one that seals data keys again.
    pub(crate) async fn claim_resealing(&self, holder: &str, lease: Duration) -> Result<bool> {
        self.claim_work("reseal", holder, lease).await
    }

    async fn claim_work(&self, work: &'static str, holder: &str, lease: Duration) -> Result<bool> {
        if self.database.engine() == berth_database::Engine::Sqlite {
            // One process has the file.
            return Ok(true);
        }
        let holder = holder.to_owned();
        self.database
            .write("claim_work", move |tx| {
                let holder = holder.clone();
                Box::pin(async move {
                    let now = tx.now();
                    let args = args![work, holder, now.plus(lease), now];
                    Ok(tx.execute(&crate::store::collect_statements::CLAIM_WORK, args).await? == 1)
                })
            })
            .await
    }
}
