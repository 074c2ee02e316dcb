//! How passes begin: when it is time, or when somebody asks for one.

use std::sync::Arc;

use berth_database::{Transaction, args};
use berth_model::AuditKind;
use berth_oci::ErrorCode;
use berth_proto::metadata as proto;

use super::Pass;
use crate::{
    Metadata,
    error::{Error, Result},
    manager::Errand,
    store::{self, scrub_statements as sql},
    task::Kind,
};

/// Blobs and manifests are counted so far.
const COUNTED: u64 = 1_000_000;

/// How fast a pass goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Pace {
    /// As it is configured; one that runs will do.
    Usual,
    /// As fast as it can, and from the start.
    Unpaced,
}

/// A pass that somebody asks for.
struct Wish {
    order: Errand<Pace>,
    /// The id of its task.
    task: String,
    /// About as many steps as a pass has; none: too many to be counted.
    steps: Option<u64>,
}

/// Begins a pass, or joins the one that runs.
async fn begin_wish(
    tx: &mut Transaction,
    metadata: &Metadata,
    wish: &Wish,
) -> Result<proto::ScrubNowResponse> {
    let order = &wish.order;
    if let Some(begun) = order.replay(tx).await? {
        return Ok(begun);
    }
    let newest = tx.optional(&sql::NEWEST_PASS, args![]).await?.as_ref().map(Pass::read).transpose()?;
    let joined = newest.as_ref().filter(|pass| pass.ended_at.is_none() && order.change == Pace::Usual);
    let (number, done) = match joined {
        Some(pass) => match tx.optional(&sql::LOCK_PASS, args![pass.number]).await? {
            Some(row) => (pass.number, store::size(&row, 0)?),
            // It has just ended, or was given up.
            None => return Err(tx.again().into()),
        },
        None => match begin_pass(tx, newest.map(|pass| pass.number), order.change).await? {
            Some(number) => (number, 0),
            None => return Err(tx.again().into()),
        },
    };
    let work = Kind::Scrub.of(&number.to_string());
    let task_id = match work.running(tx).await? {
        Some(running) => running,
        None => {
            let name = number.to_string();
            work.begin(tx, order.manager.task(&wish.task, "", &name)).await?;
            work.step(tx, done).await?;
            if let Some(steps) = wish.steps {
                work.left(tx, steps.saturating_sub(done)).await?;
            }
            wish.task.clone()
        }
    };
    let says = order.manager.says(format!("scrub:{number}"), "");
    if let Some(instance) = order.instance {
        metadata.journal.record(tx, AuditKind::ScrubRequested.as_str(), instance, says).await?;
    }
    let begun = proto::ScrubNowResponse { number: number.unsigned_abs(), task_id };
    order.record(tx, &begun).await?;
    Ok(begun)
}

/// Begins the pass after `previous`, which is given up if it runs; none: somebody else did.
async fn begin_pass(tx: &mut Transaction, previous: Option<i64>, pace: Pace) -> Result<Option<i64>> {
    let number = previous.map_or(1, |previous| previous + 1);
    let now = tx.now();
    if let Some(previous) = previous {
        // Its row is locked from here on: nobody joins what is given up.
        let runs = tx.execute(&sql::GIVE_UP_PASS, args![previous, now]).await? == 1;
        let work = Kind::Scrub.of(&previous.to_string());
        if runs {
            work.fail(tx, &format!("it was given up for pass {number}")).await?;
        } else {
            work.end(tx, "").await?;
        }
    }
    if tx.execute(&sql::BEGIN_PASS, args![number, pace == Pace::Usual, now]).await? == 0 {
        return Ok(None);
    }
    // The one before is kept, for whoever works on it still.
    tx.execute(&sql::DROP_OLD_FINDINGS, args![number - 1]).await?;
    tx.execute(&sql::DROP_OLD_PASSES, args![number - 1]).await?;
    Ok(Some(number))
}

impl Metadata {
    /// Notes that there was nothing to look at yet; the first pass is due an interval later.
    pub(super) async fn note_base_pass(&self) -> Result<()> {
        self.database
            .write("note_base_pass", |tx| {
                Box::pin(async move {
                    let now = tx.now();
                    tx.execute(&sql::BASE_PASS, args![now]).await?;
                    Ok(())
                })
            })
            .await
    }

    /// Begins the pass after `previous` when it is time, unless somebody else did.
    pub(super) async fn begin_due_pass(&self, previous: i64) -> Result<()> {
        self.database
            .write("begin_pass", move |tx| {
                Box::pin(async move {
                    begin_pass(tx, Some(previous), Pace::Usual).await?;
                    Ok(())
                })
            })
            .await
    }

    /// Begins a pass, and wakes the worker; its number and its task. At the usual pace the one that runs will do.
    pub(crate) async fn scrub_now(&self, order: Errand<Pace>) -> Result<proto::ScrubNowResponse> {
        if !self.has_blobs {
            let message = "metadata knows no blob store, so it can't look at any bytes; set peers.blob_store";
            return Err(Error::new(ErrorCode::Unsupported, message));
        }
        let wish = Wish { order, task: self.ids.ulid().to_string(), steps: self.count_steps().await };
        let input = Arc::new((self.clone(), wish));
        let begun = self
            .database
            .write("scrub_now", move |tx| {
                let input = Arc::clone(&input);
                Box::pin(async move { begin_wish(tx, &input.0, &input.1).await })
            })
            .await?;
        self.scrub_wake.notify_one();
        Ok(begun)
    }

    /// About how many steps a pass has: each blob and its object, each manifest. None where that is too many to be counted, or
    /// can't be just now: a pass goes without.
    async fn count_steps(&self) -> Option<u64> {
        let counted = self.database.read_optional(&sql::COUNT_CONTENT, args![]).await;
        let row = counted.inspect_err(|error| tracing::debug!(%error, "content is not counted")).ok()??;
        let (blobs, manifests) = (store::size(&row, 0).ok()?, store::size(&row, 1).ok()?);
        (blobs <= COUNTED && manifests <= COUNTED).then_some(2 * blobs + manifests)
    }
}
