//! A database of an older version keeps what it had.

use berth_database::{Arg, Statement};
use berth_model::{PrincipalId, PrincipalKind};

use super::*;

/// The last migration before principals, identity providers and the audit took the places of what was there.
const FIRST: i64 = 4;
const HASH: [u8; 32] = [9; 32];

fn row(text: &'static str, args: Vec<Arg>) -> (Statement, Vec<Arg>) {
    (Statement { sqlite: text, postgres: text }, args)
}

async fn a_person_keeps_rights_tokens_and_history(engine: Engine) {
    let clock = ManualClock::at(Timestamp::from_seconds(1_700_000_000));
    let ids = Ids::random(clock.clone());
    let (instance, user) = (InstanceId::new(ids.ulid()), PrincipalId::new(ids.ulid()));
    let [instance_text, user_text] = [instance.to_string(), user.to_string()];
    let late = 4_000_000_000_000_000_i64;
    let rows = vec![
        row("INSERT INTO settings (one, revision, issuer) VALUES (TRUE, 7, 'berth:1')", args![]),
        row(
            "INSERT INTO instances (id, name, is_default, created_at) VALUES ($1, 'default', TRUE, 1)",
            args![&instance_text],
        ),
        row(
            "INSERT INTO users (id, instance_id, name, password_hash, grants_revision, created_at) \
             VALUES ($1, $2, 'ada', 'a hash', 3, 5)",
            args![&user_text, &instance_text],
        ),
        row(
            "INSERT INTO grants (id, user_id, role, scope_kind, scope_id, created_at) \
             VALUES ($1, $2, 'developer', 'instance', $3, 6)",
            args![ids.ulid().to_string(), &user_text, &instance_text],
        ),
        row(
            "INSERT INTO refresh_tokens (hash, user_id, instance_id, created_at, expires_at) \
             VALUES ($1, $2, $3, 6, $4)",
            args![HASH.to_vec(), &user_text, &instance_text, late],
        ),
        row(
            "INSERT INTO audit (event_id, instance_id, type, principal, repository_id, repository, digest, tag, \
             occurred_at, recorded_at) VALUES ($1, $2, 'artifact.tagged', 'user:ada', 'r', 'team/app', 'd', 'v1', 8, 9)",
            args![ids.ulid().to_string(), &instance_text],
        ),
    ];
    let upgraded = Database::upgraded_for_tests(engine, crate::MIGRATIONS, FIRST, rows, clock.clone()).await;
    let Some(database) = upgraded.unwrap() else { return };
    let store = Store::new(database);
    let known = store.principal_by_name(instance, PrincipalKind::User, "ada").await.unwrap().unwrap();
    assert_eq!(known.id, user);
    let grants = store.grants_of(user).await.unwrap();
    assert_eq!(grants.len(), 1);
    let owner = store.principal_by_token(HASH, TokenKind::Refresh, instance, Timestamp(10)).await.unwrap();
    assert_eq!(owner.unwrap().principal.id, user);
    let audit = store.audit_page(&AuditFilter::all(instance), None, 10).await.unwrap();
    let told: Vec<_> =
        audit.iter().map(|row| (row.kind.as_str(), row.tag.as_str(), row.occurred_at)).collect();
    assert_eq!(told, [("artifact.tagged", "v1", 8)]);
    let tenant = store.tenant(instance).await.unwrap().unwrap();
    assert_eq!(
        (tenant.name.as_str(), tenant.default, tenant.state),
        ("default", true, InstanceState::Running)
    );
    assert_eq!(store.revision().await.unwrap().0, 7);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_sqlite_database_keeps_what_it_had() {
    a_person_keeps_rights_tokens_and_history(Engine::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_postgres_database_keeps_what_it_had() {
    a_person_keeps_rights_tokens_and_history(Engine::Postgres).await;
}
