//! What an administrator may ask of collection: how it stands, and to go on at once.

use std::sync::Arc;

use berth_database::{Engine, Row, Transaction, args, tasks::Work};
use berth_model::AuditKind;
use berth_oci::ErrorCode;
use berth_proto::metadata as proto;
use berth_service::Timestamp;

use super::Queue;
use crate::{
    Metadata,
    error::{Error, Result},
    manager::Errand,
    store::{self, collect_statements as sql},
    task::Kind,
};

/// Rows that one transaction moves.
const BATCH: u64 = 1000;
/// The most runs that go on at the same time.
const MOST_RUNS: i64 = 10;
/// What is due in a queue is counted so far.
const DUE_COUNTED: u64 = 20_000;

/// How one queue stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Standing {
    pub(crate) queue: Queue,
    /// Counted to 100,000.
    pub(crate) depth: u64,
    pub(crate) first_due: Option<Timestamp>,
}

/// How collection stands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Status {
    /// The time that decides what is due.
    pub(crate) now: Timestamp,
    pub(crate) queues: Vec<Standing>,
    /// Bytes that nothing needs any more, as far as reviews have found.
    pub(crate) reclaimable_bytes: u64,
    /// When the last of them may go.
    pub(crate) reclaimable_at: Option<Timestamp>,
}

/// Collection that was asked for.
struct Run {
    work: Work,
    /// By when its reviews are due; none: they are to be brought forward.
    until: Option<Timestamp>,
}

impl Run {
    fn read(row: &Row) -> Result<Self> {
        let work = Work { kind: Kind::Collect.name(), subject: row.get(0)? };
        Ok(Self { work, until: row.get::<Option<i64>>(1)?.map(Timestamp) })
    }
}

async fn begin_run(
    tx: &mut Transaction,
    metadata: &Metadata,
    order: &Errand<()>,
    id: &str,
) -> Result<proto::CollectNowResponse> {
    if let Some(begun) = order.replay(tx).await? {
        return Ok(begun);
    }
    let kind = Kind::Collect.name();
    if tx.one(&sql::COUNT_RUNS, args![kind]).await?.get::<i64>(0)? >= MOST_RUNS {
        let message = format!("{MOST_RUNS} runs go on already; wait until one of them is done");
        return Err(Error::new(ErrorCode::Conflict, message));
    }
    Kind::Collect.of(id).begin(tx, order.manager.task(id, "", "")).await?;
    if let Some(instance) = order.instance {
        let says = order.manager.says(format!("task:{id}"), "");
        let kind = AuditKind::GarbageCollectionRequested.as_str();
        metadata.journal.record(tx, kind, instance, says).await?;
    }
    let begun = proto::CollectNowResponse { task_id: id.to_owned() };
    order.record(tx, &begun).await?;
    Ok(begun)
}

impl Metadata {
    /// The clock that decides what is due, and when each queue's first row is.
    pub(crate) async fn first_due(&self) -> Result<(Timestamp, Vec<(Queue, Timestamp)>)> {
        let clock = store::read_clock(&self.database, &self.clock);
        let row = self.database.read_optional(&sql::FIRST_DUE, args![clock]).await?;
        let Some(row) = row else { return Ok((self.clock.now(), Vec::new())) };
        let mut due = Vec::new();
        for queue in Queue::ALL {
            if let Some(at) = row.get::<Option<i64>>(1 + queue.column())? {
                due.push((queue, Timestamp(at)));
            }
        }
        Ok((Timestamp(row.get(0)?), due))
    }

    /// How collection stands.
    pub(crate) async fn collection_status(&self) -> Result<Status> {
        let (now, due) = self.first_due().await?;
        let depths = self.database.read_optional(&sql::DEPTHS, args![]).await?;
        let mut queues = Vec::new();
        for queue in Queue::ALL {
            let depth = match &depths {
                Some(row) => store::size(row, queue.column())?,
                None => 0,
            };
            let first_due = due.iter().find(|(of, _)| *of == queue).map(|(_, at)| *at);
            queues.push(Standing { queue, depth, first_due });
        }
        let (mut reclaimable_bytes, mut reclaimable_at) = (0, None);
        let grace = self.config.object_grace();
        for (statement, more) in
            [(&sql::RECLAIMABLE_OBJECTS, std::time::Duration::ZERO), (&sql::RECLAIMABLE_BLOBS, grace)]
        {
            if let Some(row) = self.database.read_optional(statement, args![]).await? {
                reclaimable_bytes += store::size(&row, 0)?;
                let last = row.get::<Option<i64>>(1)?.map(|at| Timestamp(at).plus(more));
                reclaimable_at = reclaimable_at.max(last);
            }
        }
        Ok(Status { now, queues, reclaimable_bytes, reclaimable_at })
    }

