//! What a principal may do: its grants with the roles they give, decided by casbin, explained by the grants themselves.

use std::{collections::HashMap, fmt, sync::Arc};

use berth_access::{Decider, Grant, GrantScope, Place, PrincipalGrants, reasons};
use berth_model::{GrantId, InstanceId, NamespaceId, Permission, Principal, RepositoryId, Role, ScopeKind};
use berth_oci::{ErrorCode, Problem, RepositoryName};
use berth_service::SharedClock;

use crate::{
    Error,
    actor::Actor,
    error::invalid,
    paths::Paths,
    store::{Store, StoredPrincipal, StoredRole},
};

/// What a principal may read.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub(crate) struct Readable {
    pub(crate) everything: bool,
    pub(crate) namespaces: Vec<NamespaceId>,
    pub(crate) repositories: Vec<RepositoryId>,
}

/// Whether something is allowed, and why.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Decision {
    pub(crate) allowed: bool,
    pub(crate) reason: String,
    pub(crate) grants: Vec<GrantId>,
}

/// A place by the names that people use.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(crate) struct Whereabouts {
    pub(crate) namespace: String,
    pub(crate) repository: String,
    pub(crate) deployment: bool,
}

impl fmt::Display for Whereabouts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.namespace.as_str(), self.repository.as_str()) {
            ("", "") if self.deployment => f.write_str("in the deployment"),
            ("", "") => f.write_str("in the instance"),
            ("", repository) => write!(f, "in the repository {repository}"),
            (namespace, _) => write!(f, "in the namespace {namespace}"),
        }
    }
}

/// Decides.
#[derive(Clone, Debug)]
pub(crate) struct Authority {
    store: Store,
    decider: Decider,
    paths: Arc<dyn Paths>,
    clock: SharedClock,
    /// The grants of a principal as of a revision.
    grants: moka::future::Cache<(Principal, i64), PrincipalGrants>,
}

/// The most grants, of all principals together, that are kept: some 100 bytes each.
const KEPT_GRANTS: u64 = 500_000;

fn weight(_: &(Principal, i64), grants: &PrincipalGrants) -> u32 {
    u32::try_from(grants.grants.len()).unwrap_or(u32::MAX).max(1)
}

/// A role as the store has it. What it allows and this version does not know is left out.
pub(crate) fn own_role(stored: &StoredRole) -> Result<Role, Error> {
    let texts = |json: &str| {
        serde_json::from_str::<Vec<String>>(json)
            .map_err(|_| Error::Inconsistent("a role that can't be read"))
    };
    Ok(Role {
        id: stored.id.clone(),
        name: stored.name.clone(),
        description: stored.text.description.clone(),
        scopes: texts(&stored.text.scopes)?.iter().filter_map(|text| text.parse().ok()).collect(),
        permissions: texts(&stored.text.permissions)?.iter().filter_map(|text| text.parse().ok()).collect(),
    })
}

/// The narrowest kind of what a place names.
fn kind(place: &Place) -> ScopeKind {
    match (place.instance, place.namespace, place.repository) {
        (_, _, Some(_)) => ScopeKind::Repository,
        (_, Some(_), None) => ScopeKind::Namespace,
        (Some(_), None, None) => ScopeKind::Instance,
        (None, None, None) => ScopeKind::Deployment,
    }
}

impl Authority {
    pub(crate) fn new(store: Store, paths: Arc<dyn Paths>, clock: SharedClock) -> Self {
        let grants = moka::future::Cache::builder().max_capacity(KEPT_GRANTS).weigher(weight).build();
        Self { store, decider: Decider::default(), paths, clock, grants }
    }

    /// Decides without any grant that was removed meanwhile: they are read after the principal's row, so they are at
    /// least as new as its revision.
    pub(crate) async fn grants_of(&self, principal: &StoredPrincipal) -> Result<PrincipalGrants, Error> {
        let key = (principal.principal(), principal.revision);
        if let Some(grants) = self.grants.get(&key).await {
            return Ok(grants);
        }
        let stored = self.store.grants_of(principal.id).await?;
        let built_in = Role::built_in();
        let mut own = HashMap::new();
        if stored.iter().any(|grant| !built_in.contains_key(&grant.role)) {
            for role in self.store.roles(principal.instance).await? {
                own.insert(role.id.clone(), Arc::new(own_role(&role)?));
            }
        }
        // A role that is not there allows nothing.
        let with_role = stored.into_iter().filter_map(|grant| {
            let role = built_in.get(&grant.role).or_else(|| own.get(&grant.role))?.clone();
            Some(Grant { id: grant.id, role, scope: grant.scope, group: grant.group })
        });
        let grants = PrincipalGrants {
            principal: principal.principal().to_string().into(),
            revision: principal.revision,
            grants: with_role.collect(),
        };
        self.grants.insert(key, grants.clone()).await;
        Ok(grants)
    }

