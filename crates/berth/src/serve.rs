//! `berth serve`: bind, build, serve, drain. Reads top to bottom as the list of what a process consists of.

use std::{collections::BTreeSet, io, sync::Arc, time::Duration};

use anyhow::{Context, Result};
use berth_access::RootKey;
use berth_blobs::Blobs;
use berth_database::{DataLock, Database};
use berth_events::{DirectSink, Relay, RelayConfig, RelayMetrics};
use berth_instance_manager::AUDIT_SUBSCRIBER;
use berth_management_api::ManagementApi;
use berth_service::{
    Address, Channel, Connections, Guard, Health, Ids, Limits, Listener, Registry, SharedClock, SystemClock,
    Tasks, admin_routes, serve, telemetry,
};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::{
    arguments::ServeArguments,
    config::{self, Config},
    counts::Counts,
    failure::Failure,
    files,
    front::Front,
    password,
    roles::Role,
    terminal,
};

/// Runs until SIGTERM or SIGINT.
pub(crate) async fn run(arguments: ServeArguments) -> Result<(), Failure> {
    let config = config::load_for_serving(&arguments)?;
    telemetry::start(config.log.format, &config.log.filter).map_err(Failure::Config)?;
    // The first of the process; a second install would be the only way to fail.
    let _already_installed = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let roles = config.roles();
    let _lock = if roles.iter().any(|role| role.has_data()) {
        Some(DataLock::acquire(&config.data).context("can't start")?)
    } else {
        None
    };
    // Before anybody can hear that this process serves: from then on SIGTERM means to drain.
    let told = Told::listen().context("can't listen for signals")?;
    let process = Process::start(&config, roles).await?;
    told.wait().await;
    process.end(Duration::from_secs(config.drain_seconds)).await;
    Ok(())
}

/// Opens metadata's database.
pub(crate) async fn metadata_database(config: &Config, tasks: &Tasks) -> Result<Database> {
    let postgres = config.postgres(&config.database.metadata_url, "metadata");
    open_database(config, postgres, berth_metadata::MIGRATIONS, "metadata", tasks).await
}

/// Opens instance-manager's database.
pub(crate) async fn instance_manager_database(config: &Config, tasks: &Tasks) -> Result<Database> {
    let postgres = config.postgres(&config.database.instance_manager_url, "instance_manager");
    open_database(config, postgres, berth_instance_manager::MIGRATIONS, "instance-manager", tasks).await
}

async fn open_database(
    config: &Config,
    postgres: Option<berth_database::PostgresOptions>,
    migrations: berth_database::Migrations,
    name: &str,
    tasks: &Tasks,
) -> Result<Database> {
    let opened = match postgres {
        Some(options) => Database::open_postgres(&options, migrations.postgres).await,
        None => {
            let path = config.data.join(format!("{name}.db"));
            Database::open_sqlite(&path, migrations.sqlite, Arc::new(SystemClock), tasks).await
        }
    };
    opened.with_context(|| format!("can't open the database of {name}"))
}

/// The signals that end this process.
struct Told {
    terminate: Signal,
    interrupt: Signal,
}

