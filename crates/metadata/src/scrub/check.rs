//! One step of a pass: a page of rows or of objects, looked at one by one.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use berth_blobs::{BlobsError, ObjectKey, ObjectRef};
use berth_database::{TextList, args};
use berth_oci::{Digest, Hasher};
use berth_service::Timestamp;
use futures::StreamExt;

use super::{Counts, Kind, Pass, Phase, Position, Progress, Scrubber};
use crate::{
    error::{Error, Result},
    staging,
    store::{self, scrub_statements as sql},
};

/// Rows of blobs or tags, and objects, of one step.
const PAGE: usize = 500;
/// Manifests of one step; each may have 4 MiB.
const MANIFESTS_PAGE: usize = 16;
/// A step ends early after so many bytes, so that a restart repeats little.
const RECORD: u64 = 256 * 1024 * 1024;
/// What looking at a row or at an entry of a listing counts, in bytes of the pace.
const LOOK: u64 = 1024;

/// How long a store of an instance's own is left out after it did not answer.
const LEFT_OUT: Duration = Duration::from_secs(600);

/// Why a step ended before it was done. It is begun again from where the pass was recorded.
#[derive(Debug)]
pub(super) enum Interrupted {
    /// Another process, or another pass, has taken over.
    Moved,
    /// The store does not answer.
    Store(String),
    /// The database failed.
    Error(Error),
}

impl<E: Into<Error>> From<E> for Interrupted {
    fn from(error: E) -> Self {
        Self::Error(error.into())
    }
}

pub(super) type Step<T> = std::result::Result<T, Interrupted>;

struct BlobRow {
    instance: String,
    digest: Digest,
    object: ObjectRef,
    quarantined: bool,
}

impl Scrubber {
    /// Looks at the next page.
    pub(super) async fn step(&mut self, pass: &Pass) -> Step<Progress> {
        let mut progress =
            Progress { position: pass.position.clone(), counts: Counts::default(), findings: Vec::new() };
        let ended = match pass.position.phase {
            Phase::Blobs => self.blobs(pass, &mut progress).await?,
            Phase::Manifests => self.manifests(pass, &mut progress).await?,
            Phase::Tags => self.tags(pass, &mut progress).await?,
            Phase::Objects => self.objects(pass, &mut progress).await?,
            Phase::Done => true,
        };
        if ended {
            progress.position = Position::start_of(pass.position.phase.next());
        }
        Ok(progress)
    }

    async fn blobs(&mut self, pass: &Pass, progress: &mut Progress) -> Step<bool> {
        let rows = self.blob_rows(&pass.position).await?;
        let last = rows.len() < PAGE;
        let mut told = BTreeSet::new();
        for row in rows {
            self.tend(pass, LOOK).await?;
            let store_id = row.object.store_id.clone();
            let outcome = match self.is_left_out(&store_id) {
                true => Ok(Some(Kind::Unreachable)),
                false => self.read_back(pass, &row.object, &row.digest).await,
            };
            let outcome = match outcome {
                // What one instance brought along may be away for good, and is no reason to look at nobody's blobs.
                Err(Interrupted::Store(reason)) if self.is_own(&store_id) => {
                    self.leave_out(&store_id, &reason);
                    Some(Kind::Unreachable)
                }
                outcome => outcome?,
            };
            if outcome == Some(Kind::Unreachable) {
                // One for all the blobs of a page.
                if told.insert(store_id) {
                    progress.find(Kind::Unreachable, Some(row.object.key.to_string()), Some(row.digest));
                }
            } else if let Some(kind) = outcome {
                // It may have been collected meanwhile: then its row went first, and the object later.
                let args = args![row.instance.as_str(), row.digest.to_bytes(), row.object.key.as_str()];
                if self.metadata.database.read_optional(&sql::BLOB_IS, args).await?.is_some() {
                    progress.find(kind, Some(row.object.key.to_string()), Some(row.digest));
                }
            } else if row.quarantined {
                self.metadata.lift_quarantine(&row.instance, row.digest, row.object.key.as_str()).await?;
            }
            progress.counts.blobs += 1;
            progress.counts.bytes += row.object.size;
            progress.position.text = row.instance;
            progress.position.bytes = row.digest.to_bytes();
            if progress.counts.bytes >= RECORD {
                return Ok(false);
            }
        }
        Ok(last)
    }

