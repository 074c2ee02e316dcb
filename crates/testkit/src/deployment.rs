//! A deployment: processes, databases, and where clients reach it.

use std::{
    fmt::Write as _,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use anyhow::Context;

use crate::{ADMIN, Berth, Blob, Client, ObjectStorage, PASSWORD, Postgres, RoundRobin, Sql, janitor};

/// How roles are spread over processes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Layout {
    /// Every role in one process.
    OneProcess,
    /// Each role in a process of its own, gRPC between them.
    RolesApart,
}

/// Where rows are kept.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Engine {
    /// SQLite files.
    Sqlite,
    /// A database of its own in a PostgreSQL server.
    Postgres,
}

/// Where bytes are kept.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Storage {
    /// A folder.
    Folder,
    /// A bucket of an object storage in the test's process.
    Bucket,
    /// One that keeps the sizes of parts and not their bytes.
    HollowBucket,
}

/// What a test runs against.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Setting {
    /// Processes.
    pub layout: Layout,
    /// Databases.
    pub engine: Engine,
    /// Gateway processes, where roles are apart; more than one stand behind a round robin.
    pub gateways: usize,
    /// Metadata processes, where roles are apart; gateways take them in turn.
    pub metadata: usize,
    /// Bytes.
    pub storage: Storage,
    /// Whether they are encrypted by Berth.
    pub sealed: bool,
}

impl Setting {
    /// One process on SQLite: what `berth serve` is without any configuration.
    pub const EMBEDDED: Self = Self::new(Layout::OneProcess, Engine::Sqlite);

    /// The other layouts and engines, with one gateway.
    pub const fn new(layout: Layout, engine: Engine) -> Self {
        Self { layout, engine, gateways: 1, metadata: 1, storage: Storage::Folder, sealed: false }
    }

    /// The same with its bytes encrypted by Berth.
    #[must_use]
    pub const fn sealed(mut self) -> Self {
        self.sealed = true;
        self
    }

    /// The same with its bytes in object storage.
    #[must_use]
    pub const fn on_bucket(mut self) -> Self {
        self.storage = Storage::Bucket;
        self
    }

    /// The same with that many gateways.
    #[must_use]
    pub const fn with_gateways(mut self, gateways: usize) -> Self {
        self.gateways = gateways;
        self
    }

    /// The same with that many processes of metadata, on one PostgreSQL.
    #[must_use]
    pub const fn with_metadata(mut self, processes: usize) -> Self {
        self.metadata = processes;
        self
    }
}

/// Makes a [`Deployment`].
#[derive(Clone, Debug)]
pub struct Builder {
    setting: Setting,
    folder: Option<PathBuf>,
    environment: Vec<(String, String)>,
}

/// A running deployment. Its processes end when it is dropped, or with the test process.
#[derive(Debug)]
pub struct Deployment {
    setting: Setting,
    folder: PathBuf,
    database: Option<String>,
    /// Gateways first.
    processes: Vec<Berth>,
    round_robin: Option<RoundRobin>,
    object_storage: Option<ObjectStorage>,
}

impl Builder {
    /// Sets a key of the configuration in every process, as `BERTH__SECTION__KEY` does.
    #[must_use]
    pub fn with_env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// Collection waits for nothing but the floor, which is two seconds.
    #[must_use]
    pub fn collecting_at_once(self) -> Self {
        self.with_env("BERTH__METADATA__REVIEW_FLOOR_SECONDS", "2")
            .with_env("BERTH__METADATA__REVIEW_DELAY_SECONDS", "0")
            .with_env("BERTH__METADATA__OBJECT_GRACE_SECONDS", "1")
            .with_env("BERTH__METADATA__COLLECTION_POLL_SECONDS", "1")
    }

    /// Keeps everything in this folder, which is there already, and not in one of the kit's own.
    #[must_use]
    pub fn within(mut self, folder: impl Into<PathBuf>) -> Self {
        self.folder = Some(folder.into());
        self
    }

