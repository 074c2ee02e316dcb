//! `berth admin`: instances, their editions and their life.

use anyhow::Result;
use berth_proto::instance_manager::{
    AddOns, CreateInstanceRequest, DeleteInstanceRequest, GetInstanceRequest, GetInstanceUsageRequest,
    Instance, InstanceEntry, Limits, ListEditionsRequest, ListInstancesRequest, ListRegionsRequest,
    SetEditionRequest, StartInstanceRequest, StopInstanceRequest, UpdateInstanceRequest,
    instances_client::InstancesClient,
};
use berth_service::Channel;
use clap::{Args, Subcommand};

use crate::{admin::said, terminal};

/// What an instance has beyond its edition.
#[derive(Debug, Args)]
pub(crate) struct More {
    /// Namespaces beyond the edition's, in steps of 5
    #[arg(long, default_value_t = 0)]
    more_namespaces: u64,
    /// Repositories beyond the edition's, in steps of 1000
    #[arg(long, default_value_t = 0)]
    more_repositories: u64,
}

impl More {
    fn add_ons(&self) -> AddOns {
        AddOns { namespaces: self.more_namespaces, repositories: self.more_repositories, private_networks: 0 }
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum InstanceCommand {
    /// Make an instance
    CreateInstance {
        /// Its name, which is part of its host
        name: String,
        /// Its edition; see the command editions
        #[arg(long)]
        edition: String,
        /// Where it lives; see the command regions
        #[arg(long)]
        region: String,
        #[command(flatten)]
        more: More,
        /// What it is for
        #[arg(long, default_value = "")]
        description: String,
        /// Let pushes make namespaces
        #[arg(long)]
        create_on_push: bool,
    },
    /// Print the instances
    Instances,
    /// Say whether pushes may make namespaces
    SetCreateOnPush {
        /// The instance's name
        name: String,
        /// true or false
        #[arg(action = clap::ArgAction::Set)]
        allowed: bool,
    },
    /// Give an instance another edition; refused when what it uses does not fit
    SetEdition {
        /// The instance's name
        name: String,
        /// The edition
        edition: String,
        #[command(flatten)]
        more: More,
    },
    /// Refuse all reads and writes of an instance
    StopInstance {
        /// The instance's name
        name: String,
    },
    /// Serve an instance again
    StartInstance {
        /// The instance's name
        name: String,
    },
    /// End an instance for good, with its people, keys and bytes
    DeleteInstance {
        /// The instance's name
        name: String,
        /// Also when it has repositories
        #[arg(long)]
        force: bool,
    },
    /// Print what an instance uses of what it may have
    Usage {
        /// The instance's name
        name: String,
    },
    /// Print the editions
    Editions,
    /// Print the regions
    Regions,
}

fn limits(limits: Option<Limits>) -> serde_json::Value {
    let Some(limits) = limits else { return serde_json::Value::Null };
    serde_json::json!({
        "image_namespaces": limits.image_namespaces,
        "image_repositories": limits.image_repositories,
        "chart_namespaces": limits.chart_namespaces,
        "chart_repositories": limits.chart_repositories,
        "concurrent_builds": limits.concurrent_builds,
        "linked_private_networks": limits.linked_private_networks,
        "repository_depth": limits.repository_depth,
        "pull_rate": limits.pull_rate,
    })
}

/// `served`: what gateways are told, which says where bytes go.
fn print(served: &[Instance], instance: InstanceEntry) {
    let wished = (!instance.wished_edition.is_empty()).then_some(instance.wished_edition);
    let told = served.iter().find(|told| told.id == instance.id);
    let line = serde_json::json!({
        "id": instance.id,
        "name": instance.name,
        "default": instance.default,
        "state": instance.state,
        "edition": instance.edition,
        "wished_edition": wished,
        "limits": limits(instance.limits),
        "region": instance.region,
        "description": instance.description,
        "create_on_push": instance.create_on_push,
        "deletion_wished": instance.deletion_wished,
        "blob_delivery": told.map(|told| &told.blob_delivery),
        "store": told.map(|told| &told.store_id),
    });
    terminal::line(&line.to_string());
}

/// Runs one command.
pub(crate) async fn run(
    mut instances: InstancesClient<Channel>,
    served: &[Instance],
    command: InstanceCommand,
) -> Result<()> {
    let refused = |status: tonic::Status| said(&status);
    match command {
        InstanceCommand::CreateInstance { name, edition, region, more, description, create_on_push } => {
            let add_ons = Some(more.add_ons());
            let request = CreateInstanceRequest {
                actor: None,
                name,
                edition,
                add_ons,
                region,
                description,
                create_on_push,
            };
            print(served, instances.create_instance(request).await.map_err(refused)?.into_inner());
        }
        InstanceCommand::Instances => {
            let mut after = String::new();
            loop {
                let request = ListInstancesRequest { limit: 0, after };
                let page = instances.list_instances(request).await.map_err(refused)?.into_inner().instances;
                let Some(last) = page.last() else { return Ok(()) };
                after = last.id.clone();
                page.into_iter().for_each(|instance| print(served, instance));
            }
        }
        InstanceCommand::SetCreateOnPush { name, allowed } => {
            let id = id(&mut instances, name).await?;
            let request = UpdateInstanceRequest { id, create_on_push: Some(allowed), ..Default::default() };
            print(served, instances.update_instance(request).await.map_err(refused)?.into_inner());
        }
        InstanceCommand::SetEdition { name, edition, more } => {
            let id = id(&mut instances, name).await?;
            let request =
                SetEditionRequest { id, edition, add_ons: Some(more.add_ons()), ..Default::default() };
            print(served, instances.set_edition(request).await.map_err(refused)?.into_inner());
        }
        InstanceCommand::StopInstance { name } => {
            let id = id(&mut instances, name).await?;
            let request = StopInstanceRequest { id, ..Default::default() };
            print(served, instances.stop_instance(request).await.map_err(refused)?.into_inner());
        }
        InstanceCommand::StartInstance { name } => {
            let id = id(&mut instances, name).await?;
            let request = StartInstanceRequest { id, ..Default::default() };
            print(served, instances.start_instance(request).await.map_err(refused)?.into_inner());
        }
        InstanceCommand::DeleteInstance { name, force } => {
            let id = id(&mut instances, name).await?;
            let request = DeleteInstanceRequest { id, force, ..Default::default() };
            print(served, instances.delete_instance(request).await.map_err(refused)?.into_inner());
        }
        InstanceCommand::Usage { name } => {
            let request = GetInstanceUsageRequest { id: id(&mut instances, name).await? };
            let usage = instances.get_usage(request).await.map_err(refused)?.into_inner();
            let line = serde_json::json!({
                "image_namespaces": usage.image_namespaces,
                "image_repositories": usage.image_repositories,
                "blobs": usage.blobs,
                "blob_bytes": usage.blob_bytes,
                "users": usage.users,
                "robots": usage.robots,
                "groups": usage.groups,
                "limits": limits(usage.limits),
            });
            terminal::line(&line.to_string());
        }
        InstanceCommand::Editions => {
            let editions = instances.list_editions(ListEditionsRequest {}).await.map_err(refused)?;
            for edition in editions.into_inner().editions {
                let line = serde_json::json!({
                    "name": edition.name, "limits": limits(edition.limits), "features": edition.features,
                });
                terminal::line(&line.to_string());
            }
        }
        InstanceCommand::Regions => {
            let regions = instances.list_regions(ListRegionsRequest {}).await.map_err(refused)?;
            for region in regions.into_inner().regions {
                let line = serde_json::json!({
                    "id": region.id, "city": region.city, "cloud": region.cloud, "zones": region.zones,
                });
                terminal::line(&line.to_string());
            }
        }
    }
    Ok(())
}

async fn id(instances: &mut InstancesClient<Channel>, name: String) -> Result<String> {
    let request = GetInstanceRequest { id: String::new(), name };
    let found = instances.get_instance(request).await.map_err(|status| said(&status))?;
    Ok(found.into_inner().id)
}
