//! The service through its gRPC servers, with paths from memory instead of metadata.

use std::{
    collections::HashMap,
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

mod audit;
mod bench;
mod federation;
mod identity;
mod keys;
mod logins;
mod sessions;
mod tenancy;

use async_trait::async_trait;
use berth_access::{Basis, Bound, InstanceKey, Place, RootKey, Verifier, new_data_key};
use berth_database::{Database, Engine};
use berth_model::{Action, AddOns, Edition, InstanceId, NamespaceId, RepositoryId};
use berth_oci::{ErrorCode, Problem, RepositoryName};
use berth_proto::{
    events::{Artifact, DeliverRequest, Event, event::Payload, subscriber_client::SubscriberClient},
    from_status,
    instance_manager::{
        AuditEntry, AuditFilter, CreateGrantRequest, CreateUserRequest, DataKey, DropFormerKeyRequest,
        ExportAuditRequest, GetInstanceKeyRequest, GrantWish, IssueTokenRequest, IssueTokenResponse,
        ListFormerKeysRequest, ListReadableRequest, Password, PrincipalReference, RewrapDataKeysRequest,
        RotateInstanceKeyRequest, SetBlobDeliveryRequest, ShredInstanceKeysRequest, WatchRequest,
        audit_client::AuditClient, instance_keys_client::InstanceKeysClient,
        instance_manager_client::InstanceManagerClient, issue_token_request::Credential,
        principals_client::PrincipalsClient, roles_client::RolesClient,
    },
    metadata::GetUsageResponse,
};
use berth_service::{Channel, Ids, ManualClock, Registry, Tasks, Timestamp};
use futures::StreamExt;
use secrecy::{ExposeSecret, SecretString};

use self::bench::*;
use crate::{
    Config, Deps, Error, MIGRATIONS, PasswordKeeper, Service, assemble,
    instances::{Left, Limiter},
    paths::{Identity, Paths},
};

#[tokio::test(flavor = "multi_thread")]
async fn the_administrator_may_do_everything_and_others_what_they_were_granted() {
    let bench = Bench::start().await;
    let place = bench.add("team/app", false);
    let admin = login("admin", &bench.password);
    let scopes = [
        "repository:team/app:pull,push,delete",
        "repository:new/app:push",
        "registry:catalog:*",
        "x:y:z",
        "",
    ];
    let issued = bench.ask(admin, &scopes).await.unwrap();
    assert_eq!(
        issued.scope,
        "repository:new/app:push repository:team/app:pull,push,delete registry:catalog:*"
    );
    let token = bench.verifier.verify(&issued.token, bench.instance()).unwrap();
    let entry = token.entry(&"team/app".parse().unwrap()).unwrap();
    assert_eq!((entry.bound, entry.basis), (Bound::Repository(place.repository.unwrap()), Basis::Grant));
    let entry = token.entry(&"new/app".parse().unwrap()).unwrap();
    assert_eq!(entry.bound, Bound::Instance(bench.instance()));
    assert!(token.catalog && token.principal.starts_with("user:") && token.name == "admin");

    let bob = bench.user("bob").await;
    let asked = ["repository:team/app:pull,push,delete"];
    assert_eq!(bench.ask(bob.clone(), &asked).await.unwrap().scope, "");
    bench.grant("bob", "developer", "team", "").await.unwrap();
    assert_eq!(bench.ask(bob.clone(), &asked).await.unwrap().scope, "repository:team/app:pull,push");
    let issued = bench.ask(bob, &["repository:team/other:pull,push"]).await.unwrap();
    let token = bench.verifier.verify(&issued.token, bench.instance()).unwrap();
    let entry = token.entry(&"team/other".parse().unwrap()).unwrap();
    assert_eq!(entry.bound, Bound::Namespace(place.namespace.unwrap()));

    let carol = bench.user("carol").await;
    bench.grant("carol", "reader", "", "team/app").await.unwrap();
    assert_eq!(bench.ask(carol, &asked).await.unwrap().scope, "repository:team/app:pull");
    for (role, namespace, repository, code) in [
        ("reader", "absent", "", ErrorCode::NotFound),
        ("reader", "", "team/absent", ErrorCode::NotFound),
        ("reader", "team", "team/app", ErrorCode::RequestInvalid),
        ("owner", "", "", ErrorCode::NotFound),
        ("instance-admin", "team", "", ErrorCode::RequestInvalid),
    ] {
        assert_eq!(bench.grant("bob", role, namespace, repository).await.unwrap_err().code, code);
    }
    assert_eq!(bench.grant("nobody", "reader", "", "").await.unwrap_err().code, ErrorCode::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_pulls_what_is_public_and_nothing_else() {
    let bench = Bench::start().await;
    bench.add("team/open", true);
    bench.add("team/closed", false);
    let scopes = [
        "repository:team/open:pull,push repository:team/closed:pull",
        "repository:absent/x:pull,push",
        "registry:catalog:*",
    ];
    let issued = bench.ask(Credential::Anonymous(true), &scopes).await.unwrap();
    assert_eq!(issued.scope, "repository:team/open:pull");
    assert_eq!(issued.refresh_token, "");
    let token = bench.verifier.verify(&issued.token, bench.instance()).unwrap();
    assert_eq!((token.principal.as_str(), token.catalog), ("anonymous", false));
    let entry = token.entry(&"team/open".parse().unwrap()).unwrap();
    assert_eq!(entry.basis, Basis::Public);
    assert!(!entry.actions.contains(&Action::Push));
    // A person without a grant pulls it on the same ground.
    let dave = bench.user("dave").await;
    let issued = bench.ask(dave.clone(), &["repository:team/open:pull"]).await.unwrap();
    let token = bench.verifier.verify(&issued.token, bench.instance()).unwrap();
    assert_eq!(token.entry(&"team/open".parse().unwrap()).unwrap().basis, Basis::Public);
    bench.grant("dave", "reader", "", "team/open").await.unwrap();
    let issued = bench.ask(dave, &["repository:team/open:pull"]).await.unwrap();
    let token = bench.verifier.verify(&issued.token, bench.instance()).unwrap();
    assert_eq!(token.entry(&"team/open".parse().unwrap()).unwrap().basis, Basis::Grant);
}

#[tokio::test(flavor = "multi_thread")]
async fn t35_a_wrong_credential_tells_nothing() {
    let bench = Bench::start().await;
    let mut answers = Vec::new();
    for credential in [
        login("admin", "wrong"),
        login("nobody", "wrong"),
        login("", ""),
        login("admin", ""),
        Credential::RefreshToken("x".into()),
        Credential::RefreshToken(String::new()),
    ] {
        answers.push(bench.ask(credential, &[]).await.unwrap_err());
    }
    assert!(answers.iter().all(|answer| answer == &answers[0] && answer.code == ErrorCode::Unauthorized));
    let many: Vec<String> = (0..101).map(|n| format!("repository:team/a{n}:pull")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let refused = bench.ask(Credential::Anonymous(true), &many).await.unwrap_err();
    assert_eq!(refused.code, ErrorCode::RequestInvalid);
    assert!(bench.ask(Credential::Anonymous(true), &many[1..]).await.is_ok());
    *bench.paths.down.lock().unwrap() = true;
    let away = bench.ask(Credential::Anonymous(true), &["repository:team/a:pull"]).await.unwrap_err();
    assert_eq!(away.code, ErrorCode::Unavailable);
    let elsewhere = IssueTokenRequest {
        instance_id: bench.ids.ulid().to_string(),
        credential: Some(login("admin", &bench.password)),
        ..IssueTokenRequest::default()
    };
    let unknown = bench.client.clone().issue_token(elsewhere).await.unwrap_err();
    assert_eq!(from_status(&unknown).code, ErrorCode::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refresh_token_stands_for_the_password_until_it_expires() {
    let bench = Bench::start().await;
    bench.add("team/app", false);
    let issued = bench.ask(login("admin", &bench.password), &[]).await.unwrap();
    assert_eq!((issued.expires_in, issued.issued_at), (300, 1_700_000_000));
    let refresh = Credential::RefreshToken(issued.refresh_token.clone());
    let again = bench.ask(refresh.clone(), &["repository:team/app:pull"]).await.unwrap();
    assert_eq!(again.scope, "repository:team/app:pull");
    assert_eq!(again.refresh_token, issued.refresh_token);
    // T35: it is no access token, and an access token is no refresh token.
    assert!(bench.verifier.verify(&issued.refresh_token, bench.instance()).is_err());
    assert!(bench.ask(Credential::RefreshToken(again.token), &[]).await.is_err());
    bench.clock.advance(Duration::from_secs(30 * 86_400));
    assert_eq!(bench.ask(refresh, &[]).await.unwrap_err().code, ErrorCode::Unauthorized);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_start_changes_nothing_but_a_configured_password() {
    let bench = Bench::start().await;
    let Bench { database, root, clock, paths, bounds, tasks, shelf, .. } = &bench;
    let ground = Ground { database, root, clock, tasks };
    let start = async |password| ground.open(paths, bounds, shelf, password).await.unwrap();
    let again = start(None).await;
    assert!(!again.generated_password);
    assert_eq!(shelf.kept.lock().unwrap().as_ref(), Some(&bench.password));
    assert_eq!(again.default_instance, bench.instance());
    assert!(bench.ask(login("admin", &bench.password), &[]).await.is_ok());
    let issued = bench.ask(login("admin", &bench.password), &[]).await.unwrap();
    for _ in 0..2 {
        assert!(!start(Some("configured")).await.generated_password);
        assert_eq!(*shelf.kept.lock().unwrap(), None, "what was kept opens nothing any more");
        assert!(bench.ask(login("admin", "configured"), &[]).await.is_ok());
        assert!(bench.ask(login("admin", &bench.password), &[]).await.is_err());
        assert!(bench.ask(Credential::RefreshToken(issued.refresh_token.clone()), &[]).await.is_err());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_generated_password_is_kept_before_it_is_set() {
    let clock = ManualClock::at(Timestamp::from_seconds(1_700_000_000));
    let database = Database::for_tests(Engine::Sqlite, MIGRATIONS, clock.clone()).await.unwrap().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let root = Arc::new(RootKey::open_or_create(&folder.path().join("root.key")).unwrap());
    let (paths, bounds) = (Arc::default(), Arc::default());
    let (tasks, shelf) = (Tasks::new(), Arc::new(Shelf::default()));
    let ground = Ground { database: &database, root: &root, clock: &clock, tasks: &tasks };
    shelf.broken.store(true, Ordering::SeqCst);
    let refused = ground.open(&paths, &bounds, &shelf, None).await;
    assert!(matches!(refused, Err(Error::Keeper(_))), "{refused:?}");
    // A process that died after keeping it: the next start keeps another, and that is the one that opens.
    *shelf.kept.lock().unwrap() = Some("of a process that died".to_owned());
    shelf.broken.store(false, Ordering::SeqCst);
    let service = ground.open(&paths, &bounds, &shelf, None).await.unwrap();
    assert!(service.generated_password);
    let kept = shelf.kept.lock().unwrap().clone().unwrap();
    assert_ne!(kept, "of a process that died");
    let mut client = InstanceManagerClient::new(Channel::local("instance-manager", service.server.clone()));
    let request = IssueTokenRequest {
        instance_id: service.default_instance.to_string(),
        credential: Some(login("admin", &kept)),
        ..IssueTokenRequest::default()
    };
    client.issue_token(request).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_catalogue_is_bounded_by_grants() {
    let bench = Bench::start().await;
    let place = bench.add("team/app", false);
    let read = async |principal: &str| {
        let request = ListReadableRequest {
            instance_id: bench.instance().to_string(),
            principal: principal.to_owned(),
            ..ListReadableRequest::default()
        };
        bench.client.clone().list_readable(request).await.unwrap().into_inner()
    };
    let principal = async |credential| {
        let issued = bench.ask(credential, &[]).await.unwrap();
        bench.verifier.verify(&issued.token, bench.instance()).unwrap().principal.clone()
    };
    assert!(read(&principal(login("admin", &bench.password)).await).await.everything);
    let bob = principal(bench.user("bob").await).await;
    assert_eq!(read(&bob).await, Default::default());
    bench.grant("bob", "reader", "team", "").await.unwrap();
    bench.grant("bob", "developer", "", "team/app").await.unwrap();
    let readable = read(&bob).await;
    assert!(!readable.everything);
    assert_eq!(readable.namespace_ids, [place.namespace.unwrap().to_string()]);
    assert_eq!(readable.repository_ids, [place.repository.unwrap().to_string()]);
    for nobody in ["anonymous", "", "user:", "user:x", &format!("user:{}", bench.ids.ulid())] {
        assert_eq!(read(nobody).await, Default::default());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn names_and_passwords_have_bounds() {
    let bench = Bench::start().await;
    let create = async |name: &str, password: &str| {
        let request = CreateUserRequest {
            instance_id: bench.instance().to_string(),
            name: name.into(),
            password: password.into(),
            ..CreateUserRequest::default()
        };
        bench.people().create_user(request).await.map_err(|status| from_status(&status).code)
    };
    for (name, password) in
        [("", "password"), ("a:b", "password"), ("A", "password"), ("-a", "password"), ("a", "short")]
    {
        assert_eq!(create(name, password).await.unwrap_err(), ErrorCode::RequestInvalid);
    }
    assert!(create("eve@example.org", "password").await.is_ok());
    assert_eq!(create("eve@example.org", "password").await.unwrap_err(), ErrorCode::AlreadyExists);
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_are_sent_at_once_again_and_until_the_stop() {
    let bench = Bench::start().await;
    let stream = bench.client.clone().watch(WatchRequest { revision: 99 }).await.unwrap();
    let mut stream = stream.into_inner();
    let first = stream.next().await.unwrap().unwrap();
    assert_eq!(first.instances.len(), 1);
    assert!(first.instances[0].default && first.instances[0].id == bench.instance().to_string());
    let keys: serde_json::Value = serde_json::from_str(&first.jwks).unwrap();
    assert_eq!(keys["keys"].as_array().unwrap().len(), 2);
    assert!(!first.jwks.contains("\"d\""));
    let heartbeat =
        tokio::time::timeout(Duration::from_secs(9), stream.next()).await.unwrap().unwrap().unwrap();
    assert_eq!(heartbeat.revision, first.revision);
    assert!(heartbeat.now > 0 && heartbeat.instances.is_empty() && heartbeat.jwks.is_empty());
    bench.service.streams.cancel();
    assert!(stream.next().await.is_none());
    assert!(bench.tasks.stop(Duration::from_secs(5)).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_applied_once_and_listed() {
    let bench = Bench::start().await;
    let mut subscriber = SubscriberClient::new(Channel::local("audit", bench.service.subscriber.clone()));
    let event = |sequence| Event {
        id: bench.ids.ulid().to_string(),
        r#type: "artifact.tagged".into(),
        key: "k".into(),
        sequence,
        occurred_at: 7,
        instance_id: bench.instance().to_string(),
        payload: Some(Payload::Artifact(Artifact {
            repository: "team/app".into(),
            principal: "user:a".into(),
            digest: "sha256:0".into(),
            tag: "v1".into(),
            ..Artifact::default()
        })),
    };
    let events = vec![event(1), event(2)];
    for _ in 0..3 {
        subscriber.deliver(DeliverRequest { events: events.clone() }).await.unwrap();
    }
    let mut entries = bench.audit().await;
    entries.retain(|entry| entry.r#type == "artifact.tagged");
    assert_eq!(entries.len(), 2);
    assert_eq!((entries[0].tag.as_str(), entries[0].occurred_at), ("v1", 7));
    let mut broken = event(3);
    broken.payload = None;
    let refused = subscriber.deliver(DeliverRequest { events: vec![event(4), broken] }).await.unwrap_err();
    assert_eq!(from_status(&refused).code, ErrorCode::RequestInvalid);
}

#[tokio::test(flavor = "multi_thread")]
async fn blob_delivery_is_watched_and_audited() {
    let bench = Bench::start().await;
    let mut stream = bench.client.clone().watch(WatchRequest { revision: 0 }).await.unwrap().into_inner();
    let first = stream.next().await.unwrap().unwrap();
    assert_eq!(first.instances[0].blob_delivery, "stream");
    let set = async |instance: InstanceId, delivery: &str| {
        let request = SetBlobDeliveryRequest {
            instance_id: instance.to_string(),
            blob_delivery: delivery.to_owned(),
            actor: None,
        };
        bench.client.clone().set_blob_delivery(request).await
    };
    for _ in 0..2 {
        set(bench.instance(), "redirect").await.unwrap();
    }
    let changed = loop {
        let settings = stream.next().await.unwrap().unwrap();
        if settings.revision > first.revision {
            break settings;
        }
    };
    assert_eq!(changed.instances[0].blob_delivery, "redirect");
    let refused = set(bench.instance(), "telepathy").await.unwrap_err();
    assert_eq!(from_status(&refused).code, ErrorCode::RequestInvalid);
    assert!(set(InstanceId::new(bench.ids.ulid()), "redirect").await.is_err());
    let mut entries = bench.audit().await;
    entries.retain(|entry| entry.r#type != "user.created");
    assert_eq!(entries.len(), 1);
    assert_eq!(entries[0].r#type, "instance.blobs_redirected");
    assert_eq!(entries[0].principal, "system:admin");
}
