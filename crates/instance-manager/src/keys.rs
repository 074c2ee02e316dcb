//! The keys that seal what instances store. They lie in the database sealed by the root key, and leave this service only
//! for the deployment's own: a store opens what it holds with them. Nothing here knows a blob.

use std::{collections::HashMap, sync::Arc};

use berth_access::{InstanceKey, SealError, Sealer, new_data_key};
use berth_model::{EventId, InstanceId};
use berth_oci::{ErrorCode, Problem};
use berth_proto::{
    instance_manager::{
        DropFormerKeyRequest, DropFormerKeyResponse, FormerKey, GetInstanceKeyRequest,
        GetInstanceKeyResponse, ListFormerKeysRequest, ListFormerKeysResponse, RewrapDataKeysRequest,
        RewrapDataKeysResponse, RotateInstanceKeyRequest, RotateInstanceKeyResponse,
        ShredInstanceKeysRequest, ShredInstanceKeysResponse, instance_keys_server::InstanceKeys,
    },
    parse, to_status,
};
use berth_service::{Ids, SharedClock};
use bytes::Bytes;
use tonic::{Request, Response, Status};
use zeroize::Zeroizing;

use crate::{
    Error,
    error::invalid,
    store::{NewKey, Store},
};

/// What the keys of instances are sealed for.
pub(crate) const PURPOSE: &str = "instance key";
/// The most of a page, and the most data keys of a call.
const MAX_PAGE: u32 = 1000;

/// The service behind
/// [`InstanceKeysServer`](berth_proto::instance_manager::instance_keys_server::InstanceKeysServer).
#[derive(Clone, Debug)]
pub struct InstanceKeysApi {
    pub(crate) store: Store,
    pub(crate) sealer: Arc<dyn Sealer>,
    pub(crate) ids: Ids,
    pub(crate) clock: SharedClock,
}

type Secret = Zeroizing<Vec<u8>>;

fn status(error: impl Into<Error>) -> Status {
    to_status(Problem::from(error.into()))
}

fn no_instance() -> Error {
    Problem::new(ErrorCode::NotFound, "there is no such instance").into()
}

impl InstanceKeysApi {
    async fn make(&self) -> Result<NewKey, Error> {
        let id = self.ids.ulid().to_string();
        let secret = new_data_key()?;
        let sealed = self.sealer.seal_secret(PURPOSE, &id, secret.as_ref()).await?;
        Ok(NewKey { id, sealed })
    }

    async fn open(&self, key: &NewKey) -> Result<Secret, Error> {
        Ok(self.sealer.open_secret(PURPOSE, &key.id, &key.sealed).await?)
    }

    /// The current key of an instance, which is made if there is none.
    async fn current(&self, instance: InstanceId) -> Result<(String, Secret), Error> {
        let key = match self.store.current_key(instance).await? {
            Some(key) => key,
            None => {
                let made = self.make().await?;
                self.store.first_key(instance, made).await?.ok_or_else(no_instance)?
            }
        };
        let secret = self.open(&key).await?;
        Ok((key.id, secret))
    }

    async fn named(&self, instance: InstanceId, key_id: &str) -> Result<Option<Secret>, Error> {
        let Some(sealed) = self.store.instance_key(instance, key_id).await? else { return Ok(None) };
        self.open(&NewKey { id: key_id.to_owned(), sealed }).await.map(Some)
    }

    async fn rewrap(&self, request: RewrapDataKeysRequest) -> Result<RewrapDataKeysResponse, Error> {
        if request.keys.len() > MAX_PAGE as usize {
            return Err(invalid(format!("a call has at most {MAX_PAGE} data keys")).into());
        }
        let instance: InstanceId = parse("instance_id", &request.instance_id)?;
        let (current_id, secret) = self.current(instance).await?;
        let current = InstanceKey::new(current_id, &secret)?;
        let mut known: HashMap<String, Option<InstanceKey>> = HashMap::new();
        let mut wrapped_keys = Vec::with_capacity(request.keys.len());
        for key in request.keys {
            if !known.contains_key(&key.key_id) {
                let secret = self.named(instance, &key.key_id).await?;
                let opens = secret.map(|secret| InstanceKey::new(key.key_id.clone(), &secret)).transpose()?;
                known.insert(key.key_id.clone(), opens);
            }
            let opened = match known.get(&key.key_id).and_then(Option::as_ref) {
                Some(opens) => opens.unwrap(&key.object, &key.wrapped_key),
                None => Err(SealError::Sealed),
            };
            wrapped_keys.push(match opened {
                Ok(data_key) => Bytes::from(current.wrap(&key.object, &data_key)?),
                Err(SealError::Sealed) => Bytes::new(),
                Err(error) => return Err(error.into()),
            });
        }
        Ok(RewrapDataKeysResponse { key_id: current.id().to_owned(), wrapped_keys })
    }
}

