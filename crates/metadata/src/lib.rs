//! metadata: what there *is*. It owns namespaces, repositories and their counters, manifests, tags, links, blobs,
//! referrers, upload sessions, review queues and the events about them, and judges limits in the transaction that
//! would exceed them. It never touches a byte of a blob and never asks storage whether something exists.
//!
//! Every write is one unit of work over [`berth_database`]; the rules of the hard parts are in `docs/architecture.md`.

mod access;
mod blob;
mod collect;
mod contents;
mod dissociation;
mod error;
mod event;
mod flight;
mod grpc;
mod lease;
mod limits;
mod listing;
mod lists;
mod managed;
mod manager;
mod manifest;
mod outbox;
mod quarantine;
mod referrer;
mod repository;
mod resealer;
mod resolve;
mod retag;
mod scrub;
mod sealing;
mod staging;
mod store;
mod tag;
mod task;
mod terms;
mod upload;
mod warm;
mod worker;

use std::{sync::Arc, time::Duration};

use berth_blobs::Blobs;
use berth_database::Database;
use berth_events::{Nudge, Outbox};
use berth_proto::{
    MAX_MESSAGE_BYTES, WarmReads,
    instance_manager::stores_client::StoresClient,
    metadata::{
        contents_server::ContentsServer, limits_server::LimitsServer, metadata_server::MetadataServer,
        repositories_server::RepositoriesServer, tasks_server::TasksServer,
    },
};
use berth_service::{Channel, Ids, Registry, SharedClock, Tasks};
use prometheus_client::metrics::counter::Counter;
use tokio::sync::Notify;

pub use error::Error;
pub use grpc::MetadataService;
pub use store::{MIGRATIONS, migrator};

/// Settings of metadata.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Content that was just pushed, mounted or asked for with push right is safe from collection for this many
    /// seconds, whatever the other delays are.
    pub review_floor_seconds: u64,
    /// How many seconds after something may have become unneeded it is reviewed. Never less than the floor.
    pub review_delay_seconds: u64,
    /// How many seconds an object outlives its last row, so that downloads that run can end.
    pub object_grace_seconds: u64,
    /// How many seconds an upload that nobody goes on with is kept after its last change. Less than a minute ends uploads
    /// under slow clients.
    pub upload_life_seconds: u64,
    /// How many seconds the end of an upload is remembered, so that a closing request that is repeated gets its answer again.
    pub closed_upload_seconds: u64,
    /// No call to storage that an upload made is under way for longer than this many seconds; so long the object of an
    /// expired upload is kept.
    pub longest_operation_seconds: u64,
    /// How often, in seconds, collection looks for work when it knows of none.
    pub collection_poll_seconds: u64,
    /// How many seconds after a scrub's end the next begins: every byte is read back and hashed, and what the store holds
    /// is compared with the rows. 0: only when it is asked for.
    pub scrub_interval_seconds: u64,
    /// How many bytes a second a scrub reads at most. 0: as fast as it goes.
    pub scrub_bytes_per_second: u64,
    /// The store that takes the bytes of new uploads. With object storage configured: that one.
    pub store_id: String,
    /// Whether that store is object storage, which keeps the bytes of an upload aside until its object is whole.
    pub object_storage: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            review_floor_seconds: 3600,
            review_delay_seconds: 24 * 3600,
            object_grace_seconds: 3600,
            upload_life_seconds: 24 * 3600,
            closed_upload_seconds: 3600,
            longest_operation_seconds: 3600,
            collection_poll_seconds: 10,
            scrub_interval_seconds: 7 * 24 * 3600,
            scrub_bytes_per_second: 8 * 1024 * 1024,
            store_id: "default".to_owned(),
            object_storage: false,
        }
    }
}

impl Config {
    pub(crate) fn review_floor(&self) -> Duration {
        Duration::from_secs(self.review_floor_seconds)
    }

    pub(crate) fn review_after(&self) -> Duration {
        Duration::from_secs(self.review_delay_seconds.max(self.review_floor_seconds))
    }