    /// Starts everything and waits until it is ready.
    ///
    /// # Errors
    /// When a process is not ready in time.
    pub async fn start(self) -> anyhow::Result<Deployment> {
        let folder = self.folder.unwrap_or_else(|| janitor::new_folder("berth-"));
        let database = match self.setting.engine {
            Engine::Sqlite => None,
            Engine::Postgres => Some(Postgres::shared().await.fresh_database().await?),
        };
        let object_storage = match self.setting.storage {
            Storage::Folder => None,
            Storage::Bucket => Some(ObjectStorage::start()),
            Storage::HollowBucket => Some(ObjectStorage::hollow()),
        };
        let mut environment: Vec<_> = object_storage.iter().flat_map(ObjectStorage::settings).collect();
        if self.setting.sealed {
            environment.push(("BERTH__BLOB_STORE__ENCRYPT".to_owned(), "true".to_owned()));
        }
        environment.extend(self.environment);
        let plan = Plan { folder: &folder, database: database.as_deref(), environment: &environment };
        let processes = match self.setting.layout {
            Layout::OneProcess => vec![plan.process("berth", &[], &[])?],
            Layout::RolesApart => plan.roles_apart(self.setting)?,
        };
        for process in &processes {
            process.spawn()?;
        }
        for process in &processes {
            process.wait_ready().await?;
        }
        let setting = self.setting;
        let mut deployment =
            Deployment { setting, folder, database, processes, round_robin: None, object_storage };
        if self.setting.gateways > 1 {
            deployment.round_robin = Some(RoundRobin::start(deployment.gateway_addresses()));
        }
        Ok(deployment)
    }
}

/// The files of a deployment that is being made.
struct Plan<'a> {
    folder: &'a Path,
    database: Option<&'a str>,
    environment: &'a [(String, String)],
}

impl Plan<'_> {
    fn socket(&self, role: &str) -> String {
        format!("unix:{}", self.folder.join(format!("{role}.sock")).display())
    }

    /// `peers`: roles, each with the process that has it.
    fn process(&self, name: &str, roles: &[&str], peers: &[(&str, &str)]) -> anyhow::Result<Berth> {
        let data = self.folder.join(name);
        let mut config = String::new();
        writeln!(config, "roles = {roles:?}")?;
        writeln!(config, "data = {data:?}")?;
        writeln!(config, "[listen]\npublic = \"127.0.0.1:0\"\nadmin = \"127.0.0.1:0\"")?;
        if !roles.is_empty() {
            writeln!(config, "grpc = {:?}", self.socket(name))?;
        }
        writeln!(config, "[log]\nformat = \"json\"")?;
        if let Some(url) = self.database {
            writeln!(config, "[database]\nurl = {url:?}")?;
        }
        if !peers.is_empty() {
            writeln!(config, "[peers]")?;
            for (role, process) in peers {
                writeln!(config, "{} = {:?}", role.replace('-', "_"), self.socket(process))?;
            }
        }
        let file = self.folder.join(format!("{name}.toml"));
        std::fs::write(&file, config).with_context(|| format!("can't write {}", file.display()))?;
        let arguments = vec!["serve".to_owned(), "--config".to_owned(), file.display().to_string()];
        let mut environment = vec![("BERTH_ADMIN_PASSWORD".to_owned(), PASSWORD.to_owned())];
        environment.extend(self.environment.iter().cloned());
        Ok(Berth::new(name, arguments, environment))
    }

    fn roles_apart(&self, setting: Setting) -> anyhow::Result<Vec<Berth>> {
        let mut processes = Vec::new();
        let metadata = |number: usize| match number % setting.metadata {
            0 => "metadata".to_owned(),
            number => format!("metadata-{}", number + 1),
        };
        let (instances, blobs) = (("instance-manager", "instance-manager"), ("blob-store", "blob-store"));
        for number in 1..=setting.gateways {
            let peers = [("metadata", &*metadata(number - 1)), instances, blobs];
            processes.push(self.process(
                &format!("gateway-{number}"),
                &["gateway", "management-api"],
                &peers,
            )?);
        }
        for number in 0..setting.metadata {
            processes.push(self.process(&metadata(number), &["metadata"], &[instances, blobs])?);
        }
        let peers = [("metadata", "metadata"), blobs];
        processes.push(self.process("instance-manager", &["instance-manager"], &peers)?);
        processes.push(self.process("blob-store", &["blob-store"], &[instances])?);
        Ok(processes)
    }
}

impl Deployment {
    /// A deployment of `setting`.
    pub fn builder(setting: Setting) -> Builder {
        Builder { setting, folder: None, environment: Vec::new() }
    }

