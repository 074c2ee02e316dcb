//! Identity providers, whom they know and whom their workloads are: what may be said of them, and by whom.

use std::sync::Arc;

use berth_access::RootKey;
use berth_model::{InstanceId, PrincipalId, PrincipalKind, ProviderId, TrustId};
use berth_oci::{ErrorCode, Problem};
use berth_service::{Ids, Outbound};
use secrecy::{ExposeSecret, SecretString};

use crate::{
    Error,
    actor::Actor,
    authority::Authority,
    error::{gone, invalid, no_instance, stale},
    principals::{Principals, Reference},
    repeats::{Made, Repeats},
    settings::SettingsBoard,
    store::{
        Conditions, NewProvider, NewTrust, ProviderChange, ProviderText, Store, StoredProvider, StoredTrust,
    },
    trusts,
};

/// What client secrets are sealed for.
pub(crate) const SECRET_PURPOSE: &str = "identity provider";
/// The most texts of a list.
const MAX_LIST: usize = 100;

/// What may be said of a provider. What is absent stays, or is what it usually is.
#[derive(Clone, Default, Debug)]
pub(crate) struct Wishes {
    pub(crate) client_id: Option<String>,
    /// Empty: none.
    pub(crate) client_secret: Option<SecretString>,
    pub(crate) scopes: Option<Vec<String>>,
    pub(crate) audiences: Option<Vec<String>>,
    pub(crate) username_claim: Option<String>,
    pub(crate) groups_claim: Option<String>,
    /// Values of the groups claim, and the names of the groups that they mean.
    pub(crate) groups: Option<Vec<(String, String)>>,
    pub(crate) login: Option<bool>,
    pub(crate) create_users: Option<bool>,
}

/// Seals and opens the secrets of clients.
#[derive(Clone, Debug)]
pub(crate) struct ClientSecrets(pub(crate) Arc<RootKey>);

impl ClientSecrets {
    fn seal(&self, of: ProviderId, secret: &SecretString) -> Result<Option<Vec<u8>>, Error> {
        let secret = secret.expose_secret();
        if secret.is_empty() {
            return Ok(None);
        }
        Ok(Some(self.0.seal(SECRET_PURPOSE, &of.to_string(), secret.as_bytes())?))
    }

    /// The secret of a provider's client; none: it is a public one.
    pub(crate) fn open(&self, provider: &StoredProvider) -> Result<Option<SecretString>, Error> {
        let Some(sealed) = &provider.text.client_secret else { return Ok(None) };
        let opened = self.0.open(SECRET_PURPOSE, &provider.id.to_string(), sealed)?;
        let text = std::str::from_utf8(&opened);
        let text = text.map_err(|_| Error::Inconsistent("a client secret that is no text"))?;
        Ok(Some(SecretString::from(text)))
    }
}

/// Identity providers.
#[derive(Clone, Debug)]
pub(crate) struct Providers {
    pub(crate) repeats: Repeats,
    pub(crate) store: Store,
    pub(crate) settings: SettingsBoard,
    pub(crate) authority: Authority,
    pub(crate) principals: Principals,
    pub(crate) secrets: ClientSecrets,
    pub(crate) outbound: Outbound,
    pub(crate) ids: Ids,
}

fn no_provider(name: &str) -> Problem {
    Problem::new(ErrorCode::NotFound, format!("there is no identity provider {name}"))
}

/// A name stands in URLs.
fn check_name(name: &str) -> Result<(), Problem> {
    let letter = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    let fits = (1..=64).contains(&name.len())
        && name.bytes().all(|c| letter(c) || c == b'-')
        && name.bytes().next().is_some_and(letter);
    if fits {
        return Ok(());
    }
    Err(invalid(
        "the name of an identity provider has 1 to 64 lower-case letters, digits and -, and starts with a letter or digit",
    ))
}

