//! Grants: who has which role where.

use std::collections::{BTreeMap, BTreeSet};

use berth_model::Permission;
use berth_oci::ErrorCode;
use berth_proto::{
    from_status, instance_manager as wire,
    metadata::{GetNamespaceRequest, GetRepositoryRequest},
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::{
    answer::{Created, Done, Page},
    call::{At, Call},
    input::{Json, List, Nothing},
    operation::{Operation, Routes, Rule},
    problem::{Result, invalid},
    users::reference,
    values::Moment,
};

/// A role somewhere: in the instance, or in one of its namespaces or repositories.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct GrantedRole {
    /// The name of a role.
    role: String,
    /// In this namespace only.
    namespace: Option<String>,
    /// In the repository at this path only.
    repository: Option<String>,
    /// In all instances, for those who run the deployment.
    #[serde(default)]
    deployment: bool,
}

impl From<GrantedRole> for wire::GrantWish {
    fn from(role: GrantedRole) -> Self {
        Self {
            role: role.role,
            namespace: role.namespace.unwrap_or_default(),
            repository: role.repository.unwrap_or_default(),
            deployment: role.deployment,
        }
    }
}

/// A kind of principal.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum PrincipalKind {
    User,
    Robot,
    Group,
}

impl PrincipalKind {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Robot => "robot",
            Self::Group => "group",
        }
    }
}

/// A principal.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Principal {
    pub(crate) kind: PrincipalKind,
    /// Its name, or its id.
    pub(crate) name: String,
}

impl From<&Principal> for wire::PrincipalReference {
    fn from(principal: &Principal) -> Self {
        reference(principal.kind.as_str(), &principal.name)
    }
}

/// A grant to be made.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewGrant {
    principal: Principal,
    /// The name of a role.
    role: String,
    /// In this namespace only.
    namespace: Option<String>,
    /// In the repository at this path only.
    repository: Option<String>,
    /// In all instances, for those who run the deployment.
    #[serde(default)]
    deployment: bool,
}

/// A grant.
#[derive(Debug, Serialize, ToSchema)]
struct Grant {
    id: String,
    principal_id: String,
    principal_kind: String,
    principal_name: String,
    role: String,
    /// deployment, instance, namespace or repository.
    scope: String,
    /// The id of where it is; of the deployment empty.
    scope_id: String,
    /// What that is called: a namespace, or the path of a repository.
    #[serde(skip_serializing_if = "Option::is_none")]
    scope_name: Option<String>,
    created_by: String,
    created_at: Moment,
}

impl From<wire::GrantEntry> for Grant {
    fn from(entry: wire::GrantEntry) -> Self {
        Self {
            id: entry.id,
            principal_id: entry.principal_id,
            principal_kind: entry.principal_kind,
            principal_name: entry.principal_name,
            role: entry.role,
            scope: entry.scope_kind,
            scope_id: entry.scope_id,
            scope_name: None,
            created_by: entry.created_by,
            created_at: Moment(entry.created_at),
        }
    }
}

/// Whose grants.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
struct Filter {
    /// The kind of the principal whose grants are wanted.
    #[param(inline)]
    principal_kind: Option<PrincipalKind>,
    /// Its name or id.
    principal: Option<String>,
    /// Given in this namespace, and not only in one of its repositories.
    namespace: Option<String>,
    /// Given in the repository at this path.
    repository: Option<String>,
}

/// The namespace or the repository that a grant is in, if it is still there.
async fn place(call: &Call, kind: &str, id: &str) -> Result<Option<String>> {
    let (instance_id, id) = (call.instance_id().to_owned(), id.to_owned());
    let mut repositories = call.parts.repositories.clone();
    let found = match kind {
        "namespace" => {
            let request = GetNamespaceRequest { instance_id, id, ..GetNamespaceRequest::default() };
            repositories.get_namespace(request).await.map(|found| found.into_inner().name)
        }
        "repository" => {
            let request = GetRepositoryRequest { instance_id, id, ..GetRepositoryRequest::default() };
            repositories.get_repository(request).await.map(|found| found.into_inner().path)
        }
        _ => return Ok(None),
    };
    match found {
        Ok(name) => Ok(Some(name)),
        Err(status) if from_status(&status).code == ErrorCode::NotFound => Ok(None),
        Err(status) => Err(status.into()),
    }
}

/// Refuses unless the caller has a permission where a grant is.
async fn allow(call: &Call, permission: Permission, kind: &str, name: Option<&str>) -> Result<()> {
    match (kind, name) {
        ("namespace", Some(name)) => call.allow(permission, At::Namespace(name)).await,
        ("repository", Some(path)) => call.allow(permission, At::Repository(path)).await,
        _ => call.allow(permission, At::Instance).await,
    }
}

