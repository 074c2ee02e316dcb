//! Issues access tokens: credential -> principal, scopes -> paths -> ids, granted = requested ∩ allowed.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use berth_access::{AccessEntry, Basis, Bound, Claim, LIFETIME, Place, PrincipalGrants, secret_hash};
use berth_model::{Action, InstanceId, InstanceState, Permission, PrincipalKind, RobotName, Scope};
use berth_oci::{ErrorCode, Problem, RepositoryName};
use berth_service::{SharedClock, Timestamp};
use secrecy::{ExposeSecret, SecretString};

use crate::{
    Error,
    authority::Authority,
    credentials::{Authenticated, Credential, Credentials},
    error::{invalid, no_instance},
    login,
    paths::{Identity, Paths},
    principals::{TEMPORARY_SECONDS, fresh},
    settings::{Served, SettingsBoard},
    store::{AuditRow, SecretToken, Store, TokenKind},
};

/// What a refresh token begins with.
const REFRESH_TOKEN: &str = "berth_refresh_";

/// The most scopes of one request.
pub(crate) const MAX_SCOPES: usize = 100;

/// A request for a token.
#[derive(Debug)]
pub(crate) struct TokenRequest {
    pub(crate) instance: InstanceId,
    pub(crate) credential: Credential,
    pub(crate) scopes: Vec<String>,
    pub(crate) offline: bool,
    /// Where it came from; empty: not known.
    pub(crate) address: String,
}

/// A token, and what it grants.
#[derive(Debug)]
pub(crate) struct IssuedToken {
    pub(crate) token: String,
    pub(crate) issued_at: Timestamp,
    pub(crate) lifetime: Duration,
    pub(crate) refresh_token: Option<SecretString>,
    pub(crate) scope: String,
    /// Whose it is.
    pub(crate) principal: String,
}

/// Issues tokens.
#[derive(Clone, Debug)]
pub(crate) struct Issuer {
    pub(crate) store: Store,
    pub(crate) credentials: Credentials,
    pub(crate) authority: Authority,
    pub(crate) settings: SettingsBoard,
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
        let served = snapshot.served(instance).ok_or_else(no_instance)?;
        if served.state != InstanceState::Running {
            let message = format!("the instance is {}", served.state);
            return Err(Problem::new(ErrorCode::Denied, message).into());
        }
        let (paths, catalog) = requested(&request.scopes)?;
        // Before anything is read: a right that is taken away while this goes on is refused by this moment.
        let began = self.clock.now();
        let known = self.credentials.authenticate(instance, &request.credential, &request.address).await?;
        let who = match &known {
            Some(known) => Some(self.authority.grants_of(&known.principal).await?),
            None => None,
        };
        let names: Vec<RepositoryName> = paths.keys().cloned().collect();
        let identities = self.paths.lookup(instance, &names).await?;
        let mut access = Vec::with_capacity(names.len());
        for ((path, actions), identity) in paths.into_iter().zip(identities) {
            access.extend(self.entry(instance, served, who.as_ref(), path, &actions, identity).await);
        }
        // The list shows what its reader may read, so everybody who is known may ask for it.
        let catalog = catalog && known.is_some();
        let scope = granted(&access, catalog);
        let (principal, name) = match &known {
            Some(known) => (known.principal.principal().to_string(), login(known)),
            None => ("anonymous".to_owned(), String::new()),
        };
        let kind = login::kind(&request.credential);
        let refresh_token = match (&known, request.offline) {
            (Some(known), true) if known.foreign.is_none() => {
                Some(self.refresh_token(known, instance, request.credential, None).await?.0)
            }
            _ => None,
        };
        let left = known.as_ref().and_then(|known| known.until).map(|end| end.since(began));
        let lifetime = left.map_or(LIFETIME, |left| left.min(LIFETIME));
        let claim = Claim {
            instance,
            principal: &principal,
            name: &name,
            credential: kind,
            access,
            catalog,
            began,
            lifetime,
        };
        let signed = snapshot.signer.sign(claim)?;
        Ok(IssuedToken {
            token: signed.token,
            issued_at: signed.issued_at,
            lifetime,
            refresh_token,
            scope,
            principal,
        })
    }

    /// What of the requested actions is allowed on a path; `None`: nothing.
    async fn entry(
        &self,
        instance: InstanceId,
        served: Served,
        who: Option<&PrincipalGrants>,
        path: RepositoryName,
        actions: &BTreeSet<Action>,
        identity: Identity,
    ) -> Option<AccessEntry> {
        let place = identity.place;
        let mut allowed = BTreeSet::new();
        if let Some(who) = who {
            for action in actions {
                if self.authority.allows(who, place, Permission::from(*action)).await {
                    allowed.insert(*action);
                }
            }
            if allowed.contains(&Action::Push) && !self.may_make(who, place, served.create_on_push).await {
                allowed.remove(&Action::Push);
            }
            if !allowed.contains(&Action::Push) {
                allowed.remove(&Action::Overwrite);
            }
        }
        let mut basis = Basis::Grant;
        let public = identity.public && place.repository.is_some();
        if allowed.is_empty() && public && actions.contains(&Action::Pull) {
            allowed.insert(Action::Pull);
            basis = Basis::Public;
        }
        if allowed.is_empty() {
            return None;
        }
        let bound = match (place.repository, place.namespace) {
            (Some(repository), _) => Bound::Repository(repository),
            (None, Some(namespace)) => Bound::Namespace(namespace),
            (None, None) => Bound::Instance(instance),
        };
        Some(AccessEntry { path, actions: allowed, bound, basis })
    }

    /// Whether what a push needs and is not there may be made.
    async fn may_make(&self, who: &PrincipalGrants, place: Place, namespaces_too: bool) -> bool {
        if place.repository.is_some() {
            return true;
        }
        self.authority.allows(who, place, Permission::RepositoryCreate).await
            && (place.namespace.is_some()
                || (namespaces_too && self.authority.allows(who, place, Permission::NamespaceCreate).await))
    }

    /// A token that logs in again, and when that ends; with `entry` in the audit. Otherwise the login is told to the audit by
    /// whoever the credential was shown to.
    pub(crate) async fn refresh_token(
        &self,
        known: &Authenticated,
        instance: InstanceId,
        credential: Credential,
        entry: Option<AuditRow>,
    ) -> Result<(SecretString, Timestamp), Error> {
        if let Credential::Refresh(token) = credential {
            return Ok((token, known.until.unwrap_or_else(|| self.clock.now())));
        }
        let (token, _) = fresh(REFRESH_TOKEN)?;
        let now = self.clock.now();
        let lifetime = match known.foreign {
            Some(_) => self.refresh_lifetime.min(Duration::from_secs(TEMPORARY_SECONDS)),
            None => self.refresh_lifetime,
        };
        let end = now.plus(lifetime);
        let kept = SecretToken {
            hash: secret_hash(token.expose_secret()),
            kind: TokenKind::Refresh,
            instance,
            principal: known.principal.id,
            secret: known.secret,
            provider: known.provider,
            trust: known.foreign.and_then(|foreign| foreign.trust),
            created_at: now,
            // What was lent for an hour does not become more.
            expires_at: known.ends().map_or(end, |until| until.min(end)),
        };
        let expires_at = kept.expires_at;
        self.store.keep_token(kept, entry).await?;
        Ok((token, expires_at))
    }
}

/// What the principal logs in as.
pub(crate) fn login(known: &Authenticated) -> String {
    match known.principal.kind {
        PrincipalKind::Robot => RobotName::login(&known.principal.name),
        PrincipalKind::User | PrincipalKind::Group => known.principal.name.clone(),
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
