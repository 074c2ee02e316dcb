//! People who log in by a browser (OpenID Connect, authorization code with PKCE). Nothing is kept while they are away: state,
//! nonce and verifier follow from a secret that only the browser has, so whoever comes back without it has not begun.

use std::time::Duration;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use berth_access::{ForeignClaims, random_secret, secret_hash};
use berth_model::{InstanceId, InstanceState, Principal, PrincipalId, PrincipalKind, ProviderId};
use berth_oci::{ErrorCode, Problem};
use berth_service::{Ids, SharedClock, Timestamp};
use form_urlencoded::{Serializer, byte_serialize};
use secrecy::{ExposeSecret, SecretString};
use subtle::ConstantTimeEq;

use crate::{
    Error,
    actor::Actor,
    error::{invalid, no_instance},
    issuers::Issuers,
    principals::{TEMPORARY_SECONDS, TEMPORARY_TOKEN, check_email, check_name, fresh},
    providers::ClientSecrets,
    settings::SettingsBoard,
    store::{
        Login, LoginOutcome, NewPrincipal, SecretToken, Store, StoredPrincipal, StoredProvider, TokenKind,
    },
};

/// How long a login may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(600);

/// A browser that is on its way.
#[derive(Debug)]
pub(crate) struct Sent {
    pub(crate) location: String,
    /// What it has to bring back beside what the provider gives it.
    pub(crate) browser: SecretString,
}

/// A browser that has come back.
#[derive(Debug)]
pub(crate) struct Returned {
    pub(crate) redirect_uri: String,
    pub(crate) browser: SecretString,
    pub(crate) state: String,
    pub(crate) code: SecretString,
    /// Whom the answer names as its issuer, if anybody.
    pub(crate) issuer: Option<String>,
    pub(crate) address: String,
}

/// What somebody has who has logged in.
#[derive(Debug)]
pub(crate) struct Entered {
    pub(crate) login: String,
    pub(crate) token: SecretString,
    pub(crate) expires_at: Timestamp,
}

/// Logs people in.
#[derive(Clone, Debug)]
pub(crate) struct Logins {
    pub(crate) store: Store,
    pub(crate) settings: SettingsBoard,
    pub(crate) issuers: Issuers,
    pub(crate) secrets: ClientSecrets,
    pub(crate) clock: SharedClock,
    pub(crate) ids: Ids,
}

/// What follows from a browser's secret for one login.
struct Derived<'a> {
    provider: ProviderId,
    began: i64,
    browser: &'a SecretString,
}

impl Derived<'_> {
    fn text(&self, purpose: &str) -> String {
        let (provider, began, browser) = (self.provider, self.began, self.browser.expose_secret());
        URL_SAFE_NO_PAD.encode(secret_hash(&format!("{purpose}\n{provider}\n{began}\n{browser}")))
    }

    fn state(&self) -> String {
        format!("{}.{}", self.began, self.text("state"))
    }
}

fn same(one: &str, other: &str) -> bool {
    one.as_bytes().ct_eq(other.as_bytes()).into()
}

fn denied(message: impl Into<String>) -> Error {
    Problem::new(ErrorCode::Denied, message).into()
}

fn away(provider: &StoredProvider, cause: &str) -> Error {
    tracing::warn!(provider = provider.name, cause, "an identity provider does not answer as it should");
    let message = format!("the identity provider {} does not answer as it should; try again", provider.name);
    Problem::new(ErrorCode::Unavailable, message).into()
}

impl Logins {
    async fn provider(&self, instance: InstanceId, name: &str) -> Result<StoredProvider, Error> {
        let served = self.settings.current().served(instance).ok_or_else(no_instance)?;
        if served.state != InstanceState::Running {
            return Err(denied(format!("the instance is {}", served.state)));
        }
        let found = self.store.provider_named(instance, name).await?.filter(|found| found.text.login);
        Ok(found.ok_or_else(|| {
            Problem::new(ErrorCode::NotFound, "there is no such identity provider to log in with")
        })?)
    }

