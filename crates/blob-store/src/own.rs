//! A store as one instance may use it: its own objects and no others, whatever else is in the bucket or folder.

use std::sync::Arc;

use async_trait::async_trait;
use berth_blobs::{
    Abandoned, BlobReader, BlobWriter, Blobs, BlobsError, Listed, MAX_LISTED, ObjectKey, ObjectRef, Place,
    WriteOpen,
};
use berth_oci::{Algorithm, ByteRange, Digest};
use secrecy::SecretString;

/// The part of a store that is one instance's.
#[derive(Debug)]
pub(crate) struct Own {
    pub(crate) instance: String,
    pub(crate) blobs: Arc<dyn Blobs>,
    /// The id by which `blobs` knows itself.
    pub(crate) inner_id: String,
}

impl Own {
    fn check(&self, key: &ObjectKey) -> Result<(), BlobsError> {
        if key.instance() == self.instance {
            return Ok(());
        }
        tracing::error!(%key, instance = self.instance, "an object of another instance was asked for");
        Err(BlobsError::Invalid("an object of another instance"))
    }

    fn check_open(&self, open: WriteOpen) -> Result<WriteOpen, BlobsError> {
        self.check(&open.key)?;
        if let Some(multipart) = &open.staging.multipart {
            self.check(&multipart.key)?;
        }
        for piece in &open.staging.pieces {
            if let Place::Tail { key } = &piece.place {
                self.check(key)?;
            }
        }
        Ok(WriteOpen { store_id: self.inner_id.clone(), ..open })
    }

    fn inner(&self, object: &ObjectRef) -> Result<ObjectRef, BlobsError> {
        self.check(&object.key)?;
        Ok(ObjectRef { store_id: self.inner_id.clone(), ..object.clone() })
    }
}

#[async_trait]
impl Blobs for Own {
    async fn write(&self, open: WriteOpen) -> Result<Box<dyn BlobWriter>, BlobsError> {
        self.blobs.write(self.check_open(open)?).await
    }

    async fn rehash(&self, object: &ObjectRef, algorithm: Algorithm) -> Result<Digest, BlobsError> {
        self.blobs.rehash(&self.inner(object)?, algorithm).await
    }

    async fn open(&self, object: &ObjectRef, range: Option<ByteRange>) -> Result<BlobReader, BlobsError> {
        self.blobs.open(&self.inner(object)?, range).await
    }

    async fn presign(&self, object: &ObjectRef, now: i64) -> Result<Option<SecretString>, BlobsError> {
        self.blobs.presign(&self.inner(object)?, now).await
    }

    async fn resume_finish(&self, open: WriteOpen) -> Result<ObjectKey, BlobsError> {
        self.blobs.resume_finish(self.check_open(open)?).await
    }

    async fn abandon(&self, abandoned: &Abandoned) -> Result<(), BlobsError> {
        self.check(&abandoned.key)?;
        if let Some(multipart) = &abandoned.multipart {
            self.check(&multipart.key)?;
        }
        let inner = Abandoned { store_id: self.inner_id.clone(), ..abandoned.clone() };
        self.blobs.abandon(&inner).await
    }

    async fn delete(&self, _store_id: &str, key: &ObjectKey) -> Result<(), BlobsError> {
        self.check(key)?;
        self.blobs.delete(&self.inner_id, key).await
    }

