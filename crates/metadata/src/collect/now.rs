//! What an administrator may ask of collection: how it stands, and to go on at once.

use std::sync::Arc;

use berth_database::{Engine, Row, Statement, Transaction, args, tasks::Work};
use berth_model::AuditKind;
use berth_proto::metadata as proto;
use berth_service::Timestamp;
use futures::future::BoxFuture;

use super::Queue;
use crate::{
    Metadata,
    error::Result,
    manager::Errand,
    store::{self, collect_statements as sql},
    task,
};

/// Rows that one transaction moves.
const BATCH: u64 = 1000;

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

/// Collection that was asked for, as it was last seen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Run {
    /// By when its reviews are due; none: they are to be brought forward.
    until: Option<Timestamp>,
    asked_at: i64,
}

impl Run {
    fn read(row: &Row) -> Result<Self> {
        Ok(Self { until: row.get::<Option<i64>>(0)?.map(Timestamp), asked_at: row.get(1)? })
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
    let work = task::collection();
    let task_id = match work.running(tx).await? {
        Some(running) => {
            let now = tx.now();
            tx.execute(&sql::RUN_AGAIN, args![work.kind, &work.subject, now]).await?;
            running
        }
        None => {
            work.begin(tx, order.manager.task(id, "", "")).await?;
            id.to_owned()
        }
    };
    let says = order.manager.says(format!("task:{task_id}"), "");
    if let Some(instance) = order.instance {
        let kind = AuditKind::GarbageCollectionRequested.as_str();
        metadata.journal.record(tx, kind, instance, says).await?;
    }
    let begun = proto::CollectNowResponse { task_id };
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

    /// Begins a run of collection, or has the one that runs begin anew; its task. The worker does the rest.
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

    /// Goes on with the run that was asked for, if there is one: brings reviews forward, then says how many of them are left
    /// until there are none. Whether there is more to be done at once.
    pub(crate) async fn go_on_with_run(&self) -> Result<bool> {
        let work = task::collection();
        let row = self.database.read_optional(&sql::RUN, args![work.kind, &work.subject]).await?;
        let Some(seen) = row.as_ref().map(Run::read).transpose()? else { return Ok(false) };
        match seen.until {
            None => {
                self.hasten_all().await?;
                berth_service::crash::point("collect_run.hastened");
                let floor = self.config.review_floor();
                self.with_run("hold_run", seen, move |tx, work| {
                    Box::pin(async move {
                        let until = tx.now().plus(floor);
                        tx.execute(&sql::RUN_WAITS, args![work.kind, &work.subject, until]).await?;
                        Ok(())
                    })
                })
                .await?;
                Ok(true)
            }
            Some(until) => {
                let row = self.database.read_optional(&sql::DUE_BY, args![until, self.has_blobs]).await?;
                let left = row.map_or(Ok(0), |row| store::size(&row, 0))?;
                self.with_run("count_run", seen, move |tx, work| {
                    Box::pin(async move {
                        match left {
                            0 => work.end(tx, "").await?,
                            left => work.left(tx, left).await?,
                        }
                        Ok(())
                    })
                })
                .await?;
                Ok(false)
            }
        }
    }

    /// Changes the run, unless it was asked for again meanwhile.
    async fn with_run<F>(&self, name: &'static str, seen: Run, change: F) -> Result<()>
    where
        F: for<'a> Fn(&'a mut Transaction, &'a Work) -> BoxFuture<'a, Result<()>>
            + Copy
            + Send
            + Sync
            + 'static,
    {
        self.database
            .write(name, move |tx| {
                Box::pin(async move {
                    let work = task::collection();
                    let row = tx.optional(&sql::LOCK_RUN, args![work.kind, &work.subject]).await?;
                    match row.as_ref().map(Run::read).transpose()? {
                        Some(run) if run == seen => change(tx, &work).await,
                        _ => Ok(()),
                    }
                })
            })
            .await
    }

    /// Makes every review due as soon as the floor allows, and retries what failed.
    async fn hasten_all(&self) -> Result<()> {
        let floor = self.config.review_floor();
        for statement in [&sql::MANIFESTS_NOW, &sql::LINKS_NOW, &sql::BLOBS_NOW, &sql::REPOSITORIES_NOW] {
            self.hasten(statement, floor).await?;
        }
        self.database
            .write("retry_objects", |tx| {
                Box::pin(async move {
                    let now = tx.now();
                    tx.execute(&sql::OBJECTS_NOW, args![now]).await?;
                    Ok(())
                })
            })
            .await
    }

    async fn hasten(&self, statement: &'static Statement, floor: std::time::Duration) -> Result<()> {
        loop {
            let batch = self
                .database
                .write("hasten_reviews", move |tx| {
                    Box::pin(async move {
                        let until = match tx.engine() {
                            Engine::Sqlite => tx.now().plus(floor),
                            Engine::Postgres => Timestamp(0).plus(floor),
                        };
                        Ok::<_, crate::Error>(tx.execute(statement, args![until]).await?)
                    })
                })
                .await?;
            if batch < BATCH {
                return Ok(());
            }
        }
    }
}
