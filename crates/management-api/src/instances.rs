//! Instances: their editions, limits, use, endpoints and life; what editions and regions there are.

use berth_model::Permission;
use berth_proto::instance_manager as wire;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::{
    answer::{Accepted, Created, Entity, Page, Plain, Versioned},
    call::Call,
    input::{Json, List, NoFilter, Nothing, Query},
    operation::{Operation, Routes, Rule},
    problem::{Result, absent},
    storage::BlobDelivery,
    tasks::BegunTask,
    values::{Moment, given},
};

/// What an instance has beyond its edition.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
struct AddOns {
    /// Namespaces, in steps of 5.
    namespaces: u64,
    /// Repositories, in steps of 1000.
    repositories: u64,
    /// Linked private networks.
    private_networks: u64,
}

/// What an instance may have; what is absent has no limit.
#[derive(Debug, Serialize, ToSchema)]
struct Limits {
    #[serde(skip_serializing_if = "Option::is_none")]
    image_namespaces: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    image_repositories: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    chart_namespaces: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    chart_repositories: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    concurrent_builds: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    linked_private_networks: Option<u64>,
    /// How many parts a repository's name may have after its namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    repository_depth: Option<u64>,
    /// Reads of manifests a second, best-effort or unlimited.
    pull_rate: String,
}

/// An instance.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Instance {
    id: String,
    name: String,
    /// Hosts without a name of an instance mean it.
    default: bool,
    /// pending, running, stopped, deleting or deleted.
    state: String,
    edition: String,
    /// An edition that was asked for and is not in force yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    wished_edition: Option<String>,
    add_ons: AddOns,
    limits: Limits,
    region: String,
    description: String,
    /// Whether a push may make namespaces.
    create_on_push: bool,
    blob_delivery: BlobDelivery,
    created_at: Moment,
    updated_at: Moment,
    version: i64,
}

impl Versioned for Instance {
    fn version(&self) -> i64 {
        self.version
    }
}

impl From<wire::AddOns> for AddOns {
    fn from(add_ons: wire::AddOns) -> Self {
        Self {
            namespaces: add_ons.namespaces,
            repositories: add_ons.repositories,
            private_networks: add_ons.private_networks,
        }
    }
}

impl From<AddOns> for wire::AddOns {
    fn from(add_ons: AddOns) -> Self {
        Self {
            namespaces: add_ons.namespaces,
            repositories: add_ons.repositories,
            private_networks: add_ons.private_networks,
        }
    }
}

impl From<wire::Limits> for Limits {
    fn from(limits: wire::Limits) -> Self {
        Self {
            image_namespaces: limits.image_namespaces,
            image_repositories: limits.image_repositories,
            chart_namespaces: limits.chart_namespaces,
            chart_repositories: limits.chart_repositories,
            concurrent_builds: limits.concurrent_builds,
            linked_private_networks: limits.linked_private_networks,
            repository_depth: limits.repository_depth,
            pull_rate: limits.pull_rate,
        }
    }
}

impl From<wire::InstanceEntry> for Instance {
    fn from(entry: wire::InstanceEntry) -> Self {
        Self {
            id: entry.id,
            name: entry.name,
            default: entry.default,
            state: entry.state,
            edition: entry.edition,
            wished_edition: Some(entry.wished_edition).filter(|wished| !wished.is_empty()),
            add_ons: entry.add_ons.unwrap_or_default().into(),
            limits: entry.limits.unwrap_or_default().into(),
            region: entry.region,
            description: entry.description,
            create_on_push: entry.create_on_push,
            blob_delivery: match entry.blob_delivery.as_str() {
                "redirect" => BlobDelivery::Redirect,
                _ => BlobDelivery::Stream,
            },
            created_at: Moment(entry.created_at),
            // An instance of before there were changes has none.
            updated_at: Moment(entry.updated_at.max(entry.created_at)),
            version: entry.version,
        }
    }
}

/// An instance to be made.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewInstance {
    /// 3 to 30 lower-case letters, digits and hyphens; part of its host names.
    name: String,
    edition: String,
    region: String,
    #[serde(default)]
    add_ons: AddOns,
    #[serde(default)]
    description: String,
    /// Whether a push may make namespaces.
    #[serde(default)]
    create_on_push: bool,
}

/// What is to be changed; what is absent stays.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct InstanceChange {
    /// null takes it away.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<String>)]
    description: Option<Option<String>>,
    /// Whether a push may make namespaces.
    create_on_push: Option<bool>,
}

/// Another edition.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct EditionChange {
    edition: String,
    /// Absent: they stay.
    add_ons: Option<AddOns>,
}

/// What an instance has.
#[derive(Serialize, ToSchema)]
struct Usage {
    image_namespaces: u64,
    image_repositories: u64,
    /// Each blob once, in however many repositories it is.
    blobs: u64,
    blob_bytes: u64,
    users: u64,
    robots: u64,
    groups: u64,
    limits: Limits,
}

