//! What an administrator may ask of collection: how it stands, and to go on at once.

use berth_database::{Engine, Statement, args};
use berth_service::Timestamp;

use super::Queue;
use crate::{
    Metadata,
    error::Result,
    store::{self, collect_statements as sql},
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

    /// Makes every review due as soon as the floor allows, retries what failed, and wakes the worker. How many rows moved.
    pub(crate) async fn collect_now(&self) -> Result<u64> {
        let floor = self.config.review_floor();
        let mut moved = 0;
        for statement in [&sql::MANIFESTS_NOW, &sql::LINKS_NOW, &sql::BLOBS_NOW, &sql::REPOSITORIES_NOW] {
            moved += self.hasten(statement, floor).await?;
        }
        moved += self
            .database
            .write("retry_objects", |tx| {
                Box::pin(async move {
                    let now = tx.now();
                    Ok::<_, crate::Error>(tx.execute(&sql::OBJECTS_NOW, args![now]).await?)
                })
            })
            .await?;
        self.wake.notify_one();
        Ok(moved)
    }

    async fn hasten(&self, statement: &'static Statement, floor: std::time::Duration) -> Result<u64> {
        let mut moved = 0;
        loop {
            let batch = self
                .database
                .write("collect_now", move |tx| {
                    Box::pin(async move {
                        let until = match tx.engine() {
                            Engine::Sqlite => tx.now().plus(floor),
                            Engine::Postgres => Timestamp(0).plus(floor),
                        };
                        Ok::<_, crate::Error>(tx.execute(statement, args![until]).await?)
                    })
                })
                .await?;
            moved += batch;
            if batch < BATCH {
                return Ok(moved);
            }
        }
    }
}
