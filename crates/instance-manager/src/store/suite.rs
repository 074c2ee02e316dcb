//! What the store promises, on both engines.

use std::{sync::Arc, time::Duration};

use berth_database::Engine;
use berth_model::NamespaceId;
use berth_service::{Ids, ManualClock};

use super::*;

struct Bench {
    store: Store,
    database: Database,
    ids: Ids,
}

impl Bench {
    async fn new(engine: Engine) -> Option<Self> {
        let clock = ManualClock::at(Timestamp::from_seconds(1_700_000_000));
        let database = Database::for_tests(engine, crate::MIGRATIONS, clock.clone()).await.unwrap()?;
        Some(Self { store: Store::new(database.clone()), database, ids: Ids::random(clock) })
    }

    fn seed(&self) -> Seed {
        let key = |active| StoredKey {
            id: self.ids.ulid().to_string(),
            sealed: vec![1, 2],
            jwk: "{}".into(),
            active,
        };
        Seed {
            issuer: format!("berth:{}", self.ids.ulid()),
            instance: InstanceId::new(self.ids.ulid()),
            instance_name: "default".into(),
            keys: [key(true), key(false)],
        }
    }

    fn user(&self, instance: InstanceId, name: &str) -> NewUser {
        let grant = Grant { role: Role::InstanceAdmin, scope: GrantScope::Instance(instance) };
        NewUser {
            id: UserId::new(self.ids.ulid()),
            instance,
            name: name.into(),
            password_hash: "hash".into(),
            grant: Some((GrantId::new(self.ids.ulid()), grant)),
        }
    }

    fn event(&self, instance: InstanceId) -> AuditRow {
        AuditRow {
            event_id: EventId::new(self.ids.ulid()),
            instance,
            kind: "artifact.pushed".into(),
            principal: "user:a".into(),
            repository_id: String::new(),
            repository: "team/app".into(),
            digest: "sha256:0".into(),
            tag: "v1".into(),
            occurred_at: 5,
        }
    }
}

macro_rules! on_both {
    ($($name:ident),* $(,)?) => {
        mod sqlite {
            $(#[tokio::test(flavor = "multi_thread")] async fn $name() {
                super::$name(super::Bench::new(super::Engine::Sqlite).await.unwrap()).await;
            })*
        }
        mod postgres {
            $(#[tokio::test(flavor = "multi_thread")] async fn $name() {
                if let Some(bench) = super::Bench::new(super::Engine::Postgres).await {
                    super::$name(bench).await;
                }
            })*
        }
    };
}

on_both!(
    every_statement_is_understood,
    processes_that_start_together_make_one_of_each,
    a_name_belongs_to_one_person,
    a_person_is_read_as_the_last_change_left_it,
    grants_change_their_revision,
    refresh_tokens_expire_and_do_not_pile_up,
    an_event_is_recorded_once,
    blob_delivery_changes_the_revision_and_is_audited,
);

async fn every_statement_is_understood(bench: Bench) {
    bench.database.prepare_all(sql::ALL).await.unwrap();
}

async fn processes_that_start_together_make_one_of_each(bench: Bench) {
    let starts = (0..8).map(|_| bench.store.bootstrap(bench.seed()));
    let found: Vec<InstanceId> =
        futures::future::join_all(starts).await.into_iter().map(|outcome| outcome.unwrap()).collect();
    assert!(found.windows(2).all(|pair| pair[0] == pair[1]));
    let settings = bench.store.settings().await.unwrap();
    assert_eq!(settings.instances.len(), 1);
    assert!(settings.instances[0].default);
    let active: Vec<bool> = settings.keys.iter().map(|key| key.active).collect();
    assert_eq!(active, [true, false]);
    assert_eq!(settings.revision, 2);
    assert_eq!(bench.store.revision().await.unwrap().0, 2);
}