fn is_text(text: &str) -> bool {
    (1..=500).contains(&text.len()) && !text.chars().any(char::is_control)
}

/// Scopes and client ids as RFC 6749 has them.
fn is_visible(text: &str) -> bool {
    is_text(text) && text.bytes().all(|c| c.is_ascii_graphic() && c != b'"' && c != b'\\')
}

fn check(text: &ProviderText, groups: usize) -> Result<(), Problem> {
    if text.login && !is_visible(&text.client_id) {
        return Err(invalid("to log in by a provider takes a client id, as the provider has given it"));
    }
    if !text.client_id.is_empty() && !is_visible(&text.client_id) {
        return Err(invalid("a client id has at most 500 visible characters"));
    }
    if text.scopes.len() > MAX_LIST || !text.scopes.iter().all(|scope| is_visible(scope)) {
        return Err(invalid(
            "a scope has at most 500 visible characters, and no quotation mark or backslash",
        ));
    }
    if text.audiences.len() > MAX_LIST || !text.audiences.iter().all(|audience| is_text(audience)) {
        return Err(invalid("an audience has 1 to 500 bytes"));
    }
    if !is_text(&text.username_claim) || !(text.groups_claim.is_empty() || is_text(&text.groups_claim)) {
        return Err(invalid("the name of a claim has 1 to 500 bytes"));
    }
    if text.create_users && !text.login {
        return Err(invalid("users are made when they log in, so that needs login as well"));
    }
    if groups > MAX_LIST {
        return Err(invalid(format!("a provider speaks of at most {MAX_LIST} groups")));
    }
    if groups > 0 && text.groups_claim.is_empty() {
        return Err(invalid("which claim names the groups has to be said as well"));
    }
    Ok(())
}

impl Providers {
    fn check_issuer(&self, issuer: &str) -> Result<(), Problem> {
        if !is_text(issuer) || issuer.contains(['?', '#']) {
            return Err(invalid("an issuer is a URL without a query, exactly as its tokens name it"));
        }
        self.outbound.check(issuer).map_err(|error| invalid(format!("the issuer: {error}")))
    }

    /// The groups that are meant, which the actor may put people into.
    async fn groups(
        &self,
        actor: &Actor,
        instance: InstanceId,
        named: &[(String, String)],
    ) -> Result<Vec<(String, PrincipalId)>, Error> {
        let mut groups = Vec::with_capacity(named.len());
        for (value, name) in named {
            if !is_text(value) {
                return Err(invalid("a value of the groups claim has 1 to 500 bytes").into());
            }
            let group = Reference::Name(PrincipalKind::Group, name.clone());
            let group = self.principals.find(instance, &group, &[PrincipalKind::Group]).await?;
            self.authority.check_covers_principal(actor, &group).await?;
            groups.push((value.clone(), group.id));
        }
        Ok(groups)
    }

    pub(crate) async fn create(
        &self,
        actor: &Actor,
        instance: InstanceId,
        name: String,
        issuer: String,
        wishes: Wishes,
    ) -> Result<StoredProvider, Error> {
        if !self.settings.current().has(instance) {
            return Err(no_instance().into());
        }
        check_name(&name)?;
        self.check_issuer(&issuer)?;
        let id = ProviderId::new(self.ids.ulid());
        let scopes = wishes.scopes.filter(|scopes| !scopes.is_empty());
        let claim = wishes.username_claim.filter(|claim| !claim.is_empty());
        let text = ProviderText {
            client_id: wishes.client_id.unwrap_or_default(),
            client_secret: self.secrets.seal(id, &wishes.client_secret.unwrap_or_default())?,
            scopes: scopes.unwrap_or_else(|| vec!["profile".to_owned(), "email".to_owned()]),
            audiences: wishes.audiences.unwrap_or_default(),
            username_claim: claim.unwrap_or_else(|| "preferred_username".to_owned()),
            groups_claim: wishes.groups_claim.unwrap_or_default(),
            login: wishes.login.unwrap_or_default(),
            create_users: wishes.create_users.unwrap_or_default(),
        };
        let named = wishes.groups.unwrap_or_default();
        check(&text, named.len())?;
        let groups = self.groups(actor, instance, &named).await?;
        let entry =
            actor.entry(&self.ids, instance, "identity_provider.created", format!("identity_provider:{id}"));
        let entry = entry.called(&name);
        let new = NewProvider { id, instance, name: name.clone(), issuer, text, groups };
        let entry = self.repeats.record(actor, entry, &Made::of(&id))?;
        let adds = async {
            let taken = || {
                let message =
                    format!("there is an identity provider named {name}, or of this issuer, already");
                Problem::new(ErrorCode::AlreadyExists, message)
            };
            Ok(self.store.add_provider(new, entry).await?.ok_or_else(taken)?)
        };
        match self.repeats.once(actor, Box::pin(adds)).await? {
            Ok(made) => Ok(made),
            Err(_) => self.find(instance, &name).await,
        }
    }

