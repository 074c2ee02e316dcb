//! Roles, grants and decisions on the wire.

use berth_model::{Permission, PrincipalKind, Role};
use berth_proto::{
    instance_manager::{
        AuthorizeRequest, AuthorizeResponse, CreateGrantRequest, CreateRoleRequest, Decision,
        DeleteGrantRequest, DeleteGrantResponse, DeleteRoleRequest, DeleteRoleResponse, GetGrantRequest,
        GrantEntry, ListGrantsRequest, ListGrantsResponse, ListRolesRequest, ListRolesResponse, RoleEntry,
        UpdateRoleRequest, roles_server::Roles as RolesService,
    },
    optional, parse, require, to_status,
};
use tonic::{Request, Response, Status};

use super::{
    principals::{limit, reference, version, whereabouts},
    status,
};
use crate::{
    actor::Actor,
    authority::Whereabouts,
    principals::Principals,
    roles::{RoleWish, Roles},
    store::GrantRow,
};

/// The most effects of one question.
const MAX_EFFECTS: usize = 1_000;

/// The service behind [`RolesServer`](berth_proto::instance_manager::roles_server::RolesServer).
#[derive(Clone, Debug)]
pub struct RolesApi {
    pub(crate) roles: Roles,
    pub(crate) principals: Principals,
}

type Answer<T> = Result<Response<T>, Status>;

fn role_entry(role: &Role, version: i64, built_in: bool) -> RoleEntry {
    RoleEntry {
        id: role.id.clone(),
        name: role.name.clone(),
        description: role.description.clone(),
        scopes: role.scopes.iter().map(ToString::to_string).collect(),
        permissions: role.permissions.iter().map(ToString::to_string).collect(),
        built_in,
        version,
    }
}

fn grant_entry(row: GrantRow, own: &[(Role, i64)]) -> GrantEntry {
    GrantEntry {
        id: row.id.to_string(),
        principal_id: row.principal.to_string(),
        principal_kind: row.kind.to_string(),
        principal_name: row.name,
        role: Roles::name_of(own, &row.role),
        scope_kind: row.scope.kind().to_string(),
        scope_id: row.scope.id(),
        created_by: row.created_by,
        created_at: row.created_at.0,
    }
}

#[tonic::async_trait]
impl RolesService for RolesApi {
    async fn authorize(&self, request: Request<AuthorizeRequest>) -> Answer<AuthorizeResponse> {
        let request = request.into_inner();
        let instance = optional("instance_id", &request.instance_id).map_err(to_status)?;
        let principal = parse("principal", &request.principal).map_err(to_status)?;
        let whose =
            match optional("principal_instance_id", &request.principal_instance_id).map_err(to_status)? {
                Some(whose) => whose,
                None => require("principal_instance_id", instance).map_err(to_status)?,
            };
        if request.effects.len() > MAX_EFFECTS {
            return Err(status(crate::error::invalid(format!(
                "ask for at most {MAX_EFFECTS} effects at once"
            ))));
        }
        let mut effects = Vec::with_capacity(request.effects.len());
        for effect in request.effects {
            let permission: Permission = parse("permission", &effect.permission).map_err(to_status)?;
            let at =
                Whereabouts { namespace: effect.namespace, repository: effect.repository, deployment: false };
            effects.push((permission, at));
        }
        let authority = &self.roles.authority;
        let decisions = authority.authorize(whose, principal, instance, effects).await.map_err(status)?;
        let decisions = decisions.into_iter().map(|decision| Decision {
            allowed: decision.allowed,
            reason: decision.reason,
            grant_ids: decision.grants.iter().map(ToString::to_string).collect(),
        });
        Ok(Response::new(AuthorizeResponse { decisions: decisions.collect() }))
    }

    async fn list_roles(&self, request: Request<ListRolesRequest>) -> Answer<ListRolesResponse> {
        let instance = parse("instance_id", &request.into_inner().instance_id).map_err(to_status)?;
        let own = self.roles.own(instance).await.map_err(status)?;
        let built_in = Role::built_in().values().map(|role| role_entry(role, 1, true));
        let own = own.iter().map(|(role, version)| role_entry(role, *version, false));
        Ok(Response::new(ListRolesResponse { roles: built_in.chain(own).collect() }))
    }