/// Where an instance is reached.
#[derive(Serialize, ToSchema)]
struct Endpoint {
    /// public.
    kind: String,
    /// registry.
    module: String,
    /// The host; absent: every host of this deployment.
    #[serde(skip_serializing_if = "Option::is_none")]
    host: Option<String>,
}

/// An edition.
#[derive(Serialize, ToSchema)]
struct Edition {
    name: String,
    limits: Limits,
    features: Vec<String>,
}

/// A region.
#[derive(Serialize, ToSchema)]
struct Region {
    id: String,
    city: String,
    name_zh: String,
    /// public, finance or government.
    cloud: String,
    zones: Vec<String>,
}

/// How an instance is to be deleted.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
struct Deletion {
    /// Also when it has repositories: their content is lost.
    #[serde(default)]
    force: bool,
}

pub(crate) fn add(routes: &mut Routes) {
    use Permission as P;
    routes.add(
        Operation::get(
            "/instances",
            "instances.list",
            "List the instances that the caller may see",
            Rule::Known,
        ),
        list,
    );
    let create =
        Operation::post("/instances", "instances.create", "Make an instance", Rule::Needs(P::InstanceCreate));
    routes.add(create.repeatable(), make);
    let one = "/instances/{instance}";
    routes.add(Operation::get(one, "instances.get", "Show an instance", Rule::Needs(P::InstanceRead)), get);
    let update =
        Operation::patch(one, "instances.update", "Change an instance", Rule::Needs(P::InstanceUpdate));
    routes.add(update.conditional(), change);
    let delete = Operation::delete(one, "instances.delete", "Delete an instance with all it has", Rule::Needs(P::InstanceDelete))
        .describe("Refused while it has repositories, unless forced. From the answer on nothing of it is served; its bytes, people and keys go by and by, and then its name is free.");
    routes.add(delete.conditional(), end);
    let operate = Rule::Needs(P::InstanceOperate);
    let stop = Operation::post(
        "/instances/{instance}/stop",
        "instances.stop",
        "Refuse all reads and writes",
        operate,
    );
    routes.add(stop.conditional(), halt);
    let start =
        Operation::post("/instances/{instance}/start", "instances.start", "Serve an instance again", operate);
    routes.add(start.conditional(), resume);
    let edition = Operation::put(
        "/instances/{instance}/edition",
        "instances.set_edition",
        "Give an instance another edition",
        operate,
    )
    .describe(
        "Refused when what it uses does not fit; details.exceeded lists everything that stands in the way.",
    );
    routes.add(edition.conditional(), set_edition);
    let usage = Operation::get(
        "/instances/{instance}/usage",
        "instances.get_usage",
        "Show what an instance uses, and may use",
        Rule::Needs(P::UsageRead),
    );
    routes.add(usage, use_of);
    let endpoints = Operation::get(
        "/instances/{instance}/endpoints",
        "endpoints.list",
        "List where an instance is reached",
        Rule::Needs(P::EndpointRead),
    );
    routes.add(endpoints, endpoints_of);
    routes.add(Operation::get("/editions", "editions.list", "List the editions", Rule::Known), editions);
    routes.add(
        Operation::get("/editions/{edition}", "editions.get", "Show an edition", Rule::Known),
        edition_named,
    );
    routes.add(Operation::get("/regions", "regions.list", "List the regions", Rule::Known), regions);
}

async fn list(call: Call, List { paging, .. }: List<NoFilter>) -> Result<Page<Instance>> {
    let caller = call.caller();
    let mut instances = call.parts.instances.clone();
    if !call.may_in_deployment(Permission::InstanceRead).await? {
        // Everybody knows the instance that one is of.
        if !paging.after.is_empty() {
            return Ok(Page { items: Vec::new(), next: None });
        }
        let request = wire::GetInstanceRequest { id: caller.instance_id.clone(), ..Default::default() };
        let own = instances.get_instance(request).await?.into_inner();
        return Ok(Page { items: vec![own.into()], next: None });
    }
    let request = wire::ListInstancesRequest { limit: paging.size + 1, after: paging.after.clone() };
    let mut found = instances.list_instances(request).await?.into_inner().instances;
    let next = paging.cut(&mut found, |instance| &instance.id);
    Ok(Page { items: found.into_iter().map(Into::into).collect(), next })
}

async fn make(call: Call, Json(new): Json<NewInstance>) -> Result<Created<Instance>> {
    let request = wire::CreateInstanceRequest {
        actor: call.actor(),
        name: new.name,
        edition: new.edition,
        add_ons: Some(new.add_ons.into()),
        region: new.region,
        description: new.description,
        create_on_push: new.create_on_push,
    };
    let made: Instance = call.parts.instances.clone().create_instance(request).await?.into_inner().into();
    Ok(Created { location: format!("/api/v1/instances/{}", made.name), made })
}

