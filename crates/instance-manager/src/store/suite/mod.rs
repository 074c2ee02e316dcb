//! What the store promises, on both engines.

use std::{sync::Arc, time::Duration};

use audit::{
    an_entry_is_recorded_once, an_export_is_complete_and_goes_on_where_it_was, every_page_has_its_index,
    old_entries_go_and_nothing_else, pages_are_those_of_the_reference, recording_never_waits_for_a_month,
};
use berth_database::Engine;
use berth_model::EventId;
use berth_service::{Ids, ManualClock};
use identity::{
    a_login_is_finished_once_and_all_at_once, a_provider_has_its_name_and_its_issuer_alone,
    nothing_is_kept_for_whom_nobody_vouches_any_more, what_hangs_on_a_provider_goes_with_it,
};
use principals::{
    a_group_gives_what_it_has_until_it_is_left, a_name_belongs_to_one_principal,
    a_principal_is_read_as_the_last_change_left_it, a_robot_has_two_secrets_at_most,
    a_role_changes_what_its_holders_may, changes_compare_versions, deleting_leaves_nothing,
    grants_change_their_revision, refresh_tokens_expire_and_do_not_pile_up, shutting_out_takes_tokens_along,
};

use super::*;

mod audit;
mod identity;
mod principals;
mod upgrade;

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

    fn database_now(&self) -> Timestamp {
        Timestamp::from_seconds(1_700_000_100)
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

    fn event(&self, instance: InstanceId) -> AuditRow {
        let event = EventId::new(self.ids.ulid());
        let mut entry = AuditRow::new(event, instance, "artifact.pushed");
        entry.principal = "user:a".into();
        entry.credential = "password".into();
        entry.address = "192.0.2.1".into();
        entry.request_id = "1".into();
        entry.repository = "team/app".into();
        entry.digest = "sha256:0".into();
        entry.tag = "v1".into();
        (entry.occurred_at, entry.last_at) = (5, 5);
        entry
    }

    /// All of an instance, newest first.
    async fn audit(&self, instance: InstanceId) -> Vec<AuditRow> {
        self.store.audit_page(&AuditFilter::all(instance), None, 1_000).await.unwrap()
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
    a_name_belongs_to_one_principal,
    a_principal_is_read_as_the_last_change_left_it,
    grants_change_their_revision,
    a_group_gives_what_it_has_until_it_is_left,
    a_role_changes_what_its_holders_may,
    changes_compare_versions,
    shutting_out_takes_tokens_along,
    a_robot_has_two_secrets_at_most,
    deleting_leaves_nothing,
    refresh_tokens_expire_and_do_not_pile_up,
    an_entry_is_recorded_once,
    pages_are_those_of_the_reference,
    every_page_has_its_index,
    an_export_is_complete_and_goes_on_where_it_was,
    old_entries_go_and_nothing_else,
    recording_never_waits_for_a_month,
    a_provider_has_its_name_and_its_issuer_alone,
    what_hangs_on_a_provider_goes_with_it,
    nothing_is_kept_for_whom_nobody_vouches_any_more,
    a_login_is_finished_once_and_all_at_once,
    blob_delivery_changes_the_revision_and_is_audited,
);

async fn every_statement_is_understood(bench: Bench) {
    bench.database.prepare_all(sql::ALL).await.unwrap();
    bench.database.prepare_all(audit_statements::ALL).await.unwrap();
    bench.database.prepare_all(idempotency::STATEMENTS).await.unwrap();
    bench.database.prepare_all(tasks::STATEMENTS).await.unwrap();
    for (name, statement, _) in audit_statements::PAGES {
        bench.database.prepare_all(&[(name, statement)]).await.unwrap();
    }
    bench.database.prepare_all(identity_statements::ALL).await.unwrap();
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
    assert_eq!(bench.audit(instance).await.len(), 1);
    let other = InstanceId::new(bench.ids.ulid());
    let set = bench.store.set_blob_delivery(other, BlobDelivery::Redirect, bench.event(other)).await;
    assert!(!set.unwrap());
}