    /// What it is.
    pub fn setting(&self) -> Setting {
        self.setting
    }

    /// Where clients reach it: `http://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address())
    }

    /// The address behind [`Self::url`].
    pub fn address(&self) -> SocketAddr {
        match &self.round_robin {
            Some(round_robin) => round_robin.address(),
            None => self.processes[0].public_address(),
        }
    }

    /// Of those that run.
    fn gateway_addresses(&self) -> Vec<SocketAddr> {
        let gateways = &self.processes[..self.setting.gateways];
        gateways.iter().filter_map(|gateway| gateway.address("public")).collect()
    }

    /// A client of the administrator.
    pub fn client(&self) -> Client {
        Client::new(self.url()).with_credentials(ADMIN, PASSWORD)
    }

    /// A client of the administrator that speaks to one gateway alone.
    pub fn client_of_gateway(&self, number: usize) -> Client {
        Client::new(self.processes[number].url()).with_credentials(ADMIN, PASSWORD)
    }

    /// A client of nobody that asks for a host of the deployment.
    pub fn client_at(&self, host: &str) -> Client {
        Client::at_host(host, self.address())
    }

    /// The same that speaks to one gateway alone.
    pub fn client_of_gateway_at(&self, number: usize, host: &str) -> Client {
        Client::at_host(host, self.processes[number].public_address())
    }

    /// A client of nobody.
    pub fn anonymous(&self) -> Client {
        Client::new(self.url())
    }

    /// The processes, gateways first.
    pub fn processes(&self) -> &[Berth] {
        &self.processes
    }

    /// The process that runs `role`.
    pub fn process(&self, role: &str) -> &Berth {
        let named = self.processes.iter().find(|process| process.name() == role);
        named.unwrap_or(&self.processes[0])
    }

    /// A connection to its PostgreSQL database, for a test that gets in its way.
    ///
    /// # Errors
    /// When it is not on PostgreSQL, or that does not answer.
    pub async fn sql(&self) -> anyhow::Result<Sql> {
        Sql::connect(self.database.as_deref().context("there is no PostgreSQL")?).await
    }

    /// The folder that holds everything of it.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The object storage that holds its bytes.
    pub fn object_storage(&self) -> &ObjectStorage {
        self.object_storage.as_ref().expect("a deployment with its bytes in object storage")
    }

    /// The files of all objects, in the blob folder or behind the bucket.
    pub fn objects(&self) -> Vec<PathBuf> {
        let folder = match &self.object_storage {
            Some(storage) => storage.file("i"),
            None => self.folder.join(self.process("blob-store").name()).join("blobs/i"),
        };
        let mut objects = Vec::new();
        files_below(&folder, &mut objects);
        objects
    }

    /// The file that holds a blob's bytes.
    pub fn file_of(&self, blob: &Blob) -> PathBuf {
        let holds = |path: &PathBuf| std::fs::read(path).is_ok_and(|bytes| bytes == blob.bytes);
        self.objects().into_iter().find(holds).expect("an object with these bytes")
    }

    /// Restarts a process after `kill -9`, on the same data, and leads new connections to its new port.
    ///
    /// # Errors
    /// When it is not ready in time.
    pub async fn restart(&self, role: &str) -> anyhow::Result<()> {
        self.process(role).restart().await?;
        if let Some(round_robin) = &self.round_robin {
            round_robin.retarget(self.gateway_addresses());
        }
        Ok(())
    }

    /// The most memory that any process has had resident so far, in bytes.
    pub fn peak_resident_bytes(&self) -> u64 {
        self.processes.iter().filter_map(Berth::peak_resident_bytes).max().unwrap_or_default()
    }

    /// Resident memory of all processes in bytes.
    pub fn resident_bytes(&self) -> u64 {
        self.processes.iter().filter_map(Berth::resident_bytes).sum()
    }
}

fn files_below(folder: &Path, files: &mut Vec<PathBuf>) {
    // A folder may go while it is looked at.
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for path in entries.map_while(Result::ok).map(|entry| entry.path()) {
        if path.is_dir() { files_below(&path, files) } else { files.push(path) }
    }
}

impl Drop for Deployment {
    fn drop(&mut self) {
        self.processes.clear();
        let _removed_later = std::fs::remove_dir_all(&self.folder);
    }
}
