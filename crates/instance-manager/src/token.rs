//! Issues access tokens: credential -> principal, scopes -> paths -> ids, granted = requested ∩ allowed.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use berth_access::{
    AccessEntry, Basis, Bound, Decider, LIFETIME, Passwords, PrincipalGrants, random_secret, secret_hash,
};
use berth_model::{Action, InstanceId, Scope};
use berth_oci::{Problem, RepositoryName};
use berth_service::{SharedClock, Timestamp};
use secrecy::{ExposeSecret, SecretString};

use crate::{
    Error,
    error::{invalid, no_instance, wrong_credentials},
    paths::{Identity, Paths},
    people::People,
    settings::SettingsBoard,
    store::StoredUser,
};

/// The most scopes of one request.
pub(crate) const MAX_SCOPES: usize = 100;

/// What someone shows to get a token.
#[derive(Debug)]
pub(crate) enum Credential {
    Anonymous,
    Password { name: String, secret: SecretString },
    Refresh(SecretString),
}

/// A request for a token.
#[derive(Debug)]
pub(crate) struct TokenRequest {
    pub(crate) instance: InstanceId,
    pub(crate) credential: Credential,
    pub(crate) scopes: Vec<String>,
    pub(crate) offline: bool,
}

/// A token, and what it grants.
#[derive(Debug)]
pub(crate) struct IssuedToken {
    pub(crate) token: String,
    pub(crate) issued_at: Timestamp,
    pub(crate) lifetime: Duration,
    pub(crate) refresh_token: Option<SecretString>,
    pub(crate) scope: String,
}

/// Issues tokens.
#[derive(Clone, Debug)]
pub(crate) struct Issuer {
    pub(crate) people: People,
    pub(crate) settings: SettingsBoard,
    pub(crate) passwords: Passwords,
    pub(crate) decider: Decider,
    pub(crate) paths: Arc<dyn Paths>,
    pub(crate) clock: SharedClock,
    pub(crate) refresh_lifetime: Duration,
}

/// The requested actions of each path, and whether the catalogue was asked for. Scopes of another kind are dropped.
fn requested(scopes: &[String]) -> Result<(BTreeMap<RepositoryName, BTreeSet<Action>>, bool), Problem> {
    let (mut paths, mut catalog) = (BTreeMap::<_, BTreeSet<_>>::new(), false);
    let texts = scopes.iter().flat_map(|scope| scope.split_ascii_whitespace());
    for (index, text) in texts.enumerate() {
        if index == MAX_SCOPES {
            return Err(invalid(format!("a token has at most {MAX_SCOPES} scopes; ask for fewer")));
        }
        match text.parse() {
            Ok(Scope::Repository { name, actions }) => paths.entry(name).or_default().extend(actions),
            Ok(Scope::Catalog) => catalog = true,
            Err(_) => {}
        }
    }
    Ok((paths, catalog))
}

impl Issuer {
    pub(crate) async fn issue(&self, request: TokenRequest) -> Result<IssuedToken, Error> {
        let instance = request.instance;
        let snapshot = self.settings.current();
        if !snapshot.has(instance) {
            return Err(no_instance().into());
        }
        let (paths, catalog) = requested(&request.scopes)?;
        let user = self.authenticate(instance, &request.credential).await?;
        let who = match &user {
            Some(user) => Some(self.people.grants_of(user).await?),
            None => None,
        };
        let names: Vec<RepositoryName> = paths.keys().cloned().collect();
        let identities = self.paths.lookup(instance, &names).await?;
        let mut access = Vec::with_capacity(names.len());
        for ((path, actions), identity) in paths.into_iter().zip(identities) {
            access.extend(self.entry(who.as_ref(), path, &actions, identity).await);
        }
        // The list shows what its reader may read, so every person may ask for it.
        let catalog = catalog && user.is_some();
        let scope = granted(&access, catalog);
        let (principal, name) = match &user {
            Some(user) => (format!("user:{}", user.id), user.name.as_str()),
            None => ("anonymous".to_owned(), ""),
        };
        let refresh_token = match (&user, request.offline) {
            (Some(user), true) => Some(self.refresh_token(user, instance, request.credential).await?),
            _ => None,
        };
        let signed = snapshot.signer.sign(instance, &principal, name, access, catalog)?;
        Ok(IssuedToken {
            token: signed.token,
            issued_at: signed.issued_at,
            lifetime: LIFETIME,
            refresh_token,
            scope,
        })
    }

    async fn authenticate(
        &self,
        instance: InstanceId,
        credential: &Credential,
    ) -> Result<Option<StoredUser>, Error> {
        match credential {
            Credential::Anonymous => Ok(None),
            Credential::Password { name, secret } => {
                let user = self.people.store.user_by_name(instance, name).await?;
                let stored = user.as_ref().map(|user| user.password_hash.as_str());
                if self.passwords.verify(name, secret, stored).await? {
                    Ok(user)
                } else {
                    Err(wrong_credentials().into())
                }
            }
            Credential::Refresh(token) => {
                let hash = secret_hash(token.expose_secret());
                let user = self.people.store.user_by_refresh_token(hash, instance, self.clock.now()).await?;
                Ok(Some(user.ok_or_else(wrong_credentials)?))
            }
        }
    }

    /// What of the requested actions is allowed on a path; `None`: nothing.
    async fn entry(
        &self,
        who: Option<&PrincipalGrants>,
        path: RepositoryName,
        actions: &BTreeSet<Action>,
        identity: Identity,
    ) -> Option<AccessEntry> {
        let mut allowed = BTreeSet::new();
        if let Some(who) = who {
            for action in actions {
                if self.decider.allowed(who, identity.place, *action).await {
                    allowed.insert(*action);
                }
            }
        }
        let mut basis = Basis::Grant;
        let public = identity.public && identity.place.repository.is_some();
        if allowed.is_empty() && public && actions.contains(&Action::Pull) {
            allowed.insert(Action::Pull);
            basis = Basis::Public;
        }
        if allowed.is_empty() {
            return None;
        }
        let place = identity.place;
        let bound = match (place.repository, place.namespace) {
            (Some(repository), _) => Bound::Repository(repository),
            (None, Some(namespace)) => Bound::Namespace(namespace),
            (None, None) => Bound::Instance(place.instance),
        };
        Some(AccessEntry { path, actions: allowed, bound, basis })
    }

    async fn refresh_token(
        &self,
        user: &StoredUser,
        instance: InstanceId,
        credential: Credential,
    ) -> Result<SecretString, Error> {
        if let Credential::Refresh(token) = credential {
            return Ok(token);
        }
        let token = random_secret()?;
        let now = self.clock.now();
        let hash = secret_hash(token.expose_secret());
        let expires_at = now.plus(self.refresh_lifetime);
        self.people.store.keep_refresh_token(hash, user.id, instance, now, expires_at).await?;
        Ok(token)
    }
}

/// What was granted, in the syntax of scopes.
fn granted(access: &[AccessEntry], catalog: bool) -> String {
    let scopes = access
        .iter()
        .map(|entry| Scope::Repository { name: entry.path.clone(), actions: entry.actions.clone() });
    let scopes = scopes.chain(catalog.then_some(Scope::Catalog));
    scopes.map(|scope| scope.to_string()).collect::<Vec<_>>().join(" ")
}
