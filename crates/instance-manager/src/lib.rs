//! Instance-manager owns what a tenant may have: instances, people, grants, token keys, refresh tokens, and the audit.
//! It signs access tokens, and tells gateways by Watch how to verify them. It asks metadata for ids of paths and holds
//! no content. The audit subscribes to metadata's events.

mod actor;
mod audit;
mod authority;
mod bootstrap;
mod credentials;
mod error;
mod federation;
mod grpc;
mod guesses;
mod instances;
mod issuers;
mod keys;
mod login;
mod logins;
mod metrics;
mod paths;
mod principals;
mod providers;
mod repeats;
mod roles;
mod root_key;
mod sessions;
mod settings;
mod storage;
mod store;
#[cfg(test)]
mod tests;
mod token;
mod token_keys;
mod trusts;
mod worker;

use std::{fmt, io, sync::Arc, time::Duration};

use berth_access::{PasswordConfig, Passwords, RootKey, Sealer};
use berth_database::{Database, Engine, Migrations, Migrator};
use berth_model::{Editions, InstanceId, Regions};
use berth_proto::{
    MAX_MESSAGE_BYTES,
    events::subscriber_server::SubscriberServer,
    instance_manager::{
        audit_server::AuditServer, identity_providers_server::IdentityProvidersServer,
        instance_keys_server::InstanceKeysServer, instance_manager_server::InstanceManagerServer,
        instances_server::InstancesServer, logins_server::LoginsServer, principals_server::PrincipalsServer,
        roles_server::RolesServer, sessions_server::SessionsServer, stores_server::StoresServer,
        tasks_server::TasksServer,
    },
    metadata::limits_client::LimitsClient,
};
use berth_service::{Channel, Ids, Outbound, OutboundConfig, Registry, SharedClock, Tasks};
pub use bootstrap::ADMIN;
pub use error::Error;
pub use grpc::{
    AuditApi, AuditSubscriber, IdentityProvidersApi, InstanceManagerApi, InstancesApi, LoginsApi,
    PrincipalsApi, RolesApi, SessionsApi, TasksApi,
};
pub use keys::InstanceKeysApi;
pub use root_key::reseal;
use secrecy::SecretString;
pub use storage::StoresApi;
use tokio_util::sync::CancellationToken;

/// The name under which the audit subscribes to events.
pub const AUDIT_SUBSCRIBER: &str = "audit";

static SQLITE: Migrator = sqlx::migrate!("../../migrations/instance-manager/sqlite");
static POSTGRES: Migrator = sqlx::migrate!("../../migrations/instance-manager/postgres");

/// The migrations of this service.
pub const MIGRATIONS: Migrations = Migrations { sqlite: &SQLITE, postgres: &POSTGRES };

/// The migrations for one engine.
pub fn migrator(engine: Engine) -> &'static Migrator {
    MIGRATIONS.of(engine)
}

/// Instance-manager's part of the configuration.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// How long a refresh token is valid, in days.
    pub refresh_token_days: u32,
    /// How many passwords are checked at the same time; each check takes 19 MiB of memory. 0: one for each core.
    pub password_checks: usize,
    /// After how many days tokens are signed with another key. Running pulls do not notice.
    pub token_key_days: u32,
    /// A file with editions beside the product's own, in TOML: a table each. Empty: none.
    pub editions_file: String,
    /// A file with the regions that instances may live in, in TOML: a list of tables named regions. Empty: the
    /// product's catalogue.
    pub regions_file: String,
    /// How many days the audit is kept. On PostgreSQL it goes by whole months (UTC), once all of a month is older.
    pub audit_retention_days: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            refresh_token_days: 30,
            password_checks: 0,
            token_key_days: 30,
            editions_file: String::new(),
            regions_file: String::new(),
            audit_retention_days: 365,
        }
    }
}

