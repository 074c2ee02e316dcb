//! People, robots and groups, what they have, and what becomes of it.

use berth_access::GrantScope;
use berth_model::{GrantId, NamespaceId, PrincipalId, PrincipalKind, SecretId};
use berth_oci::{ErrorCode, Problem};

use super::*;

fn new(bench: &Bench, instance: InstanceId, kind: PrincipalKind, name: &str) -> NewPrincipal {
    let id = PrincipalId::new(bench.ids.ulid());
    let secret = (kind == PrincipalKind::Robot).then(|| NewSecret { id: secret_id(bench), hash: [1; 32] });
    NewPrincipal {
        id,
        instance,
        kind,
        name: name.into(),
        description: String::new(),
        password_hash: (kind == PrincipalKind::User).then(|| "hash".into()),
        email: String::new(),
        expires_at: None,
        grants: vec![grant(bench, id, "instance-admin", GrantScope::Instance(instance))],
        secret,
    }
}

fn secret_id(bench: &Bench) -> SecretId {
    SecretId::new(bench.ids.ulid())
}

fn grant(bench: &Bench, principal: PrincipalId, role: &str, scope: GrantScope) -> NewGrant {
    let id = GrantId::new(bench.ids.ulid());
    NewGrant { id, principal, role: role.into(), scope, created_by: "user:a".into() }
}

pub(super) async fn home(bench: &Bench) -> InstanceId {
    bench.store.bootstrap(bench.seed()).await.unwrap()
}

pub(super) async fn add(
    bench: &Bench,
    instance: InstanceId,
    kind: PrincipalKind,
    name: &str,
) -> StoredPrincipal {
    let made = bench.store.add_principal(new(bench, instance, kind, name), bench.event(instance)).await;
    made.unwrap().unwrap()
}

async fn again(bench: &Bench, principal: &StoredPrincipal) -> StoredPrincipal {
    bench.store.principal_by_id(principal.instance, principal.id).await.unwrap().unwrap()
}

pub(super) fn code<T: std::fmt::Debug>(outcome: Result<T, Error>) -> ErrorCode {
    Problem::from(outcome.unwrap_err()).code
}

fn token(
    bench: &Bench,
    principal: &StoredPrincipal,
    hash: [u8; 32],
    secret: Option<SecretId>,
) -> SecretToken {
    let now = bench.database_now();
    SecretToken {
        hash,
        kind: TokenKind::Refresh,
        instance: principal.instance,
        principal: principal.id,
        secret,
        provider: None,
        trust: None,
        created_at: now,
        expires_at: now.plus(Duration::from_secs(3_600)),
    }
}

async fn opens(bench: &Bench, instance: InstanceId, hash: [u8; 32]) -> bool {
    let now = bench.database_now();
    bench.store.principal_by_token(hash, TokenKind::Refresh, instance, now).await.unwrap().is_some()
}

pub(super) async fn refused(bench: &Bench) -> Vec<String> {
    bench.store.settings().await.unwrap().not_befores.into_iter().map(|row| row.subject).collect()
}

pub(super) async fn a_name_belongs_to_one_principal(bench: Bench) {
    let instance = home(&bench).await;
    let creations = (0..4).map(|_| {
        bench.store.add_principal(new(&bench, instance, PrincipalKind::User, "alice"), bench.event(instance))
    });
    let created: Vec<StoredPrincipal> = futures::future::join_all(creations)
        .await
        .into_iter()
        .filter_map(|outcome| outcome.unwrap())
        .collect();
    assert_eq!(created.len(), 1);
    let user = bench.store.principal_by_name(instance, PrincipalKind::User, "alice").await.unwrap().unwrap();
    assert_eq!(user, created[0]);
    assert_eq!(again(&bench, &user).await, user);
    assert_eq!(bench.store.grants_of(user.id).await.unwrap().len(), 1);
    assert_eq!(bench.audit(instance).await.len(), 1, "one was made");
    // A robot and a group may have the name of a person.
    add(&bench, instance, PrincipalKind::Robot, "alice").await;
    add(&bench, instance, PrincipalKind::Group, "alice").await;
    // Another instance does not know her.
    let other = InstanceId::new(bench.ids.ulid());
    let stranger = bench.store.principal_by_name(other, PrincipalKind::User, "alice").await.unwrap();
    assert_eq!(stranger, None);
    assert_eq!(bench.store.principal_by_id(other, user.id).await.unwrap(), None);
    let wrong = bench.store.set_password(other, user.id, None, "new".into(), bench.event(other)).await;
    assert_eq!(code(wrong), ErrorCode::NotFound);
    let set = async |seen: &str, hash: &str| {
        let seen = Some(seen.to_owned());
        bench.store.set_password(instance, user.id, seen, hash.into(), bench.event(instance)).await.unwrap()
    };
    assert!(set("hash", "new").await);
    assert!(!set("hash", "newer").await);
    for n in 0..5 {
        add(&bench, instance, PrincipalKind::User, &format!("u{n}")).await;
    }
    let page = async |after: &str, limit| {
        let found =
            bench.store.list_principals(instance, PrincipalKind::User, "", after, limit).await.unwrap();
        found.into_iter().map(|found| found.name).collect::<Vec<_>>()
    };
    assert_eq!(page("", 2).await, ["alice", "u0"]);
    assert_eq!(page("u0", 10).await, ["u1", "u2", "u3", "u4"]);
}