impl Told {
    fn listen() -> io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn wait(mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// A running process.
struct Process {
    /// Listeners and the work of requests: stopped first.
    front: Tasks,
    /// Relays and followers: stopped when no request is left.
    back: Tasks,
    /// Database writers: stopped last, when nobody writes any more.
    ground: Tasks,
    health: Health,
    databases: Vec<Database>,
}

/// What the roles are built from.
struct Builder<'a> {
    config: &'a Config,
    roles: BTreeSet<Role>,
    clock: SharedClock,
    ids: Ids,
    front: Tasks,
    back: Tasks,
    ground: Tasks,
    health: Health,
    registry: Registry,
    grpc: tonic::service::RoutesBuilder,
    databases: Vec<Database>,
    counts: Counts,
    metadata: Channel,
    /// Limits and use of instances, at metadata.
    limits: Channel,
    instance_manager: Channel,
    audit: Channel,
    /// Where gateways tell the audit what they gather.
    trail: Channel,
    /// Logins of people, at instance-manager.
    logins: Channel,
    keys: Channel,
    /// The stores of instances, at instance-manager.
    stores: Channel,
    blob_store: Channel,
    /// Everything that this process serves by gRPC.
    services: Channel,
    generated_password: bool,
    /// Metadata's memory, for a gateway beside it.
    warm: Option<Arc<dyn berth_proto::WarmReads>>,
}

impl Process {
    async fn start(config: &Config, roles: BTreeSet<Role>) -> Result<Self, Failure> {
        // Bound before anything is built: a port that is taken is the first thing to know.
        let public = match roles.iter().any(|role| role.is_public()) {
            true => Some(bind_public(config).await?),
            false => None,
        };
        let admin = bind("admin", &config.admin_address()?).await?;
        let grpc = match roles.iter().any(|role| role.has_data()) {
            true => Some(bind("grpc", &config.grpc_address()?).await?),
            false => None,
        };
        let mut builder = Builder::new(config, roles)?;
        let blobs = builder.blob_store().await?;
        builder.instance_manager().await?;
        builder.metadata(Arc::clone(&blobs)).await?;
        let management = builder.management_api(&blobs);
        let gateway = builder.gateway(blobs)?;
        let Builder {
            front,
            back,
            ground,
            health,
            mut registry,
            grpc: offered,
            services,
            databases,
            counts,
            generated_password,
            ..
        } = builder;
        let routes = offered.routes();
        // What is here, the REST API reaches as others do.
        services.fill(routes.clone());
        counts.register(&mut registry);
        let connections = Connections::register(&mut registry);
        let process = Self { front, back, ground, health, databases };
        let addresses = (public.as_ref().map(|listener| listener.address().clone()), admin.address().clone());
        let limits = Limits::default();
        let admin = admin.counted_by(&connections);
        serve(admin, admin_routes(process.health.clone(), registry), limits, &process.back);
        if let Some(listener) = grpc {
            // gRPC connections carry many calls; a role has few peers, and keeps its connections.
            let limits = Limits {
                streams: 4096,
                idle_timeout: Duration::ZERO,
                // A gateway that takes nothing waits for a slow client, which it ends itself.
                stall_timeout: Duration::ZERO,
                floods_end: false,
                ..limits
            };
            let listener = listener.counted_by(&connections);
            serve(listener, routes.into_axum_router(), limits, &process.front);
        }
        if let Some(listener) = public {
            let mut limits = config.listen.limits.limits();
            limits.connections = limits.connections.min(files::for_connections());
            let front = Front { gateway, management };
            serve(listener.counted_by(&connections), front, limits, &process.front);
        }
        process.health.started();
        if let (Some(address), admin) = addresses {
            greet(config, &address, &admin, generated_password);
        }
        Ok(process)
    }

    async fn end(self, grace: Duration) {
        tracing::info!("draining");
        self.health.draining();
        if !self.front.stop(grace).await {
            tracing::warn!(
                "requests were still running when the grace period ended; their uploads can be resumed"
            );
        }
        if !self.back.stop(Duration::from_secs(10)).await {
            tracing::warn!("background work was still running at the end");
        }
        for database in &self.databases {
            database.close().await;
        }
        if !self.ground.stop(Duration::from_secs(10)).await {
            tracing::warn!("a database writer was still at work at the end");
        }
        tracing::info!("stopped");
    }
}

async fn bind_public(config: &Config) -> Result<Listener, Failure> {
    let listener = bind("public", &config.public_address()?).await?;
    match config.tls() {
        None => Ok(listener),
        Some((certificate, key)) => {
            listener.with_tls(certificate, key).map_err(|error| Failure::Config(error.to_string()))
        }
    }
}

async fn bind(name: &'static str, address: &Address) -> Result<Listener, Failure> {
    let listener = Listener::bind(name, address).await.map_err(anyhow::Error::from)?;
    Ok(listener)
}

impl<'a> Builder<'a> {
    fn new(config: &'a Config, roles: BTreeSet<Role>) -> Result<Self, Failure> {
        let clock: SharedClock = Arc::new(SystemClock);
        let channel = |role: Role, name, address: &str| {
            if roles.contains(&role) || address.is_empty() {
                return Ok(Channel::slot(name));
            }
            Channel::remote(name, address).map_err(|error| Failure::Config(error.to_string()))
        };
        let peers = &config.peers;
        let metadata = channel(Role::Metadata, "metadata", &peers.metadata)?;
        let instance_manager = channel(Role::InstanceManager, "instance-manager", &peers.instance_manager)?;
        let limits = channel(Role::Metadata, "limits", &peers.metadata)?;
        let audit = channel(Role::InstanceManager, "audit", &peers.instance_manager)?;
        let trail = channel(Role::InstanceManager, "audit-trail", &peers.instance_manager)?;
        let logins = channel(Role::InstanceManager, "logins", &peers.instance_manager)?;
        let keys = channel(Role::InstanceManager, "instance-keys", &peers.instance_manager)?;
        let stores = channel(Role::InstanceManager, "stores", &peers.instance_manager)?;
        let blob_store = channel(Role::BlobStore, "blob-store", &peers.blob_store)?;
        Ok(Self {
            config,
            roles,
            ids: Ids::random(Arc::clone(&clock)),
            clock,
            front: Tasks::new(),
            back: Tasks::new(),
            ground: Tasks::new(),
            health: Health::new(),
            registry: Registry::default(),
            grpc: tonic::service::RoutesBuilder::default(),
            databases: Vec::new(),
            counts: Counts::default(),
            metadata,
            limits,
            instance_manager,
            audit,
            trail,
            logins,
            keys,
            stores,
            blob_store,
            services: Channel::slot("services"),
            generated_password: false,
            warm: None,
        })
    }

