//! The object storage driver. A session never appends: its bytes are a tail, parts and at last one object, each under a
//! name or number of its epoch, so that what an older one writes late is part of nothing. The driver remembers nothing;
//! what a later call needs is handed to the caller, who records it.
//!
//! A blob that fits one part is one PUT. A larger one is a multipart upload, recorded before its first part. Whatever is
//! too short for a part when a request ends waits as an object of its own and is read back once.

mod body;
mod bucket;
mod buffer;
mod changing;
mod client;
mod config;
mod credentials;
mod presign;
mod probe;
mod progress;
mod reader;
mod resources;
mod writer;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use aws_sdk_s3::config::SharedCredentialsProvider;
use berth_blobs::{
    Abandoned, BlobReader, BlobWriter, Blobs, BlobsError, Listed, MAX_LISTED, Multipart, ObjectKey,
    ObjectRef, Piece, Place, WriteOpen,
};
use berth_oci::{Algorithm, ByteRange, Digest, Hasher};
use berth_service::{Ids, Tasks};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use secrecy::SecretString;
use tokio::sync::Semaphore;

use self::{
    buffer::Buffer,
    client::{Client, Sent},
    config::Sizes,
    credentials::Credentials,
    presign::{LIFE, Presigner},
    resources::Room,
    writer::S3Writer,
};
use crate::{Error, Metrics};

pub use bucket::Bucket;
pub(crate) use bucket::location_of;
pub(crate) use changing::{Changing, Source};
pub use config::Config;
pub use resources::Resources;

/// How often a completion is tried. The client tries each of these several times.
const COMPLETIONS: u32 = 4;
/// The pause after the first of them in milliseconds, half of it at least; each later one is twice as long.
const COMPLETION_PAUSE: u64 = 400;
/// What a URL has to live for at least, or none is given out.
const LEAST_LIFE: Duration = Duration::from_secs(60);
/// Tails that are read at the same time.
const TAILS_AT_ONCE: usize = 8;

/// A store in a bucket.
#[derive(Clone, Debug)]
pub struct S3(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    store_id: String,
    client: Client,
    credentials: Credentials,
    presigner: Presigner,
    sizes: Sizes,
    resources: Resources,
    /// The most of the memory that it may hold, for a store of an instance's own.
    share: Option<Arc<Semaphore>>,
    tasks: Tasks,
    metrics: Metrics,
}

impl S3 {
    /// The store that `config` describes, with memory for itself. Nothing is asked of it yet: it may be away while Berth
    /// starts.
    ///
    /// # Errors
    /// When the configuration can't be right, or names files that can't be read.
    pub async fn open(config: &Config, ids: Ids, tasks: Tasks, metrics: Metrics) -> Result<Self, Error> {
        Self::open_within(config, Resources::new(config, ids), tasks, metrics).await
    }

    /// The same among others.
    pub(crate) async fn open_within(
        config: &Config,
        resources: Resources,
        tasks: Tasks,
        metrics: Metrics,
    ) -> Result<Self, Error> {
        let certificates = match &config.ca_file {
            None => None,
            Some(file) => Some(tokio::fs::read_to_string(file).await.map_err(|error| {
                Error::ObjectStorage(format!("can't read the certificates in {}: {error}", file.display()))
            })?),
        };
        let provider = credentials::provider(config).await?;
        let client = Client::new(config, provider.clone(), None, resources.client(certificates.as_deref())?)?;
        Self::assemble(config, client, Credentials::new(provider), (resources, None), tasks, metrics)
    }

    /// The bucket of an instance.
    pub(crate) fn open_bucket(
        id: &str,
        bucket: &Bucket,
        changing: &Arc<Changing>,
        resources: Resources,
        tasks: Tasks,
        metrics: Metrics,
    ) -> Result<Self, Error> {
        let config = bucket.config(id, &resources);
        let provider = SharedCredentialsProvider::new(changing::Provider(Arc::clone(changing)));
        let http = resources.client(bucket.certificates.as_deref())?;
        let client = Client::new(&config, provider.clone(), Some(changing), http)?;
        let share = resources.share();
        Self::assemble(
            &config,
            client,
            Credentials::changing(provider),
            (resources, Some(share)),
            tasks,
            metrics,
        )
    }