pub(super) async fn grants_change_their_revision(bench: Bench) {
    let instance = home(&bench).await;
    let bob = add(&bench, instance, PrincipalKind::User, "bob").await;
    let scope = GrantScope::Namespace(NamespaceId::new(bench.ids.ulid()));
    let give = async || {
        let wish = grant(&bench, bob.id, "developer", scope);
        bench.store.create_grant(instance, wish, bench.event(instance)).await.unwrap()
    };
    let first = give().await;
    assert_eq!(give().await, first);
    let after = again(&bench, &bob).await;
    assert!(after.revision > bob.revision);
    let grants = bench.store.grants_of(bob.id).await.unwrap();
    assert!(
        grants.iter().any(|grant| grant.id == first && grant.scope == scope && grant.role == "developer")
    );
    let listed = bench.store.list_grants(instance, Some(bob.id), "", None, 10).await.unwrap();
    assert_eq!(listed.len(), 2);
    assert_eq!(
        bench.store.list_grants(instance, None, "", Some(listed[0].id), 10).await.unwrap(),
        listed[1..]
    );
    // Another instance can neither see nor take it.
    let other = InstanceId::new(bench.ids.ulid());
    assert_eq!(bench.store.grant(other, first).await.unwrap(), None);
    assert!(!bench.store.delete_grant(other, first, bench.event(other)).await.unwrap());
    assert!(refused(&bench).await.is_empty());
    let settings = bench.store.revision().await.unwrap().0;
    assert!(bench.store.delete_grant(instance, first, bench.event(instance)).await.unwrap());
    assert!(!bench.store.delete_grant(instance, first, bench.event(instance)).await.unwrap());
    assert!(again(&bench, &bob).await.revision > after.revision);
    assert_eq!(bench.store.grants_of(bob.id).await.unwrap().len(), 1);
    assert_eq!(refused(&bench).await, [bob.principal().to_string()]);
    assert_eq!(bench.store.revision().await.unwrap().0, settings + 1);
    let absent = grant(&bench, PrincipalId::new(bench.ids.ulid()), "reader", scope);
    assert_eq!(
        code(bench.store.create_grant(instance, absent, bench.event(instance)).await),
        ErrorCode::NotFound
    );
}