    async fn blob_store(&mut self) -> Result<Arc<dyn Blobs>, Failure> {
        if !self.roles.contains(&Role::BlobStore) {
            // Without the gateway nobody asks for bytes; an empty address then is no mistake.
            return Ok(Arc::new(berth_blob_store::RemoteBlobs::new(self.blob_store.clone())));
        }
        let deps = berth_blob_store::Deps {
            data: &self.config.data,
            keys: self.keys.clone(),
            instance_manager: self.stores.clone(),
            ids: self.ids.clone(),
            tasks: self.back.clone(),
            registry: &mut self.registry,
        };
        let service =
            berth_blob_store::build(&self.config.blob_store, deps).await.context("can't start blob-store")?;
        self.blob_store.fill(service.server.clone());
        self.grpc.add_service(Guard::new("blob-store", service.server));
        Ok(service.blobs)
    }

    /// Whether there is a blob store, here or elsewhere.
    fn reaches_blobs(&self) -> bool {
        self.roles.contains(&Role::BlobStore) || !self.config.peers.blob_store.is_empty()
    }

    async fn instance_manager(&mut self) -> Result<(), Failure> {
        if !self.roles.contains(&Role::InstanceManager) {
            return Ok(());
        }
        let database = instance_manager_database(self.config, &self.ground).await?;
        self.counts.database("instance-manager", &database);
        self.databases.push(database.clone());
        let root_key = self.config.data.join("root.key");
        let root_key = RootKey::open_or_create(&root_key).context("can't use the root sealing key")?;
        let deps = berth_instance_manager::Deps {
            database,
            metadata: self.metadata.clone(),
            limits: self.limits.clone(),
            blobs: self.blob_store.clone(),
            root_key: Arc::new(root_key),
            outbound: &self.config.outbound,
            clock: Arc::clone(&self.clock),
            ids: self.ids.clone(),
            tasks: self.back.clone(),
            registry: &mut self.registry,
            admin_password: password::given()?,
            password_keeper: Arc::new(password::Keeper::new(&self.config.data)),
        };
        let service = berth_instance_manager::build(&self.config.instance_manager, deps)
            .await
            .context("can't start instance-manager")?;
        self.generated_password = service.generated_password;
        let (streams, draining) = (service.streams.clone(), self.front.stopping());
        self.front.spawn("end settings streams", async move {
            // A gateway elsewhere would keep its stream, and so this process's drain, open.
            draining.cancelled().await;
            streams.cancel();
        });
        self.instance_manager.fill(service.server.clone());
        self.logins.fill(service.logins.clone());
        self.audit.fill(service.subscriber.clone());
        self.trail.fill(service.audit.clone());
        self.keys.fill(service.keys.clone());
        self.stores.fill(service.stores.clone());
        self.grpc.add_service(Guard::new("stores", service.stores));
        self.grpc.add_service(Guard::new("instance-manager", service.server));
        self.grpc.add_service(Guard::new("instances", service.instances));
        self.grpc.add_service(Guard::new("principals", service.principals));
        self.grpc.add_service(Guard::new("roles", service.roles));
        self.grpc.add_service(Guard::new("sessions", service.sessions));
        self.grpc.add_service(Guard::new("tasks", service.tasks));
        self.grpc.add_service(Guard::new("identity-providers", service.identity_providers));
        self.grpc.add_service(Guard::new("logins", service.logins));
        self.grpc.add_service(Guard::new("audit", service.subscriber));
        self.grpc.add_service(Guard::new("audit-trail", service.audit));
        self.grpc.add_service(Guard::new("instance-keys", service.keys));
        Ok(())
    }

