//! Identity providers: who else may say who somebody is, and whose workloads are robots.

use berth_model::Permission;
use berth_proto::instance_manager as wire;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    answer::{Created, Done, Entity, Page, Versioned},
    call::Call,
    input::{Json, List, NoFilter, Nothing},
    operation::{Operation, Routes, Rule},
    problem::Result,
    users::reference,
    values::{Moment, Secret, given},
};

/// Whoever has this value in the groups claim is in this group, and whoever has not is not.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct ProviderGroup {
    value: String,
    /// The name of a group.
    group: String,
}

/// An identity provider.
#[derive(Debug, Serialize, ToSchema)]
struct IdentityProvider {
    id: String,
    name: String,
    issuer: String,
    client_id: String,
    /// It has a client secret, which nobody can read.
    has_client_secret: bool,
    /// What is asked for beside openid.
    scopes: Vec<String>,
    /// For whom ID tokens may be that are shown as a password, beside the client.
    audiences: Vec<String>,
    /// The claim that names new users.
    username_claim: String,
    /// The claim that lists groups; empty: none.
    groups_claim: String,
    groups: Vec<ProviderGroup>,
    /// People may log in by it.
    login: bool,
    /// Whom it knows and nobody here is linked to becomes a user.
    create_users: bool,
    created_at: Moment,
    updated_at: Moment,
    version: i64,
}

impl Versioned for IdentityProvider {
    fn version(&self) -> i64 {
        self.version
    }
}

impl From<wire::ProviderGroup> for ProviderGroup {
    fn from(group: wire::ProviderGroup) -> Self {
        Self { value: group.value, group: group.group }
    }
}

impl From<ProviderGroup> for wire::ProviderGroup {
    fn from(group: ProviderGroup) -> Self {
        Self { value: group.value, group: group.group }
    }
}

impl From<wire::IdentityProviderEntry> for IdentityProvider {
    fn from(entry: wire::IdentityProviderEntry) -> Self {
        Self {
            id: entry.id,
            name: entry.name,
            issuer: entry.issuer,
            client_id: entry.client_id,
            has_client_secret: entry.has_client_secret,
            scopes: entry.scopes,
            audiences: entry.audiences,
            username_claim: entry.username_claim,
            groups_claim: entry.groups_claim,
            groups: entry.groups.into_iter().map(Into::into).collect(),
            login: entry.login,
            create_users: entry.create_users,
            created_at: Moment(entry.created_at),
            updated_at: Moment(entry.updated_at),
            version: entry.version,
        }
    }
}

/// An identity provider to be made known.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewIdentityProvider {
    name: String,
    /// Its URL, as its tokens say it.
    issuer: String,
    /// The id that it has given this registry; absent: none, so that only its workloads come.
    #[serde(default)]
    client_id: String,
    /// What belongs to the client id; absent: nothing.
    client_secret: Option<Secret>,
    /// What is asked for beside openid; absent: profile and email.
    #[serde(default)]
    scopes: Vec<String>,
    #[serde(default)]
    audiences: Vec<String>,
    /// The claim that names new users; absent: preferred_username.
    #[serde(default)]
    username_claim: String,
    #[serde(default)]
    groups_claim: String,
    #[serde(default)]
    groups: Vec<ProviderGroup>,
    /// People may log in by it.
    #[serde(default)]
    login: bool,
    #[serde(default)]
    create_users: bool,
}

/// What is to be changed; what is absent stays. Its name and its issuer stay.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct IdentityProviderChange {
    client_id: Option<String>,
    /// null takes it away.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<Secret>)]
    client_secret: Option<Option<Secret>>,
    scopes: Option<Vec<String>>,
    audiences: Option<Vec<String>>,
    username_claim: Option<String>,
    /// null takes it away.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<String>)]
    groups_claim: Option<Option<String>>,
    groups: Option<Vec<ProviderGroup>>,
    login: Option<bool>,
    create_users: Option<bool>,
}

/// Whom a user is at the provider.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct ProviderLink {
    /// The sub claim.
    subject: String,
}

/// What a claim has to be.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct ClaimCondition {
    /// A name, or from a slash on a path of names: /kubernetes.io/namespace
    claim: String,
    /// The text that it has to be; * stands for any text.
    pattern: String,
}

