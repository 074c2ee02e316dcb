//! Sessions of callers, who they are, and the tokens that they lend.

use berth_oci::ErrorCode;
use berth_proto::instance_manager::{
    Caller, CloseSessionRequest, CreateTemporaryTokenRequest, GetPrincipalRequest, InstancePassword,
    OpenSessionRequest, PrincipalReference,
};
use http::header;
use serde::{Deserialize, Serialize};
use ulid::Ulid;
use utoipa::ToSchema;

use crate::{
    answer::{Created, Done, Plain},
    call::{Call, find_instance},
    caller,
    input::{Json, Nothing},
    operation::{Operation, Routes, Rule},
    problem::{Refusal, Result},
    values::{Moment, Secret},
};

/// A name and a secret, to be traded for a token.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewSession {
    /// The instance that knows the name. Absent: the one that the host means.
    instance: Option<String>,
    /// A user's name, or robot+name; robot+ alone with a token of an identity provider: whichever robot trusts it.
    name: String,
    /// A password, a robot's secret, a temporary token or a token of an identity provider.
    password: Secret,
}

/// A session.
#[derive(Serialize, ToSchema)]
struct Session {
    /// Shown as a bearer token from now on; docker takes it as an identity token. It is told once.
    token: String,
    /// When it ends.
    expires_at: Moment,
    identity: Identity,
}

/// Who calls.
#[derive(Debug, Serialize, ToSchema)]
struct Identity {
    /// The id of the instance that knows the caller.
    instance_id: String,
    /// user:<id> or robot:<id>.
    principal: String,
    /// What the caller logs in as.
    name: String,
    /// The kind of credential: password, robot_secret, temporary_token, refresh_token, identity_token.
    credential: String,
    /// When the credential ends; absent: not by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    credential_expires_at: Option<Moment>,
}

/// Who calls, with what is known of it.
#[derive(Serialize, ToSchema)]
struct KnownIdentity {
    #[serde(flatten)]
    identity: Identity,
    /// The name of the instance that knows the caller.
    instance: String,
    /// The groups that the caller is in.
    groups: Vec<String>,
}

/// A secret that logs in with the rights of its maker.
#[derive(Serialize, ToSchema)]
struct TemporaryToken {
    /// What to log in as.
    name: String,
    /// The password that goes with it. It is told once.
    token: String,
    /// When it ends.
    expires_at: Moment,
}

impl From<Caller> for Identity {
    fn from(caller: Caller) -> Self {
        Self {
            instance_id: caller.instance_id,
            principal: caller.principal,
            name: caller.name,
            credential: caller.credential,
            credential_expires_at: Moment::some(caller.expires_at),
        }
    }
}

pub(crate) fn add(routes: &mut Routes) {
    let operation = Operation::post("/sessions", "sessions.create", "Log in", Rule::Open).describe(
        "Trades a name and a secret for a token that lasts for days, until its session is deleted. In the place of a \
         token of an identity provider it lasts for an hour at most, and no longer than that.",
    );
    routes.add(operation, create);
    let operation = Operation::delete("/sessions/current", "sessions.delete", "Log out", Rule::Known)
        .describe("The token that the call shows opens nothing any more, here and at the registry.");
    routes.add(operation, delete);
    routes.add(Operation::get("/identity", "identity.get", "Show who calls", Rule::Known), identity);
    let operation = Operation::post("/temporary-tokens", "temporary_tokens.create", "Lend oneself a token", Rule::Known)
        .describe("Valid for an hour at most, with exactly the rights of the caller; docker login takes it as a password.");
    routes.add(operation, lend);
}

async fn create(call: Call, Json(new): Json<NewSession>) -> Result<Created<Session>> {
    let instance = match &new.instance {
        None => Some(caller::host_instance(&call.parts, &call.head).await?),
        Some(named) => {
            caller::instance_of_host(&call.head, &call.parts.base_domain)?;
            find_instance(&call.parts, named).await?
        }
    };
    let password = InstancePassword {
        // One that is not there knows nobody, and instance-manager says so as it does of a wrong password.
        instance_id: instance.map_or_else(|| Ulid::nil().to_string(), |instance| instance.id),
        name: new.name,
        secret: new.password.expose(),
    };
    let request = OpenSessionRequest {
        password: Some(password),
        client_address: call.address.clone(),
        request_id: call.request_id.clone(),
    };
    let opened = match call.parts.sessions.clone().open_session(request).await {
        Ok(opened) => opened.into_inner(),
        Err(status) => return Err(caller::refused(&call.parts, &call.head, &status).await),
    };
    let session = Session {
        token: opened.token,
        expires_at: Moment(opened.expires_at),
        identity: opened.caller.unwrap_or_default().into(),
    };
    Ok(Created { location: "/api/v1/sessions/current".to_owned(), made: session })
}

async fn delete(call: Call, _: Nothing) -> Result<Done> {
    if call.caller().credential != "refresh_token" {
        let message = "this call shows no token of a session, so there is none to end";
        return Err(Refusal::new(ErrorCode::Conflict, message));
    }
    let value = call.head.headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let token = value.and_then(|value| value.split_once(' ')).map_or("", |(_, token)| token.trim());
    call.parts.sessions.clone().close_session(CloseSessionRequest { token: token.to_owned() }).await?;
    Ok(Done)
}

async fn identity(call: Call, _: Nothing) -> Result<Plain<KnownIdentity>> {
    let caller = call.caller().clone();
    let instance = find_instance(&call.parts, &caller.instance_id).await?.unwrap_or_default().name;
    let id = caller.principal.split_once(':').map_or("", |(_, id)| id).to_owned();
    let request = GetPrincipalRequest {
        instance_id: caller.instance_id.clone(),
        principal: Some(PrincipalReference { id, ..PrincipalReference::default() }),
    };
    let groups = call.parts.principals.clone().get_principal(request).await?.into_inner().groups;
    Ok(Plain(KnownIdentity { identity: caller.into(), instance, groups }))
}

async fn lend(call: Call, _: Nothing) -> Result<Created<TemporaryToken>> {
    let request = CreateTemporaryTokenRequest { actor: call.actor() };
    let lent = call.parts.principals.clone().create_temporary_token(request).await?.into_inner();
    let made = TemporaryToken { name: lent.login, token: lent.token, expires_at: Moment(lent.expires_at) };
    Ok(Created { location: "/api/v1/identity".to_owned(), made })
}