    async fn list(
        &self,
        _store_id: &str,
        after: Option<&ObjectKey>,
        limit: usize,
    ) -> Result<Vec<Listed>, BlobsError> {
        let limit = limit.min(MAX_LISTED);
        let mut own = Vec::new();
        let mut after = after.cloned();
        loop {
            let page = self.blobs.list(&self.inner_id, after.as_ref(), limit).await?;
            let ended = page.len() < limit;
            after = page.last().map(|listed| listed.key.clone());
            own.extend(page.into_iter().filter(|listed| listed.key.instance() == self.instance));
            if own.len() >= limit {
                // What is cut off comes after the last that is not.
                own.truncate(limit);
                return Ok(own);
            }
            if ended {
                return Ok(own);
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test says by a panic what does not hold")]
mod tests {
    use berth_blobs::{Multipart, Piece, Staging};
    use bytes::Bytes;

    use super::*;
    use crate::{Filesystem, Metrics};

    const OWN: &str = "01ARZ3NDEKTSV4RRFFQ69G5FAV";
    const OTHER: &str = "01ARZ3NDEKTSV4RRFFQ69G5FAW";

    fn key(instance: &str, object: u32) -> ObjectKey {
        format!("i/{instance}/01BX5ZZKBKACTAV9WEVGEMM{object:03}").parse().unwrap()
    }

    fn open(key: &ObjectKey) -> WriteOpen {
        WriteOpen {
            store_id: "given".to_owned(),
            key: key.clone(),
            epoch: 1,
            offset: 0,
            hash_state: None,
            algorithm: Algorithm::Sha256,
            staging: Staging::default(),
            expected: None,
            unit: 1,
        }
    }

    async fn write(blobs: &dyn Blobs, open: WriteOpen) {
        let mut writer = blobs.write(open).await.unwrap();
        writer.write(Bytes::from_static(b"bytes")).await.unwrap();
        writer.close().await.unwrap();
        writer.finish().await.unwrap();
    }

    #[tokio::test]
    async fn another_instances_objects_are_out_of_reach() {
        let folder = tempfile::tempdir().unwrap();
        let files = Arc::new(Filesystem::open(folder.path(), "inner", Metrics::default()).await.unwrap());
        let own = Own { instance: OWN.to_owned(), blobs: files.clone(), inner_id: "inner".to_owned() };
        let (mine, other) = (key(OWN, 1), key(OTHER, 1));
        write(&own, open(&mine)).await;
        write(&*files, WriteOpen { store_id: "inner".to_owned(), ..open(&other) }).await;
        write(&own, open(&key(OWN, 2))).await;
        write(&*files, WriteOpen { store_id: "inner".to_owned(), ..open(&key(OTHER, 2)) }).await;

        let object = |key: &ObjectKey| ObjectRef {
            store_id: "given".to_owned(),
            key: key.clone(),
            size: 5,
            format: 0,
            sealing: None,
        };
        assert_eq!(own.open(&object(&mine), None).await.unwrap().into_bytes(5).await.unwrap(), "bytes");
        let refused = |error: BlobsError| assert!(matches!(error, BlobsError::Invalid(_)), "{error}");
        refused(own.open(&object(&other), None).await.unwrap_err());
        refused(own.presign(&object(&other), 0).await.unwrap_err());
        refused(own.rehash(&object(&other), Algorithm::Sha256).await.unwrap_err());
        refused(own.delete("given", &other).await.unwrap_err());
        refused(own.write(open(&other)).await.unwrap_err());
        refused(own.resume_finish(open(&other)).await.unwrap_err());
        // Nor by what an upload of its own is said to have put aside.
        let multipart = Some(Multipart { key: other.at(1), id: "id".to_owned() });
        let staging = Staging { multipart: multipart.clone(), ..Staging::default() };
        refused(own.write(WriteOpen { staging, ..open(&mine) }).await.unwrap_err());
        let place = Place::Tail { key: other.tail(1, 0) };
        let pieces = vec![Piece { number: 1, epoch: 1, start: 0, size: 5, place, checksum: None }];
        let staging = Staging { pieces, ..Staging::default() };
        refused(own.resume_finish(WriteOpen { staging, ..open(&mine) }).await.unwrap_err());
        let abandoned = |key: &ObjectKey, multipart| Abandoned {
            store_id: "given".to_owned(),
            key: key.clone(),
            epochs: None,
            multipart,
            tails: Vec::new(),
            keep: None,
        };
        refused(own.abandon(&abandoned(&other, None)).await.unwrap_err());
        refused(own.abandon(&abandoned(&mine, multipart)).await.unwrap_err());

        for limit in [1, 2, 3, 10] {
            let mut found = Vec::new();
            let mut after = None;
            loop {
                let page = own.list("given", after.as_ref(), limit).await.unwrap();
                found.extend(page.iter().map(|listed| listed.key.clone()));
                if page.len() < limit {
                    break;
                }
                after = found.last().cloned();
            }
            found.sort();
            assert_eq!(found, [mine.clone(), key(OWN, 2)], "pages of {limit}");
        }
        assert!(
            files.open(&ObjectRef { store_id: "inner".to_owned(), ..object(&other) }, None).await.is_ok()
        );
    }
}
