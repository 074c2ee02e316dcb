//! Instances, editions and regions on the wire.

use berth_model::{AddOns, Edition, Limits};
use berth_proto::{
    instance_manager::{
        self as wire, CreateInstanceRequest, DeleteInstanceRequest, EditionEntry, GetInstanceRequest,
        GetInstanceUsageRequest, InstanceEntry, InstanceUsage, ListEditionsRequest, ListEditionsResponse,
        ListInstancesRequest, ListInstancesResponse, ListRegionsRequest, ListRegionsResponse, RegionEntry,
        SetEditionRequest, StartInstanceRequest, StopInstanceRequest, UpdateInstanceRequest,
        instances_server::Instances as InstancesService,
    },
    optional, parse, to_status,
};
use tonic::{Request, Response, Status};

use super::{
    principals::{limit, version},
    status,
};
use crate::{
    actor::Actor,
    instances::{InstanceWish, Instances},
    store::{InstanceChange, Tenant},
};

/// The service behind [`InstancesServer`](berth_proto::instance_manager::instances_server::InstancesServer).
#[derive(Clone, Debug)]
pub struct InstancesApi {
    pub(crate) instances: Instances,
}

type Answer<T> = Result<Response<T>, Status>;

fn add_ons(asked: Option<wire::AddOns>) -> Option<AddOns> {
    asked.map(|asked| AddOns {
        namespaces: asked.namespaces,
        repositories: asked.repositories,
        private_networks: asked.private_networks,
    })
}

fn limits(limits: &Limits, edition: &Edition) -> wire::Limits {
    wire::Limits {
        image_namespaces: limits.image_namespaces,
        image_repositories: limits.image_repositories,
        chart_namespaces: limits.chart_namespaces,
        chart_repositories: limits.chart_repositories,
        concurrent_builds: limits.concurrent_builds,
        linked_private_networks: limits.linked_private_networks,
        repository_depth: edition.repository_depth,
        pull_rate: edition.pull_rate.to_string(),
    }
}

impl InstancesApi {
    fn entry(&self, tenant: Tenant) -> InstanceEntry {
        let edition = self.instances.editions.get(&tenant.edition);
        InstanceEntry {
            id: tenant.id.to_string(),
            name: tenant.name,
            default: tenant.default,
            state: tenant.state.to_string(),
            limits: edition.map(|edition| limits(&edition.limits_with(&tenant.add_ons), edition)),
            edition: tenant.edition,
            add_ons: Some(wire::AddOns {
                namespaces: tenant.add_ons.namespaces,
                repositories: tenant.add_ons.repositories,
                private_networks: tenant.add_ons.private_networks,
            }),
            wished_edition: tenant.wish.map(|(edition, _)| edition).unwrap_or_default(),
            region: tenant.region,
            description: tenant.description,
            create_on_push: tenant.create_on_push,
            created_at: tenant.created_at.0,
            updated_at: tenant.updated_at.0,
            version: tenant.version,
            deletion_wished: tenant.wish_delete.is_some(),
            task_id: String::new(),
            blob_delivery: tenant.blob_delivery,
        }
    }
}

#[tonic::async_trait]
impl InstancesService for InstancesApi {
    async fn create_instance(&self, request: Request<CreateInstanceRequest>) -> Answer<InstanceEntry> {
        let request = request.into_inner();
        let actor = Actor::read(request.actor).map_err(to_status)?;
        let wish = InstanceWish {
            name: request.name,
            edition: request.edition,
            add_ons: add_ons(request.add_ons).unwrap_or_default(),
            region: request.region,
            description: request.description,
            create_on_push: request.create_on_push,
        };
        let made = self.instances.create(&actor, wish).await.map_err(status)?;
        Ok(Response::new(self.entry(made)))
    }

    async fn get_instance(&self, request: Request<GetInstanceRequest>) -> Answer<InstanceEntry> {
        let request = request.into_inner();
        let found = match optional("id", &request.id).map_err(to_status)? {
            Some(id) => self.instances.get(id).await,
            None => self.instances.named(&request.name).await,
        };
        Ok(Response::new(self.entry(found.map_err(status)?)))
    }

