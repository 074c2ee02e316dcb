//! `berth verify`: one pass of the scrubber, as fast as it goes, in the registry that runs on this machine, or over the
//! files themselves when none does. It repairs nothing.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result, anyhow, bail};
use berth_access::RootKey;
use berth_blobs::Blobs;
use berth_database::{DataLock, Database};
use berth_proto::metadata::{
    ScrubFinding, ScrubNowRequest, ScrubPass, ScrubStatusRequest, metadata_client::MetadataClient,
};
use berth_service::{Address, Channel, Ids, Registry, SharedClock, SystemClock, Tasks};

use crate::{
    admin::said,
    arguments::ConfigArguments,
    config::{self, Config},
    failure::Failure,
    roles::Role,
    serve, terminal,
};

/// How often a pass is looked at.
const POLL: Duration = Duration::from_millis(100);

/// Verifies; damage is a failure with a code of its own.
pub(crate) async fn run(arguments: &ConfigArguments) -> Result<(), Failure> {
    let config = config::load(arguments)?;
    let own = config.roles().contains(&Role::Metadata);
    let address = if own { config.grpc_address()? } else { parse(&config.peers.metadata)? };
    let pass = if answers(&address).await {
        let address = match &address {
            Address::Unix(path) => format!("unix:{}", path.display()),
            Address::Tcp(address) => format!("http://{address}"),
        };
        let channel = Channel::remote("metadata", &address).map_err(anyhow::Error::from)?;
        watch(MetadataClient::new(channel)).await?
    } else if own {
        over_files(&config).await?
    } else {
        return Err(anyhow!("metadata does not answer at {address}").into());
    };
    let ScrubPass { blobs, manifests, objects, bytes, damaged, orphans, .. } = pass;
    terminal::line(&format!(
        "{blobs} blobs, {manifests} manifests, {objects} objects, {bytes} bytes: {damaged} damaged, {orphans} orphans"
    ));
    match damaged + orphans {
        0 => Ok(()),
        found => Err(Failure::Damage(found)),
    }
}

fn parse(address: &str) -> Result<Address, Failure> {
    let address = address.strip_prefix("http://").unwrap_or(address);
    address.parse().map_err(|error| Failure::Config(format!("peers.metadata: {error}")))
}

/// Whether somebody listens there.
async fn answers(address: &Address) -> bool {
    match address {
        Address::Unix(path) => tokio::net::UnixStream::connect(path).await.is_ok(),
        Address::Tcp(address) => tokio::net::TcpStream::connect(address).await.is_ok(),
    }
}

/// Opens what the registry would, under its locks, with nothing but the scrubber over it.
async fn over_files(config: &Config) -> Result<ScrubPass> {
    if config.postgres(&config.database.metadata_url, "metadata").is_none()
        && !config.data.join("metadata.db").is_file()
    {
        bail!("there is no registry in {}; name its folder with --data", config.data.display());
    }
    let _lock = DataLock::acquire(&config.data).context("can't verify")?;
    let (work, ground) = (Tasks::new(), Tasks::new());
    let mut registry = Registry::default();
    let clock: SharedClock = Arc::new(SystemClock);
    let own = open_own(config, &ground).await?;
    let blobs: Arc<dyn Blobs> = if config.roles().contains(&Role::BlobStore) {
        let deps = berth_blob_store::Deps {
            data: &config.data,
            keys: own.keys,
            instance_manager: own.stores.clone(),
            ids: Ids::random(Arc::clone(&clock)),
            tasks: work.clone(),
            registry: &mut registry,
        };
        berth_blob_store::build(&config.blob_store, deps).await.context("can't open blob-store")?.blobs
    } else {
        let channel = Channel::remote("blob-store", &config.peers.blob_store)
            .context("peers.blob_store: without it there are no bytes to verify")?;
        Arc::new(berth_blob_store::RemoteBlobs::new(channel))
    };
    let database = serve::metadata_database(config, &ground).await?;
    let deps = berth_metadata::Deps {
        database: database.clone(),
        ids: Ids::random(Arc::clone(&clock)),
        clock,
        subscribers: Vec::new(),
        blobs: Some(blobs),
        keys: None,
        stores: Some(own.stores),
        tasks: work.clone(),
        registry: &mut registry,
    };
    let server = berth_metadata::build_scrubber(config.metadata_settings(), deps);
    let outcome = watch(MetadataClient::new(Channel::local("metadata", server))).await;
    work.stop(Duration::from_secs(5)).await;
    database.close().await;
    if let Some(database) = own.database {
        database.close().await;
    }
    ground.stop(Duration::from_secs(5)).await;
    outcome
}

/// What instance-manager knows.
struct Own {
    keys: Channel,
    stores: Channel,
    database: Option<Database>,
}

/// Opens the keys and stores of instances where they are kept here, and asks for them elsewhere otherwise.
async fn open_own(config: &Config, ground: &Tasks) -> Result<Own> {
    let root_key = config.data.join("root.key");
    if !config.roles().contains(&Role::InstanceManager) || !root_key.is_file() {
        let channel = |name| {
            let channel = Channel::remote(name, &config.peers.instance_manager);
            channel.unwrap_or_else(|_| Channel::slot(name))
        };
        return Ok(Own { keys: channel("instance-keys"), stores: channel("stores"), database: None });
    }
    let root_key = RootKey::open_file(&root_key).context("can't use the root sealing key")?;
    let root_key = Arc::new(root_key);
    let database = serve::instance_manager_database(config, ground).await?;
    let clock: SharedClock = Arc::new(SystemClock);
    let ids = Ids::random(Arc::clone(&clock));
    let stores = berth_instance_manager::build_stores(database.clone(), Arc::clone(&root_key));
    let keys = berth_instance_manager::build_keys(database.clone(), root_key, ids, clock);
    Ok(Own {
        keys: Channel::local("instance-keys", keys),
        stores: Channel::local("stores", stores),
        database: Some(database),
    })
}

/// Asks for a pass, prints what it finds, and waits for its end.
async fn watch(mut metadata: MetadataClient<Channel>) -> Result<ScrubPass> {
    let asked = metadata.scrub_now(ScrubNowRequest { unpaced: true, ..ScrubNowRequest::default() }).await;
    let (mut number, mut shown) = (asked.map_err(|status| said(&status))?.into_inner().number, 0);
    loop {
        let asked = metadata.scrub_status(ScrubStatusRequest { findings_after: shown }).await;
        let status = asked.map_err(|status| said(&status))?.into_inner();
        let pass = status.pass.ok_or_else(|| anyhow!("the pass is not known any more"))?;
        if pass.number > number {
            // Somebody else asked for one after ours, which was given up for it.
            (number, shown) = (pass.number, 0);
            continue;
        }
        for finding in &status.findings {
            terminal::line(&describe(finding));
            shown = finding.number;
        }
        if status.more {
            continue;
        }
        if pass.ended_at.is_some() {
            return Ok(pass);
        }
        if !pass.waits_for.is_empty() {
            bail!("the pass can't go on: {}", pass.waits_for);
        }
        tokio::time::sleep(POLL).await;
    }
}

/// One line: what is wrong, and with what.
fn describe(finding: &ScrubFinding) -> String {
    let names = [finding.kind.as_str(), &finding.digest, &finding.object_key];
    names.into_iter().filter(|name| !name.is_empty()).collect::<Vec<_>>().join(" ")
}