    async fn create_role(&self, request: Request<CreateRoleRequest>) -> Answer<RoleEntry> {
        let request = request.into_inner();
        let actor = Actor::read(request.actor).map_err(to_status)?;
        let instance = parse("instance_id", &request.instance_id).map_err(to_status)?;
        let CreateRoleRequest { name, description, scopes, permissions, .. } = request;
        let wish = RoleWish { description, scopes, permissions };
        let (role, version) = self.roles.create(&actor, instance, &name, &wish).await.map_err(status)?;
        Ok(Response::new(role_entry(&role, version, false)))
    }

    async fn update_role(&self, request: Request<UpdateRoleRequest>) -> Answer<RoleEntry> {
        let request = request.into_inner();
        let actor = Actor::read(request.actor).map_err(to_status)?;
        let instance = parse("instance_id", &request.instance_id).map_err(to_status)?;
        let seen = version(request.version);
        let UpdateRoleRequest { role, description, scopes, permissions, .. } = request;
        let wish = RoleWish { description, scopes, permissions };
        let changed = self.roles.change(&actor, instance, &role, seen, &wish).await.map_err(status)?;
        Ok(Response::new(role_entry(&changed.0, changed.1, false)))
    }

    async fn delete_role(&self, request: Request<DeleteRoleRequest>) -> Answer<DeleteRoleResponse> {
        let request = request.into_inner();
        let actor = Actor::read(request.actor).map_err(to_status)?;
        let instance = parse("instance_id", &request.instance_id).map_err(to_status)?;
        let seen = version(request.version);
        self.roles.delete(&actor, instance, &request.role, seen).await.map_err(status)?;
        Ok(Response::new(DeleteRoleResponse {}))
    }

    async fn create_grant(&self, request: Request<CreateGrantRequest>) -> Answer<GrantEntry> {
        let request = request.into_inner();
        let actor = Actor::read(request.actor).map_err(to_status)?;
        let instance = parse("instance_id", &request.instance_id).map_err(to_status)?;
        let principal = reference("principal", request.principal).map_err(to_status)?;
        let wish = require("grant", request.grant).map_err(to_status)?;
        let found = self.principals.find(instance, &principal, &PrincipalKind::ALL).await.map_err(status)?;
        let at = whereabouts(&wish);
        let id = self.roles.grant(&actor, instance, &found, &wish.role, &at).await.map_err(status)?;
        let own = self.roles.own(instance).await.map_err(status)?;
        let row = self.roles.store.grant(instance, id).await.map_err(status)?;
        let row = row.ok_or_else(|| to_status(crate::error::gone()))?;
        Ok(Response::new(grant_entry(row, &own)))
    }

    async fn delete_grant(&self, request: Request<DeleteGrantRequest>) -> Answer<DeleteGrantResponse> {
        let request = request.into_inner();
        let actor = Actor::read(request.actor).map_err(to_status)?;
        let instance = parse("instance_id", &request.instance_id).map_err(to_status)?;
        let grant = parse("grant_id", &request.grant_id).map_err(to_status)?;
        self.roles.revoke(&actor, instance, grant).await.map_err(status)?;
        Ok(Response::new(DeleteGrantResponse {}))
    }

    async fn get_grant(&self, request: Request<GetGrantRequest>) -> Answer<GrantEntry> {
        let request = request.into_inner();
        let instance = parse("instance_id", &request.instance_id).map_err(to_status)?;
        let grant = parse("grant_id", &request.grant_id).map_err(to_status)?;
        let found = self.roles.one_grant(instance, grant).await.map_err(status)?;
        let own = self.roles.own(instance).await.map_err(status)?;
        Ok(Response::new(grant_entry(found, &own)))
    }

    async fn list_grants(&self, request: Request<ListGrantsRequest>) -> Answer<ListGrantsResponse> {
        let request = request.into_inner();
        let instance = parse("instance_id", &request.instance_id).map_err(to_status)?;
        let after = optional("after", &request.after).map_err(to_status)?;
        let principal = match request.principal {
            Some(principal) => {
                let wanted = reference("principal", Some(principal)).map_err(to_status)?;
                let found =
                    self.principals.find(instance, &wanted, &PrincipalKind::ALL).await.map_err(status)?;
                Some(found.id)
            }
            None => None,
        };
        let own = self.roles.own(instance).await.map_err(status)?;
        let (place, limit) = (request.scope_id.as_str(), limit(request.limit));
        let rows = self.roles.grants(instance, principal, place, after, limit).await.map_err(status)?;
        let grants = rows.into_iter().map(|row| grant_entry(row, &own));
        Ok(Response::new(ListGrantsResponse { grants: grants.collect() }))
    }
}
