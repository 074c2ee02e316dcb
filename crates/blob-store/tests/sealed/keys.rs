//! Keys that a test holds in its hands.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use async_trait::async_trait;
use berth_access::InstanceKey;
use berth_blob_store::Keys;
use berth_blobs::BlobsError;
use berth_model::InstanceId;

/// Keys by their ids. Clones share them.
#[derive(Clone, Debug)]
pub(crate) struct FixedKeys(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    keys: BTreeMap<String, Arc<InstanceKey>>,
    current: String,
    away: bool,
}

impl Default for FixedKeys {
    fn default() -> Self {
        let state = State { keys: BTreeMap::new(), current: String::new(), away: false };
        let keys = Self(Arc::new(Mutex::new(state)));
        keys.rotate("first", 1);
        keys
    }
}

impl FixedKeys {
    /// A new current key.
    pub(crate) fn rotate(&self, id: &str, byte: u8) {
        let mut state = self.0.lock().unwrap();
        let key = Arc::new(InstanceKey::new(id, &[byte; 32]).unwrap());
        state.keys.insert(id.to_owned(), key);
        state.current = id.to_owned();
    }

    /// Destroys a key.
    pub(crate) fn destroy(&self, id: &str) {
        self.0.lock().unwrap().keys.remove(id);
    }

    /// Whether nobody answers.
    pub(crate) fn set_away(&self, away: bool) {
        self.0.lock().unwrap().away = away;
    }
}

#[async_trait]
impl Keys for FixedKeys {
    async fn current(&self, instance: InstanceId) -> Result<Arc<InstanceKey>, BlobsError> {
        let id = self.0.lock().unwrap().current.clone();
        self.get(instance, &id).await
    }

    async fn get(&self, _: InstanceId, key_id: &str) -> Result<Arc<InstanceKey>, BlobsError> {
        let state = self.0.lock().unwrap();
        if state.away {
            return Err(BlobsError::Unavailable("away".to_owned()));
        }
        state.keys.get(key_id).cloned().ok_or(BlobsError::KeyGone)
    }
}
