//! The stores that instances have of their own: opened when they are first asked for, by what instance-manager says, kept
//! while they are used, and looked up again from time to time. While instance-manager is away, what is open goes on.

use std::{collections::HashMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use berth_blobs::{Blobs, BlobsError};
use berth_oci::ErrorCode;
use berth_proto::{
    MAX_MESSAGE_BYTES, from_status,
    instance_manager::{GetStoreRequest, Store as Definition, stores_client::StoresClient},
};
use berth_service::{Channel, Tasks};
use parking_lot::Mutex;
use secrecy::SecretString;
use tokio::time::Instant;

use crate::{
    opener::{Opened, Opener},
    s3::{Bucket, Source},
};

/// The most stores that are kept open; more only while folders among them are written to.
const MAX_OPEN: usize = 1024;
/// A store that was not asked for this long is closed.
const IDLE: Duration = Duration::from_secs(600);
/// The longest wait for instance-manager.
const ANSWER: Duration = Duration::from_secs(10);

/// Asks instance-manager for stores.
#[derive(Clone, Debug)]
struct Directory(StoresClient<Channel>);

impl Directory {
    async fn get(&self, id: &str) -> Result<Definition, BlobsError> {
        let request = GetStoreRequest { store_id: id.to_owned() };
        let mut client = self.0.clone();
        let asked = tokio::time::timeout(ANSWER, client.get_store(request)).await;
        let away = |cause: &str| {
            BlobsError::Unavailable(format!("instance-manager does not say what store {id:?} is: {cause}"))
        };
        match asked {
            Ok(Ok(found)) => Ok(found.into_inner()),
            Ok(Err(status)) => {
                let problem = from_status(&status);
                match problem.code {
                    ErrorCode::NotFound => Err(BlobsError::Unavailable(format!("there is no store {id:?}"))),
                    _ => Err(away(&problem.message)),
                }
            }
            Err(_) => Err(away("no answer in time")),
        }
    }
}

/// The credentials of one store.
#[derive(Debug)]
struct Credentials {
    directory: Directory,
    id: String,
}

#[async_trait]
impl Source for Credentials {
    async fn ask(&self) -> Option<(String, SecretString)> {
        let found = self.directory.get(&self.id).await.ok()?;
        let bucket: Bucket = serde_json::from_str(&found.settings).ok()?;
        Some((bucket.access_key, found.secret.into()))
    }
}

/// A store that is open, with what it was opened by.
#[derive(Debug)]
struct Current {
    definition: Definition,
    opened: Opened,
}

/// Room for one store. Whoever opens it has the others wait.
#[derive(Debug)]
struct Slot {
    current: tokio::sync::Mutex<Option<Current>>,
    asked: Mutex<Instant>,
}

impl Slot {
    /// Whether nobody uses it: then it can be closed without anybody seeing it.
    fn is_free(slot: &Arc<Self>) -> bool {
        let busy = |current: &Option<Current>| current.as_ref().is_some_and(|open| open.opened.in_use());
        Arc::strong_count(slot) == 1 && slot.current.try_lock().is_ok_and(|current| !busy(&current))
    }
}

/// The stores of instances; clones are the same.
#[derive(Clone, Debug)]
pub(crate) struct OwnedStores(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    directory: Directory,
    opener: Opener,
    slots: Mutex<HashMap<String, Arc<Slot>>>,
}

impl OwnedStores {
    /// Stores that instance-manager knows, looked up again every `refresh`.
    pub(crate) fn new(channel: Channel, opener: Opener, refresh: Duration, tasks: &Tasks) -> Self {
        let client = StoresClient::new(channel)
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES);
        let inner = Inner { directory: Directory(client), opener, slots: Mutex::default() };
        let stores = Self(Arc::new(inner));
        let (kept, stopping) = (stores.clone(), tasks.stopping());
        tasks.spawn("look stores of instances up again", async move {
            loop {
                tokio::select! {
                    () = stopping.cancelled() => return,
                    () = tokio::time::sleep(refresh) => {}
                }
                tokio::select! {
                    () = stopping.cancelled() => return,
                    () = kept.refresh_all() => {}
                }
            }
        });
        stores
    }

    /// The store with this id.
    pub(crate) async fn get(&self, id: &str) -> Result<Arc<dyn Blobs>, BlobsError> {
        let slot = self.slot(id);
        let mut current = slot.current.lock().await;
        if let Some(open) = &*current {
            return Ok(Arc::clone(&open.opened.blobs));
        }
        let definition = self.0.directory.get(id).await?;
        let opened = self.open(&definition).await?;
        let blobs = Arc::clone(&opened.blobs);
        *current = Some(Current { definition, opened });
        Ok(blobs)
    }

    async fn open(&self, definition: &Definition) -> Result<Opened, BlobsError> {
        let credentials = Credentials { directory: self.0.directory.clone(), id: definition.id.clone() };
        let opened = self.0.opener.open(definition, Arc::new(credentials)).await;
        let opened = opened.map_err(|reason| {
            tracing::warn!(store = definition.id, reason, "a store of an instance can't be opened");
            BlobsError::Unavailable(format!("store {:?} can't be opened: {reason}", definition.id))
        })?;
        tracing::debug!(store = definition.id, kind = definition.kind, "a store of an instance is open");
        Ok(opened)
    }

    fn slot(&self, id: &str) -> Arc<Slot> {
        let mut slots = self.0.slots.lock();
        if let Some(slot) = slots.get(id) {
            *slot.asked.lock() = Instant::now();
            return Arc::clone(slot);
        }
        if slots.len() >= MAX_OPEN {
            let oldest = slots
                .iter()
                .filter(|(_, slot)| Slot::is_free(slot))
                .min_by_key(|(_, slot)| *slot.asked.lock())
                .map(|(id, _)| id.clone());
            if let Some(oldest) = oldest {
                slots.remove(&oldest);
            }
        }
        let slot = Slot { current: tokio::sync::Mutex::default(), asked: Mutex::new(Instant::now()) };
        let slot = Arc::new(slot);
        slots.insert(id.to_owned(), Arc::clone(&slot));
        slot
    }

    /// Closes what nobody uses, and takes over what has changed.
    async fn refresh_all(&self) {
        let slots: Vec<(String, Arc<Slot>)> = {
            let mut slots = self.0.slots.lock();
            slots.retain(|_, slot| slot.asked.lock().elapsed() < IDLE || !Slot::is_free(slot));
            slots.iter().map(|(id, slot)| (id.clone(), Arc::clone(slot))).collect()
        };
        for (id, slot) in slots {
            match self.0.directory.get(&id).await {
                Ok(definition) => self.take_over(&slot, definition).await,
                Err(error) => tracing::debug!(store = id, %error, "a store is not looked up; it goes on"),
            }
        }
    }

    async fn take_over(&self, slot: &Slot, definition: Definition) {
        let mut current = slot.current.lock().await;
        let Some(open) = &mut *current else { return };
        if open.definition == definition {
            return;
        }
        let bucket = |definition: &Definition| serde_json::from_str::<Bucket>(&definition.settings).ok();
        if let (Some(changing), Some(old), Some(new)) =
            (&open.opened.changing, bucket(&open.definition), bucket(&definition))
            && new.differs_in_credentials_only(&old)
        {
            changing.set(&new.access_key, &definition.secret.clone().into());
            tracing::info!(store = definition.id, "new credentials of a store are in use");
            open.definition = definition;
            return;
        }
        // Uploads that run end with what they have begun with.
        if let Ok(opened) = self.open(&definition).await {
            tracing::info!(store = definition.id, "new settings of a store are in use");
            *current = Some(Current { definition, opened });
        }
    }
}
