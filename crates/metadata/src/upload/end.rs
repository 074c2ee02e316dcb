//! The end of a session: committed, which leaves a blob, a link and their reviews, or cancelled.

use std::sync::Arc;

use berth_blobs::{ObjectKey, PLAIN, SEALED, Sealing};
use berth_database::{Arg, BytesList, Engine, Transaction, args};
use berth_model::UploadId;
use berth_oci::{Digest, ErrorCode};
use berth_service::Timestamp;

use super::{Session, busy, check_algorithm, lock, unknown};
use crate::{
    Metadata,
    access::Access,
    error::{Error, Result},
    event::Kind,
    quarantine, sealing,
    staging::Ended,
    store::{self, statements as sql},
};

/// What an upload came to.
#[derive(Clone, Debug)]
pub(crate) struct Whole {
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    /// Where the bytes are; empty: at the session's key.
    pub(crate) object_key: String,
    /// How they are sealed, if they are.
    pub(crate) sealing: Option<Sealing>,
}

/// What a commit needs.
#[derive(Debug)]
struct Commit {
    metadata: Metadata,
    access: Access,
    upload: UploadId,
    epoch: i64,
    whole: Whole,
}

impl Commit {
    /// The object that the session came to: its key, or a name below it.
    fn object_key<'a>(&'a self, session: &'a Session) -> Result<&'a str> {
        if self.whole.object_key.is_empty() {
            return Ok(&session.object_key);
        }
        match self.whole.object_key.parse::<ObjectKey>() {
            Ok(key) if key.session() == session.object_key => Ok(&self.whole.object_key),
            _ => Err(Error::new(ErrorCode::RequestInvalid, "the object is not one of this upload")),
        }
    }
}

async fn commit(tx: &mut Transaction, input: &Commit) -> Result<()> {
    let Commit { metadata, access, upload, whole, .. } = input;
    let digest = &whole.digest;
    let session = lock(tx, *upload, access).await?;
    match session.state.as_str() {
        "open" => {}
        "finishing" if session.digest.as_ref() == Some(digest) && session.size == whole.size => {}
        // The answer to the first request was lost.
        "committed" if session.linked && session.digest.as_ref() == Some(digest) => return Ok(()),
        _ => return Err(unknown()),
    }
    let held = match tx.engine() {
        Engine::Sqlite if !session.columns.staged => metadata.leases.holds(&upload.to_string(), input.epoch),
        _ => session.epoch == input.epoch,
    };
    if !held {
        return Err(busy(session.size));
    }
    if let Some(explicit) = session.algorithm {
        check_algorithm(explicit, Some(digest))?;
    }
    let now = tx.now();
    let instance = access.instance.to_string();
    let stored_size = store::stored_size(whole.size)?;
    queue_reviews(tx, &instance, &session.repository, digest, now.plus(metadata.config.review_after()))
        .await?;
    let object_key = input.object_key(&session)?;
    // The session's own was sealed again, if its key was replaced since.
    let recorded = session.columns.sealing.as_ref().map(|state| &state.key);
    let sealing = recorded.or(whole.sealing.as_ref());
    if let (Some(sealing), None) = (sealing, recorded) {
        sealing::name_key(tx, &sealing.key_id).await?;
    }
    let object = NewObject { store_id: &session.store_id, key: object_key, sealing };
    let kept = keep_blob(tx, metadata, &instance, digest, stored_size, &object).await?;
    berth_service::crash::point("commit_upload.blob_kept");
    let not_before = if session.columns.staged {
        // What an older epoch writes late lands before it is looked for.
        now.plus(metadata.config.longest_operation())
    } else {
        now.plus(metadata.config.object_grace())
    };
    let own = (kept == object_key).then_some(object_key);
    drop_remains(tx, *upload, &session, own, (not_before, stored_size)).await?;
    let args = args![session.repository.as_str(), digest.to_bytes(), instance, now];
    tx.execute(&sql::ADD_LINK, args).await?;
    let remembered = now.plus(metadata.config.closed_upload());
    let args = args![upload.to_string(), digest.to_bytes(), stored_size, now, remembered];
    tx.execute(&sql::COMMIT_SESSION, args).await?;
    let (journal, repository) = (&metadata.journal, &session.repository);
    journal.write_blob(tx, Kind::BlobPushed, access, repository, digest, whole.size).await?;
    berth_service::crash::point("commit_upload.before_commit");
    Ok(())
}

/// Puts a link and its blob into review, in the lock order, so that what no manifest ever holds goes away again.
pub(crate) async fn queue_reviews(
    tx: &mut Transaction,
    instance: &str,
    repository: &str,
    digest: &Digest,
    review_after: Timestamp,
) -> Result<()> {
    let list = BytesList(vec![digest.to_bytes()]);
    tx.execute(&sql::REVIEW_LINKS, args![repository, list, review_after]).await?;
    tx.execute(&sql::REVIEW_BLOB, args![instance, digest.to_bytes(), review_after]).await?;
    Ok(())
}