/// Workloads that are a robot.
#[derive(Debug, Serialize, ToSchema)]
struct Trust {
    id: String,
    provider: String,
    robot_id: String,
    robot: String,
    audience: String,
    conditions: Vec<ClaimCondition>,
    created_by: String,
    created_at: Moment,
}

impl From<wire::TrustEntry> for Trust {
    fn from(entry: wire::TrustEntry) -> Self {
        let condition = |one: wire::ClaimCondition| ClaimCondition { claim: one.claim, pattern: one.pattern };
        Self {
            id: entry.id,
            provider: entry.provider,
            robot_id: entry.robot_id,
            robot: entry.robot,
            audience: entry.audience,
            conditions: entry.conditions.into_iter().map(condition).collect(),
            created_by: entry.created_by,
            created_at: Moment(entry.created_at),
        }
    }
}

/// Workloads that are to be a robot.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewTrust {
    /// The name of an identity provider.
    provider: String,
    /// The name or the id of a robot.
    robot: String,
    /// For whom their tokens are.
    audience: String,
    /// All of them have to fit.
    conditions: Vec<ClaimCondition>,
}

pub(crate) fn add(routes: &mut Routes) {
    use Permission as P;
    let all = "/instances/{instance}/identity-providers";
    let one = "/instances/{instance}/identity-providers/{provider}";
    let (read, update) = (Rule::Needs(P::IdentityProviderRead), Rule::Needs(P::IdentityProviderUpdate));
    routes.add(Operation::get(all, "identity_providers.list", "List the identity providers", read), list);
    let make = Operation::post(
        all,
        "identity_providers.create",
        "Make an identity provider known",
        Rule::Needs(P::IdentityProviderCreate),
    );
    routes.add(make.repeatable(), create);
    routes.add(Operation::get(one, "identity_providers.get", "Show an identity provider", read), get);
    let change = Operation::patch(one, "identity_providers.update", "Change an identity provider", update);
    routes.add(change.conditional(), update_one);
    let end = Operation::delete(
        one,
        "identity_providers.delete",
        "Forget an identity provider, and what came of it",
        Rule::Needs(P::IdentityProviderDelete),
    );
    routes.add(end.conditional(), delete);
    let link = "/instances/{instance}/identity-providers/{provider}/links/{user}";
    routes.add(
        Operation::put(link, "identity_providers.link_user", "Let whom the provider knows be a user", update),
        link_user,
    );
    routes.add(
        Operation::delete(link, "identity_providers.unlink_user", "Take such a link away", update),
        unlink_user,
    );
    let trusts = "/instances/{instance}/trusts";
    routes.add(
        Operation::get(trusts, "trusts.list", "List which workloads are which robot", read),
        list_trusts,
    );
    let trust = Operation::post(trusts, "trusts.create", "Let workloads be a robot", update)
        .describe("Whoever shows a token of the provider for the audience, whose claims fit, is the robot.");
    routes.add(trust.repeatable(), create_trust);
    let trust = "/instances/{instance}/trusts/{trust}";
    routes.add(
        Operation::delete(trust, "trusts.delete", "End that workloads are a robot", update),
        delete_trust,
    );
}

async fn list(call: Call, _: Nothing) -> Result<Page<IdentityProvider>> {
    let request = wire::ListIdentityProvidersRequest { instance_id: call.instance_id().to_owned() };
    let found = call.parts.providers.clone().list_identity_providers(request).await?.into_inner().providers;
    Ok(Page { items: found.into_iter().map(Into::into).collect(), next: None })
}

async fn create(call: Call, Json(new): Json<NewIdentityProvider>) -> Result<Created<IdentityProvider>> {
    let request = wire::CreateIdentityProviderRequest {
        actor: call.actor(),
        instance_id: call.instance_id().to_owned(),
        name: new.name,
        issuer: new.issuer,
        client_id: new.client_id,
        client_secret: new.client_secret.map(|secret| secret.expose()).unwrap_or_default(),
        scopes: new.scopes,
        audiences: new.audiences,
        username_claim: new.username_claim,
        groups_claim: new.groups_claim,
        groups: new.groups.into_iter().map(Into::into).collect(),
        login: new.login,
        create_users: new.create_users,
    };
    let made: IdentityProvider =
        call.parts.providers.clone().create_identity_provider(request).await?.into_inner().into();
    Ok(Created { location: call.below(&format!("identity-providers/{}", made.name)), made })
}