    /// The grants of a principal by its name in tokens; of one that may not act, none.
    async fn grants_by_id(
        &self,
        instance: InstanceId,
        principal: Principal,
    ) -> Result<Option<PrincipalGrants>, Error> {
        let Principal::Known(kind, id) = principal else { return Ok(None) };
        let found = self.store.principal_by_id(instance, id).await?;
        match found.filter(|found| found.kind == kind && found.is_live(self.clock.now())) {
            Some(found) => Ok(Some(self.grants_of(&found).await?)),
            None => Ok(None),
        }
    }

    /// Whether grants allow something at a place.
    pub(crate) async fn allows(&self, who: &PrincipalGrants, place: Place, permission: Permission) -> bool {
        self.decider.allowed(who, place, permission).await
    }

    /// Whether, and why, a principal may do each of several things.
    pub(crate) async fn authorize(
        &self,
        whose: InstanceId,
        principal: Principal,
        instance: Option<InstanceId>,
        effects: Vec<(Permission, Whereabouts)>,
    ) -> Result<Vec<Decision>, Error> {
        let who = self.grants_by_id(whose, principal).await?;
        let mut decisions = Vec::with_capacity(effects.len());
        for (permission, whereabouts) in effects {
            let place = match instance {
                Some(instance) => self.find(instance, &whereabouts).await?,
                None => Place::DEPLOYMENT,
            };
            let Some(who) = &who else {
                let reason = match principal {
                    Principal::Anonymous => "nobody in particular has no grants".to_owned(),
                    Principal::Known(..) => format!("{principal} is not there, was disabled or has expired"),
                };
                decisions.push(Decision { allowed: false, reason, grants: Vec::new() });
                continue;
            };
            let allowed = self.allows(who, place, permission).await;
            let found: Vec<&Grant> =
                if allowed { reasons(who, place, permission).collect() } else { Vec::new() };
            let reason = match found.first() {
                Some(grant) => {
                    let by = if grant.group.is_some() { ", as a member of a group" } else { "" };
                    format!(
                        "the role {} at the {} allows {permission}{by}",
                        grant.role.name,
                        grant.scope.kind()
                    )
                }
                None => format!("none of its {} grants allows {permission} here", who.grants.len()),
            };
            let grants = found.iter().map(|grant| grant.id).collect();
            decisions.push(Decision { allowed, reason, grants });
        }
        Ok(decisions)
    }

    /// Where in an instance a principal has a permission: public repositories apart.
    pub(crate) async fn readable(
        &self,
        instance: InstanceId,
        whose: InstanceId,
        principal: &str,
        permission: Permission,
    ) -> Result<Readable, Error> {
        let Ok(principal) = principal.parse() else { return Ok(Readable::default()) };
        let Some(who) = self.grants_by_id(whose, principal).await? else { return Ok(Readable::default()) };
        let everything = self.allows(&who, Place::instance(instance), permission).await;
        let mut readable = Readable { everything, ..Readable::default() };
        if readable.everything || whose != instance {
            return Ok(readable);
        }
        for grant in who.grants.iter() {
            let holds = grant.role.allows(permission) && grant.role.scopes.contains(&grant.scope.kind());
            match grant.scope {
                GrantScope::Namespace(id) if holds => readable.namespaces.push(id),
                GrantScope::Repository(id) if holds => readable.repositories.push(id),
                _ => {}
            }
        }
        readable.namespaces.sort_unstable();
        readable.namespaces.dedup();
        readable.repositories.sort_unstable();
        readable.repositories.dedup();
        Ok(readable)
    }

    /// Refuses, unless the actor may do itself all that these roles allow there: nobody makes another, or itself, more
    /// powerful than it is. Whoever gives roles in the whole deployment may give them all: the first administrator of an
    /// instance comes from there.
    pub(crate) async fn check_covers(
        &self,
        actor: &Actor,
        roles: impl IntoIterator<Item = (Arc<Role>, Place)>,
    ) -> Result<(), Error> {
        let Some((instance, principal)) = actor.principal else { return Ok(()) };
        let who = self.grants_by_id(instance, principal).await?;
        if let Some(who) = &who
            && self.allows(who, Place::DEPLOYMENT, Permission::GrantCreate).await
        {
            return Ok(());
        }
        for (role, place) in roles {
            for permission in
                role.permissions.iter().filter(|permission| permission.has_effect_at(kind(&place)))
            {
                let allowed = match &who {
                    Some(who) => self.allows(who, place, *permission).await,
                    None => false,
                };
                if !allowed {
                    let message = format!(
                        "the role {} allows {permission}, which you may not do there yourself, so you can neither give nor take it",
                        role.name
                    );
                    return Err(Problem::new(ErrorCode::Denied, message).into());
                }
            }
        }
        Ok(())
    }

