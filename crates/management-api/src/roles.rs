//! Roles: what may be given.

use berth_model::Permission;
use berth_proto::instance_manager as wire;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    answer::{Created, Done, Entity, Page, Versioned},
    call::Call,
    input::{Json, Nothing},
    operation::{Operation, Routes, Rule},
    problem::{Result, absent},
};

/// A role.
#[derive(Debug, Serialize, ToSchema)]
struct Role {
    id: String,
    name: String,
    description: String,
    /// Where it may be given: deployment, instance, namespace, repository.
    scopes: Vec<String>,
    /// What it allows there: resource:action.
    permissions: Vec<String>,
    /// It is the product's own and stays as it is.
    built_in: bool,
    version: i64,
}

impl Versioned for Role {
    fn version(&self) -> i64 {
        self.version
    }
}

impl From<wire::RoleEntry> for Role {
    fn from(entry: wire::RoleEntry) -> Self {
        Self {
            id: entry.id,
            name: entry.name,
            description: entry.description,
            scopes: entry.scopes,
            permissions: entry.permissions,
            built_in: entry.built_in,
            version: entry.version,
        }
    }
}

/// A role to be made.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewRole {
    name: String,
    #[serde(default)]
    description: String,
    /// Where it may be given: instance, namespace, repository.
    scopes: Vec<String>,
    /// What it allows there: resource:action, or resource:* for all of a resource.
    permissions: Vec<String>,
}

/// What a role becomes, as a whole.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct RoleText {
    #[serde(default)]
    description: String,
    /// Where it may be given: instance, namespace, repository.
    scopes: Vec<String>,
    /// What it allows there: resource:action, or resource:* for all of a resource.
    permissions: Vec<String>,
}

pub(crate) fn add(routes: &mut Routes) {
    use Permission as P;
    let all = "/instances/{instance}/roles";
    let one = "/instances/{instance}/roles/{role}";
    routes.add(Operation::get(all, "roles.list", "List the roles", Rule::Needs(P::RoleRead)), list);
    let make = Operation::post(all, "roles.create", "Make a role", Rule::Needs(P::RoleCreate));
    routes.add(make.repeatable(), create);
    routes.add(Operation::get(one, "roles.get", "Show a role", Rule::Needs(P::RoleRead)), get);
    let change =
        Operation::put(one, "roles.replace", "Change what a role allows", Rule::Needs(P::RoleUpdate))
            .describe("What rests on what it no longer allows ends within seconds.");
    routes.add(change.conditional(), replace);
    let end =
        Operation::delete(one, "roles.delete", "Delete a role that nobody has", Rule::Needs(P::RoleDelete));
    routes.add(end.conditional(), delete);
}

async fn all(call: &Call) -> Result<Vec<Role>> {
    let request = wire::ListRolesRequest { instance_id: call.instance_id().to_owned() };
    let found = call.parts.roles.clone().list_roles(request).await?.into_inner().roles;
    Ok(found.into_iter().map(Into::into).collect())
}

async fn list(call: Call, _: Nothing) -> Result<Page<Role>> {
    Ok(Page { items: all(&call).await?, next: None })
}

async fn create(call: Call, Json(new): Json<NewRole>) -> Result<Created<Role>> {
    let request = wire::CreateRoleRequest {
        actor: call.actor(),
        instance_id: call.instance_id().to_owned(),
        name: new.name,
        description: new.description,
        scopes: new.scopes,
        permissions: new.permissions,
    };
    let made: Role = call.parts.roles.clone().create_role(request).await?.into_inner().into();
    Ok(Created { location: call.below(&format!("roles/{}", made.name)), made })
}

async fn get(call: Call, _: Nothing) -> Result<Entity<Role>> {
    let name = call.param("role");
    let found = all(&call).await?.into_iter().find(|role| role.name == name);
    found.map(Entity).ok_or_else(|| absent("role", name))
}

async fn replace(call: Call, Json(text): Json<RoleText>) -> Result<Entity<Role>> {
    let request = wire::UpdateRoleRequest {
        actor: call.actor(),
        instance_id: call.instance_id().to_owned(),
        role: call.param("role").to_owned(),
        version: call.version()?,
        description: text.description,
        scopes: text.scopes,
        permissions: text.permissions,
    };
    let changed = call.checked(call.parts.roles.clone().update_role(request).await)?;
    Ok(Entity(changed.into()))
}

async fn delete(call: Call, _: Nothing) -> Result<Done> {
    let request = wire::DeleteRoleRequest {
        actor: call.actor(),
        instance_id: call.instance_id().to_owned(),
        role: call.param("role").to_owned(),
        version: call.version()?,
    };
    call.checked(call.parts.roles.clone().delete_role(request).await)?;
    Ok(Done)
}