impl Config {
    fn editions(&self) -> Result<Editions, Error> {
        if self.editions_file.is_empty() {
            return Ok(Editions::built_in());
        }
        Editions::with(&read(&self.editions_file)?).map_err(|error| Error::Catalogue(error.to_string()))
    }

    fn regions(&self) -> Result<Regions, Error> {
        if self.regions_file.is_empty() {
            return Ok(Regions::built_in());
        }
        Regions::read(&read(&self.regions_file)?).map_err(|error| Error::Catalogue(error.to_string()))
    }
}

fn read(file: &str) -> Result<String, Error> {
    std::fs::read_to_string(file).map_err(|error| Error::Catalogue(format!("can't read {file}: {error}")))
}

/// Where a generated password waits for its reader. It is in the database only as a hash.
pub trait PasswordKeeper: fmt::Debug + Send + Sync {
    /// Keeps a password durably, in place of one kept before. Called before the password is set: a process that dies in
    /// between generates another at its next start.
    fn keep(&self, password: &SecretString) -> io::Result<()>;

    /// What is kept, if anything, is not the password: another one was set.
    fn discard(&self) -> io::Result<()>;
}

/// What instance-manager stands on.
#[derive(Debug)]
pub struct Deps<'a> {
    /// Its database, migrated.
    pub database: Database,
    /// Metadata; may still be an empty slot.
    pub metadata: Channel,
    /// Metadata's limits and use of instances; may still be an empty slot.
    pub limits: Channel,
    /// Blob-store, which tries storage before an instance uses it; may still be an empty slot.
    pub blobs: Channel,
    /// Seals what is secret in the database.
    pub root_key: Arc<RootKey>,
    /// The password that the administrator is to have. None: the one it has, or at first start a random one.
    pub admin_password: Option<SecretString>,
    /// Keeps a random one.
    pub password_keeper: Arc<dyn PasswordKeeper>,
    /// Where identity providers may be.
    pub outbound: &'a OutboundConfig,
    /// Time.
    pub clock: SharedClock,
    /// Ids.
    pub ids: Ids,
    /// Where background work runs.
    pub tasks: Tasks,
    /// Where metrics are registered.
    pub registry: &'a mut Registry,
}

/// A running instance-manager.
pub struct Service {
    /// Its gRPC server.
    pub server: InstanceManagerServer<InstanceManagerApi>,
    /// Instances, editions and regions.
    pub instances: InstancesServer<InstancesApi>,
    /// People, robots and groups.
    pub principals: PrincipalsServer<PrincipalsApi>,
    /// Identity providers and trusts.
    pub identity_providers: IdentityProvidersServer<IdentityProvidersApi>,
    /// Logins of people by a browser, for gateways.
    pub logins: LoginsServer<LoginsApi>,
    /// Roles and grants.
    pub roles: RolesServer<RolesApi>,
    /// Who calls the management API.
    pub sessions: SessionsServer<SessionsApi>,
    /// The ends of instances, and how far they are.
    pub tasks: TasksServer<TasksApi>,
    /// The keys that seal what instances store.
    pub keys: InstanceKeysServer<InstanceKeysApi>,
    /// The stores of instances, for blob-store and the scrubber.
    pub stores: StoresServer<StoresApi>,
    /// The audit: what gateways gather, pages, exports.
    pub audit: AuditServer<AuditApi>,
    /// The audit's end of event delivery.
    pub subscriber: SubscriberServer<AuditSubscriber>,
    /// The instance that answers on every host of the embedded deployment.
    pub default_instance: InstanceId,
    /// Ends the streams of Watch. Cancel it when listeners begin to drain: a gateway elsewhere would keep its stream,
    /// and so the drain, open. Stopping the tasks cancels it as well.
    pub streams: CancellationToken,
    /// Whether the administrator's password was generated at this start; the keeper has it.
    pub generated_password: bool,
    /// For what a worker does by itself.
    #[cfg(test)]
    pub(crate) domain: instances::Instances,
    #[cfg(test)]
    pub(crate) retention: audit::Retention,
}

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Service").field("default_instance", &self.default_instance).finish_non_exhaustive()
    }
}

