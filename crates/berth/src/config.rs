//! The configuration: one TOML file, environment overrides (`BERTH__SECTION__KEY`), then the command line. Unknown keys
//! are refused. `docs/configuration.md` is generated from these types.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    time::Duration,
};

use berth_gateway::Redis;
use berth_service::{Address, Limits, Outbound, OutboundConfig, telemetry::LogFormat};
use figment::{
    Figment,
    providers::{Env, Format, Serialized, Toml},
};
use secrecy::{ExposeSecret, SecretString};

use crate::{
    arguments::{ConfigArguments, ServeArguments},
    failure::Failure,
    roles::Role,
};

/// Everything that can be set.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Config {
    /// Roles of the process: `gateway`, `management-api`, `metadata`, `instance-manager`, `blob-store`. Empty: all of them.
    pub(crate) roles: BTreeSet<Role>,
    /// Folder for databases, blobs, keys and the local socket. One process at a time.
    pub(crate) data: PathBuf,
    /// Seconds that requests in flight get to end after SIGTERM.
    pub(crate) drain_seconds: u64,
    /// Where the process listens.
    pub(crate) listen: Listen,
    /// Log lines.
    pub(crate) log: Log,
    /// Where rows are kept.
    pub(crate) database: DatabaseConfig,
    /// Where gateways count together.
    pub(crate) redis: RedisConfig,
    /// Where the roles are that this process does not run.
    pub(crate) peers: Peers,
    /// What URLs that others wrote may lead to.
    pub(crate) outbound: OutboundConfig,
    /// The gateway role.
    pub(crate) gateway: berth_gateway::Config,
    /// The metadata role.
    pub(crate) metadata: berth_metadata::Config,
    /// The instance-manager role.
    pub(crate) instance_manager: berth_instance_manager::Config,
    /// The blob-store role.
    pub(crate) blob_store: berth_blob_store::Config,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            roles: BTreeSet::new(),
            data: "berth-data".into(),
            drain_seconds: 30,
            listen: Listen::default(),
            log: Log::default(),
            database: DatabaseConfig::default(),
            redis: RedisConfig::default(),
            peers: Peers::default(),
            outbound: OutboundConfig::default(),
            gateway: berth_gateway::Config::default(),
            metadata: berth_metadata::Config::default(),
            instance_manager: berth_instance_manager::Config::default(),
            blob_store: berth_blob_store::Config::default(),
        }
    }
}

/// Where the process listens.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Listen {
    /// The registry and the REST API, for the roles gateway and management-api. Port 0 picks a port, which the log names.
    pub(crate) public: String,
    /// `/healthz`, `/readyz` and `/metrics`; keep it away from the internet.
    pub(crate) admin: String,
    /// gRPC between roles: a loopback address or `unix:/path`. Empty: the socket `berth.sock` in the data folder.
    pub(crate) grpc: String,
    /// PEM file with the certificate chain of the registry. Empty: plain HTTP.
    pub(crate) tls_certificate: PathBuf,
    /// PEM file with the private key of that certificate.
    pub(crate) tls_key: PathBuf,
    /// What one client may take.
    pub(crate) limits: ClientLimits,
}

impl Default for Listen {
    fn default() -> Self {
        Self {
            public: "127.0.0.1:5000".to_owned(),
            admin: "127.0.0.1:5001".to_owned(),
            grpc: String::new(),
            tls_certificate: PathBuf::new(),
            tls_key: PathBuf::new(),
            limits: ClientLimits::default(),
        }
    }
}

/// What one client of the registry may take. A time of 0 is none.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ClientLimits {
    /// Connections at once. More wait until one ends. Fewer, if the process may not open as many files.
    pub(crate) connections: usize,
    /// Connections of one address at once; more are closed. 0: no limit. Behind a proxy all come from its address.
    pub(crate) connections_per_address: usize,
    /// Seconds for the TLS handshake, and for the head of a request from its first byte on.
    pub(crate) head_seconds: u64,
    /// Seconds that a connection is kept without a request.
    pub(crate) idle_seconds: u64,
    /// Seconds until a client that takes nothing of what it asked for is cut off.
    pub(crate) stall_seconds: u64,
    /// Bytes of the head of a request.
    pub(crate) head_bytes: usize,
    /// Requests at once on one HTTP/2 connection.
    pub(crate) streams: u32,
}

