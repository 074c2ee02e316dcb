//! Upload sessions: open, appended to under leases and epochs, then committed or cancelled. Bytes are durable before
//! their offset is recorded here; what a committed session leaves is a blob, a link and their reviews.

use std::{sync::Arc, time::Duration};

use berth_blobs::{ObjectKey, PLAIN, RESERVED_PARTS, SEALED, Sealing, Staging, StagingChange};
use berth_database::{Arg, BytesList, Engine, Row, Transaction, args};
use berth_model::UploadId;
use berth_oci::{Algorithm, Digest, ErrorCode, Hasher, Problem};
use berth_service::Timestamp;

use crate::{
    Metadata,
    access::Access,
    error::{Error, Result},
    lease::LEASE,
    quarantine, repository, sealing,
    staging::{self, Columns, Ended},
    store::{self, statements as sql},
};

/// A session as a client sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Upload {
    pub(crate) id: UploadId,
    /// Durable bytes.
    pub(crate) offset: u64,
    /// The algorithm that the client asked for.
    pub(crate) algorithm: Option<Algorithm>,
    /// Whether its store keeps bytes aside; known when it is started.
    pub(crate) staged: bool,
}

/// The right to write to an upload.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Lease {
    pub(crate) upload: UploadId,
    pub(crate) epoch: i64,
    pub(crate) offset: u64,
    pub(crate) hash_state: Vec<u8>,
    pub(crate) algorithm: Algorithm,
    pub(crate) algorithm_explicit: bool,
    pub(crate) store_id: String,
    pub(crate) object_key: String,
    pub(crate) expires_at: Timestamp,
    /// The digest of a session that is committed already.
    pub(crate) committed: Option<Digest>,
    /// What the store keeps aside, if it does.
    pub(crate) staging: Option<Staging>,
    /// The digest of a session whose finish had no outcome.
    pub(crate) finishing: Option<Digest>,
}

/// The new state that a holder records.
#[derive(Clone, Debug)]
pub(crate) struct Progress {
    pub(crate) upload: UploadId,
    pub(crate) epoch: i64,
    pub(crate) offset: u64,
    pub(crate) hash_state: Vec<u8>,
    pub(crate) change: StagingChange,
}

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

/// A session's row, and what its repository is.
#[derive(Clone, Debug)]
struct Session {
    repository: String,
    namespace: String,
    state: String,
    size: u64,
    epoch: i64,
    algorithm: Option<Algorithm>,
    hash_state: Option<Vec<u8>>,
    store_id: String,
    object_key: String,
    expires_at: Timestamp,
    digest: Option<Digest>,
    lease_until: Timestamp,
    columns: Columns,
    /// Whether the repository links `digest`; known for committed sessions.
    linked: bool,
}

impl Session {
    fn read(row: &Row) -> Result<Self> {
        let algorithm: String = row.get(5)?;
        Ok(Self {
            repository: row.get(0)?,
            namespace: row.get(1)?,
            state: row.get(2)?,
            size: store::size(row, 3)?,
            epoch: row.get(4)?,
            algorithm: algorithm.parse().ok(),
            hash_state: row.get(6)?,
            store_id: row.get(7)?,
            object_key: row.get(8)?,
            expires_at: Timestamp(row.get(9)?),
            digest: store::optional_digest(row, 10)?,
            lease_until: Timestamp(row.get(11)?),
            columns: Columns::read(row, 12)?,
            linked: false,
        })
    }

    /// The algorithm of the running hash, given the digest of the closing request when it is known.
    fn running(&self, digest: Option<&Digest>) -> Result<Algorithm> {
        if let Some(explicit) = self.algorithm {
            check_algorithm(explicit, digest)?;
            return Ok(explicit);
        }
        if self.size == 0 {
            return Ok(digest.map_or(Algorithm::Sha256, Digest::algorithm));
        }
        let saved = self.hash_state.as_deref().and_then(Hasher::restore);
        Ok(saved.map_or(Algorithm::Sha256, |hasher| hasher.algorithm()))
    }

    /// Judges a request to append, before a lease is taken. `Some` is the answer of a committed session.
    fn admit(&self, request: &Append, now: Timestamp) -> Result<Option<Lease>> {
        request.access.check_repository(&self.repository, &self.namespace)?;
        if self.expires_at <= now {
            return Err(unknown());
        }
        match self.state.as_str() {
            "open" => {}
            // Whether it took effect is asked of the store, by whoever brings the same digest.
            "finishing"
                if request.digest.is_some() && self.digest == request.digest && self.lease_until <= now =>
            {
                return Ok(None);
            }
            "finishing" => return Err(busy(self.size)),
            "committed" if self.linked && request.digest.is_some() && self.digest == request.digest => {
                let mut lease = self.lease(request, self.epoch, now)?;
                lease.committed = self.digest;
                return Ok(Some(lease));
            }
            _ => return Err(unknown()),
        }
        self.running(request.digest.as_ref())?;
        if request.offset.is_some_and(|offset| offset != self.size) {
            let message = format!("the upload has {} bytes; go on from there", self.size);
            let problem = Problem::new(ErrorCode::UploadOutOfOrder, message);
            return Err(problem.with_detail(serde_json::json!({ "offset": self.size })).into());
        }
        Ok(None)
    }

