//! Where the bytes of an instance's blobs go: the deployment's storage, or a store of the instance's own. Its secret is
//! sealed by the root key and leaves only for blob-store, which is also who tries a store before it is used.

use std::sync::Arc;

use berth_access::RootKey;
use berth_model::InstanceId;
use berth_oci::{ErrorCode, Problem};
use berth_proto::{
    MAX_MESSAGE_BYTES,
    blob_store::{ProbeRequest, ProbeResponse, blob_store_client::BlobStoreClient},
    from_status,
    instance_manager::{
        GetStoreRequest, ListStoresRequest, ListStoresResponse, StorageEntry, Store as WireStore, StorePlace,
        stores_server::Stores,
    },
    to_status,
};
use berth_service::{Channel, Ids};
use secrecy::{ExposeSecret, SecretString};
use tonic::{Request, Response, Status};

use crate::{
    Error,
    actor::Actor,
    error::{invalid, no_instance},
    settings::SettingsBoard,
    store::{NewStore, Store, StoredStore},
};

/// What secrets of stores are sealed for.
pub(crate) const SECRET_PURPOSE: &str = "store secret";
/// The most stores of one page.
const PAGE: u32 = 1_000;

/// A store as an operator describes it.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    pub(crate) kind: String,
    pub(crate) settings: String,
    pub(crate) secret: SecretString,
    pub(crate) encrypted: bool,
}

/// The storage of instances.
#[derive(Clone, Debug)]
pub(crate) struct Storage {
    pub(crate) store: Store,
    pub(crate) settings: SettingsBoard,
    pub(crate) root: Arc<RootKey>,
    pub(crate) blobs: BlobStoreClient<Channel>,
    pub(crate) ids: Ids,
}

fn no_store() -> Problem {
    Problem::new(ErrorCode::NotFound, "there is no such store")
}

impl Storage {
    pub(crate) fn new(
        store: Store,
        settings: SettingsBoard,
        root: Arc<RootKey>,
        blobs: Channel,
        ids: Ids,
    ) -> Self {
        let blobs = BlobStoreClient::new(blobs)
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES);
        Self { store, settings, root, blobs, ids }
    }

    /// Lets new blobs of an instance go to the storage that is described, once it was written to and read from. Returns
    /// its id; `None`: that of the deployment.
    pub(crate) async fn set(
        &self,
        actor: &Actor,
        instance: InstanceId,
        wanted: Wanted,
    ) -> Result<Option<String>, Error> {
        self.check(instance)?;
        let entry = actor.entry(&self.ids, instance, "instance.storage_changed", "");
        if wanted.kind == "shared" && !["", "{}"].contains(&wanted.settings.as_str()) {
            return Err(invalid("the deployment's storage has no settings of an instance").into());
        }
        if wanted.kind == "shared" && !wanted.encrypted {
            if self.store.use_shared(instance, entry).await? {
                tracing::info!(%instance, "new blobs go to the deployment's storage");
                self.settings.refresh().await?;
            }
            return Ok(None);
        }
        let id = self.ids.ulid().to_string();
        let probed = self.probe(instance, &id, &wanted).await?;
        // The row that has this place already keeps its id, and its secret is sealed for that.
        let known = self.store.store_at(instance, &probed.place, wanted.encrypted).await?;
        let id = known.unwrap_or(id);
        let new = NewStore {
            id: id.clone(),
            instance,
            sealed: self.seal(&id, &wanted.secret)?,
            kind: wanted.kind,
            settings: probed.settings,
            encrypted: wanted.encrypted,
            stages: probed.stages,
            place: probed.place,
        };
        if !self.store.use_store(new, entry).await? {
            return Err(Problem::new(ErrorCode::Unavailable, "another change came first; try again").into());
        }
        tracing::info!(%instance, store = id, "new blobs go to a store of the instance");
        self.settings.refresh().await?;
        Ok(Some(id))
    }

    /// Gives a store other credentials, once it was written to and read from with them. Returns its id.
    pub(crate) async fn rotate(
        &self,
        actor: &Actor,
        instance: InstanceId,
        store: &str,
        access_key: &str,
        secret: SecretString,
    ) -> Result<String, Error> {
        self.check(instance)?;
        let stores = self.store.stores_of(instance).await?;
        let found =
            stores.into_iter().find(|known| if store.is_empty() { known.current } else { known.id == store });
        let found = found.ok_or_else(|| match store {
            "" => invalid("the instance has no storage of its own"),
            _ => no_store(),
        })?;
        if found.kind != "s3" {
            return Err(invalid("this storage has no credentials").into());
        }
        let mut settings: serde_json::Value = serde_json::from_str(&found.settings)
            .map_err(|_| Error::Inconsistent("settings of a store that are no JSON"))?;
        settings["access_key"] = access_key.into();
        let wanted =
            Wanted { kind: found.kind, settings: settings.to_string(), secret, encrypted: found.encrypted };
        let probed = self.probe(instance, &found.id, &wanted).await?;
        let sealed = self.seal(&found.id, &wanted.secret)?;
        let entry = actor.entry(&self.ids, instance, "instance.storage_credentials_rotated", "");
        let known = (found.id.clone(), found.settings);
        if !self.store.rotate(instance, known, probed.settings, sealed, entry).await? {
            return Err(Problem::new(ErrorCode::Unavailable, "another change came first; try again").into());
        }
        tracing::info!(%instance, store = found.id, "the credentials of a store were changed");
        Ok(found.id)
    }

    /// What an instance has and had, by age.
    pub(crate) async fn show(&self, instance: InstanceId) -> Result<Vec<StorageEntry>, Error> {
        self.check(instance)?;
        let entry = |known: StoredStore| StorageEntry {
            id: known.id,
            kind: known.kind,
            settings: known.settings,
            encrypted: known.encrypted,
            current: known.current,
            created_at: known.created_at,
        };
        Ok(self.store.stores_of(instance).await?.into_iter().map(entry).collect())
    }

    fn check(&self, instance: InstanceId) -> Result<(), Error> {
        if self.settings.current().has(instance) { Ok(()) } else { Err(no_instance().into()) }
    }

    fn seal(&self, id: &str, secret: &SecretString) -> Result<Option<Vec<u8>>, Error> {
        let secret = secret.expose_secret();
        if secret.is_empty() {
            return Ok(None);
        }
        Ok(Some(self.root.seal(SECRET_PURPOSE, id, secret.as_bytes())?))
    }

    async fn probe(&self, instance: InstanceId, id: &str, wanted: &Wanted) -> Result<ProbeResponse, Error> {
        let request = ProbeRequest {
            store_id: id.to_owned(),
            instance_id: instance.to_string(),
            kind: wanted.kind.clone(),
            settings: wanted.settings.clone(),
            secret: wanted.secret.expose_secret().to_owned(),
            encrypted: wanted.encrypted,
            key: format!("i/{instance}/{}", self.ids.ulid()),
        };
        let probed = self.blobs.clone().probe(request).await;
        Ok(probed.map_err(|status| from_status(&status))?.into_inner())
    }
}