impl Default for ClientLimits {
    fn default() -> Self {
        let limits = Limits::default();
        Self {
            connections: limits.connections,
            connections_per_address: limits.connections_per_address,
            head_seconds: limits.head_timeout.as_secs(),
            idle_seconds: limits.idle_timeout.as_secs(),
            stall_seconds: limits.stall_timeout.as_secs(),
            head_bytes: limits.head_bytes,
            streams: limits.streams,
        }
    }
}

impl ClientLimits {
    pub(crate) fn limits(&self) -> Limits {
        Limits {
            connections: self.connections,
            connections_per_address: self.connections_per_address,
            head_timeout: Duration::from_secs(self.head_seconds),
            idle_timeout: Duration::from_secs(self.idle_seconds),
            stall_timeout: Duration::from_secs(self.stall_seconds),
            head_bytes: self.head_bytes,
            streams: self.streams,
            floods_end: true,
        }
    }
}

/// Log lines.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Log {
    /// `text` for a person, `json` for a program.
    pub(crate) format: LogFormat,
    /// What is logged, such as `info` or `info,berth_gateway=debug`.
    pub(crate) filter: String,
}

impl Default for Log {
    fn default() -> Self {
        Self { format: LogFormat::Text, filter: "info".to_owned() }
    }
}

/// Where rows are kept.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct DatabaseConfig {
    /// `postgres://user:password@host:port/database`. Empty: SQLite files in the data folder. Each service has a schema
    /// of its own.
    pub(crate) url: Hidden,
    /// The same past a pooler, for migrations. Empty: `url`.
    pub(crate) direct_url: Hidden,
    /// The URL of metadata alone, when its role has its own user. Empty: `url`.
    pub(crate) metadata_url: Hidden,
    /// The URL of instance-manager alone, when its role has its own user. Empty: `url`.
    pub(crate) instance_manager_url: Hidden,
    /// Connections of each service. 0: the default, 16.
    pub(crate) max_connections: u32,
    /// Whether a transaction-mode pooler stands in front. The database users' `search_path` must then name the schemas.
    pub(crate) pooler: bool,
}

/// Where gateways count together.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RedisConfig {
    /// `redis://user:password@host:port`, or `rediss://` with TLS, whose authorities are the system's (`SSL_CERT_FILE` names
    /// others). It holds what is being pulled, for seconds, and may be away. Empty: each gateway counts pulls by itself.
    pub(crate) url: Hidden,
}

/// A setting that is never shown.
#[derive(Clone, Default, PartialEq, serde::Deserialize, schemars::JsonSchema)]
#[serde(transparent)]
pub(crate) struct Hidden(String);

impl Hidden {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn secret(&self) -> SecretString {
        self.0.clone().into()
    }
}

impl std::fmt::Debug for Hidden {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.is_empty() { "\"\"" } else { "hidden" })
    }
}

impl serde::Serialize for Hidden {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(if self.is_empty() { "" } else { "(hidden)" })
    }
}

/// Where the roles are that this process does not run: `unix:/path` or `http://host:port`.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Peers {
    /// Address of metadata.
    pub(crate) metadata: String,
    /// Address of instance-manager.
    pub(crate) instance_manager: String,
    /// Address of blob-store.
    pub(crate) blob_store: String,
}

impl Config {
    /// The roles of this process.
    pub(crate) fn roles(&self) -> BTreeSet<Role> {
        if self.roles.is_empty() { Role::ALL.into() } else { self.roles.clone() }
    }

    /// The local socket, or wherever gRPC listens.
    pub(crate) fn grpc_address(&self) -> Result<Address, Failure> {
        if self.listen.grpc.is_empty() {
            return Ok(Address::Unix(self.data.join("berth.sock")));
        }
        let address: Address = self.listen.grpc.parse().map_err(|error| wrong("listen.grpc", &error))?;
        match &address {
            Address::Tcp(tcp) if !tcp.ip().is_loopback() => Err(wrong(
                "listen.grpc",
                &"services speak without encryption yet, so this has to be a loopback address or unix:/path",
            )),
            _ => Ok(address),
        }
    }

    pub(crate) fn public_address(&self) -> Result<Address, Failure> {
        self.listen.public.parse().map_err(|error| wrong("listen.public", &error))
    }

