//! The gRPC servers: read the request, call the domain, say the error. Nothing else.

mod audit;
mod identity;
mod instances;
mod principals;
mod roles;
mod sessions;
mod tasks;

use std::pin::Pin;

use berth_model::Permission;
use berth_oci::{ErrorCode, Problem};
use berth_proto::{
    events::{DeliverRequest, DeliverResponse, subscriber_server::Subscriber},
    instance_manager::{
        IssueTokenRequest, IssueTokenResponse, ListReadableRequest, ListReadableResponse,
        RotateStorageCredentialsRequest, RotateStorageCredentialsResponse, RotateTokenKeyRequest,
        RotateTokenKeyResponse, SetBlobDeliveryRequest, SetBlobDeliveryResponse, SetStorageRequest,
        SetStorageResponse, Settings, ShowStorageRequest, ShowStorageResponse, WatchRequest,
        instance_manager_server::InstanceManager, issue_token_request::Credential as WireCredential,
    },
    optional, parse, require, to_status,
};
use futures::Stream;
use secrecy::{ExposeSecret, SecretString};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use crate::{
    Error,
    actor::Actor,
    audit as recording,
    authority::Authority,
    credentials::Credential,
    error::invalid,
    instances::Instances,
    login,
    metrics::Metrics,
    settings::SettingsBoard,
    storage::{Storage, Wanted},
    store::{Rotation, Store},
    token::{Issuer, TokenRequest},
    token_keys::{PUBLISHED, TokenKeys},
};
pub use audit::AuditApi;
pub use identity::{IdentityProvidersApi, LoginsApi};
pub use instances::InstancesApi;
pub use principals::PrincipalsApi;
pub use roles::RolesApi;
pub use sessions::SessionsApi;
pub use tasks::TasksApi;

/// The service behind [`InstanceManagerServer`](berth_proto::instance_manager::instance_manager_server::InstanceManagerServer).
#[derive(Clone, Debug)]
pub struct InstanceManagerApi {
    pub(crate) issuer: Issuer,
    pub(crate) authority: Authority,
    pub(crate) instances: Instances,
    pub(crate) token_keys: TokenKeys,
    pub(crate) storage: Storage,
    pub(crate) settings: SettingsBoard,
    pub(crate) store: Store,
    pub(crate) metrics: Metrics,
    pub(crate) streams: CancellationToken,
}

/// The service behind [`SubscriberServer`](berth_proto::events::subscriber_server::SubscriberServer): the audit.
#[derive(Clone, Debug)]
pub struct AuditSubscriber {
    pub(crate) store: Store,
    pub(crate) metrics: Metrics,
}

fn status(error: impl Into<Error>) -> Status {
    to_status(Problem::from(error.into()))
}

