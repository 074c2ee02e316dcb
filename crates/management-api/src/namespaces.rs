//! Namespaces.

use berth_model::Permission;
use berth_proto::metadata as wire;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::{
    answer::{Accepted, Created, Entity, Page, Versioned},
    call::Call,
    input::{Json, List, Nothing},
    operation::{Operation, Routes, Rule},
    problem::Result,
    tasks::BegunTask,
    values::{Moment, given},
};

/// A namespace.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Namespace {
    id: String,
    name: String,
    description: String,
    /// Whether a push may make repositories here.
    create_on_push: bool,
    /// Whether repositories begin as public ones.
    default_public: bool,
    /// Whether repositories begin with tags that can't be moved.
    default_immutable: bool,
    /// It is being deleted with all that is in it.
    deleting: bool,
    created_at: Moment,
    updated_at: Moment,
    version: i64,
}

impl Versioned for Namespace {
    fn version(&self) -> i64 {
        self.version
    }
}

impl From<wire::NamespaceEntry> for Namespace {
    fn from(entry: wire::NamespaceEntry) -> Self {
        Self {
            id: entry.id,
            name: entry.name,
            description: entry.description,
            create_on_push: entry.create_on_push,
            default_public: entry.default_public,
            default_immutable: entry.default_immutable,
            deleting: entry.removing,
            created_at: Moment(entry.created_at),
            updated_at: Moment(entry.updated_at),
            version: entry.version,
        }
    }
}

/// A namespace to be made.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewNamespace {
    /// 2 to 120 lower-case letters and digits, with . _ or - between them.
    name: String,
    #[serde(default)]
    description: String,
    /// Whether a push may make repositories here.
    #[serde(default = "yes")]
    create_on_push: bool,
    /// Whether repositories begin as public ones.
    #[serde(default)]
    default_public: bool,
    /// Whether repositories begin with tags that can't be moved.
    #[serde(default)]
    default_immutable: bool,
}

fn yes() -> bool {
    true
}

/// What is to be changed; what is absent stays.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NamespaceChange {
    /// null takes it away.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<String>)]
    description: Option<Option<String>>,
    create_on_push: Option<bool>,
    default_public: Option<bool>,
    default_immutable: Option<bool>,
}

/// Which namespaces.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
struct Filter {
    /// With what the name begins.
    search: Option<String>,
}

pub(crate) fn add(routes: &mut Routes) {
    use Permission as P;
    let all = "/instances/{instance}/namespaces";
    let one = "/instances/{instance}/namespaces/{namespace}";
    routes.add(
        Operation::get(all, "namespaces.list", "List the namespaces that the caller may see", Rule::Known),
        list,
    );
    let make = Operation::post(all, "namespaces.create", "Make a namespace", Rule::Needs(P::NamespaceCreate));
    routes.add(make.repeatable(), create);
    routes.add(Operation::get(one, "namespaces.get", "Show a namespace", Rule::Needs(P::NamespaceRead)), get);
    let change =
        Operation::patch(one, "namespaces.update", "Change a namespace", Rule::Needs(P::NamespaceUpdate));
    routes.add(change.conditional(), update);
    let end = Operation::delete(
        one,
        "namespaces.delete",
        "Delete a namespace with all that is in it",
        Rule::Needs(P::NamespaceDelete),
    )
    .describe("Nothing is made in it from now on; what there is goes by and by.");
    routes.add(end.conditional(), delete);
}

async fn list(call: Call, List { paging, filters }: List<Filter>) -> Result<Page<Namespace>> {
    let readable = call.readable(Permission::NamespaceRead).await?;
    let request = wire::ListNamespacesRequest {
        instance_id: call.instance_id().to_owned(),
        limit: paging.size + 1,
        after: paging.after.clone(),
        search: filters.search.unwrap_or_default(),
        readable: Some(wire::ReadableSet {
            everything: readable.everything,
            namespace_ids: readable.namespace_ids,
            repository_ids: readable.repository_ids,
        }),
    };
    let mut found = call.parts.repositories.clone().list_namespaces(request).await?.into_inner().namespaces;
    let next = paging.cut(&mut found, |namespace| &namespace.name);
    Ok(Page { items: found.into_iter().map(Into::into).collect(), next })
}

async fn create(call: Call, Json(new): Json<NewNamespace>) -> Result<Created<Namespace>> {
    let request = wire::CreateNamespaceRequest {
        manager: call.on_behalf(),
        instance_id: call.instance_id().to_owned(),
        name: new.name,
        description: new.description,
        create_on_push: new.create_on_push,
        default_public: new.default_public,
        default_immutable: new.default_immutable,
    };
    let made: Namespace =
        call.parts.repositories.clone().create_namespace(request).await?.into_inner().into();
    Ok(Created { location: call.below(&format!("namespaces/{}", made.name)), made })
}

async fn get(call: Call, _: Nothing) -> Result<Entity<Namespace>> {
    let (instance_id, name) = (call.instance_id().to_owned(), call.param("namespace").to_owned());
    let request = wire::GetNamespaceRequest { instance_id, name, ..Default::default() };
    let found = call.parts.repositories.clone().get_namespace(request).await?.into_inner();
    Ok(Entity(found.into()))
}

async fn update(call: Call, Json(change): Json<NamespaceChange>) -> Result<Entity<Namespace>> {
    let request = wire::UpdateNamespaceRequest {
        manager: call.on_behalf(),
        instance_id: call.instance_id().to_owned(),
        name: call.param("namespace").to_owned(),
        version: call.version()?,
        description: change.description.map(Option::unwrap_or_default),
        create_on_push: change.create_on_push,
        default_public: change.default_public,
        default_immutable: change.default_immutable,
    };
    let changed = call.checked(call.parts.repositories.clone().update_namespace(request).await)?;
    Ok(Entity(changed.into()))
}

async fn delete(call: Call, _: Nothing) -> Result<Accepted<BegunTask>> {
    let request = wire::DeleteNamespaceRequest {
        manager: call.on_behalf(),
        instance_id: call.instance_id().to_owned(),
        name: call.param("namespace").to_owned(),
        version: call.version()?,
    };
    let begun = call.checked(call.parts.repositories.clone().delete_namespace(request).await)?;
    Ok(Accepted(BegunTask::here(&call, begun.task_id)))
}
