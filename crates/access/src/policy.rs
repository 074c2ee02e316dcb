//! Decides what one principal may do. casbin sees that principal's grants and nobody else's: a grant is a link between
//! the place where it holds and its role, a role is the policy lines of its permissions. Whatever goes wrong, the answer
//! is no.

use std::{collections::BTreeSet, fmt, sync::Arc};

use berth_model::{GrantId, InstanceId, NamespaceId, Permission, PrincipalId, RepositoryId, Role, ScopeKind};
use casbin::{CoreApi, DefaultModel, Enforcer, MemoryAdapter, MgmtApi};

/// `g` holds (place, role), a place being its kind and id. What is absent is the empty text, which no grant names. The
/// permission is compared first: it is cheap, and most lines fail it.
const MODEL: &str = r#"
[request_definition]
r = deployment, instance, namespace, repository, permission

[policy_definition]
p = role, permission

[role_definition]
g = _, _

[policy_effect]
e = some(where (p.eft == allow))

[matchers]
m = r.permission == p.permission && (g(r.repository, p.role) || g(r.namespace, p.role) || g(r.instance, p.role) || g(r.deployment, p.role))
"#;

/// Where a grant holds.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum GrantScope {
    /// In all instances.
    Deployment,
    /// In the whole instance.
    Instance(InstanceId),
    /// In one namespace.
    Namespace(NamespaceId),
    /// In one repository.
    Repository(RepositoryId),
}

impl GrantScope {
    /// What kind of place.
    pub const fn kind(&self) -> ScopeKind {
        match self {
            Self::Deployment => ScopeKind::Deployment,
            Self::Instance(_) => ScopeKind::Instance,
            Self::Namespace(_) => ScopeKind::Namespace,
            Self::Repository(_) => ScopeKind::Repository,
        }
    }

    /// Its id; the deployment has none.
    pub fn id(&self) -> String {
        match self {
            Self::Deployment => String::new(),
            Self::Instance(id) => id.to_string(),
            Self::Namespace(id) => id.to_string(),
            Self::Repository(id) => id.to_string(),
        }
    }

    /// Whether it holds at a place.
    pub fn covers(&self, place: &Place) -> bool {
        match self {
            Self::Deployment => true,
            Self::Instance(id) => place.instance == Some(*id),
            Self::Namespace(id) => place.namespace == Some(*id),
            Self::Repository(id) => place.repository == Some(*id),
        }
    }
}

/// A role that a principal has somewhere.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Grant {
    /// Which grant.
    pub id: GrantId,
    /// The role.
    pub role: Arc<Role>,
    /// Where.
    pub scope: GrantScope,
    /// The group it was given to, when the principal has it as a member.
    pub group: Option<PrincipalId>,
}

/// The grants of one principal, as of a revision that changes whenever they, or the roles they give, do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PrincipalGrants {
    /// The principal, such as `user:<id>`.
    pub principal: Arc<str>,
    /// The revision of the grants.
    pub revision: i64,
    /// The grants.
    pub grants: Arc<[Grant]>,
}

/// What something is to be done to. An id of an instance also names the place of all that is in it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Place {
    /// The instance; none: the deployment itself.
    pub instance: Option<InstanceId>,
    /// The namespace, if it exists and is meant.
    pub namespace: Option<NamespaceId>,
    /// The repository, if it exists and is meant.
    pub repository: Option<RepositoryId>,
}

impl Place {
    /// The deployment.
    pub const DEPLOYMENT: Self = Self { instance: None, namespace: None, repository: None };

    /// A whole instance.
    pub const fn instance(instance: InstanceId) -> Self {
        Self { instance: Some(instance), namespace: None, repository: None }
    }
}

type Who = (Arc<str>, i64);

struct Kept {
    enforcer: Enforcer,
    grants: u32,
}

/// Decides, and remembers what it decided for as long as the grants stay the same.
#[derive(Clone)]
pub struct Decider {
    enforcers: moka::future::Cache<Who, Arc<Kept>>,
    decisions: moka::sync::Cache<(Arc<str>, i64, Place, Permission), bool>,
}