    fn lease(&self, request: &Append, epoch: i64, now: Timestamp) -> Result<Lease> {
        // An empty chunk leaves the state of a hash over nothing, maybe not of the algorithm that the close asks for.
        let hash_state = self.hash_state.clone().filter(|_| self.size > 0);
        Ok(Lease {
            upload: request.upload,
            epoch,
            offset: self.size,
            hash_state: hash_state.unwrap_or_default(),
            algorithm: self.running(request.digest.as_ref())?,
            algorithm_explicit: self.algorithm.is_some(),
            store_id: self.store_id.clone(),
            object_key: self.object_key.clone(),
            expires_at: now.plus(LEASE),
            committed: None,
            staging: self
                .columns
                .sealing
                .clone()
                .map(|sealing| Staging { sealing: Some(sealing), ..Staging::default() }),
            finishing: self.digest.filter(|_| self.state == "finishing"),
        })
    }
}

/// A request to append.
#[derive(Clone, Debug)]
pub(crate) struct Append {
    pub(crate) access: Access,
    pub(crate) upload: UploadId,
    pub(crate) offset: Option<u64>,
    pub(crate) digest: Option<Digest>,
}

fn unknown() -> Error {
    Error::new(ErrorCode::BlobUploadUnknown, "there is no such upload in this repository; start a new one")
}

fn busy(offset: u64) -> Error {
    let problem = Problem::new(
        ErrorCode::UploadBusy,
        "another request has taken over this upload; ask where it stands, then go on from there",
    );
    problem.with_detail(serde_json::json!({ "offset": offset })).into()
}

fn check_algorithm(explicit: Algorithm, digest: Option<&Digest>) -> Result<()> {
    match digest {
        Some(digest) if digest.algorithm() != explicit => Err(Error::new(
            ErrorCode::DigestInvalid,
            format!("the upload was started for {explicit}; close it with a digest of that algorithm"),
        )),
        _ => Ok(()),
    }
}

fn key(upload: UploadId, access: &Access) -> Vec<Arg> {
    args![upload.to_string(), access.principal.as_str(), access.instance.to_string(), access.path.as_str()]
}

/// The session, locked until the transaction ends.
async fn lock(tx: &mut Transaction, upload: UploadId, access: &Access) -> Result<Session> {
    match tx.optional(&sql::LOCK_SESSION, key(upload, access)).await? {
        Some(row) => {
            let mut session = Session::read(&row)?;
            access.check_repository(&session.repository, &session.namespace)?;
            if let Some(digest) = &session.digest {
                let args = args![session.repository.as_str(), digest.to_bytes()];
                session.linked = tx.optional(&sql::LINK, args).await?.is_some();
            }
            Ok(session)
        }
        None => {
            repository::find(tx, access).await?;
            Err(unknown())
        }
    }
}

/// The store of an instance, which takes the bytes of a new session.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Target {
    pub(crate) store_id: String,
    /// Whether it keeps the bytes aside until the object is whole.
    pub(crate) stages: bool,
}

/// What a new session is made of.
#[derive(Debug)]
struct Start {
    access: Access,
    maker: repository::Maker,
    id: UploadId,
    algorithm: Option<Algorithm>,
    store_id: String,
    object_key: String,
    /// How long it lives without a change.
    life: Duration,
    staged: bool,
}