/// Queues what a session leaves for deletion, but for the object that it came to, if it came to one.
async fn drop_remains(
    tx: &mut Transaction,
    upload: UploadId,
    session: &Session,
    own: Option<&str>,
    (not_before, size): (Timestamp, i64),
) -> Result<()> {
    let id = upload.to_string();
    let ended = Ended {
        id: &id,
        store_id: &session.store_id,
        object_key: &session.object_key,
        columns: &session.columns,
        epoch: session.epoch,
    };
    let (store_id, object_key) = (session.store_id.as_str(), session.object_key.as_str());
    // The first epoch of a session leaves its object, and nothing else unless it was recorded.
    if own.is_some() && (!session.columns.staged || session.epoch <= 1 && session.size == 0) {
        return Ok(());
    }
    let freed = if own.is_some() { 0 } else { size };
    match ended.remains(tx, own).await? {
        Some(remains) => {
            let args = args![store_id, object_key, not_before, freed, remains];
            tx.execute(&sql::ADD_REMAINS, args).await?;
        }
        None => {
            tx.execute(&sql::ADD_OBJECT_DELETE, args![store_id, object_key, not_before, freed]).await?;
        }
    }
    Ok(())
}

/// An object that is about to be a blob's.
#[derive(Debug)]
pub(crate) struct NewObject<'a> {
    pub(crate) store_id: &'a str,
    pub(crate) key: &'a str,
    sealing: Option<&'a Sealing>,
}

impl NewObject<'_> {
    /// The columns format, kek_id and wrapped_dek.
    pub(crate) fn laid_down(&self) -> Vec<Arg> {
        let format = if self.sealing.is_some() { SEALED } else { PLAIN };
        args![
            i64::from(format),
            self.sealing.map(|sealing| sealing.key_id.clone()),
            Arg::Bytes(self.sealing.map(|sealing| sealing.wrapped_key.clone())),
        ]
    }
}

/// Makes the blob of the session's object or keeps the one that is there; the object key that stays.
async fn keep_blob(
    tx: &mut Transaction,
    metadata: &Metadata,
    instance: &str,
    digest: &Digest,
    size: i64,
    object: &NewObject<'_>,
) -> Result<String> {
    let now = tx.now();
    // The blob that is in the way may be deleted before it is locked; then the way is free.
    for _ in 0..3 {
        let mut args = args![instance, digest.to_bytes(), size, object.store_id, object.key, now];
        args.extend(object.laid_down());
        if tx.execute(&sql::ADD_BLOB, args).await? == 1 {
            return Ok(object.key.to_owned());
        }
        if quarantine::replace(tx, metadata, instance, digest, object).await? {
            return Ok(object.key.to_owned());
        }
        if let Some(row) = tx.optional(&sql::BLOB_KEY, args![instance, digest.to_bytes()]).await? {
            return Ok(row.get(0)?);
        }
    }
    Err(Error::new(ErrorCode::Unavailable, "the blob is being deleted; try again"))
}
impl Metadata {
    /// Makes the session's bytes a blob of the instance, linked in the repository. Repeating it is harmless.
    pub(crate) async fn commit_upload(
        &self,
        access: Access,
        upload: UploadId,
        epoch: i64,
        whole: Whole,
    ) -> Result<()> {
        let input = Arc::new(Commit { metadata: self.clone(), access, upload, epoch, whole });
        self.database
            .write("commit_upload", move |tx| {
                let input = Arc::clone(&input);
                Box::pin(async move { commit(tx, &input).await })
            })
            .await?;
        berth_service::crash::point("commit_upload.committed");
        self.nudge.nudge();
        self.leases.release(&upload.to_string(), epoch);
        Ok(())
    }

    /// Ends a session. It waits for nobody: the holder finds out at its next word.
    pub(crate) async fn cancel_upload(&self, access: Access, upload: UploadId) -> Result<()> {
        if self.database.engine() == Engine::Sqlite {
            self.leases.start(&self.database).await?;
        }
        let input = Arc::new((self.clone(), access));
        let raised = self
            .database
            .write("cancel_upload", move |tx| {
                let input = Arc::clone(&input);
                Box::pin(async move {
                    let (metadata, access) = &*input;
                    let session = lock(tx, upload, access).await?;
                    if !matches!(session.state.as_str(), "open" | "finishing") {
                        return Err(unknown());
                    }
                    let now = tx.now();
                    let id = upload.to_string();
                    let epoch = match tx.engine() {
                        Engine::Sqlite if !session.columns.staged => {
                            metadata.leases.take(&id, session.epoch, now)
                        }
                        _ => session.epoch + 1,
                    };
                    let not_before = match session.columns.staged {
                        // A call to storage may still be on its way.
                        true => now.plus(metadata.config.longest_operation()),
                        false => now.plus(metadata.config.object_grace()),
                    };
                    let size = store::stored_size(session.size)?;
                    drop_remains(tx, upload, &session, None, (not_before, size)).await?;
                    let args = args![id, epoch, now, now.plus(metadata.config.closed_upload())];
                    tx.execute(&sql::CANCEL_SESSION, args).await?;
                    berth_service::crash::point("cancel_upload.before_commit");
                    Ok::<_, Error>(epoch)
                })
            })
            .await?;
        berth_service::crash::point("cancel_upload.committed");
        self.leases.release(&upload.to_string(), raised);
        Ok(())
    }
}
