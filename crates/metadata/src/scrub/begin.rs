//! How passes begin: when it is time, or when somebody asks for one.

use std::sync::Arc;

use berth_database::{Transaction, args};
use berth_model::AuditKind;
use berth_oci::ErrorCode;
use berth_proto::metadata as proto;

use crate::{
    Metadata,
    error::{Error, Result},
    manager::Errand,
    store::{self, scrub_statements as sql},
    task::Kind,
};

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
    /// Blobs, twice, and manifests: about as many as a pass looks at.
    content: u64,
}

/// Begins a pass after the newest one that was seen and whether that ran; none: it is not the newest any more, or has ended.
async fn begin_wish(
    tx: &mut Transaction,
    metadata: &Metadata,
    wish: &Wish,
    seen: Option<(i64, bool)>,
) -> Result<Option<proto::ScrubNowResponse>> {
    let order = &wish.order;
    if let Some(begun) = order.replay(tx).await? {
        return Ok(Some(begun));
    }
    let joined = seen.filter(|(_, runs)| *runs && order.change == Pace::Usual);
    let (number, done) = match joined {
        Some((number, _)) => match tx.optional(&sql::LOCK_PASS, args![number]).await? {
            Some(row) => (number, store::size(&row, 0)?),
            None => return Ok(None),
        },
        None => {
            let previous = seen.map(|(number, _)| number);
            let Some(number) = begin_pass(tx, previous, order.change).await? else { return Ok(None) };
            (number, 0)
        }
    };
    let work = Kind::Scrub.of(&number.to_string());
    let task_id = match work.running(tx).await? {
        Some(running) => running,
        None => {
            let name = number.to_string();
            work.begin(tx, order.manager.task(&wish.task, "", &name)).await?;
            work.step(tx, done).await?;
            work.left(tx, wish.content.saturating_sub(done)).await?;
            wish.task.clone()
        }
    };
    let says = order.manager.says(format!("scrub:{number}"), "");
    if let Some(instance) = order.instance {
        metadata.journal.record(tx, AuditKind::ScrubRequested.as_str(), instance, says).await?;
    }
    let begun = proto::ScrubNowResponse { number: number.unsigned_abs(), task_id };
    order.record(tx, &begun).await?;
    Ok(Some(begun))
}

/// Begins the pass after `previous`, which is given up if it runs; none: somebody else did.
async fn begin_pass(tx: &mut Transaction, previous: Option<i64>, pace: Pace) -> Result<Option<i64>> {
    let number = previous.map_or(1, |previous| previous + 1);
    let now = tx.now();
    if tx.execute(&sql::BEGIN_PASS, args![number, pace == Pace::Usual, now]).await? == 0 {
        return Ok(None);
    }
    if let Some(previous) = previous {
        let reason = format!("it was given up for pass {number}");
        Kind::Scrub.of(&previous.to_string()).fail(tx, &reason).await?;
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

    /// Begins a pass, and wakes the worker; its number and its task. At the usual pace, the one that runs will do.
    pub(crate) async fn scrub_now(&self, order: Errand<Pace>) -> Result<proto::ScrubNowResponse> {
        if !self.has_blobs {
            let message = "metadata knows no blob store, so it can't look at any bytes; set peers.blob_store";
            return Err(Error::new(ErrorCode::Unsupported, message));
        }
        // Counted outside of the transaction, since it takes a while.
        let row = self.database.read_optional(&sql::COUNT_CONTENT, args![]).await?;
        let content = row.map_or(Ok(0), |row| store::size(&row, 0))?;
        let wish = Wish { order, task: self.ids.ulid().to_string(), content };
        let input = Arc::new((self.clone(), wish));
        loop {
            let newest = self.newest_pass().await?;
            let seen = newest.map(|pass| (pass.number, pass.ended_at.is_none()));
            let input = Arc::clone(&input);
            let begun = self
                .database
                .write("scrub_now", move |tx| {
                    let input = Arc::clone(&input);
                    Box::pin(async move { begin_wish(tx, &input.0, &input.1, seen).await })
                })
                .await?;
            // Another began or ended one meanwhile.
            let Some(begun) = begun else { continue };
            self.scrub_wake.notify_one();
            return Ok(begun);
        }
    }
}