async fn start(tx: &mut Transaction, input: &Start) -> Result<()> {
    let repository = repository::find_or_make(tx, &input.access, &input.maker).await?;
    let now = tx.now();
    let args = args![
        input.id.to_string(),
        input.access.instance.to_string(),
        repository.id,
        input.access.principal.as_str(),
        input.algorithm.map_or("", Algorithm::as_str),
        input.store_id.as_str(),
        input.object_key.as_str(),
        now,
        now.plus(input.life),
        input.staged,
    ];
    tx.execute(&sql::ADD_SESSION, args).await?;
    berth_service::crash::point("start_upload.before_commit");
    Ok(())
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
    /// Opens a session, and makes its repository if that is absent. The bytes go to `target`, or to the deployment's
    /// store.
    pub(crate) async fn start_upload(
        &self,
        access: Access,
        algorithm: Option<Algorithm>,
        target: Option<Target>,
    ) -> Result<Upload> {
        let id = UploadId::new(self.ids.ulid());
        let object_key = format!("i/{}/{}", access.instance, self.ids.ulid());
        let target = target.unwrap_or_else(|| Target {
            store_id: self.config.store_id.clone(),
            stages: self.config.object_storage,
        });
        let (life, Target { store_id, stages: staged }) = (self.config.upload_life(), target);
        let input = Start { access, maker: self.maker(), id, algorithm, store_id, object_key, life, staged };
        let input = Arc::new(input);
        self.database
            .write("start_upload", move |tx| {
                let input = Arc::clone(&input);
                Box::pin(async move { start(tx, &input).await })
            })
            .await?;
        berth_service::crash::point("start_upload.committed");
        Ok(Upload { id, offset: 0, algorithm, staged })
    }

    async fn read_session(&self, upload: UploadId, access: &Access) -> Result<Session> {
        if let Some(row) = self.database.read_optional(&sql::READ_SESSION, key(upload, access)).await? {
            let session = Session::read(&row)?;
            return Ok(Session { linked: row.get(20)?, ..session });
        }
        let args = args![access.instance.to_string(), access.path.as_str()];
        if let Some(row) = self.database.read_optional(&sql::READ_REPOSITORY, args).await? {
            access.check_repository(&row.get::<String>(0)?, &row.get::<String>(1)?)?;
        }
        Err(unknown())
    }

    /// Where an open session stands.
    pub(crate) async fn get_upload(&self, access: Access, upload: UploadId) -> Result<Upload> {
        let session = self.read_session(upload, &access).await?;
        access.check_repository(&session.repository, &session.namespace)?;
        if !matches!(session.state.as_str(), "open" | "finishing") || session.expires_at <= self.clock.now() {
            return Err(unknown());
        }
        Ok(Upload { id: upload, offset: session.size, algorithm: session.algorithm, staged: false })
    }

    /// Takes the lease of a session, from a live holder too, if the client goes on where the session stands.
    pub(crate) async fn begin_append(&self, request: Append) -> Result<Lease> {
        let in_row = match self.database.engine() {
            Engine::Postgres => true,
            // What is put aside is recorded in the row; which sessions do so is for their stores to say.
            Engine::Sqlite => self.read_session(request.upload, &request.access).await?.columns.staged,
        };
        let lease = match in_row {
            true => self.begin_append_in_row(request).await,
            false => self.begin_append_in_memory(request).await,
        };
        berth_service::crash::point("begin_append.leased");
        lease
    }

    async fn begin_append_in_memory(&self, request: Append) -> Result<Lease> {
        let id = request.upload.to_string();
        let now = self.clock.now();
        self.leases.start(&self.database).await?;
        if let Some(epoch) = self.leases.take_if_free(&id, now) {
            // Nobody can be recording progress, so a plain read sees the newest.
            let outcome = self.begin_append_free(&request, epoch, now).await;
            if !matches!(&outcome, Ok(lease) if lease.committed.is_none()) {
                self.leases.release(&id, epoch);
            }
            return outcome;
        }
        // In the writer's order: after whatever the last holder has recorded. It writes nothing.
        let (request, leases) = (Arc::new(request), Arc::clone(&self.leases));
        self.database
            .write("begin_append", move |tx| {
                let (request, leases) = (Arc::clone(&request), Arc::clone(&leases));
                Box::pin(async move {
                    let session = lock(tx, request.upload, &request.access).await?;
                    let now = tx.now();
                    if let Some(answer) = session.admit(&request, now)? {
                        return Ok(answer);
                    }
                    let epoch = leases.take(&request.upload.to_string(), session.epoch, now);
                    session.lease(&request, epoch, now)
                })
            })
            .await
    }

    async fn begin_append_free(&self, request: &Append, epoch: i64, now: Timestamp) -> Result<Lease> {
        let session = self.read_session(request.upload, &request.access).await?;
        if let Some(answer) = session.admit(request, now)? {
            return Ok(answer);
        }
        let epoch = if session.epoch < epoch {
            epoch
        } else {
            // The row is from elsewhere: a copy of the database.
            self.leases.take(&request.upload.to_string(), session.epoch, now)
        };
        session.lease(request, epoch, now)
    }

    async fn begin_append_in_row(&self, request: Append) -> Result<Lease> {
        let request = Arc::new(request);
        self.database
            .write("begin_append", move |tx| {
                let request = Arc::clone(&request);
                Box::pin(async move {
                    let session = lock(tx, request.upload, &request.access).await?;
                    let now = tx.now();
                    if let Some(answer) = session.admit(&request, now)? {
                        return Ok(answer);
                    }
                    let epoch = session.epoch + 1;
                    let id = request.upload.to_string();
                    let args = args![id.clone(), epoch, now.plus(LEASE), i64::from(RESERVED_PARTS)];
                    tx.execute(&sql::TAKE_LEASE, args).await?;
                    let mut lease = session.lease(&request, epoch, now)?;
                    if session.columns.staged {
                        lease.staging = Some(staging::read(tx, &id, &session.columns).await?);
                    }
                    Ok(lease)
                })
            })
            .await
    }

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