    pub(crate) async fn find(&self, instance: InstanceId, name: &str) -> Result<StoredProvider, Error> {
        Ok(self.store.provider_named(instance, name).await?.ok_or_else(|| no_provider(name))?)
    }

    pub(crate) async fn change(
        &self,
        actor: &Actor,
        instance: InstanceId,
        name: &str,
        version: Option<i64>,
        wishes: Wishes,
    ) -> Result<StoredProvider, Error> {
        let seen = self.find(instance, name).await?;
        if version.is_some_and(|version| version != seen.version) {
            return Err(stale().into());
        }
        let before = seen.text.clone();
        let text = ProviderText {
            client_id: wishes.client_id.unwrap_or(before.client_id),
            client_secret: match &wishes.client_secret {
                Some(secret) => self.secrets.seal(seen.id, secret)?,
                None => before.client_secret,
            },
            scopes: wishes.scopes.unwrap_or(before.scopes),
            audiences: wishes.audiences.unwrap_or(before.audiences),
            username_claim: wishes.username_claim.unwrap_or(before.username_claim),
            groups_claim: wishes.groups_claim.unwrap_or(before.groups_claim),
            login: wishes.login.unwrap_or(before.login),
            create_users: wishes.create_users.unwrap_or(before.create_users),
        };
        let known = self.store.provider_groups(seen.id).await?;
        let known: Vec<(String, String)> = known.into_iter().map(|(value, _, name)| (value, name)).collect();
        // Whoever says how people come into groups puts them there, also where the groups stay.
        let named = wishes.groups.clone().unwrap_or(known);
        check(&text, named.len())?;
        let groups = self.groups(actor, instance, &named).await?;
        let subject = format!("identity_provider:{}", seen.id);
        let entry = actor.entry(&self.ids, instance, "identity_provider.updated", subject).called(&seen.name);
        let change = ProviderChange { text, groups: wishes.groups.map(|_| groups) };
        let after = self.store.change_provider(&seen, change, entry).await?;
        self.settings.refresh().await?;
        Ok(after)
    }

    pub(crate) async fn delete(
        &self,
        actor: &Actor,
        instance: InstanceId,
        name: &str,
        version: Option<i64>,
    ) -> Result<(), Error> {
        let seen = self.find(instance, name).await?;
        let subject = format!("identity_provider:{}", seen.id);
        let entry = actor.entry(&self.ids, instance, "identity_provider.deleted", subject).called(name);
        self.store.delete_provider(instance, seen.id, version, entry).await?;
        self.settings.refresh().await
    }

