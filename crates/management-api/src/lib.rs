//! The REST API of tenants and operators, below `/api/v1`, and its OpenAPI document.
//!
//! It holds nothing. Who calls is asked of instance-manager, and so is what the caller may; what is done is done by the
//! service that owns it. An operation is declared once (`operation.rs`): its path, who may call it, what it takes and gives.
//! The declaration makes the route, the check before it and its page in the document.

mod answer;
mod call;
mod caller;
mod document;
mod input;
mod metrics;
mod operation;
mod page;
mod problem;
mod serve;
mod strict;
mod unread;
mod values;

mod access_checks;
mod artifacts;
mod audit;
mod collection;
mod documentation;
mod grants;
mod groups;
mod identity_providers;
mod instances;
mod namespaces;
mod repositories;
mod robots;
mod roles;
mod sessions;
mod storage;
mod tags;
mod tasks;
mod users;

use std::sync::Arc;

use berth_audit::Audit;
use berth_blobs::Blobs;
use berth_proto::{
    MAX_MESSAGE_BYTES,
    instance_manager::{
        audit_client::AuditClient, identity_providers_client::IdentityProvidersClient,
        instance_manager_client::InstanceManagerClient, instances_client::InstancesClient,
        principals_client::PrincipalsClient, roles_client::RolesClient, sessions_client::SessionsClient,
        tasks_client::TasksClient as EndsClient,
    },
    metadata::{
        contents_client::ContentsClient, metadata_client::MetadataClient,
        repositories_client::RepositoriesClient, tasks_client::TasksClient,
    },
};
use berth_service::{Channel, Ids, Registry, SharedClock, Tasks};
pub use serve::ManagementApi;

use crate::operation::Routes;

/// What the API stands on.
#[derive(Debug)]
pub struct Deps<'a> {
    /// To all services of instance-manager.
    pub instance_manager: Channel,
    /// To all services of metadata.
    pub metadata: Channel,
    /// The bytes of blobs: configurations of images are shown.
    pub blobs: Arc<dyn Blobs>,
    /// The domain of the deployment, as the gateway has it; empty: every host means the default instance.
    pub base_domain: &'a str,
    /// Time.
    pub clock: SharedClock,
    /// Ids of requests.
    pub ids: Ids,
    /// Work that outlives its request.
    pub tasks: Tasks,
    /// What goes on beside requests.
    pub background: Tasks,
    /// Metrics.
    pub registry: &'a mut Registry,
}

fn routes() -> Routes {
    let mut routes = Routes::default();
    documentation::add(&mut routes);
    sessions::add(&mut routes);
    instances::add(&mut routes);
    namespaces::add(&mut routes);
    repositories::add(&mut routes);
    users::add(&mut routes);
    groups::add(&mut routes);
    robots::add(&mut routes);
    roles::add(&mut routes);
    grants::add(&mut routes);
    access_checks::add(&mut routes);
    tags::add(&mut routes);
    artifacts::add(&mut routes);
    tasks::add(&mut routes);
    identity_providers::add(&mut routes);
    audit::add(&mut routes);
    storage::add(&mut routes);
    collection::add(&mut routes);
    routes
}

/// The OpenAPI document.
pub fn document() -> serde_json::Value {
    document::document(&mut routes())
}

/// How many different refusals wait at most for the audit, while instance-manager is away.
const AUDIT_ENTRIES: usize = 5_000;

/// Builds the API.
pub fn build(deps: Deps<'_>) -> ManagementApi {
    macro_rules! client {
        ($client:ident, $channel:expr) => {
            $client::new($channel.clone())
                .max_decoding_message_size(MAX_MESSAGE_BYTES)
                .max_encoding_message_size(MAX_MESSAGE_BYTES)
        };
    }
    let mut routes = routes();
    let document = document::document(&mut routes);
    let metrics = metrics::Metrics::register(deps.registry);
    let (instances, content) = (&deps.instance_manager, &deps.metadata);
    let registry = deps.registry.sub_registry_with_prefix("berth_management_api");
    let trail = Audit::new("system:management-api", AUDIT_ENTRIES, registry);
    let clock = Arc::clone(&deps.clock);
    let told = client!(AuditClient, instances);
    trail.send(told, move || clock.now(), deps.ids.clone(), &deps.background);
    let parts = call::Parts {
        instances: client!(InstancesClient, instances),
        manager: client!(InstanceManagerClient, instances),
        sessions: client!(SessionsClient, instances),
        principals: client!(PrincipalsClient, instances),
        roles: client!(RolesClient, instances),
        providers: client!(IdentityProvidersClient, instances),
        audit: client!(AuditClient, instances),
        metadata: client!(MetadataClient, content),
        repositories: client!(RepositoriesClient, content),
        contents: client!(ContentsClient, content),
        tasks: client!(TasksClient, content),
        ends: client!(EndsClient, instances),
        blobs: deps.blobs,
        platforms: moka::future::Cache::new(10_000),
        trail,
        clock: deps.clock,
        ids: deps.ids.clone(),
        work: deps.tasks,
        base_domain: deps.base_domain.trim_matches('.').to_ascii_lowercase(),
        // Of strings and numbers: nothing that JSON has no words for.
        document: serde_json::to_vec_pretty(&document).unwrap_or_default().into(),
    };
    let router = axum::Router::new()
        .nest("/api/v1", routes.router)
        .fallback(serve::nowhere)
        .method_not_allowed_fallback(serve::no_method)
        .with_state(Arc::new(parts));
    ManagementApi(Arc::new(serve::Shell { router, ids: deps.ids, metrics }))
}