    pub(crate) fn admin_address(&self) -> Result<Address, Failure> {
        self.listen.admin.parse().map_err(|error| wrong("listen.admin", &error))
    }

    /// Certificate and key of the registry, when it serves TLS.
    pub(crate) fn tls(&self) -> Option<(&Path, &Path)> {
        let Listen { tls_certificate, tls_key, .. } = &self.listen;
        (!tls_certificate.as_os_str().is_empty()).then_some((tls_certificate, tls_key))
    }

    /// Connection settings of a service's PostgreSQL schema; none with SQLite.
    pub(crate) fn postgres(&self, own: &Hidden, schema: &str) -> Option<berth_database::PostgresOptions> {
        let url = if own.is_empty() { &self.database.url } else { own };
        if url.is_empty() {
            return None;
        }
        let mut options = berth_database::PostgresOptions::new(url.secret(), schema);
        if !self.database.direct_url.is_empty() {
            options.direct_url = Some(self.database.direct_url.secret());
        }
        if self.database.max_connections > 0 {
            options.max_connections = self.database.max_connections;
        }
        options.pooler = self.database.pooler;
        Some(options)
    }

    /// The Redis server of the gateways, if there is one.
    pub(crate) fn redis(&self) -> Result<Option<Redis>, Failure> {
        if self.redis.url.is_empty() {
            return Ok(None);
        }
        Redis::at(&self.redis.url.secret()).map(Some).map_err(|error| wrong("redis.url", &error))
    }

    /// The settings of metadata; with object storage configured new blobs go there.
    pub(crate) fn metadata_settings(&self) -> berth_metadata::Config {
        let mut settings = self.metadata.clone();
        if !self.blob_store.s3.bucket.is_empty() {
            settings.store_id.clone_from(&self.blob_store.s3.id);
            settings.object_storage = true;
        }
        settings
    }

    fn check(&self) -> Result<(), Failure> {
        let roles = self.roles();
        let needs = |role: Role, wanted_by: &[Role], address: &str, key: &str| {
            let wanted = wanted_by.iter().any(|by| roles.contains(by));
            if wanted && !roles.contains(&role) && address.is_empty() {
                let message = format!("this process does not run {}, so it needs its address", role.as_str());
                return Err(wrong(key, &message));
            }
            Ok(())
        };
        needs(
            Role::Metadata,
            &[Role::Gateway, Role::ManagementApi, Role::InstanceManager],
            &self.peers.metadata,
            "peers.metadata",
        )?;
        needs(
            Role::InstanceManager,
            &[Role::Gateway, Role::ManagementApi, Role::Metadata],
            &self.peers.instance_manager,
            "peers.instance_manager",
        )?;
        let public = &[Role::Gateway, Role::ManagementApi];
        needs(Role::BlobStore, public, &self.peers.blob_store, "peers.blob_store")?;
        if self.blob_store.encrypt {
            let keys = &self.peers.instance_manager;
            needs(Role::InstanceManager, &[Role::BlobStore], keys, "peers.instance_manager")?;
        }
        self.grpc_address()?;
        self.public_address()?;
        self.admin_address()?;
        self.redis()?;
        Outbound::new(&self.outbound).map_err(|error| Failure::Config(error.to_string()))?;
        if self.listen.tls_certificate.as_os_str().is_empty() != self.listen.tls_key.as_os_str().is_empty() {
            return Err(wrong("listen", &"tls_certificate and tls_key belong together"));
        }
        for (key, url) in [
            ("database.url", &self.database.url),
            ("database.direct_url", &self.database.direct_url),
            ("database.metadata_url", &self.database.metadata_url),
            ("database.instance_manager_url", &self.database.instance_manager_url),
        ] {
            let text = url.secret();
            let text = text.expose_secret();
            if !text.is_empty() && !text.starts_with("postgres://") && !text.starts_with("postgresql://") {
                return Err(wrong(key, &"has to start with postgres://"));
            }
        }
        Ok(())
    }

    /// The configuration in TOML, secrets hidden.
    pub(crate) fn show(&self) -> String {
        toml::to_string(self).unwrap_or_else(|error| format!("# can't be shown: {error}"))
    }
}

fn wrong(key: &str, reason: &dyn std::fmt::Display) -> Failure {
    Failure::Config(format!("{key}: {reason}"))
}

