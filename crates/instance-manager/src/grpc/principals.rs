//! People, robots and groups on the wire.

use berth_model::{PrincipalKind, RobotName};
use berth_oci::Problem;
use berth_proto::{
    instance_manager::{
        AddMemberRequest, AddMemberResponse, AddRobotSecretRequest, AddRobotSecretResponse,
        CreateGroupRequest, CreateRobotRequest, CreateRobotResponse, CreateTemporaryTokenRequest,
        CreateTemporaryTokenResponse, CreateUserRequest, DeleteMemberRequest, DeleteMemberResponse,
        DeletePrincipalRequest, DeletePrincipalResponse, DeleteRobotSecretRequest, DeleteRobotSecretResponse,
        GetPrincipalRequest, GrantWish, ListMembersRequest, ListMembersResponse, ListPrincipalsRequest,
        ListPrincipalsResponse, ListRobotSecretsRequest, ListRobotSecretsResponse, MemberEntry,
        PrincipalEntry, PrincipalReference, RobotSecretEntry, SetPasswordRequest, SetPasswordResponse,
        UpdatePrincipalRequest, principals_server::Principals as PrincipalsService,
    },
    parse, require, to_status,
};
use berth_service::Timestamp;
use secrecy::{ExposeSecret, SecretString};
use tonic::{Request, Response, Status};

use super::status;
use crate::{
    actor::Actor,
    authority::Whereabouts,
    error::invalid,
    principals::{MAX_PAGE, Principals, Reference, Sketch},
    store::{PrincipalChange, StoredPrincipal},
};

/// The service behind [`PrincipalsServer`](berth_proto::instance_manager::principals_server::PrincipalsServer).
#[derive(Clone, Debug)]
pub struct PrincipalsApi {
    pub(crate) principals: Principals,
}

type Answer<T> = Result<Response<T>, Status>;

pub(super) fn reference(
    field: &'static str,
    reference: Option<PrincipalReference>,
) -> Result<Reference, Problem> {
    let reference = require(field, reference)?;
    if reference.id.is_empty() {
        return Ok(Reference::Name(parse("kind", &reference.kind)?, reference.name));
    }
    Ok(Reference::Id(parse("id", &reference.id)?))
}

pub(super) fn whereabouts(wish: &GrantWish) -> Whereabouts {
    Whereabouts {
        namespace: wish.namespace.clone(),
        repository: wish.repository.clone(),
        deployment: wish.deployment,
    }
}

/// What a request saw; 0: it does not matter.
pub(super) fn version(seen: i64) -> Option<i64> {
    (seen != 0).then_some(seen)
}

/// How many rows: a hundred, unless it is said.
pub(super) fn limit(asked: u32) -> u32 {
    if asked == 0 { 100 } else { asked.min(MAX_PAGE) }
}

/// A moment; 0: never.
fn moment(field: &'static str, micros: i64) -> Result<Option<Timestamp>, Problem> {
    match micros {
        0 => Ok(None),
        ..0 => Err(invalid(format!("field {field} is before 1970"))),
        _ => Ok(Some(Timestamp(micros))),
    }
}

fn secret(text: String) -> Option<SecretString> {
    (!text.is_empty()).then(|| SecretString::from(text))
}

fn entry(principal: StoredPrincipal, groups: Vec<String>) -> PrincipalEntry {
    let micros = |at: Option<Timestamp>| at.map_or(0, |at| at.0);
    PrincipalEntry {
        id: principal.id.to_string(),
        instance_id: principal.instance.to_string(),
        kind: principal.kind.to_string(),
        login: match principal.kind {
            PrincipalKind::User => principal.name.clone(),
            PrincipalKind::Robot => RobotName::login(&principal.name),
            PrincipalKind::Group => String::new(),
        },
        name: principal.name,
        description: principal.description,
        email: principal.email,
        disabled: principal.disabled,
        has_password: principal.password_hash.is_some(),
        expires_at: micros(principal.expires_at),
        last_used_at: micros(principal.last_used_at),
        created_at: principal.created_at.0,
        updated_at: principal.updated_at.0,
        version: principal.version,
        groups,
    }
}

#[tonic::async_trait]
impl PrincipalsService for PrincipalsApi {
    async fn create_user(&self, request: Request<CreateUserRequest>) -> Answer<PrincipalEntry> {
        let request = request.into_inner();
        let actor = Actor::read(request.actor).map_err(to_status)?;
        let instance = parse("instance_id", &request.instance_id).map_err(to_status)?;
        let sketch = Sketch {
            name: request.name,
            description: request.description,
            email: request.email,
            password: secret(request.password),
            ..Sketch::default()
        };
        let made = self.principals.create(&actor, instance, PrincipalKind::User, sketch).await;
        Ok(Response::new(entry(made.map_err(status)?.0, Vec::new())))
    }