    fn assemble(
        config: &Config,
        client: Client,
        credentials: Credentials,
        (resources, share): (Resources, Option<Arc<Semaphore>>),
        tasks: Tasks,
        metrics: Metrics,
    ) -> Result<Self, Error> {
        Ok(Self(Arc::new(Inner {
            store_id: config.id.clone(),
            client,
            credentials,
            presigner: Presigner::new(config)?,
            sizes: Sizes::new(config),
            resources,
            share,
            tasks,
            metrics,
        })))
    }

    /// Writes an object, reads it back, compares and deletes it. What fails comes as a sentence.
    pub(crate) async fn probe(&self, key: &ObjectKey, bytes: Bytes) -> Result<(), String> {
        self.0.client.probe(key, bytes).await
    }
}

impl Inner {
    /// Waits until so many bytes may be held.
    async fn reserve(&self, bytes: u64) -> Result<Room, BlobsError> {
        self.resources.reserve(bytes, self.share.as_ref()).await
    }

    fn check_store(&self, store_id: &str) -> Result<(), BlobsError> {
        if store_id == self.store_id {
            Ok(())
        } else {
            Err(BlobsError::Unavailable(format!("store {store_id:?} is not configured here")))
        }
    }

    /// Reads tails back, in their order, and puts what came after them behind.
    async fn read_tails(&self, tails: &[Piece], behind: Bytes) -> Result<Bytes, BlobsError> {
        let size: u64 = tails.iter().map(|piece| piece.size).sum();
        let mut bytes = Buffer::with_capacity(usize::try_from(size).unwrap_or_default() + behind.len())?;
        let mut reads = Vec::with_capacity(tails.len());
        for piece in tails {
            let Place::Tail { key } = &piece.place else {
                return Err(BlobsError::Invalid("a part among the tails"));
            };
            reads.push(read_tail(self.client.clone(), key.clone(), piece.size));
        }
        let mut reads = stream::iter(reads).buffered(TAILS_AT_ONCE);
        while let Some(steps) = reads.next().await {
            for step in steps? {
                bytes.extend(&step)?;
            }
        }
        let found = bytes.as_slice().len() as u64;
        if found != size {
            return Err(BlobsError::Short { expected: size, found });
        }
        bytes.extend(&behind)?;
        Ok(bytes.take())
    }

    /// Puts the parts together, until a look at the object says that it is there and whole.
    async fn complete(&self, multipart: &Multipart, pieces: &[Piece], size: u64) -> Result<(), BlobsError> {
        let mut parts = Vec::with_capacity(pieces.len());
        for piece in pieces {
            let Place::Part { number, entity_tag } = &piece.place else {
                return Err(BlobsError::Invalid("a tail among the parts"));
            };
            let checksum = piece.checksum.clone().and_then(|text| String::from_utf8(text).ok());
            parts.push((*number, Sent { entity_tag: entity_tag.clone(), checksum }));
        }
        parts.sort();
        let mut failure = None;
        for attempt in 0..COMPLETIONS {
            if attempt > 0 {
                let pause = COMPLETION_PAUSE << (attempt - 1);
                let pause = pause / 2 + self.resources.ids().below(pause / 2);
                tokio::time::sleep(Duration::from_millis(pause)).await;
            }
            let outcome = self.client.complete(multipart, &parts).await;
            match self.client.head(&multipart.key).await? {
                Some(head) if head.size == size => return Ok(()),
                Some(head) => return Err(BlobsError::Short { expected: size, found: head.size }),
                None => {}
            }
            match outcome {
                // It did not refuse, so it may not have come to it.
                Err(error @ BlobsError::Unavailable(_)) => failure = Some(error),
                Err(BlobsError::NotFound) => {
                    return Err(BlobsError::Remote("it knows neither the upload nor the object".to_owned()));
                }
                Err(error) => return Err(error),
                Ok(()) => {}
            }
        }
        Err(failure.unwrap_or_else(|| BlobsError::Unavailable("an upload does not get complete".to_owned())))
    }
}

async fn read_tail(client: Client, key: ObjectKey, size: u64) -> Result<Vec<Bytes>, BlobsError> {
    let steps = reader::open(&client, &key, size, ByteRange { offset: 0, length: size }).await?;
    steps.try_collect().await
}

/// Whether the pieces hold every byte before `offset` once, parts before tails.
fn check_pieces(open: &WriteOpen) -> Result<(), BlobsError> {
    let mut end = 0;
    let mut tails = false;
    for piece in &open.staging.pieces {
        let tail = matches!(piece.place, Place::Tail { .. });
        if piece.start != end || (tails && !tail) || (!tail && open.staging.multipart.is_none()) {
            return Err(BlobsError::Invalid("pieces that don't make up the object"));
        }
        tails |= tail;
        end += piece.size;
    }
    if end == open.offset { Ok(()) } else { Err(BlobsError::Short { expected: open.offset, found: end }) }
}

