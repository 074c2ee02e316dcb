//! `berth admin`: managing the running registry of this machine through its local socket, which only the owner of the
//! data folder may open.

use anyhow::{Context, Result, anyhow, bail};
use berth_model::{BlobDelivery, Visibility};
use berth_oci::RepositoryName;
use berth_proto::{
    instance_manager::{
        Instance, RotateInstanceKeyRequest, RotateTokenKeyRequest, SetBlobDeliveryRequest,
        ShredInstanceKeysRequest, WatchRequest, audit_client::AuditClient,
        identity_providers_client::IdentityProvidersClient, instance_keys_client::InstanceKeysClient,
        instance_manager_client::InstanceManagerClient, instances_client::InstancesClient,
        principals_client::PrincipalsClient, roles_client::RolesClient,
    },
    metadata::{
        CollectNowRequest, CollectionStatusRequest, ScrubNowRequest, ScrubStatusRequest,
        UpdateRepositoryRequest, metadata_client::MetadataClient, repositories_client::RepositoriesClient,
    },
};
use berth_service::{Address, Channel};
use clap::{Args, Subcommand};

use crate::{
    arguments::ConfigArguments,
    audit::{self, AuditArguments},
    config::{self, Config},
    content::{self, ContentCommand},
    failure::Failure,
    identity::{self, IdentityCommand},
    instances::{self, InstanceCommand},
    people::{self, PeopleCommand},
    storage::{self, RotateStorageCredentials, SetStorage, ShowStorage},
    terminal,
};

#[derive(Debug, Args)]
pub(crate) struct AdminArguments {
    #[command(flatten)]
    config: ConfigArguments,
    /// The instance that the command is about
    #[arg(long, value_name = "NAME")]
    instance: Option<String>,
    #[command(subcommand)]
    command: AdminCommand,
}

#[derive(Debug, Subcommand)]
enum AdminCommand {
    #[command(flatten)]
    People(PeopleCommand),
    #[command(flatten)]
    Identity(Box<IdentityCommand>),
    #[command(flatten)]
    Tenancy(InstanceCommand),
    #[command(flatten)]
    Content(ContentCommand),
    /// Say who may pull a repository without a grant
    SetVisibility {
        /// The repository
        repository: RepositoryName,
        /// public or private
        visibility: Visibility,
    },
    /// Say how the bytes of an instance's blobs reach clients; running registries follow within a second
    SetBlobDelivery {
        /// The instance's name
        instance: String,
        /// stream, through the registry; or redirect, by URLs of the object storage, where blobs are there
        delivery: BlobDelivery,
    },
    /// Say where the bytes of an instance's new blobs go, once that was tried out; old ones stay where they are
    SetStorage(Box<SetStorage>),
    /// Give a bucket of an instance other credentials, once they were tried out
    RotateStorageCredentials(RotateStorageCredentials),
    /// Print the storage that an instance has and had, without secrets
    ShowStorage(ShowStorage),
    /// Print the audit as JSON lines, in the order of recording
    Audit(AuditArguments),
    /// Look at the collection of what nothing needs any more, or hasten it
    Collection {
        #[command(subcommand)]
        command: CollectionCommand,
    },
    /// Sign tokens with the next key from now on; those of the former one stay valid
    RotateTokenKey,
    /// Make a new key for what an instance stores; what the former one has sealed is sealed again by and by
    RotateInstanceKey {
        /// The instance's name
        #[arg(long, default_value = "default")]
        instance: String,
    },
    /// Destroy every key of an instance: its sealed blobs are lost for good
    ShredInstanceKeys {
        /// The instance's name
        #[arg(long)]
        instance: String,
        /// Yes, destroy them
        #[arg(long)]
        yes: bool,
    },
    /// Look at the comparison of rows and bytes, or begin one
    Scrub {
        #[command(subcommand)]
        command: ScrubCommand,
    },
}

#[derive(Debug, Subcommand)]
enum ScrubCommand {
    /// Print how far the newest pass is, and what it has found
    Status,
    /// Begin a pass at the usual pace
    Now,
}

#[derive(Debug, Subcommand)]
enum CollectionCommand {
    /// Print the queues, what can be reclaimed, and when
    Status,
    /// Review everything as soon as the floor allows; what was just pushed or seen stays safe
    Now,
}