async fn a_name_belongs_to_one_person(bench: Bench) {
    let instance = bench.store.bootstrap(bench.seed()).await.unwrap();
    let creations = (0..4).map(|_| bench.store.create_user(bench.user(instance, "alice")));
    let created: Vec<UserId> = futures::future::join_all(creations)
        .await
        .into_iter()
        .filter_map(|outcome| outcome.unwrap())
        .collect();
    assert_eq!(created.len(), 1);
    let user = bench.store.user_by_name(instance, "alice").await.unwrap().unwrap();
    assert_eq!((user.id, user.name.as_str()), (created[0], "alice"));
    assert_eq!(bench.store.user_by_id(instance, user.id).await.unwrap().unwrap(), user);
    assert_eq!(bench.store.grants(user.id).await.unwrap().len(), 1);
    // Another instance does not know her.
    let other = InstanceId::new(bench.ids.ulid());
    assert_eq!(bench.store.user_by_name(other, "alice").await.unwrap(), None);
    assert_eq!(bench.store.user_by_id(other, user.id).await.unwrap(), None);
    assert!(bench.store.set_password(user.id, "hash".into(), "new".into()).await.unwrap());
    assert!(!bench.store.set_password(user.id, "hash".into(), "newer".into()).await.unwrap());
}

async fn a_person_is_read_as_the_last_change_left_it(bench: Bench) {
    let store = &bench.store;
    let instance = store.bootstrap(bench.seed()).await.unwrap();
    let id = store.create_user(bench.user(instance, "dora")).await.unwrap().unwrap();
    store.create_user(bench.user(instance, "emil")).await.unwrap().unwrap();
    let read = async |name: &str| store.user_by_name(instance, name).await.unwrap().unwrap();
    // Whom memory knows, where there is one.
    let known = |name: &str| store.known.as_ref().and_then(|known| known.get(instance, name));
    let in_memory = bench.database.engine() == Engine::Sqlite;
    let (before, other) = (read("dora").await, read("emil").await);
    assert_eq!(known("dora"), in_memory.then(|| before.clone()));
    store.set_password(id, "hash".into(), "new".into()).await.unwrap();
    assert_eq!(known("dora"), None);
    assert_eq!(known("emil"), in_memory.then_some(other));
    assert_eq!(read("dora").await, StoredUser { password_hash: "new".into(), ..before.clone() });
    let scope = GrantScope::Namespace(NamespaceId::new(bench.ids.ulid()));
    let grant = Grant { role: Role::Reader, scope };
    store.create_grant(GrantId::new(bench.ids.ulid()), instance, "dora", grant).await.unwrap();
    let after = read("dora").await;
    assert_eq!((after.grants_revision, after.id), (before.grants_revision + 1, id));
    assert_eq!(store.user_by_name(InstanceId::new(bench.ids.ulid()), "dora").await.unwrap(), None);
    // What was read before a change is not kept after it.
    if let Some(known) = &store.known {
        let since = known.since();
        store.set_password(id, "new".into(), "newer".into()).await.unwrap();
        known.keep(since, instance, &after);
        assert_eq!(known.get(instance, "dora"), None);
    }
}

async fn grants_change_their_revision(bench: Bench) {
    let instance = bench.store.bootstrap(bench.seed()).await.unwrap();
    let user = bench.store.create_user(bench.user(instance, "bob")).await.unwrap().unwrap();
    let scope = GrantScope::Namespace(NamespaceId::new(bench.ids.ulid()));
    let grant = Grant { role: Role::Developer, scope };
    let give = |grant| bench.store.create_grant(GrantId::new(bench.ids.ulid()), instance, "bob", grant);
    let first = give(grant).await.unwrap().unwrap();
    assert_eq!(give(grant).await.unwrap(), Some(first));
    let grants = bench.store.grants(user).await.unwrap();
    assert_eq!(grants.len(), 2);
    assert!(grants.contains(&grant));
    assert_eq!(bench.store.user_by_name(instance, "bob").await.unwrap().unwrap().grants_revision, 2);
    let absent = bench.store.create_grant(first, instance, "nobody", grant).await.unwrap();
    assert_eq!(absent, None);
}

