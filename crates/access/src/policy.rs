//! Decides what one principal may do. casbin sees that principal's grants and nobody else's; what a role may do is
//! [`Role::actions`]. Whatever goes wrong, the answer is no.

use std::{fmt, sync::Arc};

use berth_model::{Action, InstanceId, NamespaceId, RepositoryId, Role};
use casbin::{CoreApi, DefaultModel, Enforcer, MemoryAdapter, MgmtApi};

/// A policy line is one action of one grant. An id matches only within its own kind, and an absent repository or
/// namespace is the empty text, which is no grant's id.
const MODEL: &str = r#"
[request_definition]
r = instance, namespace, repository, action

[policy_definition]
p = kind, id, action

[policy_effect]
e = some(where (p.eft == allow))

[matchers]
m = r.action == p.action && ((p.kind == "instance" && p.id == r.instance) || (p.kind == "namespace" && p.id == r.namespace) || (p.kind == "repository" && p.id == r.repository))
"#;

/// Where a grant holds.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum GrantScope {
    /// In the whole instance.
    Instance(InstanceId),
    /// In one namespace.
    Namespace(NamespaceId),
    /// In one repository.
    Repository(RepositoryId),
}

/// A role that a principal has somewhere.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Grant {
    /// The role.
    pub role: Role,
    /// Where.
    pub scope: GrantScope,
}

/// The grants of one principal, as of a revision that changes whenever they do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PrincipalGrants {
    /// The principal, such as `user:<id>`.
    pub principal: Arc<str>,
    /// The revision of the grants.
    pub revision: i64,
    /// The grants.
    pub grants: Arc<[Grant]>,
}

/// What an action is to be done to.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Place {
    /// The instance.
    pub instance: InstanceId,
    /// The namespace, if it exists.
    pub namespace: Option<NamespaceId>,
    /// The repository, if it exists.
    pub repository: Option<RepositoryId>,
}

type Who = (Arc<str>, i64);

/// Decides, and remembers what it decided for as long as the grants stay the same.
#[derive(Clone)]
pub struct Decider {
    enforcers: moka::future::Cache<Who, Arc<Enforcer>>,
    decisions: moka::sync::Cache<(Arc<str>, i64, Place, Action), bool>,
}

impl fmt::Debug for Decider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Decider")
    }
}

impl Default for Decider {
    fn default() -> Self {
        Self { enforcers: moka::future::Cache::new(1_000), decisions: moka::sync::Cache::new(100_000) }
    }
}

impl Decider {
    /// Whether these grants allow `action` at `place`.
    pub async fn allowed(&self, who: &PrincipalGrants, place: Place, action: Action) -> bool {
        if who.grants.is_empty() {
            return false;
        }
        let key = (who.principal.clone(), who.revision, place, action);
        if let Some(decision) = self.decisions.get(&key) {
            return decision;
        }
        match self.decide(who, place, action).await {
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
        action: Action,
    ) -> Result<bool, Arc<casbin::Error>> {
        let key = (who.principal.clone(), who.revision);
        let enforcer = self.enforcers.try_get_with(key, enforcer(who)).await?;
        let text = |id: Option<String>| id.unwrap_or_default();
        let request = (
            place.instance.to_string(),
            text(place.namespace.map(|id| id.to_string())),
            text(place.repository.map(|id| id.to_string())),
            action.as_str(),
        );
        enforcer.enforce(request).map_err(Arc::new)
    }
}

async fn enforcer(who: &PrincipalGrants) -> Result<Arc<Enforcer>, casbin::Error> {
    let model = DefaultModel::from_str(MODEL).await?;
    let mut enforcer = Enforcer::new(model, MemoryAdapter::default()).await?;
    let mut lines = Vec::new();
    for grant in who.grants.iter() {
        let (kind, id) = match grant.scope {
            GrantScope::Instance(id) => ("instance", id.to_string()),
            GrantScope::Namespace(id) => ("namespace", id.to_string()),
            GrantScope::Repository(id) => ("repository", id.to_string()),
        };
        for action in grant.role.actions() {
            let line = vec![kind.to_owned(), id.clone(), action.as_str().to_owned()];
            // Two grants may say the same, and casbin adds all lines or, with a repeated one, none.
            if !lines.contains(&line) {
                lines.push(line);
            }
        }
    }
    enforcer.add_policies(lines).await?;
    Ok(Arc::new(enforcer))
}

#[cfg(test)]
mod tests {
    use berth_service::{Ids, ManualClock, Timestamp};

    use super::*;

    #[tokio::test]
    async fn a_grant_holds_where_it_was_given_and_nowhere_else() {
        let ids = Ids::seeded(1, ManualClock::at(Timestamp(0)));
        let (instance, other) = (InstanceId::new(ids.ulid()), InstanceId::new(ids.ulid()));
        let (namespace, repository) = (NamespaceId::new(ids.ulid()), RepositoryId::new(ids.ulid()));
        let whole = Place { instance, namespace: None, repository: None };
        let inside = Place { namespace: Some(namespace), ..whole };
        let one = Place { repository: Some(repository), ..inside };
        let decider = Decider::default();
        let cases = [
            (GrantScope::Instance(instance), [true, true, true]),
            (GrantScope::Instance(other), [false, false, false]),
            (GrantScope::Namespace(namespace), [false, true, true]),
            (GrantScope::Repository(repository), [false, false, true]),
        ];
        for (revision, (scope, expected)) in cases.into_iter().enumerate() {
            for role in Role::ALL {
                let grant = Grant { role, scope };
                let who = PrincipalGrants {
                    principal: format!("user:{role}").into(),
                    revision: i64::try_from(revision).unwrap(),
                    grants: vec![grant, grant].into(),
                };
                for (place, reached) in [whole, inside, one].into_iter().zip(expected) {
                    for action in Action::ALL {
                        let expected = reached && role.actions().contains(&action);
                        for _ in 0..2 {
                            assert_eq!(
                                decider.allowed(&who, place, action).await,
                                expected,
                                "{role} {scope:?} {place:?}"
                            );
                        }
                    }
                }
            }
        }
    }

    #[tokio::test]
    async fn an_id_of_one_kind_opens_no_other_and_no_grant_opens_nothing() {
        let ids = Ids::seeded(2, ManualClock::at(Timestamp(0)));
        let same = ids.ulid();
        let place = Place {
            instance: InstanceId::new(ids.ulid()),
            namespace: Some(NamespaceId::new(same)),
            repository: None,
        };
        let decider = Decider::default();
        let mut who = PrincipalGrants {
            principal: "user:a".into(),
            revision: 1,
            grants: vec![Grant {
                role: Role::InstanceAdmin,
                scope: GrantScope::Repository(RepositoryId::new(same)),
            }]
            .into(),
        };
        assert!(!decider.allowed(&who, place, Action::Pull).await);
        who.grants = Arc::new([]);
        assert!(!decider.allowed(&who, place, Action::Pull).await);
    }
}
