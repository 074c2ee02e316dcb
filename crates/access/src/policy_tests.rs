use berth_service::{Ids, ManualClock, Timestamp};

use super::*;

fn role(name: &str) -> Arc<Role> {
    // As a role of an instance would be: it may be given anywhere.
    Arc::new(Role { scopes: ScopeKind::ALL.into(), ..Role::clone(&Role::built_in()[name]) })
}

fn who(principal: &str, revision: i64, grants: Vec<Grant>) -> PrincipalGrants {
    PrincipalGrants { principal: principal.into(), revision, grants: grants.into() }
}

#[tokio::test]
async fn a_grant_holds_where_it_was_given_and_nowhere_else() {
    let ids = Ids::seeded(1, ManualClock::at(Timestamp(0)));
    let (instance, other) = (InstanceId::new(ids.ulid()), InstanceId::new(ids.ulid()));
    let (namespace, repository) = (NamespaceId::new(ids.ulid()), RepositoryId::new(ids.ulid()));
    let whole = Place::instance(instance);
    let inside = Place { namespace: Some(namespace), ..whole };
    let one = Place { repository: Some(repository), ..inside };
    let places = [Place::DEPLOYMENT, whole, inside, one];
    let cases = [
        (GrantScope::Deployment, [true, true, true, true]),
        (GrantScope::Instance(instance), [false, true, true, true]),
        (GrantScope::Instance(other), [false, false, false, false]),
        (GrantScope::Namespace(namespace), [false, false, true, true]),
        (GrantScope::Repository(repository), [false, false, false, true]),
    ];
    for decider in [Decider::default(), Decider::remembering(0)] {
        for (revision, (scope, expected)) in cases.into_iter().enumerate() {
            for name in Role::built_in().keys() {
                let grant = Grant { id: GrantId::new(ids.ulid()), role: role(name), scope, group: None };
                let who = who(
                    &format!("user:{name}"),
                    i64::try_from(revision).unwrap(),
                    vec![grant.clone(), grant],
                );
                for (place, reached) in places.into_iter().zip(expected) {
                    for permission in Permission::ALL.iter().copied() {
                        let expected = reached && role(name).allows(permission);
                        for _ in 0..2 {
                            let allowed = decider.allowed(&who, place, permission).await;
                            assert_eq!(allowed, expected, "{name} {scope:?} {place:?} {permission}");
                        }
                        assert_eq!(reasons(&who, place, permission).count(), if expected { 2 } else { 0 });
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
        instance: Some(InstanceId::new(ids.ulid())),
        namespace: Some(NamespaceId::new(same)),
        repository: None,
    };
    let decider = Decider::default();
    let scope = GrantScope::Repository(RepositoryId::new(same));
    let grant = Grant { id: GrantId::new(ids.ulid()), role: role("instance-admin"), scope, group: None };
    assert!(!decider.allowed(&who("user:a", 1, vec![grant]), place, Permission::ArtifactPull).await);
    assert!(!decider.allowed(&who("user:a", 2, Vec::new()), place, Permission::ArtifactPull).await);
    // The role of the whole deployment does nothing where only repositories are meant, and the other way round.
    let instance = GrantScope::Instance(place.instance.unwrap());
    let operator = Grant {
        id: GrantId::new(ids.ulid()),
        role: Role::built_in()["operator"].clone(),
        scope: instance,
        group: None,
    };
    let who = who("user:a", 3, vec![operator]);
    assert!(!decider.allowed(&who, place, Permission::InstanceRead).await);
    assert_eq!(reasons(&who, place, Permission::InstanceRead).count(), 0);
}

#[tokio::test]
async fn a_changed_revision_is_decided_anew() {
    let ids = Ids::seeded(3, ManualClock::at(Timestamp(0)));
    let instance = InstanceId::new(ids.ulid());
    let grant = |name: &str| Grant {
        id: GrantId::new(ids.ulid()),
        role: role(name),
        scope: GrantScope::Instance(instance),
        group: None,
    };
    let decider = Decider::default();
    let place = Place::instance(instance);
    let before = who("user:a", 1, vec![grant("reader")]);
    assert!(!decider.allowed(&before, place, Permission::ArtifactPush).await);
    let after = who("user:a", 2, vec![grant("developer"), grant("reader")]);
    assert!(decider.allowed(&after, place, Permission::ArtifactPush).await);
    assert!(!decider.allowed(&before, place, Permission::ArtifactPush).await);
}