#[tonic::async_trait]
impl InstanceKeys for InstanceKeysApi {
    async fn get_instance_key(
        &self,
        request: Request<GetInstanceKeyRequest>,
    ) -> Result<Response<GetInstanceKeyResponse>, Status> {
        let request = request.into_inner();
        let instance = parse("instance_id", &request.instance_id).map_err(to_status)?;
        let (key_id, secret) = match request.key_id.as_str() {
            "" => self.current(instance).await.map_err(status)?,
            key_id => {
                let secret = self.named(instance, key_id).await.map_err(status)?;
                let gone = || Problem::new(ErrorCode::NotFound, "there is no such key, or no longer");
                (request.key_id.clone(), secret.ok_or_else(|| to_status(gone()))?)
            }
        };
        Ok(Response::new(GetInstanceKeyResponse { key_id, key: Bytes::copy_from_slice(&secret) }))
    }

    async fn rewrap_data_keys(
        &self,
        request: Request<RewrapDataKeysRequest>,
    ) -> Result<Response<RewrapDataKeysResponse>, Status> {
        self.rewrap(request.into_inner()).await.map(Response::new).map_err(status)
    }

    async fn rotate_instance_key(
        &self,
        request: Request<RotateInstanceKeyRequest>,
    ) -> Result<Response<RotateInstanceKeyResponse>, Status> {
        let key = self.make().await.map_err(status)?;
        let (key_id, event) = (key.id.clone(), EventId::new(self.ids.ulid()));
        let name = request.into_inner().instance;
        if !self.store.rotate_key(name, key, event).await.map_err(status)? {
            return Err(status(no_instance()));
        }
        tracing::info!(key = key_id, "an instance has a new key");
        Ok(Response::new(RotateInstanceKeyResponse { key_id }))
    }

    async fn list_former_keys(
        &self,
        request: Request<ListFormerKeysRequest>,
    ) -> Result<Response<ListFormerKeysResponse>, Status> {
        let request = request.into_inner();
        let limit = i64::from(request.limit.min(MAX_PAGE));
        let keys = self.store.former_keys(&request.after, limit).await.map_err(status)?;
        let keys = keys.into_iter().map(|key| FormerKey {
            former_for: key.now.unwrap_or_else(|| self.clock.now()).since(key.replaced_at).as_secs(),
            key_id: key.id,
            instance_id: key.instance.to_string(),
        });
        Ok(Response::new(ListFormerKeysResponse { keys: keys.collect() }))
    }

    async fn drop_former_key(
        &self,
        request: Request<DropFormerKeyRequest>,
    ) -> Result<Response<DropFormerKeyResponse>, Status> {
        self.store.drop_former_key(request.into_inner().key_id).await.map_err(status)?;
        Ok(Response::new(DropFormerKeyResponse {}))
    }

    async fn shred_instance_keys(
        &self,
        request: Request<ShredInstanceKeysRequest>,
    ) -> Result<Response<ShredInstanceKeysResponse>, Status> {
        let (name, event) = (request.into_inner().instance, EventId::new(self.ids.ulid()));
        let destroyed = self.store.shred_keys(name, event).await.map_err(status)?;
        let destroyed = destroyed.ok_or_else(|| status(no_instance()))?;
        tracing::warn!(destroyed, "the keys of an instance were destroyed");
        Ok(Response::new(ShredInstanceKeysResponse { destroyed }))
    }
}