    /// Lets whom a provider knows by a subject be a user.
    pub(crate) async fn link(
        &self,
        actor: &Actor,
        instance: InstanceId,
        provider: &str,
        subject: String,
        user: &Reference,
    ) -> Result<(), Error> {
        if !is_text(&subject) || subject.len() > 255 {
            return Err(invalid("a subject has 1 to 255 bytes").into());
        }
        let provider = self.find(instance, provider).await?;
        let user = self.principals.find(instance, user, &[PrincipalKind::User]).await?;
        self.authority.check_covers_principal(actor, &user).await?;
        let entry = actor.entry(&self.ids, instance, "user.linked", user.principal().to_string());
        let entry = entry.called(&user.name);
        if self.store.link_user(instance, provider.id, subject, user.id, entry).await? {
            return Ok(());
        }
        let message = format!("this subject of {}, or {} there, is linked already", provider.name, user.name);
        Err(Problem::new(ErrorCode::AlreadyExists, message).into())
    }

    pub(crate) async fn unlink(
        &self,
        actor: &Actor,
        instance: InstanceId,
        provider: &str,
        user: &Reference,
    ) -> Result<(), Error> {
        let provider = self.find(instance, provider).await?;
        let user = self.principals.find(instance, user, &[PrincipalKind::User]).await?;
        self.authority.check_may_end(actor, &user).await?;
        let entry = actor.entry(&self.ids, instance, "user.unlinked", user.principal().to_string());
        let entry = entry.called(&user.name);
        if !self.store.unlink_user(instance, provider.id, user.id, entry).await? {
            let message = format!("{} is nobody that {} knows", user.name, provider.name);
            return Err(Problem::new(ErrorCode::NotFound, message).into());
        }
        self.settings.refresh().await
    }

    /// Lets workloads be a robot. Whoever has such a token can do what the robot may, so its maker has to be able to.
    pub(crate) async fn trust(
        &self,
        actor: &Actor,
        instance: InstanceId,
        provider: &str,
        robot: &Reference,
        audience: String,
        conditions: Conditions,
    ) -> Result<StoredTrust, Error> {
        if !is_text(&audience) {
            return Err(invalid(
                "a trust names the audience that tokens have to be for, of 1 to 500 bytes; this registry's host is a good one",
            )
            .into());
        }
        trusts::check(&conditions)?;
        let provider = self.find(instance, provider).await?;
        let robot = self.principals.find(instance, robot, &[PrincipalKind::Robot]).await?;
        self.authority.check_covers_principal(actor, &robot).await?;
        let new = NewTrust {
            id: TrustId::new(self.ids.ulid()),
            instance,
            provider: provider.id,
            robot: robot.id,
            audience,
            conditions,
            created_by: actor.name(),
        };
        let subject = format!("trust:{} {}", new.id, robot.principal());
        let entry = actor.entry(&self.ids, instance, "trust.created", subject).called(&robot.name);
        let entry = self.repeats.record(actor, entry, &Made::of(&new.id))?;
        let created_at =
            match self.repeats.once(actor, Box::pin(self.store.add_trust(new.clone(), entry))).await? {
                Ok(created_at) => created_at,
                Err(made) => {
                    let trusts = self.store.trusts_of(provider.id).await?;
                    let found = trusts.into_iter().find(|trust| trust.id.to_string() == made.id);
                    return Ok(found.ok_or_else(gone)?);
                }
            };
        Ok(StoredTrust {
            id: new.id,
            provider: provider.name,
            robot: robot.id,
            robot_name: robot.name,
            audience: new.audience,
            conditions: new.conditions,
            created_by: new.created_by,
            created_at,
        })
    }

    /// Deletes a trust; the tokens of its robot end.
    pub(crate) async fn delete_trust(
        &self,
        actor: &Actor,
        instance: InstanceId,
        trust: TrustId,
    ) -> Result<(), Error> {
        let entry = actor.entry(&self.ids, instance, "trust.deleted", format!("trust:{trust}"));
        if !self.store.delete_trust(instance, trust, entry).await? {
            return Err(Problem::new(ErrorCode::NotFound, format!("there is no trust {trust}")).into());
        }
        self.settings.refresh().await
    }
}
