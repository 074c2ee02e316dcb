//! Bytes by digest: manifests, and small blobs. Says nothing about existence: whoever reads here has asked metadata first.

use std::sync::Arc;

use berth_oci::Digest;
use bytes::Bytes;
use http::HeaderValue;
use quick_cache::{Weighter, sync::Cache};

use crate::answer;

/// The largest blob that is kept.
pub(crate) const SMALL: u64 = 32 * 1024;
/// What an entry takes beside its bytes.
const OVERHEAD: u64 = 512;

/// Content in memory, with the header values that name it.
#[derive(Clone, Debug)]
pub(crate) struct Kept {
    pub(crate) bytes: Bytes,
    pub(crate) names: Names,
}

/// The header values of a digest.
#[derive(Clone, Debug)]
pub(crate) struct Names {
    pub(crate) digest: HeaderValue,
    pub(crate) etag: HeaderValue,
}

impl Names {
    pub(crate) fn of(digest: &Digest) -> Self {
        let text = digest.to_string();
        Self { etag: answer::value(format!("\"{text}\"")), digest: answer::value(text) }
    }
}

#[derive(Clone, Debug)]
struct Bytewise;

impl Weighter<Digest, Arc<Kept>> for Bytewise {
    fn weight(&self, _: &Digest, kept: &Arc<Kept>) -> u64 {
        kept.bytes.len() as u64 + OVERHEAD
    }
}

/// The bytes of manifests and small blobs, bounded in memory.
#[derive(Clone, Debug)]
pub(crate) struct Contents(Arc<Cache<Digest, Arc<Kept>, Bytewise>>);

impl Contents {
    pub(crate) fn new(bytes: u64) -> Self {
        // Half of what there is are manifests of some kibibytes.
        let entries = usize::try_from(bytes / 2048).unwrap_or(usize::MAX).clamp(64, 1 << 20);
        Self(Arc::new(Cache::with_weighter(entries, bytes, Bytewise)))
    }

    /// The bytes, if they are here.
    pub(crate) fn get(&self, digest: &Digest) -> Option<Arc<Kept>> {
        self.0.get(digest)
    }

    /// Keeps bytes that were found to have this digest.
    pub(crate) fn keep(&self, digest: Digest, bytes: Bytes) -> Arc<Kept> {
        let kept = Arc::new(Kept { bytes, names: Names::of(&digest) });
        self.0.insert(digest, Arc::clone(&kept));
        kept
    }

    /// The bytes, fetched by the first who asks while the others wait for it.
    pub(crate) async fn get_or_fetch<E>(
        &self,
        digest: Digest,
        fetch: impl Future<Output = Result<Bytes, E>>,
    ) -> Result<Arc<Kept>, E> {
        let keep = async { Ok(Arc::new(Kept { bytes: fetch.await?, names: Names::of(&digest) })) };
        self.0.get_or_insert_async(&digest, keep).await
    }
}