    /// The same for what somebody has already, which whoever holds its credentials could do.
    pub(crate) async fn check_covers_principal(
        &self,
        actor: &Actor,
        other: &StoredPrincipal,
    ) -> Result<(), Error> {
        let grants = self.grants_of(other).await?;
        let held = grants.grants.iter();
        let held = held.map(|grant| (grant.role.clone(), self.place_of(other.instance, grant.scope)));
        let held: Vec<_> = held.collect();
        self.check_covers(actor, held).await
    }

    /// Refuses to end somebody who says what others may do, or runs the deployment, unless the actor may do all of that
    /// itself: nobody puts away who is above.
    pub(crate) async fn check_may_end(&self, actor: &Actor, other: &StoredPrincipal) -> Result<(), Error> {
        let grants = self.grants_of(other).await?;
        let administers = grants.grants.iter().any(|grant| {
            matches!(grant.scope, GrantScope::Deployment) || grant.role.allows(Permission::GrantCreate)
        });
        if administers { self.check_covers_principal(actor, other).await } else { Ok(()) }
    }

    /// Where a grant is.
    pub(crate) fn place_of(&self, instance: InstanceId, scope: GrantScope) -> Place {
        let mut place = Place::instance(instance);
        match scope {
            GrantScope::Deployment => place = Place::DEPLOYMENT,
            GrantScope::Instance(_) => {}
            GrantScope::Namespace(id) => place.namespace = Some(id),
            GrantScope::Repository(id) => place.repository = Some(id),
        }
        place
    }

    /// The ids behind names. What is not there is absent in the place.
    pub(crate) async fn find(&self, instance: InstanceId, at: &Whereabouts) -> Result<Place, Error> {
        let path: RepositoryName = match (at.namespace.as_str(), at.repository.as_str()) {
            ("", "") => return Ok(Place::instance(instance)),
            ("", repository) => {
                repository.parse().map_err(|error| invalid(format!("repository: {error}")))?
            }
            (namespace, "") => {
                let name: RepositoryName =
                    namespace.parse().map_err(|error| invalid(format!("namespace: {error}")))?;
                if name.depth() != 1 {
                    let message = "a namespace is the first part of a repository's name, without a slash";
                    return Err(invalid(message).into());
                }
                // Any path in the namespace leads to it.
                let inside = format!("{namespace}/any");
                let path: RepositoryName = inside.parse().map_err(|error| invalid(format!("{error}")))?;
                let place = self.place(instance, path).await?;
                return Ok(Place { repository: None, ..place });
            }
            _ => return Err(invalid("name a namespace or a repository, not both").into()),
        };
        self.place(instance, path).await
    }

    async fn place(&self, instance: InstanceId, path: RepositoryName) -> Result<Place, Error> {
        let identities = self.paths.lookup(instance, &[path]).await?;
        Ok(identities.first().ok_or(Error::Inconsistent("no answer for a path"))?.place)
    }

    /// Where a role is to be given: a place that exists, of a kind that the role is made for.
    pub(crate) async fn scope(
        &self,
        instance: InstanceId,
        role: &Role,
        at: &Whereabouts,
    ) -> Result<(GrantScope, Place), Error> {
        let absent =
            |what: &str, name: &str| Problem::new(ErrorCode::NotFound, format!("there is no {what} {name}"));
        let (scope, place) = if at.deployment {
            if !(at.namespace.is_empty() && at.repository.is_empty()) {
                return Err(invalid("a grant in all instances names no namespace and no repository").into());
            }
            (GrantScope::Deployment, Place::DEPLOYMENT)
        } else {
            let place = self.find(instance, at).await?;
            let scope = match (at.namespace.as_str(), at.repository.as_str()) {
                ("", "") => GrantScope::Instance(instance),
                ("", name) => {
                    GrantScope::Repository(place.repository.ok_or_else(|| absent("repository", name))?)
                }
                (name, _) => GrantScope::Namespace(place.namespace.ok_or_else(|| absent("namespace", name))?),
            };
            (scope, place)
        };
        if !role.scopes.contains(&scope.kind()) {
            let kinds: Vec<&str> = role.scopes.iter().map(|kind| kind.as_str()).collect();
            let message = format!(
                "the role {} can be given at: {}; not at one {}",
                role.name,
                kinds.join(", "),
                scope.kind()
            );
            return Err(invalid(message).into());
        }
        Ok((scope, place))
    }
}