/// Starts instance-manager: makes what the database lacks, loads the settings, follows their revision.
pub async fn build(config: &Config, deps: Deps<'_>) -> Result<Service, Error> {
    let paths = Arc::new(paths::MetadataPaths::new(deps.metadata.clone()));
    let limiter = Arc::new(instances::MetadataLimiter(LimitsClient::new(deps.limits.clone())));
    assemble(config, deps, paths, limiter).await
}

/// The keys of instances alone, for a registry that does not run.
pub fn build_keys(
    database: Database,
    sealer: Arc<dyn Sealer>,
    ids: Ids,
    clock: SharedClock,
) -> InstanceKeysServer<InstanceKeysApi> {
    serve_keys(store::Store::new(database), sealer, ids, clock)
}

fn serve_keys(
    store: store::Store,
    sealer: Arc<dyn Sealer>,
    ids: Ids,
    clock: SharedClock,
) -> InstanceKeysServer<InstanceKeysApi> {
    InstanceKeysServer::new(InstanceKeysApi { store, sealer, ids, clock })
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES)
}

/// The stores of instances alone, for a registry that does not run.
pub fn build_stores(database: Database, root_key: Arc<RootKey>) -> StoresServer<StoresApi> {
    serve_stores(StoresApi::new(store::Store::new(database), root_key))
}

fn serve_stores(api: StoresApi) -> StoresServer<StoresApi> {
    StoresServer::new(api)
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES)
}