    /// Whether a store is not the deployment's but one that an instance has of its own.
    fn is_own(&self, store_id: &str) -> bool {
        store_id != self.metadata.config.store_id && store_id.parse::<ulid::Ulid>().is_ok()
    }

    fn leave_out(&mut self, store_id: &str, reason: &str) {
        tracing::warn!(store_id, reason, "a store of an instance does not answer and is left out");
        self.away.insert(store_id.to_owned(), Instant::now() + LEFT_OUT);
    }

    fn is_left_out(&mut self, store_id: &str) -> bool {
        self.away.retain(|_, until| Instant::now() < *until);
        self.away.contains_key(store_id)
    }

    async fn blob_rows(&self, after: &Position) -> Result<Vec<BlobRow>> {
        let args = args![after.text.as_str(), after.bytes.as_slice(), PAGE as i64];
        let rows = self.metadata.database.read_all(&sql::BLOBS, args).await?;
        let read = |row: berth_database::Row| {
            let key: String = row.get(4)?;
            let key: ObjectKey = key.parse().map_err(|error: berth_blobs::KeyError| {
                Error::new(berth_oci::ErrorCode::Internal, error.to_string())
            })?;
            let format = i32::try_from(row.get::<i64>(5)?).unwrap_or(i32::MAX);
            let sealing = staging::stored_sealing(&row, 7)?;
            let object =
                ObjectRef { store_id: row.get(3)?, key, size: store::size(&row, 2)?, format, sealing };
            Ok(BlobRow {
                instance: row.get(0)?,
                digest: store::digest(&row, 1)?,
                object,
                quarantined: row.get(6)?,
            })
        };
        rows.into_iter().map(read).collect()
    }

    /// Reads an object back and hashes it; what is wrong with it, if something is.
    async fn read_back(&mut self, pass: &Pass, object: &ObjectRef, digest: &Digest) -> Step<Option<Kind>> {
        let reader = match self.blobs.open(object, None).await {
            Ok(reader) => reader,
            Err(error) => return verdict(object, error),
        };
        let mut steps = reader.into_stream();
        let mut hasher = Hasher::new(digest.algorithm());
        while let Some(step) = steps.next().await {
            match step {
                Ok(bytes) => {
                    hasher.update(&bytes);
                    self.tend(pass, bytes.len() as u64).await?;
                }
                Err(error) => return verdict(object, error),
            }
        }
        Ok((hasher.finish() != *digest).then_some(Kind::WrongDigest))
    }

    async fn manifests(&mut self, pass: &Pass, progress: &mut Progress) -> Step<bool> {
        let args = args![pass.position.text.as_str(), pass.position.bytes.as_slice(), MANIFESTS_PAGE as i64];
        let rows = self.metadata.database.read_all(&sql::MANIFESTS, args).await?;
        let last = rows.len() < MANIFESTS_PAGE;
        for row in rows {
            let digest = store::digest(&row, 1)?;
            let payload: Vec<u8> = row.get(2)?;
            if Digest::of(digest.algorithm(), &payload) != digest {
                progress.find(Kind::WrongDigest, None, Some(digest));
            }
            if row.get::<i64>(3)? > 0 {
                progress.find(Kind::Dangling, None, Some(digest));
            }
            let size = payload.len() as u64;
            self.tend(pass, size + LOOK).await?;
            progress.counts.manifests += 1;
            progress.counts.bytes += size;
            progress.position.text = row.get(0)?;
            progress.position.bytes = digest.to_bytes();
        }
        Ok(last)
    }

