//! What the holder of a lease records on the way: durable bytes, and that it is about to finish.

use std::sync::Arc;

use berth_database::{Engine, args};
use berth_oci::{Algorithm, Digest};
use berth_service::Timestamp;

use super::{Progress, Upload, busy, unknown};
use crate::{
    Metadata,
    error::Result,
    lease::LEASE,
    staging,
    store::{self, statements as sql},
};

impl Metadata {
    /// Records durable bytes and renews the lease; the lease's new end.
    pub(crate) async fn checkpoint(&self, progress: Progress) -> Result<Timestamp> {
        Ok(self.advance(progress, true).await?.0)
    }

    /// Records durable bytes and gives the lease back.
    pub(crate) async fn end_append(&self, progress: Progress) -> Result<Upload> {
        let (id, offset, epoch) = (progress.upload, progress.offset, progress.epoch);
        let (_, algorithm) = self.advance(progress, false).await?;
        berth_service::crash::point("advance_upload.committed");
        self.leases.release(&id.to_string(), epoch);
        Ok(Upload { id, offset, algorithm, staged: false })
    }

    async fn advance(&self, progress: Progress, renew: bool) -> Result<(Timestamp, Option<Algorithm>)> {
        let (progress, leases) = (Arc::new(progress), Arc::clone(&self.leases));
        let life = self.config.upload_life();
        self.database
            .write("advance_upload", move |tx| {
                let (progress, leases) = (Arc::clone(&progress), Arc::clone(&leases));
                Box::pin(async move {
                    let id = progress.upload.to_string();
                    let now = tx.now();
                    let until = if renew { now.plus(LEASE) } else { now };
                    let held = tx.engine() == Engine::Postgres || leases.holds(&id, progress.epoch);
                    let args = args![
                        id.clone(),
                        progress.epoch,
                        store::stored_size(progress.offset)?,
                        progress.hash_state.as_slice(),
                        until,
                        now,
                        now.plus(life),
                        held,
                    ];
                    if let Some(row) = tx.optional(&sql::ADVANCE_SESSION, args).await? {
                        staging::record(tx, &id, &progress.change, renew).await?;
                        leases.renew(&id, progress.epoch, now);
                        berth_service::crash::point("advance_upload.before_commit");
                        return Ok((until, row.get::<String>(0)?.parse().ok()));
                    }
                    let row = tx.optional(&sql::SESSION_STATE, args![id]).await?;
                    let Some(row) = row else { return Err(unknown()) };
                    match row.get::<String>(0)?.as_str() {
                        "open" | "finishing" => Err(busy(store::size(&row, 1)?)),
                        _ => Err(unknown()),
                    }
                })
            })
            .await
    }

    /// Records that the holder is about to finish in a way that may take effect without an answer. From here on the
    /// session comes to this digest, or to nothing.
    pub(crate) async fn finish_upload(&self, progress: Progress, digest: Digest) -> Result<Timestamp> {
        let (progress, life) = (Arc::new(progress), self.config.upload_life());
        let until = self
            .database
            .write("finish_upload", move |tx| {
                let progress = Arc::clone(&progress);
                Box::pin(async move {
                    let id = progress.upload.to_string();
                    let now = tx.now();
                    let until = now.plus(LEASE);
                    let args = args![
                        id.clone(),
                        progress.epoch,
                        digest.to_bytes(),
                        store::stored_size(progress.offset)?,
                        progress.hash_state.as_slice(),
                        until,
                        now,
                        now.plus(life),
                    ];
                    if tx.execute(&sql::FINISH_SESSION, args).await? == 1 {
                        staging::record(tx, &id, &progress.change, false).await?;
                        berth_service::crash::point("finish_upload.before_commit");
                        return Ok(until);
                    }
                    let row = tx.optional(&sql::SESSION_STATE, args![id]).await?;
                    let Some(row) = row else { return Err(unknown()) };
                    match row.get::<String>(0)?.as_str() {
                        "open" | "finishing" => Err(busy(store::size(&row, 1)?)),
                        _ => Err(unknown()),
                    }
                })
            })
            .await?;
        berth_service::crash::point("finish_upload.committed");
        Ok(until)
    }
}