async fn assemble(
    config: &Config,
    deps: Deps<'_>,
    paths: Arc<dyn paths::Paths>,
    limiter: Arc<dyn instances::Limiter>,
) -> Result<Service, Error> {
    bootstrap::check_given(deps.admin_password.as_ref())?;
    let mut password_config = PasswordConfig::default();
    if config.password_checks > 0 {
        password_config.concurrency = config.password_checks;
    }
    let passwords = Passwords::new(&password_config)?;
    let store = store::Store::new(deps.database);
    let start = bootstrap::Start {
        store: &store,
        root: &deps.root_key,
        passwords: &passwords,
        ids: &deps.ids,
        given: deps.admin_password,
        keeper: &*deps.password_keeper,
    };
    let (default_instance, generated_password) = start.run().await?;
    let keys = serve_keys(
        store.clone(),
        Arc::clone(&deps.root_key) as Arc<dyn Sealer>,
        deps.ids.clone(),
        deps.clock.clone(),
    );
    let root = deps.root_key;
    let key_root = Arc::clone(&root);
    let editions = Arc::new(config.editions()?);
    let settings = settings::SettingsBoard::open(
        store.clone(),
        Arc::clone(&root),
        Arc::clone(&editions),
        deps.clock.clone(),
        deps.ids.clone(),
    )
    .await?;
    worker::follow_settings(settings.clone(), &deps.tasks);

    let metrics = metrics::Metrics::register(deps.registry);
    let clock = settings.clock();
    let authority = authority::Authority::new(store.clone(), paths.clone(), clock.clone());
    let repeats = repeats::Repeats { store: store.clone(), root: Arc::clone(&root) };
    let roles = roles::Roles {
        repeats: repeats.clone(),
        store: store.clone(),
        settings: settings.clone(),
        authority: authority.clone(),
        ids: deps.ids.clone(),
    };
    let principals = principals::Principals {
        repeats: repeats.clone(),
        store: store.clone(),
        settings: settings.clone(),
        passwords: passwords.clone(),
        authority: authority.clone(),
        roles: roles.clone(),
        clock: clock.clone(),
        ids: deps.ids.clone(),
    };
    let outbound = Outbound::new(deps.outbound)?;
    let issuers = issuers::Issuers::new(outbound.clone(), clock.clone());
    let secrets = providers::ClientSecrets(Arc::clone(&root));
    let providers = providers::Providers {
        repeats: repeats.clone(),
        store: store.clone(),
        settings: settings.clone(),
        authority: authority.clone(),
        principals: principals.clone(),
        secrets: secrets.clone(),
        outbound,
        ids: deps.ids.clone(),
    };
    let logins = logins::Logins {
        store: store.clone(),
        settings: settings.clone(),
        issuers: issuers.clone(),
        secrets,
        clock: clock.clone(),
        ids: deps.ids.clone(),
    };
    let credentials = credentials::Credentials {
        store: store.clone(),
        passwords,
        guesses: guesses::Guesses::new(clock.clone()),
        federation: federation::Federation { store: store.clone(), issuers },
        clock: clock.clone(),
    };
    let issuer = token::Issuer {
        store: store.clone(),
        credentials,
        authority: authority.clone(),
        settings: settings.clone(),
        paths,
        clock,
        refresh_lifetime: Duration::from_secs(u64::from(config.refresh_token_days) * 86_400),
    };
    let storage = storage::Storage::new(
        store.clone(),
        settings.clone(),
        Arc::clone(&root),
        deps.blobs,
        deps.ids.clone(),
    );
    let stores = serve_stores(StoresApi::new(store.clone(), root));
    let instances = instances::Instances {
        repeats,
        store: store.clone(),
        settings: settings.clone(),
        limiter,
        editions,
        regions: Arc::new(config.regions()?),
        ids: deps.ids,
    };
    worker::tend_instances(instances.clone(), &deps.tasks);
    let token_keys = token_keys::TokenKeys {
        store: store.clone(),
        settings: settings.clone(),
        root: Arc::clone(&key_root),
        ids: instances.ids.clone(),
        period: Duration::from_secs(u64::from(config.token_key_days.max(1)) * 86_400),
    };
    worker::tend_token_keys(token_keys.clone(), &deps.tasks);
    #[cfg(test)]
    let domain = instances.clone();
    let streams = deps.tasks.stopping().child_token();
    let retention = audit::Retention {
        store: store.clone(),
        settings: settings.clone(),
        clock: settings.clock(),
        ids: instances.ids.clone(),
        days: config.audit_retention_days,
    };
    worker::tend_audit(retention.clone(), &deps.tasks);
    worker::forget_old(store.clone(), &deps.tasks);
    let trail = AuditApi { store: store.clone(), metrics: metrics.clone(), streams: streams.clone() };
    let subscriber = AuditSubscriber { store: store.clone(), metrics: metrics.clone() };
    let sessions = sessions::Sessions {
        store: store.clone(),
        issuer: issuer.clone(),
        settings: settings.clone(),
        ids: instances.ids.clone(),
    };
    let ends = store.clone();
    let api = InstanceManagerApi {
        issuer,
        authority,
        instances: instances.clone(),
        token_keys,
        storage,
        settings,
        store,
        metrics,
        streams: streams.clone(),
    };
    Ok(Service {
        server: InstanceManagerServer::new(api)
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES),
        instances: InstancesServer::new(InstancesApi { instances })
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES),
        principals: PrincipalsServer::new(PrincipalsApi { principals: principals.clone() })
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES),
        identity_providers: IdentityProvidersServer::new(IdentityProvidersApi { providers })
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES),
        logins: LoginsServer::new(LoginsApi { logins })
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES),
        roles: RolesServer::new(RolesApi { roles, principals })
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES),
        sessions: SessionsServer::new(SessionsApi { sessions }),
        tasks: TasksServer::new(TasksApi { store: ends }),
        keys,
        stores,
        audit: AuditServer::new(trail)
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES),
        subscriber: SubscriberServer::new(subscriber)
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES),
        default_instance,
        streams,
        generated_password,
        #[cfg(test)]
        domain,
        #[cfg(test)]
        retention,
    })
}
