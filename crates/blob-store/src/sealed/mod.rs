//! Sealing what a store holds: a decorator over a driver, which sees nothing but sealed segments of the objects that
//! are written through it. Each object says in its row how it is laid down, so a store may hold both kinds.
//!
//! An object's data key is made when its writing begins and leaves here only sealed by a key of its instance.

mod keys;
mod reader;
mod segment;
mod writer;

use std::sync::Arc;

use async_trait::async_trait;
use berth_access::{InstanceKey, SealError, new_data_key};
use berth_blobs::{
    Abandoned, BlobReader, BlobWriter, Blobs, BlobsError, Listed, ObjectKey, ObjectRef, PLAIN, SEALED,
    Sealing, Staging, WriteOpen,
};
use berth_model::InstanceId;
use berth_oci::{Algorithm, ByteRange, Digest, Hasher};
use futures::{StreamExt, stream};
use secrecy::SecretString;

pub use self::keys::{Keys, RemoteKeys};
use self::{
    segment::{DataKey, STORED, stored_size},
    writer::SealedWriter,
};

/// A store whose objects may be sealed.
#[derive(Clone, Debug)]
pub struct Sealed {
    inner: Arc<dyn Blobs>,
    keys: Arc<dyn Keys>,
    seals: bool,
}

impl Sealed {
    /// A decorator over `inner`, which is one store. `seals`: what is begun from now on is sealed; what was begun
    /// before goes on as it was.
    pub fn new(inner: Arc<dyn Blobs>, keys: Arc<dyn Keys>, seals: bool) -> Self {
        Self { inner, keys, seals }
    }

    /// Makes a data key for an object that begins.
    async fn new_key(&self, key: &ObjectKey) -> Result<(Sealing, DataKey), BlobsError> {
        let instance_key = self.keys.current(instance(key)?).await?;
        let secret = new_data_key().map_err(|error| failed(&error))?;
        let wrapped_key = instance_key.wrap(key.session(), &secret).map_err(|error| failed(&error))?;
        let data_key = DataKey::new(key, &secret)?;
        Ok((Sealing { key_id: instance_key.id().to_owned(), wrapped_key }, data_key))
    }

    /// The data key of an object.
    async fn data_key(&self, key: &ObjectKey, sealing: &Sealing) -> Result<DataKey, BlobsError> {
        let instance_key: Arc<InstanceKey> = self.keys.get(instance(key)?, &sealing.key_id).await?;
        let secret =
            instance_key.unwrap(key.session(), &sealing.wrapped_key).map_err(|error| match error {
                SealError::Sealed => BlobsError::Damaged("an object's key does not open"),
                error => failed(&error),
            })?;
        DataKey::new(key, &secret)
    }
}

fn instance(key: &ObjectKey) -> Result<InstanceId, BlobsError> {
    key.instance().parse().map_err(|_| BlobsError::Invalid("a key of no instance"))
}

fn failed(error: &SealError) -> BlobsError {
    BlobsError::Remote(error.to_string())
}

/// The sealing of an object; `None` for a plain one.
fn sealing(object: &ObjectRef) -> Result<Option<&Sealing>, BlobsError> {
    match (object.format, &object.sealing) {
        (PLAIN, None) => Ok(None),
        (SEALED, Some(sealing)) => Ok(Some(sealing)),
        (SEALED, None) => Err(BlobsError::Damaged("a sealed object without its key")),
        _ => Err(BlobsError::Invalid("an object's format that this store does not know")),
    }
}

/// The object as the driver knows it.
fn stored(object: &ObjectRef) -> Result<ObjectRef, BlobsError> {
    let size = stored_size(object.size).ok_or(BlobsError::Invalid("an object that is too large"))?;
    Ok(ObjectRef::new(object.store_id.clone(), object.key.clone(), size, None))
}

#[async_trait]
impl Blobs for Sealed {
    async fn write(&self, open: WriteOpen) -> Result<Box<dyn BlobWriter>, BlobsError> {
        let begins = open.offset == 0;
        let (key, data_key, recorded) = match &open.staging.sealing {
            Some(state) => {
                let data_key = self.data_key(&open.key, &state.key).await?;
                (state.key.clone(), data_key, Some(state.clone()))
            }
            None if begins && self.seals => {
                let (key, data_key) = self.new_key(&open.key).await?;
                (key, data_key, None)
            }
            None => return self.inner.write(open).await,
        };
        let writer = SealedWriter::open(&*self.inner, open, (key, data_key), recorded).await?;
        Ok(Box::new(writer))
    }

    async fn rehash(&self, object: &ObjectRef, algorithm: Algorithm) -> Result<Digest, BlobsError> {
        if sealing(object)?.is_none() {
            return self.inner.rehash(object, algorithm).await;
        }
        let reader = self.open(object, None).await?;
        let mut steps = reader.into_stream();
        let mut hasher = Hasher::new(algorithm);
        while let Some(step) = steps.next().await {
            hasher.update(&step?);
            tokio::task::consume_budget().await;
        }
        Ok(hasher.finish())
    }

    async fn open(&self, object: &ObjectRef, range: Option<ByteRange>) -> Result<BlobReader, BlobsError> {
        let Some(sealing) = sealing(object)? else { return self.inner.open(object, range).await };
        let range = crate::checked_range(object.size, range)?;
        let stored = stored(object)?;
        let segments = segment::around(range, object.size);
        // First, so that what is missing is missing whatever became of its key.
        let reader = self.inner.open(&stored, Some(segments.stored)).await?;
        let data_key = self.data_key(&object.key, sealing).await?;
        if range.length == 0 {
            return Ok(BlobReader::Stream(stream::empty().boxed(), 0));
        }
        let steps = reader.into_stream();
        Ok(BlobReader::Stream(reader::open_segments(steps, data_key, segments), range.length))
    }

    async fn presign(&self, object: &ObjectRef, now: i64) -> Result<Option<SecretString>, BlobsError> {
        // Who follows a URL gets the bytes as they are stored.
        if object.format != PLAIN {
            return Ok(None);
        }
        self.inner.presign(object, now).await
    }

    async fn resume_finish(&self, open: WriteOpen) -> Result<ObjectKey, BlobsError> {
        if open.staging.sealing.is_none() {
            return self.inner.resume_finish(open).await;
        }
        let offset = stored_size(open.offset).ok_or(BlobsError::Invalid("an object that is too large"))?;
        let staging = Staging { sealing: None, ..open.staging };
        let inner = WriteOpen { offset, hash_state: None, staging, unit: STORED, ..open };
        self.inner.resume_finish(inner).await
    }

    async fn abandon(&self, abandoned: &Abandoned) -> Result<(), BlobsError> {
        self.inner.abandon(abandoned).await
    }

    async fn delete(&self, store_id: &str, key: &ObjectKey) -> Result<(), BlobsError> {
        self.inner.delete(store_id, key).await
    }

    async fn list(
        &self,
        store_id: &str,
        after: Option<&ObjectKey>,
        limit: usize,
    ) -> Result<Vec<Listed>, BlobsError> {
        self.inner.list(store_id, after, limit).await
    }
}