#[async_trait]
impl Blobs for S3 {
    async fn write(&self, open: WriteOpen) -> Result<Box<dyn BlobWriter>, BlobsError> {
        self.0.check_store(&open.store_id)?;
        let hasher = crate::restore_hash(&open)?;
        check_pieces(&open)?;
        Ok(Box::new(S3Writer::new(Arc::clone(&self.0), open, hasher)))
    }

    async fn rehash(&self, object: &ObjectRef, algorithm: Algorithm) -> Result<Digest, BlobsError> {
        self.0.check_store(&object.store_id)?;
        crate::check_plain(object)?;
        let (key, size) = (&object.key, object.size);
        let mut hasher = Hasher::new(algorithm);
        let mut steps =
            reader::open(&self.0.client, key, size, ByteRange { offset: 0, length: size }).await?;
        while let Some(step) = steps.next().await {
            hasher.update(&step?);
            tokio::task::consume_budget().await;
        }
        Ok(hasher.finish())
    }

    async fn open(&self, object: &ObjectRef, range: Option<ByteRange>) -> Result<BlobReader, BlobsError> {
        self.0.check_store(&object.store_id)?;
        let range = crate::resolve(object, range)?;
        let steps = reader::open(&self.0.client, &object.key, object.size, range).await;
        let steps = steps.inspect_err(|error| self.0.metrics.count(error))?;
        self.0.metrics.read.inc_by(range.length);
        Ok(BlobReader::Stream(steps, range.length))
    }

    async fn presign(&self, object: &ObjectRef, now: i64) -> Result<Option<SecretString>, BlobsError> {
        self.0.check_store(&object.store_id)?;
        // Bytes that are laid down in another way make sense to Berth alone.
        if object.format != 0 {
            return Ok(None);
        }
        let keys = self.0.credentials.keys(now).await?;
        // A URL ends with the credentials that it was signed with.
        if !keys.last(now, LEAST_LIFE) {
            return Ok(None);
        }
        let name = self.0.client.name(&object.key);
        self.0.presigner.sign(&keys, &name, now.div_euclid(1_000_000), LIFE).map(Some)
    }

    async fn resume_finish(&self, open: WriteOpen) -> Result<ObjectKey, BlobsError> {
        self.0.check_store(&open.store_id)?;
        let Some(multipart) = &open.staging.multipart else {
            return Err(BlobsError::Invalid("nothing that could be finished"));
        };
        match self.0.client.head(&multipart.key).await? {
            Some(head) if head.size == open.offset => {}
            _ => {
                check_pieces(&open)?;
                self.0.complete(multipart, &open.staging.pieces, open.offset).await?;
            }
        }
        Ok(multipart.key.clone())
    }

    async fn abandon(&self, abandoned: &Abandoned) -> Result<(), BlobsError> {
        self.0.check_store(&abandoned.store_id)?;
        let done = abandoned.keep.as_ref();
        if let Some(multipart) = abandoned.multipart.as_ref().filter(|multipart| done != Some(&multipart.key))
        {
            self.0.client.abort(multipart).await?;
        }
        let names: Vec<ObjectKey> = abandoned.names().collect();
        self.0.client.delete_all(&names).await?;
        self.0.metrics.deletes.inc();
        Ok(())
    }

    async fn delete(&self, store_id: &str, key: &ObjectKey) -> Result<(), BlobsError> {
        self.0.check_store(store_id)?;
        self.0.client.delete(key).await.inspect_err(|error| self.0.metrics.count(error))?;
        self.0.metrics.deletes.inc();
        Ok(())
    }

    async fn list(
        &self,
        store_id: &str,
        after: Option<&ObjectKey>,
        limit: usize,
    ) -> Result<Vec<Listed>, BlobsError> {
        self.0.check_store(store_id)?;
        let limit = limit.min(MAX_LISTED);
        let mut listed = Vec::new();
        let mut after = after.map(ToString::to_string).unwrap_or_default();
        while listed.len() < limit {
            let (page, more) = self.0.client.list(&after, limit - listed.len()).await?;
            listed.extend(page);
            match more {
                Some(last) => after = last,
                None => break,
            }
        }
        Ok(listed)
    }
}