    /// Sends a browser to a provider.
    pub(crate) async fn begin(
        &self,
        instance: InstanceId,
        provider: &str,
        redirect_uri: &str,
    ) -> Result<Sent, Error> {
        let provider = self.provider(instance, provider).await?;
        let published = self.issuers.published(&provider.issuer).await?;
        let endpoint = &published.document.authorization_endpoint;
        let fits = endpoint.starts_with("https://")
            || (endpoint.starts_with("http://") && provider.issuer.starts_with("http://"));
        if !fits || endpoint.contains('#') {
            return Err(denied(format!(
                "the identity provider {} publishes no place to log in",
                provider.name
            )));
        }
        let browser = random_secret()?;
        let derived = Derived { provider: provider.id, began: self.clock.now().seconds(), browser: &browser };
        let challenge = URL_SAFE_NO_PAD.encode(secret_hash(&derived.text("verifier")));
        let mut scopes = vec!["openid"];
        scopes.extend(provider.text.scopes.iter().map(String::as_str).filter(|scope| *scope != "openid"));
        let query = Serializer::new(String::new())
            .append_pair("response_type", "code")
            .append_pair("client_id", &provider.text.client_id)
            .append_pair("redirect_uri", redirect_uri)
            .append_pair("scope", &scopes.join(" "))
            .append_pair("state", &derived.state())
            .append_pair("nonce", &derived.text("nonce"))
            .append_pair("code_challenge", &challenge)
            .append_pair("code_challenge_method", "S256")
            .finish();
        let mark = if endpoint.contains('?') { '&' } else { '?' };
        Ok(Sent { location: format!("{endpoint}{mark}{query}"), browser })
    }

    /// Lets in whom a provider has sent back.
    pub(crate) async fn finish(
        &self,
        instance: InstanceId,
        provider: &str,
        returned: Returned,
    ) -> Result<Entered, Error> {
        let provider = self.provider(instance, provider).await?;
        let again = format!("begin again at /auth/oidc/{}", provider.name);
        let (derived, expires_at) = self.own(&provider, &returned).ok_or_else(|| {
            invalid(format!(
                "this login was not begun in this browser, or more than ten minutes ago; {again}"
            ))
        })?;
        if returned.issuer.as_ref().is_some_and(|issuer| *issuer != provider.issuer) {
            return Err(denied(format!("this answer is of another identity provider; {again}")));
        }
        let state = secret_hash(&returned.state);
        let repeated = || denied(format!("this login has ended already; {again}"));
        if self.store.login_is_finished(state).await? {
            return Err(repeated());
        }
        let given = self.exchange(&provider, &returned, &derived.text("verifier")).await?;
        let verified = self.issuers.verify(&provider.issuer, given.id_token.expose_secret()).await?;
        let mut claims = verified.map_err(|error| {
            tracing::warn!(provider = provider.name, %error, "an ID token is refused");
            denied(format!(
                "the identity provider {} gave an ID token that is not valid: {error}",
                provider.name
            ))
        })?;
        let nonce = claims.text("nonce").unwrap_or_default();
        let ours = claims.is_id_token_for(&provider.text.client_id) && same(&nonce, &derived.text("nonce"));
        let subject = claims.subject().filter(|subject| ours && subject.len() <= 255);
        let subject = subject.ok_or_else(|| {
            denied(format!("the ID token of {} is not of this login; {again}", provider.name))
        })?;
        self.complete(&provider, &mut claims, given.access_token).await?;
        let entrance = Entrance { provider: &provider, claims: &claims, subject, returned: &returned };
        let (login, entered) = self.entrance(entrance, (state, expires_at)).await?;
        match self.store.finish_login(login).await? {
            LoginOutcome::Done => {}
            LoginOutcome::Repeated => return Err(repeated()),
            LoginOutcome::NameTaken => {
                let message = format!(
                    "somebody else is called {} here; an administrator can link you to that user: berth admin \
                     identity-provider link {} {} SUBJECT",
                    entered.login, provider.name, entered.login
                );
                return Err(Problem::new(ErrorCode::AlreadyExists, message).into());
            }
            LoginOutcome::Overtaken => {
                return Err(
                    Problem::new(ErrorCode::Conflict, format!("it was changed meanwhile; {again}")).into()
                );
            }
        }
        // Somebody may have left a group.
        self.settings.refresh().await?;
        Ok(entered)
    }

