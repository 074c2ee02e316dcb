//! Several stores as one: a blob is served from the store that its row names, so that a deployment or an instance may
//! change where new ones go and keep the old.

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use berth_blobs::{
    Abandoned, BlobReader, BlobWriter, Blobs, BlobsError, Listed, ObjectKey, ObjectRef, WriteOpen,
};
use berth_oci::{Algorithm, ByteRange, Digest};
use secrecy::SecretString;

use crate::owned::OwnedStores;

/// Stores by their ids.
#[derive(Clone, Default, Debug)]
pub struct Stores {
    /// Those of the deployment.
    deployment: BTreeMap<String, Arc<dyn Blobs>>,
    /// Those of instances.
    owned: Option<OwnedStores>,
}

impl Stores {
    /// Those of the deployment, and those that `owned` opens.
    pub(crate) fn new(deployment: BTreeMap<String, Arc<dyn Blobs>>, owned: OwnedStores) -> Self {
        Self { deployment, owned: Some(owned) }
    }

    /// Adds a store of the deployment.
    pub fn add(&mut self, id: &str, store: Arc<dyn Blobs>) {
        self.deployment.insert(id.to_owned(), store);
    }

    async fn of(&self, id: &str) -> Result<Arc<dyn Blobs>, BlobsError> {
        match (self.deployment.get(id), &self.owned) {
            (Some(store), _) => Ok(Arc::clone(store)),
            (None, Some(owned)) => owned.get(id).await,
            (None, None) => Err(BlobsError::Unavailable(format!("store {id:?} is not configured here"))),
        }
    }
}

#[async_trait]
impl Blobs for Stores {
    async fn write(&self, open: WriteOpen) -> Result<Box<dyn BlobWriter>, BlobsError> {
        self.of(&open.store_id).await?.write(open).await
    }

    async fn rehash(&self, object: &ObjectRef, algorithm: Algorithm) -> Result<Digest, BlobsError> {
        self.of(&object.store_id).await?.rehash(object, algorithm).await
    }

    async fn open(&self, object: &ObjectRef, range: Option<ByteRange>) -> Result<BlobReader, BlobsError> {
        self.of(&object.store_id).await?.open(object, range).await
    }

    async fn presign(&self, object: &ObjectRef, now: i64) -> Result<Option<SecretString>, BlobsError> {
        self.of(&object.store_id).await?.presign(object, now).await
    }

    async fn resume_finish(&self, open: WriteOpen) -> Result<ObjectKey, BlobsError> {
        self.of(&open.store_id).await?.resume_finish(open).await
    }

    async fn abandon(&self, abandoned: &Abandoned) -> Result<(), BlobsError> {
        self.of(&abandoned.store_id).await?.abandon(abandoned).await
    }

    async fn delete(&self, store_id: &str, key: &ObjectKey) -> Result<(), BlobsError> {
        self.of(store_id).await?.delete(store_id, key).await
    }

    async fn list(
        &self,
        store_id: &str,
        after: Option<&ObjectKey>,
        limit: usize,
    ) -> Result<Vec<Listed>, BlobsError> {
        self.of(store_id).await?.list(store_id, after, limit).await
    }
}