/// The service behind [`StoresServer`](berth_proto::instance_manager::stores_server::StoresServer): what blob-store and
/// the scrubber have to know.
#[derive(Clone, Debug)]
pub struct StoresApi {
    store: Store,
    root: Arc<RootKey>,
}

impl StoresApi {
    pub(crate) fn new(store: Store, root: Arc<RootKey>) -> Self {
        Self { store, root }
    }

    async fn get(&self, id: &str) -> Result<WireStore, Error> {
        let (instance, found, sealed) = self.store.store_with_secret(id).await?.ok_or_else(no_store)?;
        let secret = match sealed {
            None => String::new(),
            Some(sealed) => {
                let opened = self.root.open(SECRET_PURPOSE, &found.id, &sealed)?;
                let text = std::str::from_utf8(&opened);
                text.map_err(|_| Error::Inconsistent("a secret of a store that is no text"))?.to_owned()
            }
        };
        Ok(WireStore {
            id: found.id,
            instance_id: instance.to_string(),
            kind: found.kind,
            settings: found.settings,
            secret,
            encrypted: found.encrypted,
        })
    }
}

fn status(error: Error) -> Status {
    to_status(Problem::from(error))
}

#[tonic::async_trait]
impl Stores for StoresApi {
    async fn get_store(&self, request: Request<GetStoreRequest>) -> Result<Response<WireStore>, Status> {
        let found = self.get(&request.into_inner().store_id).await.map_err(status)?;
        Ok(Response::new(found))
    }

    async fn list_stores(
        &self,
        request: Request<ListStoresRequest>,
    ) -> Result<Response<ListStoresResponse>, Status> {
        let request = request.into_inner();
        let limit = if request.limit == 0 { PAGE } else { request.limit.min(PAGE) };
        let places = self.store.store_places(&request.after, i64::from(limit)).await.map_err(status)?;
        let stores = places.into_iter().map(|(id, place)| StorePlace { id, place });
        Ok(Response::new(ListStoresResponse { stores: stores.collect() }))
    }
}