/// The two services behind the socket, and the default instance.
struct Registry {
    metadata: MetadataClient<Channel>,
    repositories: RepositoriesClient<Channel>,
    instance_manager: InstanceManagerClient<Channel>,
    audit: AuditClient<Channel>,
    keys: InstanceKeysClient<Channel>,
    tenancy: InstancesClient<Channel>,
    people: PrincipalsClient<Channel>,
    identity: IdentityProvidersClient<Channel>,
    roles: RolesClient<Channel>,
    instance_id: String,
    instances: Vec<Instance>,
}

impl Registry {
    async fn connect(config: &Config) -> Result<Self> {
        let local = match config.grpc_address() {
            Ok(Address::Unix(path)) => format!("unix:{}", path.display()),
            Ok(Address::Tcp(address)) => format!("http://{address}"),
            Err(failure) => bail!("{failure}"),
        };
        let address = |peer: &str| if peer.is_empty() { local.clone() } else { peer.to_owned() };
        let metadata = Channel::remote("metadata", &address(&config.peers.metadata))?;
        let instance_manager = Channel::remote("instance-manager", &address(&config.peers.instance_manager))?;
        let audit = AuditClient::new(instance_manager.clone());
        let keys = InstanceKeysClient::new(instance_manager.clone());
        let tenancy = InstancesClient::new(instance_manager.clone());
        let people = PrincipalsClient::new(instance_manager.clone());
        let identity = IdentityProvidersClient::new(instance_manager.clone());
        let roles = RolesClient::new(instance_manager.clone());
        let mut instance_manager = InstanceManagerClient::new(instance_manager);
        let hint =
            || format!("no running registry answers at {local}; start it, or name its folder with --data");
        let mut settings =
            instance_manager.watch(WatchRequest { revision: 0 }).await.with_context(hint)?.into_inner();
        let settings = settings.message().await.with_context(hint)?.with_context(hint)?;
        let instances = settings.instances;
        let instance = instances.iter().find(|instance| instance.default);
        let instance = instance.ok_or_else(|| anyhow!("the registry has no default instance"))?;
        let instance_id = instance.id.clone();
        let repositories = RepositoriesClient::new(metadata.clone());
        let metadata = MetadataClient::new(metadata);
        Ok(Self {
            metadata,
            repositories,
            instance_manager,
            audit,
            keys,
            tenancy,
            people,
            identity,
            roles,
            instance_id,
            instances,
        })
    }

    /// The id of an instance.
    fn instance_named(&self, name: &str) -> Result<String> {
        let found = self.instances.iter().find(|known| known.name == name);
        Ok(found.ok_or_else(|| anyhow!("there is no instance {name}"))?.id.clone())
    }
}

pub(crate) fn said(status: &tonic::Status) -> anyhow::Error {
    anyhow!("{}", berth_proto::from_status(status).message)
}

/// Runs one command.
pub(crate) async fn run(arguments: AdminArguments) -> Result<(), Failure> {
    let config = config::load(&arguments.config)?;
    let registry = Registry::connect(&config).await?;
    Ok(command(registry, arguments.instance, arguments.command).await?)
}

