//! What all stores of a process share: the memory for parts on their way, and connections.

use std::{collections::HashMap, sync::Arc, time::Duration};

use aws_sdk_s3::config::SharedHttpClient;
use aws_smithy_http_client::{ConnectorBuilder, proxy::ProxyConfig, tls};
use berth_blobs::BlobsError;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{Config, config::Sizes};
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
    /// By the certificates that they trust; none: the well-known ones.
    clients: Mutex<HashMap<Option<String>, SharedHttpClient>>,
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
    pub fn new(config: &Config) -> Self {
        // Two parts of the first size at least.
        let memory = (u64::from(config.upload_memory_mib) << 20).max(2 * Sizes::new(config).of(1));
        let steps = u32::try_from(memory / MEMORY_STEP).unwrap_or(u32::MAX >> 3);
        Self(Arc::new(Inner {
            memory: Arc::new(Semaphore::new(steps as usize)),
            steps,
            memory_mib: u32::try_from(memory >> 20).unwrap_or(u32::MAX),
            clients: Mutex::default(),
        }))
    }

    /// The memory in MiB.
    pub(super) fn memory_mib(&self) -> u32 {
        self.0.memory_mib
    }

    /// Waits until so many bytes may be held.
    pub(super) async fn reserve(&self, bytes: u64) -> Result<OwnedSemaphorePermit, BlobsError> {
        let steps = u32::try_from(bytes.div_ceil(MEMORY_STEP)).unwrap_or(u32::MAX).min(self.0.steps);
        let waited =
            tokio::time::timeout(MEMORY_WAIT, Arc::clone(&self.0.memory).acquire_many_owned(steps)).await;
        match waited {
            Ok(Ok(permit)) => Ok(permit),
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
        if clients.len() >= MAX_CLIENTS {
            // Stores that are open keep theirs.
            clients.clear();
        }
        clients.insert(key, client.clone());
        Ok(client)
    }
}