pub(super) async fn a_group_gives_what_it_has_until_it_is_left(bench: Bench) {
    let instance = home(&bench).await;
    let carol = add(&bench, instance, PrincipalKind::User, "carol").await;
    let group = add(&bench, instance, PrincipalKind::Group, "team").await;
    let join =
        async || bench.store.add_member(instance, group.id, carol.id, bench.event(instance)).await.unwrap();
    assert!(join().await);
    assert!(!join().await);
    let inside = again(&bench, &carol).await;
    assert!(inside.revision > carol.revision);
    let grants = bench.store.grants_of(carol.id).await.unwrap();
    assert_eq!(grants.iter().filter(|grant| grant.group == Some(group.id)).count(), 1);
    assert_eq!(bench.store.members(group.id, "", 10).await.unwrap()[0].name, "carol");
    assert_eq!(bench.store.groups_of(carol.id).await.unwrap(), ["team"]);
    // What the group gets and loses, its members do.
    let scope = GrantScope::Namespace(NamespaceId::new(bench.ids.ulid()));
    let wish = grant(&bench, group.id, "reader", scope);
    bench.store.create_grant(instance, wish, bench.event(instance)).await.unwrap();
    let richer = again(&bench, &carol).await;
    assert!(richer.revision > inside.revision);
    assert_eq!(bench.store.grants_of(carol.id).await.unwrap().len(), 3);
    let change = PrincipalChange { disabled: Some(true), ..PrincipalChange::default() };
    bench.store.change_principal(instance, group.id, None, change, bench.event(instance)).await.unwrap();
    assert_eq!(bench.store.grants_of(carol.id).await.unwrap().len(), 1);
    assert!(again(&bench, &carol).await.revision > richer.revision);
    assert_eq!(refused(&bench).await, [format!("instance:{instance}")]);
    let change = PrincipalChange { disabled: Some(false), ..PrincipalChange::default() };
    bench.store.change_principal(instance, group.id, None, change, bench.event(instance)).await.unwrap();
    assert!(bench.store.delete_member(instance, group.id, carol.id, bench.event(instance)).await.unwrap());
    assert!(!bench.store.delete_member(instance, group.id, carol.id, bench.event(instance)).await.unwrap());
    assert_eq!(bench.store.grants_of(carol.id).await.unwrap().len(), 1);
    assert!(refused(&bench).await.contains(&carol.principal().to_string()));
    let nested = bench.store.add_member(instance, group.id, group.id, bench.event(instance)).await;
    assert_eq!(code(nested), ErrorCode::RequestInvalid);
    let wrong = bench.store.add_member(instance, carol.id, group.id, bench.event(instance)).await;
    assert!(wrong.is_err());
}