#[tonic::async_trait]
impl InstanceManager for InstanceManagerApi {
    async fn issue_token(
        &self,
        request: Request<IssueTokenRequest>,
    ) -> Result<Response<IssueTokenResponse>, Status> {
        let request = request.into_inner();
        let credential = match require("credential", request.credential).map_err(to_status)? {
            WireCredential::Anonymous(true) => Credential::Anonymous,
            WireCredential::Anonymous(false) => return Err(status(invalid("field anonymous is false"))),
            WireCredential::Password(password) => {
                Credential::Password { name: password.name, secret: SecretString::from(password.secret) }
            }
            WireCredential::RefreshToken(token) => Credential::Refresh(SecretString::from(token)),
        };
        let instance = parse("instance_id", &request.instance_id).map_err(to_status)?;
        let request = TokenRequest {
            instance,
            credential,
            scopes: request.scopes,
            offline: request.offline,
            address: request.client_address,
        };
        let shown = request.credential.clone();
        let outcome = self.issuer.issue(request).await;
        self.metrics.token(outcome.as_ref().err());
        let issued = match outcome {
            Ok(issued) => issued,
            Err(error) => {
                let mut refused = status(error);
                let meant = login::meant(&self.store, instance, &shown).await;
                login::note(&mut refused, &meant, login::kind(&shown));
                return Err(refused);
            }
        };
        Ok(Response::new(IssueTokenResponse {
            token: issued.token,
            expires_in: u32::try_from(issued.lifetime.as_secs()).unwrap_or(u32::MAX),
            issued_at: issued.issued_at.seconds(),
            refresh_token: issued
                .refresh_token
                .map(|token| token.expose_secret().to_owned())
                .unwrap_or_default(),
            scope: issued.scope,
            principal: issued.principal,
            credential: login::kind(&shown).to_owned(),
        }))
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<Settings, Status>> + Send>>;

    async fn watch(&self, _: Request<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let start = (self.settings.follow(), self.streams.clone());
        let stream = futures::stream::unfold(start, |(mut follower, ended)| async move {
            let next = tokio::select! {
                () = ended.cancelled() => None,
                next = follower.next() => next,
            };
            next.map(|settings| (Ok(settings), (follower, ended)))
        });
        Ok(Response::new(Box::pin(stream)))
    }

    async fn list_readable(
        &self,
        request: Request<ListReadableRequest>,
    ) -> Result<Response<ListReadableResponse>, Status> {
        let request = request.into_inner();
        let instance = parse("instance_id", &request.instance_id).map_err(to_status)?;
        let whose = optional("principal_instance_id", &request.principal_instance_id).map_err(to_status)?;
        let permission = optional("permission", &request.permission).map_err(to_status)?;
        let permission = permission.unwrap_or(Permission::ArtifactPull);
        let readable =
            self.authority.readable(instance, whose.unwrap_or(instance), &request.principal, permission);
        let readable = readable.await.map_err(status)?;
        Ok(Response::new(ListReadableResponse {
            everything: readable.everything,
            namespace_ids: readable.namespaces.iter().map(ToString::to_string).collect(),
            repository_ids: readable.repositories.iter().map(ToString::to_string).collect(),
        }))
    }

    async fn set_blob_delivery(
        &self,
        request: Request<SetBlobDeliveryRequest>,
    ) -> Result<Response<SetBlobDeliveryResponse>, Status> {
        let request = request.into_inner();
        let instance = parse("instance_id", &request.instance_id).map_err(to_status)?;
        let delivery = parse("blob_delivery", &request.blob_delivery).map_err(to_status)?;
        let actor = Actor::read(request.actor).map_err(to_status)?;
        self.instances.set_blob_delivery(&actor, instance, delivery).await.map_err(status)?;
        Ok(Response::new(SetBlobDeliveryResponse {}))
    }

    async fn set_storage(
        &self,
        request: Request<SetStorageRequest>,
    ) -> Result<Response<SetStorageResponse>, Status> {
        let request = request.into_inner();
        let instance = parse("instance_id", &request.instance_id).map_err(to_status)?;
        let actor = Actor::read(request.actor).map_err(to_status)?;
        let SetStorageRequest { kind, settings, secret, encrypted, .. } = request;
        let wanted = Wanted { kind, settings, secret: SecretString::from(secret), encrypted };
        let store = self.storage.set(&actor, instance, wanted).await.map_err(status)?;
        Ok(Response::new(SetStorageResponse { store_id: store.unwrap_or_default() }))
    }

    async fn rotate_storage_credentials(
        &self,
        request: Request<RotateStorageCredentialsRequest>,
    ) -> Result<Response<RotateStorageCredentialsResponse>, Status> {
        let request = request.into_inner();
        let instance = parse("instance_id", &request.instance_id).map_err(to_status)?;
        let actor = Actor::read(request.actor).map_err(to_status)?;
        let (store, key, secret) = (request.store_id, request.access_key, SecretString::from(request.secret));
        let rotated = self.storage.rotate(&actor, instance, &store, &key, secret).await;
        Ok(Response::new(RotateStorageCredentialsResponse { store_id: rotated.map_err(status)? }))
    }

    async fn show_storage(
        &self,
        request: Request<ShowStorageRequest>,
    ) -> Result<Response<ShowStorageResponse>, Status> {
        let instance = parse("instance_id", &request.into_inner().instance_id).map_err(to_status)?;
        let stores = self.storage.show(instance).await.map_err(status)?;
        Ok(Response::new(ShowStorageResponse { stores }))
    }

    async fn rotate_token_key(
        &self,
        _: Request<RotateTokenKeyRequest>,
    ) -> Result<Response<RotateTokenKeyResponse>, Status> {
        match self.token_keys.rotate(&Actor::system()).await.map_err(status)? {
            Rotation::Done(key_id) => Ok(Response::new(RotateTokenKeyResponse { key_id })),
            Rotation::NotYet | Rotation::TooSoon => {
                let seconds = PUBLISHED.as_secs();
                let message = format!(
                    "every gateway has to know the next key first; try again {seconds} s after the last change"
                );
                Err(status(Problem::new(ErrorCode::Conflict, message)))
            }
        }
    }
}

#[tonic::async_trait]
impl Subscriber for AuditSubscriber {
    async fn deliver(&self, request: Request<DeliverRequest>) -> Result<Response<DeliverResponse>, Status> {
        let events = request.into_inner().events;
        let delivered = events.len() as u64;
        let new = recording::apply(&self.store, events).await.map_err(status)?;
        self.metrics.audit(new, delivered - new);
        Ok(Response::new(DeliverResponse {}))
    }
}