    pub(crate) fn object_grace(&self) -> Duration {
        Duration::from_secs(self.object_grace_seconds)
    }

    pub(crate) fn upload_life(&self) -> Duration {
        Duration::from_secs(self.upload_life_seconds)
    }

    pub(crate) fn closed_upload(&self) -> Duration {
        Duration::from_secs(self.closed_upload_seconds)
    }

    pub(crate) fn longest_operation(&self) -> Duration {
        Duration::from_secs(self.longest_operation_seconds)
    }

    pub(crate) fn collection_poll(&self) -> Duration {
        Duration::from_secs(self.collection_poll_seconds.max(1))
    }

    /// None when scrubs are only asked for.
    pub(crate) fn scrub_interval(&self) -> Option<Duration> {
        (self.scrub_interval_seconds > 0).then(|| Duration::from_secs(self.scrub_interval_seconds))
    }
}

/// What metadata stands on.
#[derive(Debug)]
pub struct Deps<'a> {
    /// A database with [`MIGRATIONS`] applied.
    pub database: Database,
    /// Where ids come from.
    pub ids: Ids,
    /// The clock; on PostgreSQL the database's own is used inside transactions.
    pub clock: SharedClock,
    /// Who gets the events: each has a delivery of every event. Without any, no events are written.
    pub subscribers: Vec<String>,
    /// Where objects are deleted and read back; without it they wait, and nothing is scrubbed.
    pub blobs: Option<Arc<dyn Blobs>>,
    /// The keys of instances; without them nothing is sealed again after a rotation.
    pub keys: Option<Channel>,
    /// Instance-manager, which knows the stores that instances have of their own; without it only the others are
    /// looked through.
    pub stores: Option<Channel>,
    /// What runs beside requests.
    pub tasks: Tasks,
    /// Where metrics are registered.
    pub registry: &'a mut Registry,
}

/// The running service.
#[derive(Clone, Debug)]
pub struct Service {
    /// The server, for a listener or a local channel.
    pub server: MetadataServer<MetadataService>,
    /// Namespaces and repositories by hand.
    pub repositories: RepositoriesServer<MetadataService>,
    /// Tags and artifacts for people.
    pub contents: ContentsServer<MetadataService>,
    /// How far long work is.
    pub tasks: TasksServer<MetadataService>,
    /// What instances may have, what they have, and their end.
    pub limits: LimitsServer<MetadataService>,
    /// The events, for a relay to each subscriber.
    pub outbox: Arc<dyn Outbox>,
    /// Goes off after every transaction with events; for the relays.
    pub nudge: Nudge,
    /// What a gateway of the same process reads without a statement; where only this process writes the database.
    pub warm: Option<Arc<dyn WarmReads>>,
}

/// The domain: units of work and reads. Clones share everything.
#[derive(Clone, Debug)]
pub(crate) struct Metadata {
    pub(crate) database: Database,
    pub(crate) ids: Ids,
    pub(crate) clock: SharedClock,
    pub(crate) config: Arc<Config>,
    pub(crate) leases: Arc<lease::Leases>,
    pub(crate) journal: event::Journal,
    pub(crate) reads: resolve::Reads,
    /// Rows in memory, where only this process writes the database.
    pub(crate) warm: Option<Arc<warm::Warm>>,
    /// Blobs that were found damaged by a reader.
    pub(crate) quarantined: Counter,
    pub(crate) nudge: Nudge,
    /// Wakes the collector.
    pub(crate) wake: Arc<Notify>,
    /// Wakes the scrubber.
    pub(crate) scrub_wake: Arc<Notify>,
    /// Whether there is a store to look at.
    pub(crate) has_blobs: bool,
    /// Who knows the stores of instances.
    pub(crate) stores: Option<StoresClient<Channel>>,
}