pub(super) async fn a_role_changes_what_its_holders_may(bench: Bench) {
    let instance = home(&bench).await;
    let dave = add(&bench, instance, PrincipalKind::User, "dave").await;
    let text = |permissions: &str| RoleText {
        description: String::new(),
        scopes: r#"["instance"]"#.into(),
        permissions: permissions.into(),
    };
    let id = bench.ids.ulid().to_string();
    let made = async |id: &str| {
        bench.store.add_role(instance, id, "pusher", text("[]"), bench.event(instance)).await.unwrap()
    };
    assert!(made(&id).await);
    assert!(!made(&bench.ids.ulid().to_string()).await);
    let wish = grant(&bench, dave.id, &id, GrantScope::Instance(instance));
    let given = bench.store.create_grant(instance, wish, bench.event(instance)).await.unwrap();
    let before = again(&bench, &dave).await;
    let change = async |version, narrower| {
        let wider = text(r#"["artifact:pull"]"#);
        bench.store.change_role(instance, &id, version, wider, narrower, bench.event(instance)).await
    };
    change(Some(1), false).await.unwrap();
    assert!(again(&bench, &dave).await.revision > before.revision);
    assert!(refused(&bench).await.is_empty());
    assert_eq!(code(change(Some(1), true).await), ErrorCode::PreconditionFailed);
    change(None, true).await.unwrap();
    assert_eq!(refused(&bench).await, [format!("instance:{instance}")]);
    let kept = bench.store.roles(instance).await.unwrap();
    assert_eq!(
        (kept.len(), kept[0].version, kept[0].text.permissions.as_str()),
        (1, 3, r#"["artifact:pull"]"#)
    );
    let delete = async || bench.store.delete_role(instance, &id, None, bench.event(instance)).await;
    assert_eq!(code(delete().await), ErrorCode::Conflict);
    bench.store.delete_grant(instance, given, bench.event(instance)).await.unwrap();
    delete().await.unwrap();
    assert_eq!(code(delete().await), ErrorCode::NotFound);
}

pub(super) async fn changes_compare_versions(bench: Bench) {
    let instance = home(&bench).await;
    let erin = add(&bench, instance, PrincipalKind::User, "erin").await;
    let say = async |version, text: &str| {
        let change = PrincipalChange { description: Some(text.into()), ..PrincipalChange::default() };
        bench.store.change_principal(instance, erin.id, version, change, bench.event(instance)).await
    };
    let after = say(Some(erin.version), "a").await.unwrap();
    assert_eq!((after.description.as_str(), after.version), ("a", erin.version + 1));
    assert_eq!(code(say(Some(erin.version), "b").await), ErrorCode::PreconditionFailed);
    assert_eq!(say(None, "c").await.unwrap().description, "c");
    let stale =
        bench.store.delete_principal(instance, erin.id, Some(erin.version), bench.event(instance)).await;
    assert_eq!(code(stale), ErrorCode::PreconditionFailed);
    assert_eq!(again(&bench, &erin).await.description, "c");
    assert!(refused(&bench).await.is_empty(), "words take no right away");
}

pub(super) async fn shutting_out_takes_tokens_along(bench: Bench) {
    let instance = home(&bench).await;
    let frank = add(&bench, instance, PrincipalKind::User, "frank").await;
    bench.store.keep_token(token(&bench, &frank, [7; 32], None), None).await.unwrap();
    assert!(opens(&bench, instance, [7; 32]).await);
    assert!(!opens(&bench, InstanceId::new(bench.ids.ulid()), [7; 32]).await);
    let disable = async |disabled| {
        let change = PrincipalChange { disabled: Some(disabled), ..PrincipalChange::default() };
        bench.store.change_principal(instance, frank.id, None, change, bench.event(instance)).await.unwrap()
    };
    assert!(disable(true).await.disabled);
    assert!(!opens(&bench, instance, [7; 32]).await);
    assert_eq!(refused(&bench).await, [frank.principal().to_string()]);
    assert!(!disable(false).await.disabled);
    bench.store.keep_token(token(&bench, &frank, [8; 32], None), None).await.unwrap();
    bench.store.set_password(instance, frank.id, None, "new".into(), bench.event(instance)).await.unwrap();
    assert!(!opens(&bench, instance, [8; 32]).await);
}

pub(super) async fn a_robot_has_two_secrets_at_most(bench: Bench) {
    let instance = home(&bench).await;
    let robot = add(&bench, instance, PrincipalKind::Robot, "ci").await;
    let first = bench.store.robot_secrets(robot.id).await.unwrap()[0].id;
    let another = async || {
        let secret = NewSecret { id: secret_id(&bench), hash: [2; 32] };
        bench.store.add_robot_secret(instance, robot.id, secret, bench.event(instance)).await
    };
    another().await.unwrap();
    assert_eq!(code(another().await), ErrorCode::Conflict);
    bench.store.keep_token(token(&bench, &robot, [9; 32], Some(first)), None).await.unwrap();
    let delete = async |secret| {
        bench.store.delete_robot_secret(instance, robot.id, secret, bench.event(instance)).await
    };
    delete(first).await.unwrap();
    assert_eq!(code(delete(first).await), ErrorCode::NotFound);
    assert!(!opens(&bench, instance, [9; 32]).await);
    assert_eq!(refused(&bench).await, [robot.principal().to_string()]);
    let left = bench.store.robot_secrets(robot.id).await.unwrap();
    assert_eq!((left.len(), left[0].hash.as_slice(), left[0].last_used_at), (1, [2; 32].as_slice(), None));
    let now = bench.database_now();
    bench.store.touch(robot.id, Some(left[0].id), now).await.unwrap();
    bench.store.touch(robot.id, Some(left[0].id), now.plus(Duration::from_secs(5))).await.unwrap();
    assert_eq!(bench.store.robot_secrets(robot.id).await.unwrap()[0].last_used_at, Some(now));
    assert_eq!(again(&bench, &robot).await.last_used_at, Some(now));
    let user = add(&bench, instance, PrincipalKind::User, "grace").await;
    let secret = NewSecret { id: secret_id(&bench), hash: [3; 32] };
    let wrong = bench.store.add_robot_secret(instance, user.id, secret, bench.event(instance)).await;
    assert_eq!(code(wrong), ErrorCode::NotFound);
}

pub(super) async fn deleting_leaves_nothing(bench: Bench) {
    let instance = home(&bench).await;
    let robot = add(&bench, instance, PrincipalKind::Robot, "ci").await;
    let group = add(&bench, instance, PrincipalKind::Group, "team").await;
    let secret = bench.store.robot_secrets(robot.id).await.unwrap()[0].id;
    bench.store.add_member(instance, group.id, robot.id, bench.event(instance)).await.unwrap();
    bench.store.keep_token(token(&bench, &robot, [4; 32], Some(secret)), None).await.unwrap();
    let delete = async |id| bench.store.delete_principal(instance, id, None, bench.event(instance)).await;
    delete(robot.id).await.unwrap();
    assert_eq!(code(delete(robot.id).await), ErrorCode::NotFound);
    assert!(!opens(&bench, instance, [4; 32]).await);
    assert!(bench.store.members(group.id, "", 10).await.unwrap().is_empty());
    delete(group.id).await.unwrap();
    let subjects = refused(&bench).await;
    assert_eq!(subjects.len(), 2);
    assert!(
        subjects.contains(&robot.principal().to_string())
            && subjects.contains(&format!("instance:{instance}"))
    );
    // One made again under the name is another, and has nothing.
    let another = new(&bench, instance, PrincipalKind::Robot, "ci");
    let another = NewPrincipal { grants: Vec::new(), ..another };
    let another = bench.store.add_principal(another, bench.event(instance)).await.unwrap().unwrap();
    assert_ne!(another.id, robot.id);
    assert!(bench.store.grants_of(another.id).await.unwrap().is_empty());
}

pub(super) async fn refresh_tokens_expire_and_do_not_pile_up(bench: Bench) {
    let instance = home(&bench).await;
    let carol = add(&bench, instance, PrincipalKind::User, "carol").await;
    let start = Timestamp::from_seconds(1_000);
    let hash = |n: u8| [n; 32];
    for n in 0..=150 {
        let now = start.plus(Duration::from_secs(n.into()));
        let kept = SecretToken {
            created_at: now,
            expires_at: now.plus(Duration::from_secs(3_600)),
            ..token(&bench, &carol, hash(n), None)
        };
        bench.store.keep_token(kept, None).await.unwrap();
    }
    let at = async |n, kind, of, now| {
        bench.store.principal_by_token(hash(n), kind, of, now).await.unwrap().map(|found| found.principal.id)
    };
    let now = start.plus(Duration::from_secs(200));
    assert_eq!(at(150, TokenKind::Refresh, instance, now).await, Some(carol.id));
    assert_eq!(at(150, TokenKind::Temporary, instance, now).await, None, "a refresh token is no password");
    assert_eq!(at(50, TokenKind::Refresh, instance, now).await, None);
    assert_eq!(at(51, TokenKind::Refresh, instance, now).await, Some(carol.id));
    let other = InstanceId::new(bench.ids.ulid());
    assert_eq!(at(150, TokenKind::Refresh, other, now).await, None);
    let late = start.plus(Duration::from_secs(150 + 3_600));
    assert_eq!(at(150, TokenKind::Refresh, instance, late).await, None);
}

pub(super) async fn a_principal_is_read_as_the_last_change_left_it(bench: Bench) {
    let store = &bench.store;
    let instance = home(&bench).await;
    let dora = add(&bench, instance, PrincipalKind::User, "dora").await;
    add(&bench, instance, PrincipalKind::User, "emil").await;
    let group = add(&bench, instance, PrincipalKind::Group, "team").await;
    let read = async |name: &str| {
        store.principal_by_name(instance, PrincipalKind::User, name).await.unwrap().unwrap()
    };
    // Whom memory knows, where there is one.
    let known =
        |name: &str| store.known.as_ref().and_then(|known| known.get(instance, PrincipalKind::User, name));
    let in_memory = bench.database.engine() == Engine::Sqlite;
    let (before, other) = (read("dora").await, read("emil").await);
    assert_eq!(known("dora"), in_memory.then(|| before.clone()));
    let set = async |hash: &str| {
        store.set_password(instance, dora.id, None, hash.into(), bench.event(instance)).await.unwrap()
    };
    assert!(set("new").await);
    assert_eq!(known("dora"), None);
    assert_eq!(known("emil"), in_memory.then_some(other.clone()));
    assert_eq!(read("dora").await.password_hash.as_deref(), Some("new"));
    // A group changes what everybody of the instance may do, as far as memory can tell.
    let scope = GrantScope::Namespace(NamespaceId::new(bench.ids.ulid()));
    store
        .create_grant(instance, grant(&bench, group.id, "reader", scope), bench.event(instance))
        .await
        .unwrap();
    assert_eq!(known("emil"), None);
    assert!(read("emil").await.revision > other.revision);
    store
        .create_grant(instance, grant(&bench, dora.id, "reader", scope), bench.event(instance))
        .await
        .unwrap();
    let after = read("dora").await;
    assert!(after.revision > before.revision);
    // What was read before a change is not kept after it.
    if let Some(memory) = &store.known {
        let since = memory.since();
        set("newer").await;
        memory.keep(since, &after);
        assert_eq!(known("dora"), None);
    }
}