    async fn list_instances(&self, request: Request<ListInstancesRequest>) -> Answer<ListInstancesResponse> {
        let request = request.into_inner();
        let after = optional("after", &request.after).map_err(to_status)?;
        let found = self.instances.store.tenants(after, limit(request.limit)).await.map_err(status)?;
        let instances = found.into_iter().map(|tenant| self.entry(tenant));
        Ok(Response::new(ListInstancesResponse { instances: instances.collect() }))
    }

    async fn update_instance(&self, request: Request<UpdateInstanceRequest>) -> Answer<InstanceEntry> {
        let request = request.into_inner();
        let actor = Actor::read(request.actor).map_err(to_status)?;
        let instance = parse("id", &request.id).map_err(to_status)?;
        let seen = version(request.version);
        let change =
            InstanceChange { description: request.description, create_on_push: request.create_on_push };
        let after = self.instances.change(&actor, instance, seen, change).await.map_err(status)?;
        Ok(Response::new(self.entry(after)))
    }

    async fn set_edition(&self, request: Request<SetEditionRequest>) -> Answer<InstanceEntry> {
        let request = request.into_inner();
        let actor = Actor::read(request.actor).map_err(to_status)?;
        let instance = parse("id", &request.id).map_err(to_status)?;
        let (seen, add_ons) = (version(request.version), add_ons(request.add_ons));
        let after = self.instances.set_edition(&actor, instance, seen, &request.edition, add_ons).await;
        Ok(Response::new(self.entry(after.map_err(status)?)))
    }

    async fn stop_instance(&self, request: Request<StopInstanceRequest>) -> Answer<InstanceEntry> {
        let request = request.into_inner();
        let actor = Actor::read(request.actor).map_err(to_status)?;
        let instance = parse("id", &request.id).map_err(to_status)?;
        let after = self.instances.set_running(&actor, instance, version(request.version), false).await;
        Ok(Response::new(self.entry(after.map_err(status)?)))
    }

    async fn start_instance(&self, request: Request<StartInstanceRequest>) -> Answer<InstanceEntry> {
        let request = request.into_inner();
        let actor = Actor::read(request.actor).map_err(to_status)?;
        let instance = parse("id", &request.id).map_err(to_status)?;
        let after = self.instances.set_running(&actor, instance, version(request.version), true).await;
        Ok(Response::new(self.entry(after.map_err(status)?)))
    }

    async fn delete_instance(&self, request: Request<DeleteInstanceRequest>) -> Answer<InstanceEntry> {
        let request = request.into_inner();
        let actor = Actor::read(request.actor).map_err(to_status)?;
        let instance = parse("id", &request.id).map_err(to_status)?;
        let ended = self.instances.delete(&actor, instance, version(request.version), request.force).await;
        let (after, task_id) = ended.map_err(status)?;
        Ok(Response::new(InstanceEntry { task_id, ..self.entry(after) }))
    }

    async fn get_usage(&self, request: Request<GetInstanceUsageRequest>) -> Answer<InstanceUsage> {
        let instance = parse("id", &request.into_inner().id).map_err(to_status)?;
        let tenant = self.instances.get(instance).await.map_err(status)?;
        let (content, heads) = self.instances.usage(instance).await.map_err(status)?;
        Ok(Response::new(InstanceUsage {
            image_namespaces: content.namespaces,
            image_repositories: content.repositories,
            blobs: content.blobs,
            blob_bytes: content.blob_bytes,
            users: heads.users,
            robots: heads.robots,
            groups: heads.groups,
            limits: self.entry(tenant).limits,
        }))
    }

    async fn list_editions(&self, _: Request<ListEditionsRequest>) -> Answer<ListEditionsResponse> {
        let editions = self.instances.editions.all().map(|edition| EditionEntry {
            name: edition.name.clone(),
            limits: Some(limits(&edition.limits, edition)),
            features: edition.features.iter().map(ToString::to_string).collect(),
        });
        Ok(Response::new(ListEditionsResponse { editions: editions.collect() }))
    }

    async fn list_regions(&self, _: Request<ListRegionsRequest>) -> Answer<ListRegionsResponse> {
        let regions = self.instances.regions.all().map(|region| RegionEntry {
            id: region.id.clone(),
            city: region.city.clone(),
            name_zh: region.name_zh.clone(),
            cloud: region.cloud.clone(),
            zones: region.zones.clone(),
        });
        Ok(Response::new(ListRegionsResponse { regions: regions.collect() }))
    }
}