impl fmt::Debug for Decider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Decider")
    }
}

/// The most grants of all principals together for which enforcers are kept: some 300 bytes each.
const KEPT_GRANTS: u64 = 200_000;

impl Default for Decider {
    fn default() -> Self {
        Self::remembering(100_000)
    }
}

impl Decider {
    /// One that remembers so many decisions; 0: none.
    pub fn remembering(decisions: u64) -> Self {
        let enforcers = moka::future::Cache::builder()
            .max_capacity(KEPT_GRANTS)
            .weigher(|_: &Who, kept: &Arc<Kept>| kept.grants)
            .build();
        Self { enforcers, decisions: moka::sync::Cache::new(decisions) }
    }

    /// Whether these grants allow something at `place`.
    pub async fn allowed(&self, who: &PrincipalGrants, place: Place, permission: Permission) -> bool {
        if who.grants.is_empty() {
            return false;
        }
        let key = (who.principal.clone(), who.revision, place, permission);
        if let Some(decision) = self.decisions.get(&key) {
            return decision;
        }
        match self.decide(who, place, permission).await {
            Ok(decision) => {
                self.decisions.insert(key, decision);
                decision
            }
            Err(error) => {
                tracing::error!(principal = &*who.principal, %error, "no decision, so it is denied");
                false
            }
        }
    }

    async fn decide(
        &self,
        who: &PrincipalGrants,
        place: Place,
        permission: Permission,
    ) -> Result<bool, Arc<casbin::Error>> {
        let key = (who.principal.clone(), who.revision);
        let kept = self.enforcers.try_get_with(key, enforcer(who)).await?;
        let scope = |scope: Option<GrantScope>| scope.map(node).unwrap_or_default();
        let request = (
            node(GrantScope::Deployment),
            scope(place.instance.map(GrantScope::Instance)),
            scope(place.namespace.map(GrantScope::Namespace)),
            scope(place.repository.map(GrantScope::Repository)),
            permission.as_str(),
        );
        kept.enforcer.enforce(request).map_err(Arc::new)
    }
}

/// The place of a grant as casbin names it: an id matches only within its own kind.
fn node(scope: GrantScope) -> String {
    format!("{}:{}", scope.kind(), scope.id())
}

async fn enforcer(who: &PrincipalGrants) -> Result<Arc<Kept>, casbin::Error> {
    let model = DefaultModel::from_str(MODEL).await?;
    let mut enforcer = Enforcer::new(model, MemoryAdapter::default()).await?;
    // Two grants may say the same, and casbin adds all lines or, with a repeated one, none: sets.
    let (mut links, mut lines) = (BTreeSet::new(), BTreeSet::new());
    for grant in who.grants.iter().filter(|grant| grant.role.scopes.contains(&grant.scope.kind())) {
        let role = format!("role:{}", grant.role.id);
        lines.extend(grant.role.permissions.iter().map(|permission| (role.clone(), permission.as_str())));
        links.insert((node(grant.scope), role));
    }
    let lines = lines.into_iter().map(|(role, permission)| vec![role, permission.to_owned()]).collect();
    enforcer.add_policies(lines).await?;
    let links = links.into_iter().map(|(place, role)| vec![place, role]).collect();
    enforcer.add_grouping_policies(links).await?;
    let grants = u32::try_from(who.grants.len()).unwrap_or(u32::MAX);
    Ok(Arc::new(Kept { enforcer, grants }))
}

/// The grants that allow something at a place: why an answer is yes.
pub fn reasons(who: &PrincipalGrants, place: Place, permission: Permission) -> impl Iterator<Item = &Grant> {
    who.grants.iter().filter(move |grant| {
        grant.role.scopes.contains(&grant.scope.kind())
            && grant.role.allows(permission)
            && grant.scope.covers(&place)
    })
}

#[cfg(test)]
#[path = "policy_tests.rs"]
mod tests;
