//! Upload sessions: open, appended to under leases and epochs, then committed or cancelled. Bytes are durable before
//! their offset is recorded here.

mod end;
mod progress;

pub(crate) use end::{NewObject, Whole, queue_reviews};

use std::{sync::Arc, time::Duration};

use berth_blobs::{RESERVED_PARTS, Staging, StagingChange};
use berth_database::{Arg, Engine, Row, Transaction, args};
use berth_model::UploadId;
use berth_oci::{Algorithm, Digest, ErrorCode, Hasher, Problem};
use berth_service::Timestamp;

use crate::{
    Metadata,
    access::Access,
    error::{Error, Result},
    lease::LEASE,
    repository,
    staging::{self, Columns},
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
        let leased = match self.database.engine() {
            Engine::Postgres => None,
            Engine::Sqlite => self.begin_append_in_memory(&request).await?,
        };
        let lease = match leased {
            Some(lease) => lease,
            None => self.begin_append_in_row(request).await?,
        };
        berth_service::crash::point("begin_append.leased");
        Ok(lease)
    }

    /// None: its store puts bytes aside, which is recorded in the row, and so is its lease.
    async fn begin_append_in_memory(&self, request: &Append) -> Result<Option<Lease>> {
        let id = request.upload.to_string();
        let now = self.clock.now();
        self.leases.start(&self.database).await?;
        if let Some(epoch) = self.leases.take_if_free(&id, now) {
            // Nobody can be recording progress, so a plain read sees the newest.
            let outcome = self.begin_append_free(request, epoch, now).await;
            if !matches!(&outcome, Ok(Some(lease)) if lease.committed.is_none()) {
                self.leases.release(&id, epoch);
            }
            return outcome;
        }
        // In the writer's order: after whatever the last holder has recorded. It writes nothing.
        let (request, leases) = (Arc::new(request.clone()), Arc::clone(&self.leases));
        self.database
            .write("begin_append", move |tx| {
                let (request, leases) = (Arc::clone(&request), Arc::clone(&leases));
                Box::pin(async move {
                    let session = lock(tx, request.upload, &request.access).await?;
                    if session.columns.staged {
                        return Ok(None);
                    }
                    let now = tx.now();
                    if let Some(answer) = session.admit(&request, now)? {
                        return Ok(Some(answer));
                    }
                    let epoch = leases.take(&request.upload.to_string(), session.epoch, now);
                    session.lease(&request, epoch, now).map(Some)
                })
            })
            .await
    }

    async fn begin_append_free(&self, request: &Append, epoch: i64, now: Timestamp) -> Result<Option<Lease>> {
        let session = self.read_session(request.upload, &request.access).await?;
        if session.columns.staged {
            return Ok(None);
        }
        if let Some(answer) = session.admit(request, now)? {
            return Ok(Some(answer));
        }
        let epoch = if session.epoch < epoch {
            epoch
        } else {
            // The row is from elsewhere: a copy of the database.
            self.leases.take(&request.upload.to_string(), session.epoch, now)
        };
        session.lease(request, epoch, now).map(Some)
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
}
