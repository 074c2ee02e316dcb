//! Identity providers and logins by them, on the wire.

use berth_proto::{
    instance_manager::{
        BeginLoginRequest, BeginLoginResponse, ClaimCondition, CreateIdentityProviderRequest,
        CreateTrustRequest, DeleteIdentityProviderRequest, DeleteIdentityProviderResponse,
        DeleteTrustRequest, DeleteTrustResponse, FinishLoginRequest, FinishLoginResponse,
        GetIdentityProviderRequest, IdentityProviderEntry, LinkUserRequest, LinkUserResponse,
        ListIdentityProvidersRequest, ListIdentityProvidersResponse, ListTrustsRequest, ListTrustsResponse,
        ProviderGroup, TrustEntry, UnlinkUserRequest, UnlinkUserResponse, UpdateIdentityProviderRequest,
        identity_providers_server::IdentityProviders, logins_server::Logins as LoginsService,
    },
    parse, to_status,
};
use secrecy::{ExposeSecret, SecretString};
use tonic::{Request, Response, Status};

use super::{
    principals::{limit, reference, version},
    status,
};
use crate::{
    Error,
    actor::Actor,
    error::invalid,
    logins::{Logins, PATIENCE, Returned},
    providers::{Providers, Wishes},
    store::{Conditions, StoredProvider, StoredTrust},
};

/// The service behind [`IdentityProvidersServer`](berth_proto::instance_manager::identity_providers_server::IdentityProvidersServer).
#[derive(Clone, Debug)]
pub struct IdentityProvidersApi {
    pub(crate) providers: Providers,
}

/// The service behind [`LoginsServer`](berth_proto::instance_manager::logins_server::LoginsServer).
#[derive(Clone, Debug)]
pub struct LoginsApi {
    pub(crate) logins: Logins,
}

type Answer<T> = Result<Response<T>, Status>;

fn pairs(groups: Vec<ProviderGroup>) -> Vec<(String, String)> {
    groups.into_iter().map(|group| (group.value, group.group)).collect()
}

fn conditions(listed: Vec<ClaimCondition>) -> Result<Conditions, Status> {
    let mut conditions = Conditions::new();
    for ClaimCondition { claim, pattern } in listed {
        if conditions.insert(claim.clone(), pattern).is_some() {
            return Err(status(invalid(format!("there are two conditions on the claim {claim}"))));
        }
    }
    Ok(conditions)
}

fn trust_entry(trust: StoredTrust) -> TrustEntry {
    let conditions = trust.conditions.into_iter().map(|(claim, pattern)| ClaimCondition { claim, pattern });
    TrustEntry {
        id: trust.id.to_string(),
        provider: trust.provider,
        robot_id: trust.robot.to_string(),
        robot: trust.robot_name,
        audience: trust.audience,
        conditions: conditions.collect(),
        created_by: trust.created_by,
        created_at: trust.created_at.0,
    }
}

impl IdentityProvidersApi {
    async fn entry(&self, provider: StoredProvider) -> Result<IdentityProviderEntry, Error> {
        let groups = self.providers.store.provider_groups(provider.id).await?;
        let text = provider.text;
        Ok(IdentityProviderEntry {
            id: provider.id.to_string(),
            instance_id: provider.instance.to_string(),
            name: provider.name,
            issuer: provider.issuer,
            client_id: text.client_id,
            has_client_secret: text.client_secret.is_some(),
            scopes: text.scopes,
            audiences: text.audiences,
            username_claim: text.username_claim,
            groups_claim: text.groups_claim,
            groups: groups.into_iter().map(|(value, _, group)| ProviderGroup { value, group }).collect(),
            login: text.login,
            create_users: text.create_users,
            version: provider.version,
            created_at: provider.created_at.0,
            updated_at: provider.updated_at.0,
        })
    }
}

#[tonic::async_trait]
impl IdentityProviders for IdentityProvidersApi {
    async fn create_identity_provider(
        &self,
        request: Request<CreateIdentityProviderRequest>,
    ) -> Answer<IdentityProviderEntry> {
        let request = request.into_inner();
        let actor = Actor::read(request.actor).map_err(to_status)?;
        let instance = parse("instance_id", &request.instance_id).map_err(to_status)?;
        let wishes = Wishes {
            client_id: Some(request.client_id),
            client_secret: Some(SecretString::from(request.client_secret)),
            scopes: Some(request.scopes),
            audiences: Some(request.audiences),
            username_claim: Some(request.username_claim),
            groups_claim: Some(request.groups_claim),
            groups: Some(pairs(request.groups)),
            login: Some(request.login),
            create_users: Some(request.create_users),
        };
        let made = self.providers.create(&actor, instance, request.name, request.issuer, wishes).await;
        Ok(Response::new(self.entry(made.map_err(status)?).await.map_err(status)?))
    }

    async fn get_identity_provider(
        &self,
        request: Request<GetIdentityProviderRequest>,
    ) -> Answer<IdentityProviderEntry> {
        let request = request.into_inner();
        let instance = parse("instance_id", &request.instance_id).map_err(to_status)?;
        let found = self.providers.find(instance, &request.name).await.map_err(status)?;
        Ok(Response::new(self.entry(found).await.map_err(status)?))
    }

    async fn list_identity_providers(
        &self,
        request: Request<ListIdentityProvidersRequest>,
    ) -> Answer<ListIdentityProvidersResponse> {
        let instance = parse("instance_id", &request.into_inner().instance_id).map_err(to_status)?;
        let mut providers = Vec::new();
        for provider in self.providers.store.providers(instance).await.map_err(status)? {
            providers.push(self.entry(provider).await.map_err(status)?);
        }
        Ok(Response::new(ListIdentityProvidersResponse { providers }))
    }

