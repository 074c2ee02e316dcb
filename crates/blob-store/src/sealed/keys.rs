//! Where the keys of instances come from. They are kept in memory for a while, so that the store works on while
//! instance-manager is away, and no longer, so that a key that was destroyed is soon gone here too.

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use berth_access::InstanceKey;
use berth_blobs::BlobsError;
use berth_model::InstanceId;
use berth_oci::ErrorCode;
use berth_proto::{
    from_status,
    instance_manager::{GetInstanceKeyRequest, instance_keys_client::InstanceKeysClient},
};
use berth_service::Channel;
use moka::future::Cache;
use zeroize::Zeroizing;

/// The longest that a rotation may go unnoticed.
const CURRENT_FOR: Duration = Duration::from_secs(60);
/// The most keys that are kept in memory.
const MAX_KEYS: u64 = 10_000;

/// The keys of instances.
#[async_trait]
pub trait Keys: Send + Sync + fmt::Debug + 'static {
    /// The key that seals what an instance stores from now on.
    async fn current(&self, instance: InstanceId) -> Result<Arc<InstanceKey>, BlobsError>;

    /// The key of this id. [`BlobsError::KeyGone`]: there is no such key, or no longer.
    async fn get(&self, instance: InstanceId, key_id: &str) -> Result<Arc<InstanceKey>, BlobsError>;
}

/// The keys that instance-manager keeps.
#[derive(Clone)]
pub struct RemoteKeys {
    client: InstanceKeysClient<Channel>,
    current: Cache<InstanceId, Arc<InstanceKey>>,
    by_id: Cache<(InstanceId, String), Arc<InstanceKey>>,
}

impl fmt::Debug for RemoteKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RemoteKeys").finish_non_exhaustive()
    }
}

impl RemoteKeys {
    /// Asks over `channel`, and keeps a key for so long.
    pub fn new(channel: Channel, kept: Duration) -> Self {
        let current = Cache::builder().max_capacity(MAX_KEYS).time_to_live(kept.min(CURRENT_FOR)).build();
        let by_id = Cache::builder().max_capacity(MAX_KEYS).time_to_live(kept).build();
        Self { client: InstanceKeysClient::new(channel), current, by_id }
    }

    async fn ask(&self, instance: InstanceId, key_id: &str) -> Result<Arc<InstanceKey>, Refusal> {
        let request = GetInstanceKeyRequest { instance_id: instance.to_string(), key_id: key_id.to_owned() };
        let answer = self.client.clone().get_instance_key(request).await.map_err(|status| {
            let problem = from_status(&status);
            match problem.code {
                ErrorCode::NotFound => Refusal::Gone,
                _ => Refusal::Away(problem.message),
            }
        })?;
        let answer = answer.into_inner();
        let bytes = Zeroizing::new(Vec::from(answer.key));
        let key = InstanceKey::new(answer.key_id, &bytes);
        key.map(Arc::new).map_err(|error| Refusal::Away(error.to_string()))
    }
}

/// Why there is no key. Whoever asks at the same time hears the same.
#[derive(Clone, Debug)]
enum Refusal {
    Gone,
    Away(String),
}

impl From<&Refusal> for BlobsError {
    fn from(refusal: &Refusal) -> Self {
        match refusal {
            Refusal::Gone => Self::KeyGone,
            Refusal::Away(message) => Self::Unavailable(format!("a key can't be had: {message}")),
        }
    }
}

#[async_trait]
impl Keys for RemoteKeys {
    async fn current(&self, instance: InstanceId) -> Result<Arc<InstanceKey>, BlobsError> {
        let asked = self.current.try_get_with(instance, self.ask(instance, "")).await;
        let key = asked.map_err(|refusal| BlobsError::from(&*refusal))?;
        self.by_id.insert((instance, key.id().to_owned()), Arc::clone(&key)).await;
        Ok(key)
    }

    async fn get(&self, instance: InstanceId, key_id: &str) -> Result<Arc<InstanceKey>, BlobsError> {
        if key_id.is_empty() {
            return Err(BlobsError::Damaged("an object's key without its id"));
        }
        let asked = self.by_id.try_get_with((instance, key_id.to_owned()), self.ask(instance, key_id)).await;
        asked.map_err(|refusal| BlobsError::from(&*refusal))
    }
}
