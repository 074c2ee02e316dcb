//! The gateway: the OCI distribution API and the token endpoint, for docker and its kin.
//!
//! It holds no truth. What exists and who may see it is asked of metadata and instance-manager at every request; what
//! it caches is bytes by digest. Order of every request: parse the path, find the instance, verify the token, ask,
//! compare, act.

mod ambiguous;
mod answer;
mod append;
mod authorise;
mod blob;
mod body;
mod cache;
mod challenge;
mod failure;
mod heard;
mod list;
mod login;
mod manifest;
mod metrics;
mod names;
mod pulled;
mod query;
mod rate;
mod recall;
mod request;
mod resolve;
mod serve;
mod settings;
mod token;
mod upload;
mod verified;
mod warm;

use std::{sync::Arc, time::Duration};

use berth_audit::Audit;
use berth_blobs::Blobs;
use berth_proto::{
    MAX_MESSAGE_BYTES, WarmReads,
    instance_manager::{
        audit_client::AuditClient, instance_manager_client::InstanceManagerClient,
        logins_client::LoginsClient,
    },
    metadata::metadata_client::MetadataClient,
};
use berth_service::{Channel, Ids, Registry, SharedClock, Tasks};

pub use rate::{Redis, RedisUrlError};
pub use serve::Gateway;

/// Settings of the gateway role.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Memory for the bytes of manifests and of blobs of at most 32 KiB, in bytes.
    pub manifest_cache_bytes: u64,
    /// Seconds without a byte from an uploading client until its request is cut. The upload can be resumed.
    pub upload_idle_seconds: u64,
    /// The least that an uploading client sends in a second, in bytes, on average over `upload_idle_seconds` of waiting for
    /// it; a slower one is cut. The upload can be resumed. 0: no limit.
    pub upload_bytes_per_second: u64,
    /// The largest blob, in bytes.
    pub blob_bytes: u64,
    /// The URL under which clients reach the token endpoint, such as `https://registry.example.com`. Empty: the scheme
    /// and host that each request came with. With `base_domain` only its scheme counts.
    pub external_url: String,
    /// The domain of the deployment: an instance answers at <instance>-registry.<region>.<domain>, the default instance at
    /// the domain itself, and other hosts are refused. Empty: every host means the default instance.
    pub base_domain: String,
    /// How many entries for the audit wait at most while instance-manager is away: pulls, logins and refused calls, of which
    /// equal ones of a minute are one. What does not fit is counted, and the audit is told how much that was. An entry takes
    /// less than 1 KiB of memory.
    pub audit_entries: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            manifest_cache_bytes: 64 << 20,
            upload_idle_seconds: 60,
            upload_bytes_per_second: 1024,
            blob_bytes: 1 << 40,
            external_url: String::new(),
            base_domain: String::new(),
            audit_entries: 20_000,
        }
    }
}

/// What the gateway stands on.
#[derive(Debug)]
pub struct Deps<'a> {
    /// To metadata.
    pub metadata: Channel,
    /// Reads that metadata answers from memory, when it is in this process.
    pub warm: Option<Arc<dyn WarmReads>>,
    /// To instance-manager, and to its audit.
    pub instance_manager: Channel,
    /// The audit.
    pub audit: Channel,
    /// To the logins of instance-manager.
    pub logins: Channel,
    /// The bytes of blobs.
    pub blobs: Arc<dyn Blobs>,
    /// Where gateways count pulls together; none: each by itself.
    pub redis: Option<Redis>,
    /// Time.
    pub clock: SharedClock,
    /// Ids of requests.
    pub ids: Ids,
    /// Requests' work that outlives their connection.
    pub tasks: Tasks,
    /// The follower of settings.
    pub background: Tasks,
    /// Metrics.
    pub registry: &'a mut Registry,
}

/// Builds the gateway and starts following the settings of instance-manager.
pub fn build(config: &Config, deps: Deps<'_>) -> Gateway {
    let metadata = MetadataClient::new(deps.metadata)
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES);
    let instance_manager = InstanceManagerClient::new(deps.instance_manager)
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES);
    let share = |redis: Redis| redis.share(deps.ids.clone(), deps.registry, &deps.background);
    let shared = deps.redis.map(share);
    let settings = settings::follow(instance_manager.clone(), deps.clock, shared, &deps.background);
    let metrics = deps.registry.sub_registry_with_prefix("berth");
    let audit = Audit::new("system:gateway", config.audit_entries, metrics);
    let trail = AuditClient::new(deps.audit).max_encoding_message_size(MAX_MESSAGE_BYTES);
    let told = Arc::clone(&settings);
    let now = move || told.now();
    audit.send(trail, now, deps.ids.clone(), &deps.background);
    let whole = verified::Whole::new(Arc::clone(&deps.blobs), metadata.clone(), deps.tasks.clone());
    Gateway::new(request::Parts {
        metadata,
        instance_manager,
        logins: LoginsClient::new(deps.logins),
        blobs: deps.blobs,
        settings,
        audit,
        warm: deps.warm,
        contents: cache::Contents::new(config.manifest_cache_bytes),
        recall: recall::Recall::default(),
        whole,
        ids: deps.ids,
        tasks: deps.tasks,
        metrics: metrics::Metrics::register(deps.registry),
        pace: body::Pace {
            idle: Duration::from_secs(config.upload_idle_seconds.max(1)),
            bytes_per_second: config.upload_bytes_per_second,
        },
        blob_bytes: config.blob_bytes,
        external_url: config.external_url.trim_end_matches('/').to_owned(),
        base_domain: config.base_domain.trim_matches('.').to_ascii_lowercase(),
    })
}