async fn get(call: Call, _: Nothing) -> Result<Entity<IdentityProvider>> {
    let (instance_id, name) = (call.instance_id().to_owned(), call.param("provider").to_owned());
    let request = wire::GetIdentityProviderRequest { instance_id, name };
    let found = call.parts.providers.clone().get_identity_provider(request).await?.into_inner();
    Ok(Entity(found.into()))
}

async fn update_one(
    call: Call,
    Json(change): Json<IdentityProviderChange>,
) -> Result<Entity<IdentityProvider>> {
    let texts = |texts| wire::Texts { texts };
    let groups = |groups: Vec<ProviderGroup>| wire::ProviderGroups {
        groups: groups.into_iter().map(Into::into).collect(),
    };
    let request = wire::UpdateIdentityProviderRequest {
        actor: call.actor(),
        instance_id: call.instance_id().to_owned(),
        name: call.param("provider").to_owned(),
        version: call.version()?,
        client_id: change.client_id,
        client_secret: change
            .client_secret
            .map(|secret| secret.map(|secret| secret.expose()).unwrap_or_default()),
        scopes: change.scopes.map(texts),
        audiences: change.audiences.map(texts),
        username_claim: change.username_claim,
        groups_claim: change.groups_claim.map(Option::unwrap_or_default),
        groups: change.groups.map(groups),
        login: change.login,
        create_users: change.create_users,
    };
    let changed = call.checked(call.parts.providers.clone().update_identity_provider(request).await)?;
    Ok(Entity(changed.into()))
}

async fn delete(call: Call, _: Nothing) -> Result<Done> {
    let request = wire::DeleteIdentityProviderRequest {
        actor: call.actor(),
        instance_id: call.instance_id().to_owned(),
        name: call.param("provider").to_owned(),
        version: call.version()?,
    };
    call.checked(call.parts.providers.clone().delete_identity_provider(request).await)?;
    Ok(Done)
}

async fn link_user(call: Call, Json(link): Json<ProviderLink>) -> Result<Done> {
    let request = wire::LinkUserRequest {
        actor: call.actor(),
        instance_id: call.instance_id().to_owned(),
        provider: call.param("provider").to_owned(),
        subject: link.subject,
        user: Some(reference("user", call.param("user"))),
    };
    call.parts.providers.clone().link_user(request).await?;
    Ok(Done)
}

async fn unlink_user(call: Call, _: Nothing) -> Result<Done> {
    let request = wire::UnlinkUserRequest {
        actor: call.actor(),
        instance_id: call.instance_id().to_owned(),
        provider: call.param("provider").to_owned(),
        user: Some(reference("user", call.param("user"))),
    };
    call.parts.providers.clone().unlink_user(request).await?;
    Ok(Done)
}

async fn list_trusts(call: Call, List { paging, .. }: List<NoFilter>) -> Result<Page<Trust>> {
    let request = wire::ListTrustsRequest {
        instance_id: call.instance_id().to_owned(),
        after: paging.after.clone(),
        limit: paging.size + 1,
    };
    let mut found = call.parts.providers.clone().list_trusts(request).await?.into_inner().trusts;
    let next = paging.cut(&mut found, |trust| &trust.id);
    Ok(Page { items: found.into_iter().map(Into::into).collect(), next })
}

async fn create_trust(call: Call, Json(new): Json<NewTrust>) -> Result<Created<Trust>> {
    let condition = |one: ClaimCondition| wire::ClaimCondition { claim: one.claim, pattern: one.pattern };
    let request = wire::CreateTrustRequest {
        actor: call.actor(),
        instance_id: call.instance_id().to_owned(),
        provider: new.provider,
        robot: Some(reference("robot", &new.robot)),
        audience: new.audience,
        conditions: new.conditions.into_iter().map(condition).collect(),
    };
    let made: Trust = call.parts.providers.clone().create_trust(request).await?.into_inner().into();
    Ok(Created { location: call.below(&format!("trusts/{}", made.id)), made })
}

async fn delete_trust(call: Call, _: Nothing) -> Result<Done> {
    let request = wire::DeleteTrustRequest {
        actor: call.actor(),
        instance_id: call.instance_id().to_owned(),
        trust_id: call.param("trust").to_owned(),
    };
    call.parts.providers.clone().delete_trust(request).await?;
    Ok(Done)
}