    async fn tags(&mut self, pass: &Pass, progress: &mut Progress) -> Step<bool> {
        let name = String::from_utf8_lossy(&pass.position.bytes).into_owned();
        let args = args![pass.position.text.as_str(), name, PAGE as i64];
        let rows = self.metadata.database.read_all(&sql::TAGS, args).await?;
        for row in &rows {
            if !row.get::<bool>(3)? {
                progress.find(Kind::Dangling, None, Some(store::digest(row, 2)?));
            }
            progress.position.text = row.get(0)?;
            progress.position.bytes = row.get::<String>(1)?.into_bytes();
        }
        self.tend(pass, LOOK * rows.len() as u64).await?;
        Ok(rows.len() < PAGE)
    }

    async fn objects(&mut self, pass: &Pass, progress: &mut Progress) -> Step<bool> {
        let places = self.places().await?;
        // A place that is gone since is done.
        let here = String::from_utf8_lossy(&pass.position.bytes).into_owned();
        let mut rest = places.range(here.clone()..);
        let Some((place, stores)) = rest.next() else { return Ok(true) };
        // Of the deployment's storage instances see their own part only.
        let shared = place.strip_prefix("shared:");
        let Some(store_id) = shared.or(stores.first().map(String::as_str)) else { return Ok(true) };
        let after = if *place == here { pass.position.text.parse::<ObjectKey>().ok() } else { None };
        let left_out = shared.is_none() && self.is_left_out(store_id);
        let listed = match left_out {
            true => Ok(Vec::new()),
            false => self.blobs.list(store_id, after.as_ref(), PAGE).await,
        };
        let page = match listed {
            Err(error @ BlobsError::Unavailable(_)) if shared.is_none() => {
                self.leave_out(store_id, &error.to_string());
                progress.find(Kind::Unreachable, Some(store_id.to_owned()), None);
                Vec::new()
            }
            page => page.map_err(|error| away(&error))?,
        };
        let (last, next) = (page.len() < PAGE, rest.next());
        progress.position.bytes = match next {
            Some((next, _)) if last => next.clone().into_bytes(),
            _ => place.clone().into_bytes(),
        };
        let key = page.last().filter(|_| !last).map(|listed| listed.key.to_string());
        progress.position.text = key.unwrap_or_default();
        progress.counts.objects = page.len() as u64;
        // A row comes before its object, but a call that was held up may touch the object after its last row is gone.
        let longest: Duration = self.metadata.config.longest_operation();
        let settled = self.metadata.clock.now().minus(longest);
        let keys = page.iter().filter(|listed| Timestamp(listed.modified) <= settled);
        let keys = TextList(keys.map(|listed| listed.key.to_string()).collect());
        self.tend(pass, LOOK * page.len() as u64).await?;
        let ids = TextList(stores.iter().cloned().collect());
        for row in self.metadata.database.read_all(&sql::UNNAMED, args![ids, keys]).await? {
            let key: String = row.get(0)?;
            // Its last row may have gone with it between the listing and the look at the rows.
            if self.is_there(store_id, &key).await? {
                progress.find(Kind::Orphan, Some(key), None);
            }
        }
        Ok(last && next.is_none())
    }

    async fn is_there(&self, store_id: &str, key: &str) -> Step<bool> {
        let Ok(key) = key.parse::<ObjectKey>() else { return Ok(false) };
        let object = ObjectRef::new(store_id, key, 0, None);
        match self.blobs.open(&object, None).await {
            Ok(_) => Ok(true),
            Err(BlobsError::NotFound) => Ok(false),
            Err(error) => Err(away(&error)),
        }
    }
}

/// What an error says about an object, unless it says nothing about it.
fn verdict(object: &ObjectRef, error: BlobsError) -> Step<Option<Kind>> {
    match error {
        BlobsError::NotFound => Ok(Some(Kind::Missing)),
        BlobsError::Short { .. } => Ok(Some(Kind::Short)),
        BlobsError::Damaged(_) => Ok(Some(Kind::WrongDigest)),
        BlobsError::Unavailable(_) => Err(away(&error)),
        error => {
            let source = &error as &dyn std::error::Error;
            tracing::warn!(object = %object.key, error = source, "an object can't be read");
            Ok(Some(Kind::Unreadable))
        }
    }
}

fn away(error: &BlobsError) -> Interrupted {
    Interrupted::Store(error.to_string())
}
