//! Manifest bytes by digest. Says nothing about existence: whoever reads here has asked metadata first.

use berth_oci::Digest;
use bytes::Bytes;
use moka::future::Cache;

/// The bytes of manifests, bounded in memory, each fetched once at a time.
#[derive(Clone, Debug)]
pub(crate) struct Manifests(Cache<Digest, Bytes>);

impl Manifests {
    pub(crate) fn new(bytes: u64) -> Self {
        let weigh = |_: &Digest, payload: &Bytes| u32::try_from(payload.len() + 256).unwrap_or(u32::MAX);
        Self(Cache::builder().max_capacity(bytes).weigher(weigh).build())
    }

    /// The bytes, fetched by the first who asks while the others wait for the same answer.
    pub(crate) async fn get_or_fetch<E: Clone + Send + Sync + 'static>(
        &self,
        digest: Digest,
        fetch: impl Future<Output = Result<Bytes, E>>,
    ) -> Result<Bytes, E> {
        if let Some(bytes) = self.0.get(&digest).await {
            return Ok(bytes);
        }
        self.0.try_get_with(digest, fetch).await.map_err(|error| E::clone(&error))
    }
}