    async fn set_password(&self, request: Request<SetPasswordRequest>) -> Answer<SetPasswordResponse> {
        let request = request.into_inner();
        let actor = Actor::read(request.actor).map_err(to_status)?;
        let instance = parse("instance_id", &request.instance_id).map_err(to_status)?;
        let user = reference("user", request.user).map_err(to_status)?;
        let (password, current) = (SecretString::from(request.password), secret(request.current_password));
        self.principals.set_password(&actor, instance, &user, password, current).await.map_err(status)?;
        Ok(Response::new(SetPasswordResponse {}))
    }

    async fn create_robot(&self, request: Request<CreateRobotRequest>) -> Answer<CreateRobotResponse> {
        let request = request.into_inner();
        let actor = Actor::read(request.actor).map_err(to_status)?;
        let instance = parse("instance_id", &request.instance_id).map_err(to_status)?;
        let sketch = Sketch {
            name: request.name,
            description: request.description,
            expires_at: moment("expires_at", request.expires_at).map_err(to_status)?,
            grants: request.grants.into_iter().map(|wish| (wish.role.clone(), whereabouts(&wish))).collect(),
            ..Sketch::default()
        };
        let made = self.principals.create(&actor, instance, PrincipalKind::Robot, sketch).await;
        let (robot, fresh) = made.map_err(status)?;
        let fresh = require("secret", fresh).map_err(to_status)?;
        Ok(Response::new(CreateRobotResponse {
            robot: Some(entry(robot, Vec::new())),
            secret_id: fresh.id.to_string(),
            secret: fresh.secret.expose_secret().to_owned(),
        }))
    }

    async fn add_robot_secret(
        &self,
        request: Request<AddRobotSecretRequest>,
    ) -> Answer<AddRobotSecretResponse> {
        let request = request.into_inner();
        let actor = Actor::read(request.actor).map_err(to_status)?;
        let instance = parse("instance_id", &request.instance_id).map_err(to_status)?;
        let robot = reference("robot", request.robot).map_err(to_status)?;
        let fresh = self.principals.add_secret(&actor, instance, &robot).await.map_err(status)?;
        let secret = fresh.secret.expose_secret().to_owned();
        Ok(Response::new(AddRobotSecretResponse { secret_id: fresh.id.to_string(), secret }))
    }

    async fn delete_robot_secret(
        &self,
        request: Request<DeleteRobotSecretRequest>,
    ) -> Answer<DeleteRobotSecretResponse> {
        let request = request.into_inner();
        let actor = Actor::read(request.actor).map_err(to_status)?;
        let instance = parse("instance_id", &request.instance_id).map_err(to_status)?;
        let robot = reference("robot", request.robot).map_err(to_status)?;
        let secret = parse("secret_id", &request.secret_id).map_err(to_status)?;
        self.principals.delete_secret(&actor, instance, &robot, secret).await.map_err(status)?;
        Ok(Response::new(DeleteRobotSecretResponse {}))
    }

    async fn list_robot_secrets(
        &self,
        request: Request<ListRobotSecretsRequest>,
    ) -> Answer<ListRobotSecretsResponse> {
        let request = request.into_inner();
        let instance = parse("instance_id", &request.instance_id).map_err(to_status)?;
        let robot = reference("robot", request.robot).map_err(to_status)?;
        let secrets = self.principals.secrets(instance, &robot).await.map_err(status)?;
        let secrets = secrets.into_iter().map(|secret| RobotSecretEntry {
            id: secret.id.to_string(),
            created_at: secret.created_at.0,
            last_used_at: secret.last_used_at.map_or(0, |at| at.0),
        });
        Ok(Response::new(ListRobotSecretsResponse { secrets: secrets.collect() }))
    }

    async fn create_group(&self, request: Request<CreateGroupRequest>) -> Answer<PrincipalEntry> {
        let request = request.into_inner();
        let actor = Actor::read(request.actor).map_err(to_status)?;
        let instance = parse("instance_id", &request.instance_id).map_err(to_status)?;
        let sketch = Sketch { name: request.name, description: request.description, ..Sketch::default() };
        let made = self.principals.create(&actor, instance, PrincipalKind::Group, sketch).await;
        Ok(Response::new(entry(made.map_err(status)?.0, Vec::new())))
    }

