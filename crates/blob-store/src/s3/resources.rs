//! What all stores of a process share: the memory for parts on their way, and connections.

use std::{collections::HashMap, sync::Arc, time::Duration};

use aws_sdk_s3::config::SharedHttpClient;
use aws_smithy_http_client::{ConnectorBuilder, proxy::ProxyConfig, tls};
use berth_blobs::BlobsError;
use berth_service::Ids;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{Config, config::Sizes, progress};
use crate::Error;

/// The longest wait for memory before an upload is told to come back.
const MEMORY_WAIT: Duration = Duration::from_secs(60);
/// Memory is counted in steps of this many bytes.
const MEMORY_STEP: u64 = 4096;
/// Sets of certificates whose connections are kept for the next store.
const MAX_CLIENTS: usize = 64;

/// Shared by stores; clones are the same.
#[derive(Clone, Debug)]
pub struct Resources(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    memory: Arc<Semaphore>,
    steps: u32,
    memory_mib: u32,
    /// For pauses of random length.
    ids: Ids,
    /// How long a request's body may stand still.
    stall: Duration,
    /// By the certificates that they trust; none: the well-known ones.
    clients: Mutex<HashMap<Option<String>, SharedHttpClient>>,
}

/// Memory that was reserved, until it is dropped.
#[derive(Debug)]
pub(super) struct Room {
    _of_all: OwnedSemaphorePermit,
    _of_share: Option<OwnedSemaphorePermit>,
}

const fn provider() -> tls::Provider {
    tls::Provider::Rustls(tls::rustls_provider::CryptoMode::AwsLc)
}

/// As the SDK makes them, for all stores instead of one.
fn well_known() -> SharedHttpClient {
    aws_smithy_http_client::Builder::new().build_with_connector_fn(|settings, components| {
        let mut builder = ConnectorBuilder::default().tls_provider(provider());
        builder.set_connector_settings(settings.cloned());
        if let Some(components) = components {
            builder.set_sleep_impl(components.sleep_impl());
        }
        builder.set_proxy_config(Some(ProxyConfig::from_env()));
        builder.build()
    })
}

fn trusting(pem: &str) -> Result<SharedHttpClient, Error> {
    let trusted = tls::TrustStore::empty().with_pem_certificate(pem.as_bytes());
    let context = tls::TlsContext::builder().with_trust_store(trusted).build();
    let context =
        context.map_err(|error| Error::ObjectStorage(format!("can't use the certificates: {error}")))?;
    let builder = aws_smithy_http_client::Builder::new().tls_provider(provider());
    Ok(builder.tls_context(context).build_https())
}

impl Resources {
    /// With the memory that `config` names.
    pub fn new(config: &Config, ids: Ids) -> Self {
        // Two parts of the first size at least.
        let memory = (u64::from(config.upload_memory_mib) << 20).max(2 * Sizes::new(config).of(1));
        let steps = u32::try_from(memory / MEMORY_STEP).unwrap_or(u32::MAX >> 3);
        Self(Arc::new(Inner {
            memory: Arc::new(Semaphore::new(steps as usize)),
            steps,
            memory_mib: u32::try_from(memory >> 20).unwrap_or(u32::MAX),
            ids,
            stall: Duration::from_secs(u64::from(config.stall_seconds.max(1))),
            clients: Mutex::default(),
        }))
    }

    pub(super) fn ids(&self) -> &Ids {
        &self.0.ids
    }

    /// The memory in MiB.
    pub(super) fn memory_mib(&self) -> u32 {
        self.0.memory_mib
    }

    /// What a store of an instance's own may hold at most: half of the memory, so that one that is slow leaves the other
    /// half to everybody else. The largest part fits.
    pub(super) fn share(&self) -> Arc<Semaphore> {
        Arc::new(Semaphore::new((self.0.steps / 2) as usize))
    }

    /// Waits until so many bytes may be held, of `share` where the store has no more than that.
    pub(super) async fn reserve(
        &self,
        bytes: u64,
        share: Option<&Arc<Semaphore>>,
    ) -> Result<Room, BlobsError> {
        let most = if share.is_some() { self.0.steps / 2 } else { self.0.steps };
        let steps = u32::try_from(bytes.div_ceil(MEMORY_STEP)).unwrap_or(u32::MAX).min(most);
        let permits = async {
            let of_share = match share {
                Some(share) => Some(Arc::clone(share).acquire_many_owned(steps).await.ok()?),
                None => None,
            };
            let of_all = Arc::clone(&self.0.memory).acquire_many_owned(steps).await.ok()?;
            Some(Room { _of_all: of_all, _of_share: of_share })
        };
        match tokio::time::timeout(MEMORY_WAIT, permits).await {
            Ok(Some(room)) => Ok(room),
            _ => Err(BlobsError::Unavailable("too many uploads wait for memory".to_owned())),
        }
    }

    /// Connections to services whose certificates these vouch for; none: the well-known ones.
    pub(super) fn client(&self, certificates: Option<&str>) -> Result<SharedHttpClient, Error> {
        let mut clients = self.0.clients.lock();
        let key = certificates.map(ToOwned::to_owned);
        if let Some(client) = clients.get(&key) {
            return Ok(client.clone());
        }
        let client = match certificates {
            None => well_known(),
            Some(pem) => trusting(pem)?,
        };
        let client = progress::watch(client, self.0.stall);
        if clients.len() >= MAX_CLIENTS {
            // Stores that are open keep theirs.
            clients.clear();
        }
        clients.insert(key, client.clone());
        Ok(client)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_slow_store_leaves_half_of_the_memory_to_others() {
        let config = Config { upload_memory_mib: 64, ..Config::default() };
        let resources = Resources::new(&config, Ids::seeded(1, Arc::new(berth_service::SystemClock)));
        let (slow, other) = (resources.share(), resources.share());
        let mut held = Vec::new();
        for _ in 0..4 {
            held.push(resources.reserve(8 << 20, Some(&slow)).await.unwrap());
        }
        // Its fifth part waits, and in the end is told to come back; another store's goes on.
        let fifth = resources.reserve(8 << 20, Some(&slow)).await;
        assert!(matches!(fifth, Err(BlobsError::Unavailable(_))), "{fifth:?}");
        let of_other = resources.reserve(8 << 20, Some(&other)).await.unwrap();
        let of_all = resources.reserve(24 << 20, None).await.unwrap();
        held.clear();
        drop((of_other, of_all));
        // Nothing is lost of either, and a part that is too large for a share gets all of it.
        resources.reserve(48 << 20, Some(&slow)).await.unwrap();
        resources.reserve(64 << 20, None).await.unwrap();
    }
}