    async fn metadata(&mut self, blobs: Arc<dyn Blobs>) -> Result<(), Failure> {
        if !self.roles.contains(&Role::Metadata) {
            return Ok(());
        }
        let database = metadata_database(self.config, &self.ground).await?;
        self.counts.database("metadata", &database);
        self.databases.push(database.clone());
        let blobs = self.reaches_blobs().then_some(blobs);
        let deps = berth_metadata::Deps {
            database,
            clock: Arc::clone(&self.clock),
            ids: self.ids.clone(),
            registry: &mut self.registry,
            subscribers: vec![AUDIT_SUBSCRIBER.to_owned()],
            blobs,
            keys: Some(self.keys.clone()),
            stores: Some(self.stores.clone()),
            tasks: self.back.clone(),
        };
        let service = berth_metadata::build(self.config.metadata_settings(), deps);
        let metrics = RelayMetrics::register(&mut self.registry);
        let sink = Arc::new(DirectSink::new(self.audit.clone()));
        let outbox = Arc::clone(&service.outbox);
        Relay::new(AUDIT_SUBSCRIBER, outbox, sink, RelayConfig::default(), &metrics, &self.ids)
            .spawn(&service.nudge, &self.back);
        self.warm = service.warm;
        self.metadata.fill(service.server.clone());
        self.grpc.add_service(Guard::new("metadata", service.server));
        self.grpc.add_service(Guard::new("repositories", service.repositories));
        self.grpc.add_service(Guard::new("contents", service.contents));
        self.grpc.add_service(Guard::new("tasks", service.tasks));
        self.limits.fill(service.limits.clone());
        self.grpc.add_service(Guard::new("limits", service.limits));
        Ok(())
    }

    /// A role as the REST API reaches it: with all its services.
    fn all_of(&self, role: Role, elsewhere: &Channel) -> Channel {
        if self.roles.contains(&role) { self.services.clone() } else { elsewhere.clone() }
    }

    fn management_api(&mut self, blobs: &Arc<dyn Blobs>) -> Option<ManagementApi> {
        if !self.roles.contains(&Role::ManagementApi) {
            return None;
        }
        let deps = berth_management_api::Deps {
            instance_manager: self.all_of(Role::InstanceManager, &self.instance_manager),
            metadata: self.all_of(Role::Metadata, &self.metadata),
            blobs: Arc::clone(blobs),
            base_domain: &self.config.gateway.base_domain,
            clock: Arc::clone(&self.clock),
            ids: self.ids.clone(),
            tasks: self.front.clone(),
            background: self.back.clone(),
            registry: &mut self.registry,
        };
        Some(berth_management_api::build(deps))
    }

    fn gateway(&mut self, blobs: Arc<dyn Blobs>) -> Result<Option<berth_gateway::Gateway>, Failure> {
        if !self.roles.contains(&Role::Gateway) {
            return Ok(None);
        }
        let deps = berth_gateway::Deps {
            metadata: self.metadata.clone(),
            warm: self.warm.clone(),
            instance_manager: self.instance_manager.clone(),
            audit: self.trail.clone(),
            logins: self.logins.clone(),
            blobs,
            redis: self.config.redis()?,
            clock: Arc::clone(&self.clock),
            ids: self.ids.clone(),
            tasks: self.front.clone(),
            background: self.back.clone(),
            registry: &mut self.registry,
        };
        let gateway = berth_gateway::build(&self.config.gateway, deps);
        let ready = gateway.clone();
        self.health.check("instance-manager was not heard", move || ready.ready());
        Ok(Some(gateway))
    }
}

/// Says what a person needs next. A generated password is shown on a terminal only, at the first start only.
fn greet(config: &Config, public: &Address, admin: &Address, generated_password: bool) {
    let scheme = if config.tls().is_some() { "https" } else { "http" };
    let host = match public {
        Address::Tcp(address) if address.ip().is_loopback() => format!("localhost:{}", address.port()),
        other => other.to_string(),
    };
    terminal::line(&format!(
        "Berth {} serves {scheme}://{public}; health and metrics: {admin}",
        env!("CARGO_PKG_VERSION")
    ));
    let file = password::file_in(&config.data);
    let kept = std::fs::read_to_string(&file).ok();
    match kept {
        Some(text) if generated_password && terminal::is_interactive() => {
            terminal::line(&format!(
                "Password of user admin: {} (kept in {})",
                text.trim_end(),
                file.display()
            ));
        }
        Some(_) => terminal::line(&format!("Password of user admin: in {}", file.display())),
        None => terminal::line("Password of user admin: as given by BERTH_ADMIN_PASSWORD"),
    }
    terminal::line(&format!("Next: docker login -u admin {host}"));
    terminal::line(&format!("      docker tag <image> {host}/team/app:v1 && docker push {host}/team/app:v1"));
}