    async fn add_member(&self, request: Request<AddMemberRequest>) -> Answer<AddMemberResponse> {
        let request = request.into_inner();
        let actor = Actor::read(request.actor).map_err(to_status)?;
        let instance = parse("instance_id", &request.instance_id).map_err(to_status)?;
        let group = reference("group", request.group).map_err(to_status)?;
        let member = reference("member", request.member).map_err(to_status)?;
        self.principals.set_member(&actor, instance, &group, &member, true).await.map_err(status)?;
        Ok(Response::new(AddMemberResponse {}))
    }

    async fn delete_member(&self, request: Request<DeleteMemberRequest>) -> Answer<DeleteMemberResponse> {
        let request = request.into_inner();
        let actor = Actor::read(request.actor).map_err(to_status)?;
        let instance = parse("instance_id", &request.instance_id).map_err(to_status)?;
        let group = reference("group", request.group).map_err(to_status)?;
        let member = reference("member", request.member).map_err(to_status)?;
        self.principals.set_member(&actor, instance, &group, &member, false).await.map_err(status)?;
        Ok(Response::new(DeleteMemberResponse {}))
    }

    async fn list_members(&self, request: Request<ListMembersRequest>) -> Answer<ListMembersResponse> {
        let request = request.into_inner();
        let instance = parse("instance_id", &request.instance_id).map_err(to_status)?;
        let group = reference("group", request.group).map_err(to_status)?;
        let members = self.principals.members(instance, &group, &request.after, limit(request.limit)).await;
        let members = members.map_err(status)?.into_iter().map(|member| MemberEntry {
            id: member.id.to_string(),
            kind: member.kind.to_string(),
            name: member.name,
        });
        Ok(Response::new(ListMembersResponse { members: members.collect() }))
    }

    async fn get_principal(&self, request: Request<GetPrincipalRequest>) -> Answer<PrincipalEntry> {
        let request = request.into_inner();
        let instance = parse("instance_id", &request.instance_id).map_err(to_status)?;
        let wanted = reference("principal", request.principal).map_err(to_status)?;
        let found = self.principals.find(instance, &wanted, &PrincipalKind::ALL).await.map_err(status)?;
        let groups = self.principals.store.groups_of(found.id).await.map_err(status)?;
        Ok(Response::new(entry(found, groups)))
    }

    async fn list_principals(
        &self,
        request: Request<ListPrincipalsRequest>,
    ) -> Answer<ListPrincipalsResponse> {
        let request = request.into_inner();
        let instance = parse("instance_id", &request.instance_id).map_err(to_status)?;
        let kind = parse("kind", &request.kind).map_err(to_status)?;
        let store = &self.principals.store;
        let found = store
            .list_principals(instance, kind, &request.search, &request.after, limit(request.limit))
            .await;
        let principals = found.map_err(status)?.into_iter().map(|found| entry(found, Vec::new()));
        Ok(Response::new(ListPrincipalsResponse { principals: principals.collect() }))
    }

    async fn update_principal(&self, request: Request<UpdatePrincipalRequest>) -> Answer<PrincipalEntry> {
        let request = request.into_inner();
        let actor = Actor::read(request.actor).map_err(to_status)?;
        let instance = parse("instance_id", &request.instance_id).map_err(to_status)?;
        let wanted = reference("principal", request.principal).map_err(to_status)?;
        let expires_at =
            request.expires_at.map(|at| moment("expires_at", at)).transpose().map_err(to_status)?;
        let change = PrincipalChange {
            description: request.description,
            email: request.email,
            disabled: request.disabled,
            expires_at,
        };
        let seen = version(request.version);
        let after = self.principals.change(&actor, instance, &wanted, seen, change).await.map_err(status)?;
        Ok(Response::new(entry(after, Vec::new())))
    }

    async fn delete_principal(
        &self,
        request: Request<DeletePrincipalRequest>,
    ) -> Answer<DeletePrincipalResponse> {
        let request = request.into_inner();
        let actor = Actor::read(request.actor).map_err(to_status)?;
        let instance = parse("instance_id", &request.instance_id).map_err(to_status)?;
        let wanted = reference("principal", request.principal).map_err(to_status)?;
        let seen = version(request.version);
        self.principals.delete(&actor, instance, &wanted, seen).await.map_err(status)?;
        Ok(Response::new(DeletePrincipalResponse {}))
    }

    async fn create_temporary_token(
        &self,
        request: Request<CreateTemporaryTokenRequest>,
    ) -> Answer<CreateTemporaryTokenResponse> {
        let actor = Actor::read(request.into_inner().actor).map_err(to_status)?;
        let (principal, token, expires_at) = self.principals.temporary_token(&actor).await.map_err(status)?;
        Ok(Response::new(CreateTemporaryTokenResponse {
            login: entry(principal, Vec::new()).login,
            token: token.expose_secret().to_owned(),
            expires_at: expires_at.0,
        }))
    }
}