    /// Begins a run of collection; its task. The worker does the rest.
    pub(crate) async fn collect_now(&self, order: Errand<()>) -> Result<proto::CollectNowResponse> {
        let input = Arc::new((self.clone(), order, self.ids.ulid().to_string()));
        let begun = self
            .database
            .write("collect_now", move |tx| {
                let input = Arc::clone(&input);
                Box::pin(async move { begin_run(tx, &input.0, &input.1, &input.2).await })
            })
            .await?;
        self.wake.notify_one();
        Ok(begun)
    }

    /// Goes on with what was asked for: brings some reviews forward, or says how many are left until there are none.
    /// Whether there is more to be done at once.
    pub(crate) async fn go_on_with_runs(&self) -> Result<bool> {
        let rows = self.database.read_all(&sql::RUNS, args![Kind::Collect.name()]).await?;
        let runs = rows.iter().map(Run::read).collect::<Result<Vec<_>>>()?;
        let begun: Vec<Work> =
            runs.iter().filter(|run| run.until.is_none()).map(|run| run.work.clone()).collect();
        if !begun.is_empty() {
            if !self.hasten_some().await? {
                return Ok(true);
            }
            berth_service::crash::point("collect_run.hastened");
            self.hold_runs(begun).await?;
            return Ok(true);
        }
        for Run { work, until } in runs {
            let Some(until) = until else { continue };
            let Some(left) = self.count_due(until).await? else { continue };
            self.database
                .write("count_run", move |tx| {
                    let work = work.clone();
                    Box::pin(async move {
                        match left {
                            0 => work.end(tx, "").await?,
                            left => work.left(tx, left).await?,
                        }
                        Ok::<_, Error>(())
                    })
                })
                .await?;
        }
        Ok(false)
    }

    /// Says by when everything is due that was brought forward.
    async fn hold_runs(&self, runs: Vec<Work>) -> Result<()> {
        let floor = self.config.review_floor();
        self.database
            .write("hold_runs", move |tx| {
                let runs = runs.clone();
                Box::pin(async move {
                    let until = tx.now().plus(floor);
                    for work in &runs {
                        tx.execute(&sql::RUN_WAITS, args![work.kind, &work.subject, until]).await?;
                    }
                    Ok(())
                })
            })
            .await
    }

    /// How much has to be looked at by then; none: too much to be counted.
    async fn count_due(&self, until: Timestamp) -> Result<Option<u64>> {
        let row = self.database.read_optional(&sql::DUE_BY, args![until, self.has_blobs]).await?;
        let Some(row) = row else { return Ok(None) };
        let mut due = 0;
        for queue in 0..5 {
            match store::size(&row, queue)? {
                DUE_COUNTED.. => return Ok(None),
                count => due += count,
            }
        }
        Ok(Some(due))
    }

    /// Makes some reviews due as soon as the floor allows, and retries what failed; whether these were all.
    async fn hasten_some(&self) -> Result<bool> {
        let floor = self.config.review_floor();
        let mut all = true;
        for statement in [&sql::MANIFESTS_NOW, &sql::LINKS_NOW, &sql::BLOBS_NOW, &sql::REPOSITORIES_NOW] {
            let moved = self
                .database
                .write("hasten_reviews", move |tx| {
                    Box::pin(async move {
                        let until = match tx.engine() {
                            Engine::Sqlite => tx.now().plus(floor),
                            Engine::Postgres => Timestamp(0).plus(floor),
                        };
                        Ok::<_, Error>(tx.execute(statement, args![until]).await?)
                    })
                })
                .await?;
            all &= moved < BATCH;
        }
        self.database
            .write("retry_objects", move |tx| {
                Box::pin(async move {
                    let now = tx.now();
                    tx.execute(&sql::OBJECTS_NOW, args![now]).await?;
                    Ok(all)
                })
            })
            .await
    }
}