impl Metadata {
    pub(crate) fn new(
        config: Config,
        database: Database,
        ids: Ids,
        clock: SharedClock,
        subscribers: Vec<String>,
        registry: &mut Registry,
    ) -> Self {
        let joined = Counter::default();
        registry.register(
            "berth_metadata_joined_reads",
            "Reads that were answered by a query for another who asked the same at the time",
            joined.clone(),
        );
        let quarantined = Counter::default();
        registry.register(
            "berth_metadata_quarantined_blobs",
            "Blobs that readers found damaged and that are no longer served",
            quarantined.clone(),
        );
        let hits = Counter::default();
        registry.register(
            "berth_metadata_warm_reads",
            "Reads that a gateway of the same process was answered from memory",
            hits.clone(),
        );
        let warm = Arc::new(warm::Warm::new(hits));
        let told = Arc::clone(&warm);
        let watched = database.watch(warm::WATCHED, Arc::new(move |changes| told.apply(&changes)));
        Self {
            database,
            warm: watched.then_some(warm),
            reads: resolve::Reads::new(&joined),
            quarantined,
            journal: event::Journal { ids: ids.clone(), subscribers: subscribers.into() },
            ids,
            clock,
            config: Arc::new(config),
            leases: Arc::default(),
            nudge: Nudge::default(),
            wake: Arc::default(),
            scrub_wake: Arc::default(),
            has_blobs: false,
            stores: None,
        }
    }
}

/// Builds the service, and starts its collector and its scrubber.
pub fn build(config: Config, deps: Deps<'_>) -> Service {
    let mut metadata =
        Metadata::new(config, deps.database, deps.ids, deps.clock, deps.subscribers, deps.registry);
    metadata.has_blobs = deps.blobs.is_some();
    metadata.stores = deps.stores.map(StoresClient::new);
    let nudge = metadata.nudge.clone();
    let outbox = Arc::new(outbox::MetadataOutbox(metadata.clone()));
    let metrics = worker::Metrics::register(deps.registry);
    scrub(&metadata, deps.blobs.clone(), &deps.tasks, deps.registry);
    if let Some(keys) = deps.keys {
        let metrics = resealer::Metrics::register(deps.registry);
        resealer::Resealer::new(metadata.clone(), keys, metrics).spawn(&deps.tasks);
    }
    worker::Collector::new(metadata.clone(), deps.blobs, metrics).spawn(&deps.tasks);
    let warm = metadata.warm.clone().map(|warm| warm as Arc<dyn WarmReads>);
    let service = MetadataService::new(metadata, deps.registry);
    let repositories = RepositoriesServer::new(service.clone())
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES);
    let limits = LimitsServer::new(service.clone());
    let contents = ContentsServer::new(service.clone())
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES);
    let tasks = TasksServer::new(service.clone());
    Service { server: serve(service), repositories, contents, tasks, limits, outbox, nudge, warm }
}

/// Builds what looks and changes nothing, for a registry that does not run: the scrubber alone, which waits to be asked.
pub fn build_scrubber(config: Config, deps: Deps<'_>) -> MetadataServer<MetadataService> {
    let config = Config { scrub_interval_seconds: 0, ..config };
    let mut metadata =
        Metadata::new(config, deps.database, deps.ids, deps.clock, deps.subscribers, deps.registry);
    metadata.has_blobs = deps.blobs.is_some();
    metadata.stores = deps.stores.map(StoresClient::new);
    scrub(&metadata, deps.blobs, &deps.tasks, deps.registry);
    serve(MetadataService::new(metadata, deps.registry))
}

fn scrub(metadata: &Metadata, blobs: Option<Arc<dyn Blobs>>, tasks: &Tasks, registry: &mut Registry) {
    if let Some(blobs) = blobs {
        let metrics = scrub::Metrics::register(registry);
        scrub::Scrubber::new(metadata.clone(), blobs, metrics).spawn(tasks);
    }
}

fn serve(service: MetadataService) -> MetadataServer<MetadataService> {
    MetadataServer::new(service)
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES)
}