pub(crate) fn add(routes: &mut Routes) {
    use Permission as P;
    let all = "/instances/{instance}/grants";
    routes.add(Operation::get(all, "grants.list", "List the grants", Rule::NeedsSomewhere(P::GrantRead))
            .describe("Of a namespace or a repository for whoever may see its grants, of everywhere for whoever may in the instance."), list);
    let make = Operation::post(all, "grants.create", "Give a role", Rule::NeedsWhereBodySays(P::GrantCreate))
        .describe("Nobody gives what one may not do oneself.");
    routes.add(make.repeatable(), create);
    let one = "/instances/{instance}/grants/{grant}";
    routes.add(
        Operation::delete(one, "grants.delete", "Take a role back", Rule::NeedsSomewhere(P::GrantDelete))
            .describe("Where it was given. Nobody takes what one could not give."),
        delete,
    );
}

async fn list(call: Call, List { paging, filters }: List<Filter>) -> Result<Page<Grant>> {
    let principal = match (filters.principal_kind, &filters.principal) {
        (None, None) => None,
        (Some(kind), Some(name)) => Some(reference(kind.as_str(), name)),
        _ => return Err(invalid("principal_kind and principal belong together")),
    };
    let instance_id = call.instance_id().to_owned();
    let mut repositories = call.parts.repositories.clone();
    let scope_id = match (filters.namespace, filters.repository) {
        (None, None) => {
            call.allow(Permission::GrantRead, At::Instance).await?;
            String::new()
        }
        (Some(name), None) => {
            call.allow(Permission::GrantRead, At::Namespace(&name)).await?;
            let request = GetNamespaceRequest { instance_id, name, ..GetNamespaceRequest::default() };
            repositories.get_namespace(request).await?.into_inner().id
        }
        (None, Some(path)) => {
            call.allow(Permission::GrantRead, At::Repository(&path)).await?;
            let request = GetRepositoryRequest { instance_id, path, ..GetRepositoryRequest::default() };
            repositories.get_repository(request).await?.into_inner().id
        }
        _ => return Err(invalid("name a namespace or a repository, not both")),
    };
    let request = wire::ListGrantsRequest {
        instance_id: call.instance_id().to_owned(),
        principal,
        limit: paging.size + 1,
        after: paging.after.clone(),
        scope_id,
    };
    let mut found = call.parts.roles.clone().list_grants(request).await?.into_inner().grants;
    let next = paging.cut(&mut found, |grant| &grant.id);
    let places: BTreeSet<_> =
        found.iter().map(|grant| (grant.scope_kind.clone(), grant.scope_id.clone())).collect();
    let places = places.into_iter().map(async |at| Ok((place(&call, &at.0, &at.1).await?, at)));
    let places: Result<Vec<_>> = futures::future::try_join_all(places).await;
    let names: BTreeMap<_, _> = places?.into_iter().map(|(name, at)| (at, name)).collect();
    let shown = |entry: wire::GrantEntry| {
        let at = (entry.scope_kind.clone(), entry.scope_id.clone());
        Grant { scope_name: names.get(&at).cloned().flatten(), ..entry.into() }
    };
    Ok(Page { items: found.into_iter().map(shown).collect(), next })
}

async fn create(call: Call, Json(new): Json<NewGrant>) -> Result<Created<Grant>> {
    match (&new.namespace, &new.repository) {
        (Some(_), Some(_)) => return Err(invalid("name a namespace or a repository, not both")),
        (Some(namespace), None) => call.allow(Permission::GrantCreate, At::Namespace(namespace)).await?,
        (None, Some(path)) => call.allow(Permission::GrantCreate, At::Repository(path)).await?,
        (None, None) => call.allow(Permission::GrantCreate, At::Instance).await?,
    }
    let request = wire::CreateGrantRequest {
        actor: call.actor(),
        instance_id: call.instance_id().to_owned(),
        principal: Some((&new.principal).into()),
        grant: Some(wire::GrantWish {
            role: new.role,
            namespace: new.namespace.unwrap_or_default(),
            repository: new.repository.unwrap_or_default(),
            deployment: new.deployment,
        }),
    };
    let made = call.parts.roles.clone().create_grant(request).await?.into_inner();
    let scope_name = place(&call, &made.scope_kind, &made.scope_id).await?;
    let made = Grant { scope_name, ..made.into() };
    Ok(Created { location: call.below(&format!("grants/{}", made.id)), made })
}

async fn delete(call: Call, _: Nothing) -> Result<Done> {
    let wanted = wire::GetGrantRequest {
        instance_id: call.instance_id().to_owned(),
        grant_id: call.param("grant").to_owned(),
    };
    match call.parts.roles.clone().get_grant(wanted).await {
        Ok(found) => {
            let found = found.into_inner();
            let name = place(&call, &found.scope_kind, &found.scope_id).await?;
            allow(&call, Permission::GrantDelete, &found.scope_kind, name.as_deref()).await?;
        }
        // Who may not take any back does not learn which there are.
        Err(status) => {
            call.allow(Permission::GrantDelete, At::Instance).await?;
            return Err(status.into());
        }
    }
    let request = wire::DeleteGrantRequest {
        actor: call.actor(),
        instance_id: call.instance_id().to_owned(),
        grant_id: call.param("grant").to_owned(),
    };
    call.parts.roles.clone().delete_grant(request).await?;
    Ok(Done)
}