/// Reads and checks the configuration.
pub(crate) fn load(arguments: &ConfigArguments) -> Result<Config, Failure> {
    read(arguments, |_| {})
}

/// The same for `berth serve`, whose flags come last.
pub(crate) fn load_for_serving(arguments: &ServeArguments) -> Result<Config, Failure> {
    read(&arguments.config, |config| {
        if let Some(listen) = &arguments.listen {
            config.listen.public.clone_from(listen);
        }
        if let Some(listen) = &arguments.admin_listen {
            config.listen.admin.clone_from(listen);
        }
        if let Some(format) = arguments.log_format {
            config.log.format = format.into();
        }
        if !arguments.role.is_empty() {
            config.roles = arguments.role.iter().copied().collect();
        }
    })
}

fn read(arguments: &ConfigArguments, flags: impl FnOnce(&mut Config)) -> Result<Config, Failure> {
    let mut figment = Figment::from(Serialized::defaults(Config::default()));
    if let Some(file) = &arguments.config {
        if !file.is_file() {
            return Err(Failure::Config(format!("there is no file {}", file.display())));
        }
        figment = figment.merge(Toml::file_exact(file));
    }
    figment = figment.merge(Env::prefixed("BERTH__").split("__"));
    let mut config: Config = figment.extract().map_err(|error| Failure::Config(error.to_string()))?;
    if let Some(data) = &arguments.data {
        config.data.clone_from(data);
    }
    flags(&mut config);
    config.check()?;
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(toml: &str) -> Result<Config, Failure> {
        let folder = std::env::temp_dir().join(format!("berth-config-{}-{}", std::process::id(), toml.len()));
        std::fs::create_dir_all(&folder).unwrap();
        let file = folder.join("berth.toml");
        std::fs::write(&file, toml).unwrap();
        let loaded = load(&ConfigArguments { config: Some(file), data: None });
        std::fs::remove_dir_all(folder).unwrap();
        loaded
    }

    #[test]
    fn an_unknown_key_is_refused_and_named() {
        let Err(Failure::Config(message)) = parse("[listen]\npubic = \"x\"\n") else { panic!("accepted") };
        assert!(message.contains("pubic"), "{message}");
    }

    #[test]
    fn a_role_apart_needs_the_addresses_of_the_others() {
        let Err(Failure::Config(message)) = parse("roles = [\"gateway\"]\n") else { panic!("accepted") };
        assert!(message.contains("peers."), "{message}");
    }

    #[test]
    fn a_store_that_seals_needs_the_keys() {
        let alone = "roles = [\"blob-store\"]\n";
        assert!(parse(alone).is_ok());
        let Err(Failure::Config(message)) = parse(&format!("{alone}[blob_store]\nencrypt = true\n")) else {
            panic!("accepted")
        };
        assert!(message.contains("peers.instance_manager"), "{message}");
    }

    #[test]
    fn grpc_stays_on_this_machine() {
        let Err(Failure::Config(message)) = parse("[listen]\ngrpc = \"0.0.0.0:7000\"\n") else {
            panic!("accepted")
        };
        assert!(message.contains("loopback"), "{message}");
    }

    #[test]
    fn a_shown_configuration_has_no_password() {
        let config = parse("[database]\nurl = \"postgres://berth:hunter2@127.0.0.1/berth\"\n").unwrap();
        assert!(!config.show().contains("hunter2") && !format!("{config:?}").contains("hunter2"));
        assert!(config.show().contains("(hidden)"));
    }

    #[test]
    fn a_redis_url_is_checked_and_hidden() {
        for good in ["redis://127.0.0.1", "rediss://berth:hunter2@redis.example:6380/3"] {
            let config = parse(&format!("[redis]\nurl = \"{good}\"\n")).unwrap();
            assert!(!config.show().contains(good) && !format!("{config:?}").contains("hunter2"), "{good}");
        }
        for bad in [
            "redis",
            "http://127.0.0.1",
            "redis:///hunter2",
            "rediss://hunter2@a/b",
            "rediss://hunter2/#insecure",
        ] {
            let Err(Failure::Config(message)) = parse(&format!("[redis]\nurl = \"{bad}\"\n")) else {
                panic!("accepted {bad}")
            };
            assert!(message.contains("redis.url") && !message.contains("hunter2"), "{message}");
        }
    }
}