async fn get(call: Call, _: Nothing) -> Result<Entity<Instance>> {
    let found = call.instance().cloned().ok_or_else(|| absent("instance", ""))?;
    Ok(Entity(found.into()))
}

async fn change(call: Call, Json(change): Json<InstanceChange>) -> Result<Entity<Instance>> {
    let request = wire::UpdateInstanceRequest {
        actor: call.actor(),
        id: call.instance_id().to_owned(),
        version: call.version()?,
        description: change.description.map(Option::unwrap_or_default),
        create_on_push: change.create_on_push,
    };
    let changed = call.checked(call.parts.instances.clone().update_instance(request).await)?;
    Ok(Entity(changed.into()))
}

async fn end(call: Call, Query(deletion): Query<Deletion>) -> Result<Accepted<BegunTask>> {
    let request = wire::DeleteInstanceRequest {
        actor: call.actor(),
        id: call.instance_id().to_owned(),
        version: call.version()?,
        force: deletion.force,
    };
    let ended = call.checked(call.parts.instances.clone().delete_instance(request).await)?;
    Ok(Accepted(BegunTask::of_deployment(ended.task_id)))
}

async fn halt(call: Call, _: Nothing) -> Result<Entity<Instance>> {
    let (id, version) = (call.instance_id().to_owned(), call.version()?);
    let request = wire::StopInstanceRequest { actor: call.actor(), id, version };
    let stopped = call.checked(call.parts.instances.clone().stop_instance(request).await)?;
    Ok(Entity(stopped.into()))
}

async fn resume(call: Call, _: Nothing) -> Result<Entity<Instance>> {
    let (id, version) = (call.instance_id().to_owned(), call.version()?);
    let request = wire::StartInstanceRequest { actor: call.actor(), id, version };
    let started = call.checked(call.parts.instances.clone().start_instance(request).await)?;
    Ok(Entity(started.into()))
}

async fn set_edition(call: Call, Json(change): Json<EditionChange>) -> Result<Entity<Instance>> {
    let request = wire::SetEditionRequest {
        actor: call.actor(),
        id: call.instance_id().to_owned(),
        version: call.version()?,
        edition: change.edition,
        add_ons: change.add_ons.map(Into::into),
    };
    let changed = call.checked(call.parts.instances.clone().set_edition(request).await)?;
    Ok(Entity(changed.into()))
}

async fn use_of(call: Call, _: Nothing) -> Result<Plain<Usage>> {
    let request = wire::GetInstanceUsageRequest { id: call.instance_id().to_owned() };
    let usage = call.parts.instances.clone().get_usage(request).await?.into_inner();
    Ok(Plain(Usage {
        image_namespaces: usage.image_namespaces,
        image_repositories: usage.image_repositories,
        blobs: usage.blobs,
        blob_bytes: usage.blob_bytes,
        users: usage.users,
        robots: usage.robots,
        groups: usage.groups,
        limits: usage.limits.unwrap_or_default().into(),
    }))
}

async fn endpoints_of(call: Call, _: Nothing) -> Result<Page<Endpoint>> {
    let domain = &call.parts.base_domain;
    let instance = call.instance().cloned().unwrap_or_default();
    let host = match (domain.is_empty(), instance.default) {
        (true, _) => None,
        (false, true) => Some(domain.clone()),
        (false, false) => Some(format!("{}-registry.{}.{domain}", instance.name, instance.region)),
    };
    let reached = host.is_some() || instance.default;
    let endpoint = Endpoint { kind: "public".to_owned(), module: "registry".to_owned(), host };
    Ok(Page { items: if reached { vec![endpoint] } else { Vec::new() }, next: None })
}

async fn all_editions(call: &Call) -> Result<Vec<Edition>> {
    let found = call.parts.instances.clone().list_editions(wire::ListEditionsRequest {}).await?.into_inner();
    let edition = |edition: wire::EditionEntry| Edition {
        name: edition.name,
        limits: edition.limits.unwrap_or_default().into(),
        features: edition.features,
    };
    Ok(found.editions.into_iter().map(edition).collect())
}

async fn editions(call: Call, _: Nothing) -> Result<Page<Edition>> {
    Ok(Page { items: all_editions(&call).await?, next: None })
}

async fn edition_named(call: Call, _: Nothing) -> Result<Plain<Edition>> {
    let name = call.param("edition");
    let found = all_editions(&call).await?.into_iter().find(|edition| edition.name == name);
    found.map(Plain).ok_or_else(|| absent("edition", name))
}

async fn regions(call: Call, _: Nothing) -> Result<Page<Region>> {
    let found = call.parts.instances.clone().list_regions(wire::ListRegionsRequest {}).await?.into_inner();
    let region = |region: wire::RegionEntry| Region {
        id: region.id,
        city: region.city,
        name_zh: region.name_zh,
        cloud: region.cloud,
        zones: region.zones,
    };
    Ok(Page { items: found.regions.into_iter().map(region).collect(), next: None })
}