async fn refresh_tokens_expire_and_do_not_pile_up(bench: Bench) {
    let store = &bench.store;
    let instance = store.bootstrap(bench.seed()).await.unwrap();
    let user = store.create_user(bench.user(instance, "carol")).await.unwrap().unwrap();
    let start = Timestamp::from_seconds(1_000);
    let hash = |n: u8| [n; 32];
    for n in 0..=150 {
        let now = start.plus(Duration::from_secs(n.into()));
        store
            .keep_refresh_token(hash(n), user, instance, now, now.plus(Duration::from_secs(3_600)))
            .await
            .unwrap();
    }
    let now = start.plus(Duration::from_secs(200));
    assert_eq!(store.user_by_refresh_token(hash(150), instance, now).await.unwrap().unwrap().id, user);
    assert_eq!(store.user_by_refresh_token(hash(50), instance, now).await.unwrap(), None);
    assert!(store.user_by_refresh_token(hash(51), instance, now).await.unwrap().is_some());
    let other = InstanceId::new(bench.ids.ulid());
    assert_eq!(store.user_by_refresh_token(hash(150), other, now).await.unwrap(), None);
    let late = start.plus(Duration::from_secs(150 + 3_600));
    assert_eq!(store.user_by_refresh_token(hash(150), instance, late).await.unwrap(), None);
    store.set_password(user, "hash".into(), "new".into()).await.unwrap();
    assert_eq!(store.user_by_refresh_token(hash(149), instance, now).await.unwrap(), None);
}

async fn an_event_is_recorded_once(bench: Bench) {
    let instance = InstanceId::new(bench.ids.ulid());
    let mut events: Vec<AuditRow> = (0..20).map(|_| bench.event(instance)).collect();
    events.sort_by_key(|event| event.event_id);
    let events = Arc::new(events);
    let deliveries = (0..4).map(|n| bench.store.record(events[n * 2..].to_vec()));
    let recorded: u64 =
        futures::future::join_all(deliveries).await.into_iter().map(|outcome| outcome.unwrap()).sum();
    assert_eq!(recorded, 20);
    let mut changed = events[3].clone();
    changed.principal = "user:mallory".into();
    assert_eq!(bench.store.record(vec![changed]).await.unwrap(), 0);
    let page = bench.store.audit(instance, None, 8).await.unwrap();
    assert_eq!(page, events[..8]);
    let rest = bench.store.audit(instance, Some(page[7].event_id), 100).await.unwrap();
    assert_eq!(rest, events[8..]);
    let other = InstanceId::new(bench.ids.ulid());
    assert!(bench.store.audit(other, None, 100).await.unwrap().is_empty());
}

async fn blob_delivery_changes_the_revision_and_is_audited(bench: Bench) {
    let instance = bench.store.bootstrap(bench.seed()).await.unwrap();
    let delivery = async || bench.store.settings().await.unwrap().instances[0].blob_delivery;
    assert_eq!(delivery().await, BlobDelivery::Stream, "what an instance begins with");
    let revision = bench.store.revision().await.unwrap().0;
    let set = |delivery| bench.store.set_blob_delivery(instance, delivery, bench.event(instance));
    assert!(!set(BlobDelivery::Stream).await.unwrap());
    assert!(set(BlobDelivery::Redirect).await.unwrap());
    assert!(!set(BlobDelivery::Redirect).await.unwrap());
    assert_eq!(delivery().await, BlobDelivery::Redirect);
    assert_eq!(bench.store.revision().await.unwrap().0, revision + 1);
    assert_eq!(bench.store.audit(instance, None, 10).await.unwrap().len(), 1);
    let other = InstanceId::new(bench.ids.ulid());
    let set = bench.store.set_blob_delivery(other, BlobDelivery::Redirect, bench.event(other)).await;
    assert!(!set.unwrap());
}
