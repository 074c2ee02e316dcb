//! Several stores as one: a blob is served from the store that its row names, so that a deployment may change where new
//! ones go and keep the old.

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use berth_blobs::{
    Abandoned, BlobReader, BlobWriter, Blobs, BlobsError, Listed, ObjectKey, ObjectRef, WriteOpen,
};
use berth_oci::{Algorithm, ByteRange, Digest};
use secrecy::SecretString;

/// Stores by their ids.
#[derive(Clone, Default, Debug)]
pub struct Stores(BTreeMap<String, Arc<dyn Blobs>>);

impl Stores {
    /// Adds a store.
    pub fn add(&mut self, id: &str, store: Arc<dyn Blobs>) {
        self.0.insert(id.to_owned(), store);
    }

    fn of(&self, id: &str) -> Result<&dyn Blobs, BlobsError> {
        match self.0.get(id) {
            Some(store) => Ok(&**store),
            None => Err(BlobsError::Unavailable(format!("store {id:?} is not configured here"))),
        }
    }
}

#[async_trait]
impl Blobs for Stores {
    async fn write(&self, open: WriteOpen) -> Result<Box<dyn BlobWriter>, BlobsError> {
        self.of(&open.store_id)?.write(open).await
    }

    async fn rehash(&self, object: &ObjectRef, algorithm: Algorithm) -> Result<Digest, BlobsError> {
        self.of(&object.store_id)?.rehash(object, algorithm).await
    }

    async fn open(&self, object: &ObjectRef, range: Option<ByteRange>) -> Result<BlobReader, BlobsError> {
        self.of(&object.store_id)?.open(object, range).await
    }

    async fn presign(&self, object: &ObjectRef, now: i64) -> Result<Option<SecretString>, BlobsError> {
        self.of(&object.store_id)?.presign(object, now).await
    }

    async fn resume_finish(&self, open: WriteOpen) -> Result<ObjectKey, BlobsError> {
        self.of(&open.store_id)?.resume_finish(open).await
    }

    async fn abandon(&self, abandoned: &Abandoned) -> Result<(), BlobsError> {
        self.of(&abandoned.store_id)?.abandon(abandoned).await
    }

    async fn delete(&self, store_id: &str, key: &ObjectKey) -> Result<(), BlobsError> {
        self.of(store_id)?.delete(store_id, key).await
    }

    async fn list(
        &self,
        store_id: &str,
        after: Option<&ObjectKey>,
        limit: usize,
    ) -> Result<Vec<Listed>, BlobsError> {
        self.of(store_id)?.list(store_id, after, limit).await
    }
}