    /// What the browser began with, if it did, and when that ends.
    fn own<'a>(&self, provider: &StoredProvider, returned: &'a Returned) -> Option<(Derived<'a>, Timestamp)> {
        if returned.browser.expose_secret().is_empty() {
            return None;
        }
        let began: i64 = returned.state.split('.').next()?.parse().ok()?;
        let derived = Derived { provider: provider.id, began, browser: &returned.browser };
        if !same(&derived.state(), &returned.state) {
            return None;
        }
        let now = self.clock.now();
        let began = Timestamp::from_seconds(began);
        let soon = now.plus(Duration::from_secs(60));
        (began <= soon && now < began.plus(PATIENCE)).then(|| (derived, soon.plus(PATIENCE)))
    }

    /// Asks for what an ID token does not say of its subject, where the issuer tells it to the bearer of the access token.
    async fn complete(
        &self,
        provider: &StoredProvider,
        claims: &mut ForeignClaims,
        bearer: Option<SecretString>,
    ) -> Result<(), Error> {
        let text = &provider.text;
        let named = !text.create_users || claims.says(&text.username_claim);
        let grouped = text.groups_claim.is_empty() || claims.says(&text.groups_claim);
        let published = self.issuers.published(&provider.issuer).await?;
        let endpoint = published.document.userinfo_endpoint.as_str();
        if endpoint.is_empty() || (named && grouped) {
            return Ok(());
        }
        let Some(bearer) = bearer else { return Ok(()) };
        let answer = self.issuers.outbound.get_as(endpoint, &bearer).await;
        let answer = answer.map_err(|error| away(provider, &error.to_string()))?;
        let document = serde_json::from_slice(&answer.body).ok().filter(|_| answer.status == 200);
        let document =
            document.ok_or_else(|| away(provider, "no JSON about the bearer of an access token"))?;
        if claims.complete(document) {
            return Ok(());
        }
        Err(denied(format!("the identity provider {} speaks of two people in one login", provider.name)))
    }

    /// What is given for a code (RFC 6749 4.1.3).
    async fn exchange(
        &self,
        provider: &StoredProvider,
        returned: &Returned,
        verifier: &str,
    ) -> Result<Given, Error> {
        let published = self.issuers.published(&provider.issuer).await?;
        let document = &published.document;
        let client = provider.text.client_id.as_str();
        let secret = self.secrets.open(provider)?;
        let methods = &document.token_endpoint_auth_methods_supported;
        let has = |method: &str| methods.iter().any(|listed| listed == method);
        let in_form = !methods.is_empty() && !has("client_secret_basic") && has("client_secret_post");
        let mut form = vec![
            ("grant_type", "authorization_code"),
            ("code", returned.code.expose_secret()),
            ("redirect_uri", returned.redirect_uri.as_str()),
            ("code_verifier", verifier),
        ];
        // RFC 6749 2.3.1: name and password are written as in forms before they become Basic credentials.
        let encoded = |text: &str| byte_serialize(text.as_bytes()).collect::<String>();
        let (mut name, mut password) = (String::new(), None);
        match &secret {
            Some(secret) if !in_form => {
                name = encoded(client);
                password = Some(SecretString::from(encoded(secret.expose_secret())));
            }
            Some(secret) => form.extend([("client_id", client), ("client_secret", secret.expose_secret())]),
            None => form.push(("client_id", client)),
        }
        let basic = password.as_ref().map(|password| (name.as_str(), password));
        let answer = self.issuers.outbound.post_form(&document.token_endpoint, &form, basic).await;
        let answer = answer.map_err(|error| away(provider, &error.to_string()))?;
        let body: serde_json::Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        match answer.status {
            200 => {
                let token = |name: &str| body[name].as_str().filter(|token| !token.is_empty());
                let id_token =
                    token("id_token").ok_or_else(|| away(provider, "an answer without an ID token"))?;
                Ok(Given {
                    id_token: SecretString::from(id_token),
                    access_token: token("access_token").map(SecretString::from),
                })
            }
            400..500 => {
                let why: String = body["error"].as_str().unwrap_or("no reason").chars().take(60).collect();
                let why = why.replace(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != ' ', "?");
                tracing::warn!(provider = provider.name, why, "an identity provider refuses a login");
                let advice = "if this happens to everybody, its client id and secret have to be set anew";
                Err(denied(format!(
                    "the identity provider {} refused the login: {why}; {advice}",
                    provider.name
                )))
            }
            status => Err(away(provider, &format!("status {status}"))),
        }
    }

    /// Who it is, or is to be made, and all that belongs to it.
    async fn entrance(
        &self,
        entrance: Entrance<'_>,
        state: ([u8; 32], Timestamp),
    ) -> Result<(Login, Entered), Error> {
        let Entrance { provider, claims, subject, returned } = entrance;
        let (instance, now) = (provider.instance, self.clock.now());
        let found = self.store.linked(instance, provider.id, &subject).await?;
        let new = match &found {
            Some(user) if !user.is_live(now) => return Err(denied(format!("{} is disabled", user.name))),
            Some(_) => None,
            None => Some(self.newcomer(provider, claims, &subject)?),
        };
        let (id, login) = match (&found, &new) {
            (Some(StoredPrincipal { id, name, .. }), _) | (None, Some(NewPrincipal { id, name, .. })) => {
                (*id, name.clone())
            }
            (None, None) => return Err(Error::Inconsistent("a login of nobody")),
        };
        let (token, hash) = fresh(TEMPORARY_TOKEN)?;
        let expires_at = now.plus(Duration::from_secs(TEMPORARY_SECONDS));
        let actor =
            Actor::by_login((instance, Principal::Known(PrincipalKind::User, id)), returned.address.clone());
        let entry = |kind: &str| actor.entry(&self.ids, instance, kind, format!("user:{id}")).called(&login);
        let login_of = Login {
            provider: provider.id,
            state,
            subject,
            new,
            token: SecretToken {
                hash,
                kind: TokenKind::Temporary,
                instance,
                principal: id,
                secret: None,
                provider: Some(provider.id),
                trust: None,
                created_at: now,
                expires_at,
            },
            groups: self.groups(provider, claims).await?,
            made: entry("user.created"),
            regrouped: entry("user.groups_changed"),
            entered: entry("user.logged_in"),
        };
        Ok((login_of, Entered { login, token, expires_at }))
    }

    /// Somebody who is not here yet.
    fn newcomer(
        &self,
        provider: &StoredProvider,
        claims: &ForeignClaims,
        subject: &str,
    ) -> Result<NewPrincipal, Error> {
        if !provider.text.create_users {
            return Err(denied(format!(
                "nobody here is linked to you; an administrator can do that: berth admin identity-provider link {} USER {subject:?}",
                provider.name
            )));
        }
        let claim = &provider.text.username_claim;
        let name = claims.text(claim).unwrap_or_default().to_ascii_lowercase();
        check_name(PrincipalKind::User, &name).map_err(|problem| {
            denied(format!(
                "the identity provider's claim {claim} is {name:?}, which can't be a user's name here: {}",
                problem.message
            ))
        })?;
        let email = claims.text("email").filter(|email| check_email(email).is_ok());
        Ok(NewPrincipal {
            id: PrincipalId::new(self.ids.ulid()),
            instance: provider.instance,
            kind: PrincipalKind::User,
            name,
            description: format!("by the identity provider {}", provider.name),
            password_hash: None,
            email: email.unwrap_or_default(),
            expires_at: None,
            grants: Vec::new(),
            secret: None,
        })
    }

    /// Every group that the provider speaks of, and whether its claim says so.
    async fn groups(
        &self,
        provider: &StoredProvider,
        claims: &ForeignClaims,
    ) -> Result<Vec<(PrincipalId, bool)>, Error> {
        let said = claims.texts(&provider.text.groups_claim);
        let mut groups: Vec<(PrincipalId, bool)> = Vec::new();
        for (value, group, _) in self.store.provider_groups(provider.id).await? {
            let inside = said.contains(&value.as_str());
            match groups.iter_mut().find(|(known, _)| *known == group) {
                Some((_, already)) => *already |= inside,
                None => groups.push((group, inside)),
            }
        }
        Ok(groups)
    }
}

/// What a provider gives for a code.
struct Given {
    id_token: SecretString,
    access_token: Option<SecretString>,
}

/// Somebody at the door.
struct Entrance<'a> {
    provider: &'a StoredProvider,
    claims: &'a ForeignClaims,
    subject: String,
    returned: &'a Returned,
}