    async fn update_identity_provider(
        &self,
        request: Request<UpdateIdentityProviderRequest>,
    ) -> Answer<IdentityProviderEntry> {
        let request = request.into_inner();
        let actor = Actor::read(request.actor).map_err(to_status)?;
        let instance = parse("instance_id", &request.instance_id).map_err(to_status)?;
        let wishes = Wishes {
            client_id: request.client_id,
            client_secret: request.client_secret.map(SecretString::from),
            scopes: request.scopes.map(|list| list.texts),
            audiences: request.audiences.map(|list| list.texts),
            username_claim: request.username_claim,
            groups_claim: request.groups_claim,
            groups: request.groups.map(|list| pairs(list.groups)),
            login: request.login,
            create_users: request.create_users,
        };
        let seen = version(request.version);
        let after = self.providers.change(&actor, instance, &request.name, seen, wishes).await;
        Ok(Response::new(self.entry(after.map_err(status)?).await.map_err(status)?))
    }

    async fn delete_identity_provider(
        &self,
        request: Request<DeleteIdentityProviderRequest>,
    ) -> Answer<DeleteIdentityProviderResponse> {
        let request = request.into_inner();
        let actor = Actor::read(request.actor).map_err(to_status)?;
        let instance = parse("instance_id", &request.instance_id).map_err(to_status)?;
        let seen = version(request.version);
        self.providers.delete(&actor, instance, &request.name, seen).await.map_err(status)?;
        Ok(Response::new(DeleteIdentityProviderResponse {}))
    }

    async fn link_user(&self, request: Request<LinkUserRequest>) -> Answer<LinkUserResponse> {
        let request = request.into_inner();
        let actor = Actor::read(request.actor).map_err(to_status)?;
        let instance = parse("instance_id", &request.instance_id).map_err(to_status)?;
        let user = reference("user", request.user).map_err(to_status)?;
        let linked = self.providers.link(&actor, instance, &request.provider, request.subject, &user).await;
        linked.map_err(status)?;
        Ok(Response::new(LinkUserResponse {}))
    }

    async fn unlink_user(&self, request: Request<UnlinkUserRequest>) -> Answer<UnlinkUserResponse> {
        let request = request.into_inner();
        let actor = Actor::read(request.actor).map_err(to_status)?;
        let instance = parse("instance_id", &request.instance_id).map_err(to_status)?;
        let user = reference("user", request.user).map_err(to_status)?;
        self.providers.unlink(&actor, instance, &request.provider, &user).await.map_err(status)?;
        Ok(Response::new(UnlinkUserResponse {}))
    }

    async fn create_trust(&self, request: Request<CreateTrustRequest>) -> Answer<TrustEntry> {
        let request = request.into_inner();
        let actor = Actor::read(request.actor).map_err(to_status)?;
        let instance = parse("instance_id", &request.instance_id).map_err(to_status)?;
        let robot = reference("robot", request.robot).map_err(to_status)?;
        let conditions = conditions(request.conditions)?;
        let (provider, audience) = (request.provider, request.audience);
        let made = self.providers.trust(&actor, instance, &provider, &robot, audience, conditions).await;
        Ok(Response::new(trust_entry(made.map_err(status)?)))
    }

    async fn list_trusts(&self, request: Request<ListTrustsRequest>) -> Answer<ListTrustsResponse> {
        let request = request.into_inner();
        let instance = parse("instance_id", &request.instance_id).map_err(to_status)?;
        let found = self.providers.store.trusts(instance, &request.after, limit(request.limit)).await;
        let trusts = found.map_err(status)?.into_iter().map(trust_entry).collect();
        Ok(Response::new(ListTrustsResponse { trusts }))
    }

    async fn delete_trust(&self, request: Request<DeleteTrustRequest>) -> Answer<DeleteTrustResponse> {
        let request = request.into_inner();
        let actor = Actor::read(request.actor).map_err(to_status)?;
        let instance = parse("instance_id", &request.instance_id).map_err(to_status)?;
        let trust = parse("trust_id", &request.trust_id).map_err(to_status)?;
        self.providers.delete_trust(&actor, instance, trust).await.map_err(status)?;
        Ok(Response::new(DeleteTrustResponse {}))
    }
}

#[tonic::async_trait]
impl LoginsService for LoginsApi {
    async fn begin_login(&self, request: Request<BeginLoginRequest>) -> Answer<BeginLoginResponse> {
        let request = request.into_inner();
        let instance = parse("instance_id", &request.instance_id).map_err(to_status)?;
        let sent = self.logins.begin(instance, &request.provider, &request.redirect_uri).await;
        let sent = sent.map_err(status)?;
        Ok(Response::new(BeginLoginResponse {
            location: sent.location,
            browser: sent.browser.expose_secret().to_owned(),
            valid_for: u32::try_from(PATIENCE.as_secs()).unwrap_or(u32::MAX),
        }))
    }

    async fn finish_login(&self, request: Request<FinishLoginRequest>) -> Answer<FinishLoginResponse> {
        let request = request.into_inner();
        let instance = parse("instance_id", &request.instance_id).map_err(to_status)?;
        let returned = Returned {
            redirect_uri: request.redirect_uri,
            browser: SecretString::from(request.browser),
            state: request.state,
            code: SecretString::from(request.code),
            issuer: Some(request.issuer).filter(|issuer| !issuer.is_empty()),
            address: request.client_address,
        };
        let entered = self.logins.finish(instance, &request.provider, returned).await.map_err(status)?;
        Ok(Response::new(FinishLoginResponse {
            login: entered.login,
            token: entered.token.expose_secret().to_owned(),
            expires_at: entered.expires_at.0,
        }))
    }
}