async fn command(mut registry: Registry, instance: Option<String>, command: AdminCommand) -> Result<()> {
    let instance_id = match instance {
        Some(name) => registry.instance_named(&name)?,
        None => registry.instance_id.clone(),
    };
    match command {
        AdminCommand::People(command) => {
            people::run(registry.people.clone(), registry.roles.clone(), instance_id, command).await?;
        }
        AdminCommand::Identity(command) => {
            identity::run(registry.identity.clone(), instance_id, *command).await?;
        }
        AdminCommand::Tenancy(command) => {
            instances::run(registry.tenancy.clone(), &registry.instances, command).await?;
        }
        AdminCommand::Content(command) => {
            content::run(registry.repositories.clone(), instance_id, command).await?;
        }
        AdminCommand::SetVisibility { repository, visibility } => {
            let request = UpdateRepositoryRequest {
                instance_id,
                path: repository.to_string(),
                public: Some(visibility == Visibility::Public),
                ..UpdateRepositoryRequest::default()
            };
            registry.repositories.update_repository(request).await.map_err(|status| said(&status))?;
            terminal::line(&format!("{repository} is {}", visibility.as_str()));
        }
        AdminCommand::SetBlobDelivery { instance, delivery } => {
            let request = SetBlobDeliveryRequest {
                actor: None,
                instance_id: registry.instance_named(&instance)?,
                blob_delivery: delivery.as_str().to_owned(),
            };
            let asked = registry.instance_manager.set_blob_delivery(request).await;
            asked.map_err(|status| said(&status))?;
            terminal::line(&format!("{instance} delivers blobs by {}", delivery.as_str()));
        }
        AdminCommand::SetStorage(wanted) => {
            let instance = registry.instance_named(&wanted.instance)?;
            storage::set(&mut registry.instance_manager, instance, *wanted).await?;
        }
        AdminCommand::RotateStorageCredentials(wanted) => {
            let instance = registry.instance_named(&wanted.instance)?;
            storage::rotate(&mut registry.instance_manager, instance, wanted).await?;
        }
        AdminCommand::ShowStorage(wanted) => {
            let instance = registry.instance_named(&wanted.instance)?;
            storage::show(&mut registry.instance_manager, instance).await?;
        }
        AdminCommand::Audit(wanted) => audit::print(registry.audit, instance_id, wanted).await?,
        AdminCommand::Collection { command: CollectionCommand::Now } => {
            let request = CollectNowRequest { instance_id, ..CollectNowRequest::default() };
            let begun = registry.metadata.collect_now(request).await.map_err(|status| said(&status))?;
            terminal::line(&format!("task {} runs", begun.into_inner().task_id));
        }
        AdminCommand::Collection { command: CollectionCommand::Status } => {
            let asked = registry.metadata.collection_status(CollectionStatusRequest {}).await;
            let status = asked.map_err(|status| said(&status))?.into_inner();
            for queue in status.queues {
                let line = serde_json::json!({
                    "queue": queue.name,
                    "depth": queue.depth,
                    "first_due": queue.first_due,
                });
                terminal::line(&line.to_string());
            }
            let line = serde_json::json!({
                "reclaimable_bytes": status.reclaimable_bytes,
                "reclaimable_at": status.reclaimable_at,
            });
            terminal::line(&line.to_string());
        }
        AdminCommand::RotateTokenKey => {
            let asked = registry.instance_manager.rotate_token_key(RotateTokenKeyRequest {}).await;
            let key = asked.map_err(|status| said(&status))?.into_inner().key_id;
            terminal::line(&format!("tokens are signed with {key}"));
        }
        AdminCommand::RotateInstanceKey { instance } => {
            let request = RotateInstanceKeyRequest { instance: instance.clone() };
            let made = registry.keys.rotate_instance_key(request).await.map_err(|status| said(&status))?;
            terminal::line(&format!("the key of {instance} is {}", made.into_inner().key_id));
        }
        AdminCommand::ShredInstanceKeys { instance, yes } => {
            if !yes {
                bail!("this destroys what {instance} has stored sealed, for good; add --yes to do it");
            }
            let request = ShredInstanceKeysRequest { instance: instance.clone() };
            let shredded =
                registry.keys.shred_instance_keys(request).await.map_err(|status| said(&status))?;
            let destroyed = shredded.into_inner().destroyed;
            terminal::line(&format!("{destroyed} keys of {instance} were destroyed"));
        }
        AdminCommand::Scrub { command: ScrubCommand::Now } => {
            let request = ScrubNowRequest { instance_id, ..ScrubNowRequest::default() };
            let asked = registry.metadata.scrub_now(request).await;
            let number = asked.map_err(|status| said(&status))?.into_inner().number;
            terminal::line(&format!("pass {number} runs"));
        }
        AdminCommand::Scrub { command: ScrubCommand::Status } => scrub_status(&mut registry).await?,
    }
    Ok(())
}

async fn scrub_status(registry: &mut Registry) -> Result<()> {
    let mut findings_after = 0;
    loop {
        let asked = registry.metadata.scrub_status(ScrubStatusRequest { findings_after }).await;
        let status = asked.map_err(|status| said(&status))?.into_inner();
        for finding in &status.findings {
            findings_after = finding.number;
            let line = serde_json::json!({
                "kind": finding.kind,
                "digest": finding.digest,
                "object": finding.object_key,
            });
            terminal::line(&line.to_string());
        }
        if status.more {
            continue;
        }
        if let Some(pass) = status.pass {
            let line = serde_json::json!({
                "pass": pass.number,
                "phase": pass.phase,
                "started_at": pass.started_at,
                "ended_at": pass.ended_at,
                "blobs": pass.blobs,
                "manifests": pass.manifests,
                "objects": pass.objects,
                "bytes": pass.bytes,
                "damaged": pass.damaged,
                "orphans": pass.orphans,
                "waits_for": pass.waits_for,
            });
            terminal::line(&line.to_string());
        }
        return Ok(());
    }
}
