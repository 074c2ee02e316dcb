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
mod federation;
mod identity;
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

use crate::{
    Config, Deps, Error, MIGRATIONS, PasswordKeeper, Service, assemble,
    instances::Limiter,
    paths::{Identity, Paths},
};

#[derive(Debug, Default)]
struct MemoryPaths {
    known: Mutex<HashMap<String, Identity>>,
    down: Mutex<bool>,
}

#[async_trait]
impl Paths for MemoryPaths {
    async fn lookup(&self, instance: InstanceId, paths: &[RepositoryName]) -> Result<Vec<Identity>, Problem> {
        if *self.down.lock().unwrap() && !paths.is_empty() {
            return Err(Problem::new(ErrorCode::Unavailable, "away"));
        }
        let known = self.known.lock().unwrap();
        let absent = Identity { place: Place::instance(instance), public: false };
        let find = |path: &RepositoryName| {
            let exact = known.get(path.as_str()).copied();
            let namespace = || {
                let within = format!("{}/", path.namespace());
                let (_, sibling) = known.iter().find(|(name, _)| name.starts_with(&within))?;
                let place = Place { repository: None, ..sibling.place };
                Some(Identity { place, public: false })
            };
            exact.or_else(namespace).unwrap_or(absent)
        };
        Ok(paths.iter().map(find).collect())
    }
}

/// A shelf for one password, which may break.
#[derive(Debug, Default)]
struct Shelf {
    kept: Mutex<Option<String>>,
    broken: AtomicBool,
}

impl PasswordKeeper for Shelf {
    fn keep(&self, password: &SecretString) -> io::Result<()> {
        if self.broken.load(Ordering::SeqCst) {
            return Err(io::Error::other("no room"));
        }
        *self.kept.lock().unwrap() = Some(password.expose_secret().to_owned());
        Ok(())
    }

    fn discard(&self) -> io::Result<()> {
        *self.kept.lock().unwrap() = None;
        Ok(())
    }
}

/// Limits as metadata would judge them.
#[derive(Debug, Default)]
struct Bounds {
    used: Mutex<u64>,
    away: AtomicBool,
    told: Mutex<Vec<(InstanceId, i64)>>,
    /// What is left of instances that ended.
    left: Mutex<HashMap<InstanceId, bool>>,
}

#[async_trait]
impl Limiter for Bounds {
    async fn set_limits(
        &self,
        instance: InstanceId,
        revision: i64,
        edition: &Edition,
        add_ons: &AddOns,
    ) -> Result<u64, Problem> {
        if self.away.load(Ordering::SeqCst) {
            return Err(Problem::new(ErrorCode::Unavailable, "away"));
        }
        self.told.lock().unwrap().push((instance, revision));
        let used = *self.used.lock().unwrap();
        let limit = edition.limits_with(add_ons).image_namespaces;
        if limit.is_some_and(|limit| used > limit) {
            return Err(Problem::new(ErrorCode::QuotaExceeded, "too many namespaces"));
        }
        Ok(used)
    }

    async fn remove(&self, instance: InstanceId, force: bool) -> Result<bool, Problem> {
        if self.away.load(Ordering::SeqCst) {
            return Err(Problem::new(ErrorCode::Unavailable, "away"));
        }
        let mut left = self.left.lock().unwrap();
        if *self.used.lock().unwrap() > 0 && !force && !left.contains_key(&instance) {
            return Err(Problem::new(ErrorCode::Conflict, "it has repositories"));
        }
        Ok(!*left.entry(instance).or_insert(true))
    }

    async fn usage(&self, _: InstanceId) -> Result<GetUsageResponse, Problem> {
        Ok(GetUsageResponse { namespaces: *self.used.lock().unwrap(), ..GetUsageResponse::default() })
    }
}

struct Bench {
    service: Service,
    client: InstanceManagerClient<Channel>,
    paths: Arc<MemoryPaths>,
    bounds: Arc<Bounds>,
    clock: Arc<ManualClock>,
    ids: Ids,
    verifier: Verifier,
    database: Database,
    root: Arc<RootKey>,
    password: String,
    shelf: Arc<Shelf>,
    tasks: Tasks,
}

impl Bench {
    async fn start() -> Self {
        let clock = ManualClock::at(Timestamp::from_seconds(1_700_000_000));
        let database = Database::for_tests(Engine::Sqlite, MIGRATIONS, clock.clone()).await.unwrap().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let root = Arc::new(RootKey::open_or_create(&folder.path().join("root.key")).unwrap());
        let paths = Arc::new(MemoryPaths::default());
        let ids = Ids::random(clock.clone());
        let tasks = Tasks::new();
        let shelf = Arc::new(Shelf::default());
        let bounds = Arc::new(Bounds::default());
        let ground = Ground { database: &database, root: &root, clock: &clock, tasks: &tasks };
        let service = ground.open(&paths, &bounds, &shelf, None).await.unwrap();
        assert!(service.generated_password);
        let password = shelf.kept.lock().unwrap().clone().unwrap();
        let mut client =
            InstanceManagerClient::new(Channel::local("instance-manager", service.server.clone()));
        let settings =
            client.watch(WatchRequest::default()).await.unwrap().into_inner().next().await.unwrap().unwrap();
        let verifier = Verifier::new(clock.clone());
        verifier.trust(&settings.jwks, &settings.issuer).unwrap();
        Self { service, client, paths, bounds, clock, ids, verifier, database, root, password, shelf, tasks }
    }

    fn instance(&self) -> InstanceId {
        self.service.default_instance
    }

    fn add(&self, path: &str, public: bool) -> Place {
        let place = Place {
            instance: Some(self.instance()),
            namespace: Some(NamespaceId::new(self.ids.ulid())),
            repository: Some(RepositoryId::new(self.ids.ulid())),
        };
        self.paths.known.lock().unwrap().insert(path.into(), Identity { place, public });
        place
    }

    async fn ask(&self, credential: Credential, scopes: &[&str]) -> Result<IssueTokenResponse, Problem> {
        let request = IssueTokenRequest {
            instance_id: self.instance().to_string(),
            credential: Some(credential),
            scopes: scopes.iter().map(ToString::to_string).collect(),
            offline: true,
            client_address: String::new(),
        };
        let answer = self.client.clone().issue_token(request).await;
        answer.map(tonic::Response::into_inner).map_err(|status| from_status(&status))
    }

    fn trail(&self) -> AuditClient<Channel> {
        AuditClient::new(Channel::local("audit", self.service.audit.clone()))
    }

    /// The audit of the default instance, in the order of recording.
    async fn audit(&self) -> Vec<AuditEntry> {
        let filter = AuditFilter { instance_id: self.instance().to_string(), ..AuditFilter::default() };
        let request = ExportAuditRequest { filter: Some(filter), ..ExportAuditRequest::default() };
        let entries = self.trail().export_audit(request).await.unwrap().into_inner();
        entries.map(|entry| entry.unwrap()).collect().await
    }

    fn people(&self) -> PrincipalsClient<Channel> {
        PrincipalsClient::new(Channel::local("principals", self.service.principals.clone()))
    }

    fn roles(&self) -> RolesClient<Channel> {
        RolesClient::new(Channel::local("roles", self.service.roles.clone()))
    }

    async fn user(&self, name: &str) -> Credential {
        let request = CreateUserRequest {
            instance_id: self.instance().to_string(),
            name: name.into(),
            password: "password".into(),
            ..CreateUserRequest::default()
        };
        self.people().create_user(request).await.unwrap();
        login(name, "password")
    }

    async fn grant(
        &self,
        user: &str,
        role: &str,
        namespace: &str,
        repository: &str,
    ) -> Result<String, Problem> {
        let request = CreateGrantRequest {
            instance_id: self.instance().to_string(),
            principal: Some(user_named(user)),
            grant: Some(GrantWish {
                role: role.into(),
                namespace: namespace.into(),
                repository: repository.into(),
                deployment: false,
            }),
            actor: None,
        };
        let answer = self.roles().create_grant(request).await;
        answer.map(|answer| answer.into_inner().id).map_err(|status| from_status(&status))
    }
}

/// What a service is opened over.
struct Ground<'a> {
    database: &'a Database,
    root: &'a Arc<RootKey>,
    clock: &'a Arc<ManualClock>,
    tasks: &'a Tasks,
}

impl Ground<'_> {
    async fn open(
        &self,
        paths: &Arc<MemoryPaths>,
        bounds: &Arc<Bounds>,
        shelf: &Arc<Shelf>,
        admin_password: Option<&str>,
    ) -> Result<Service, Error> {
        let mut registry = Registry::default();
        let deps = Deps {
            database: self.database.clone(),
            metadata: Channel::slot("metadata"),
            limits: Channel::slot("limits"),
            blobs: Channel::slot("blob-store"),
            root_key: self.root.clone(),
            admin_password: admin_password.map(SecretString::from),
            password_keeper: shelf.clone(),
            outbound: &berth_service::OutboundConfig { allow: vec!["127.0.0.1".to_owned()] },
            clock: self.clock.clone(),
            ids: Ids::random(self.clock.clone()),
            tasks: self.tasks.clone(),
            registry: &mut registry,
        };
        assemble(&Config::default(), deps, paths.clone(), bounds.clone()).await
    }
}

fn user_named(name: &str) -> PrincipalReference {
    PrincipalReference { id: String::new(), kind: "user".into(), name: name.into() }
}

fn login(name: &str, secret: &str) -> Credential {
    Credential::Password(Password { name: name.into(), secret: secret.into() })
}

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

type Keys = InstanceKeysClient<Channel>;

async fn get_key(keys: &Keys, instance: InstanceId, key_id: &str) -> Result<(String, Vec<u8>), Problem> {
    let request = GetInstanceKeyRequest { instance_id: instance.to_string(), key_id: key_id.into() };
    let answer = keys.clone().get_instance_key(request).await.map_err(|status| from_status(&status))?;
    let answer = answer.into_inner();
    Ok((answer.key_id, answer.key.to_vec()))
}

async fn former(keys: &Keys) -> Vec<(String, u64)> {
    let request = ListFormerKeysRequest { after: String::new(), limit: 10 };
    let keys = keys.clone().list_former_keys(request).await.unwrap().into_inner().keys;
    keys.into_iter().map(|key| (key.key_id, key.former_for)).collect()
}

async fn rotate(keys: &Keys) -> String {
    let request = RotateInstanceKeyRequest { instance: "default".into() };
    keys.clone().rotate_instance_key(request).await.unwrap().into_inner().key_id
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_has_one_current_key_and_former_ones_until_they_are_dropped() {
    let bench = Bench::start().await;
    let keys = Keys::new(Channel::local("instance-keys", bench.service.keys.clone()));
    let instance = bench.instance();
    let asked = futures::future::join_all((0..8).map(|_| get_key(&keys, instance, ""))).await;
    let (first, secret) = asked[0].clone().unwrap();
    assert!(asked.into_iter().all(|key| key.unwrap() == (first.clone(), secret.clone())));
    assert_eq!(secret.len(), 32);
    assert!(former(&keys).await.is_empty());

    let second = rotate(&keys).await;
    bench.clock.advance(Duration::from_secs(90));
    assert_eq!(get_key(&keys, instance, "").await.unwrap().0, second);
    assert_eq!(get_key(&keys, instance, &first).await.unwrap(), (first.clone(), secret));
    assert_eq!(former(&keys).await, [(first.clone(), 90)]);
    // Only a former one can be dropped.
    for key_id in [&first, &second] {
        keys.clone().drop_former_key(DropFormerKeyRequest { key_id: key_id.clone() }).await.unwrap();
    }
    assert_eq!(get_key(&keys, instance, &first).await.unwrap_err().code, ErrorCode::NotFound);
    assert_eq!(get_key(&keys, instance, "").await.unwrap().0, second);

    let other = InstanceId::new(bench.ids.ulid());
    assert_eq!(get_key(&keys, other, "").await.unwrap_err().code, ErrorCode::NotFound);
    assert_eq!(get_key(&keys, other, &second).await.unwrap_err().code, ErrorCode::NotFound);

    let shred = |name: &str| {
        let request = ShredInstanceKeysRequest { instance: name.into() };
        let mut keys = keys.clone();
        async move { keys.shred_instance_keys(request).await }
    };
    assert_eq!(from_status(&shred("none").await.unwrap_err()).code, ErrorCode::NotFound);
    rotate(&keys).await;
    bench.clock.advance(Duration::from_secs(1));
    assert_eq!(shred("default").await.unwrap().into_inner().destroyed, 2);
    assert_eq!(get_key(&keys, instance, &second).await.unwrap_err().code, ErrorCode::NotFound);

    let audit = bench.audit().await;
    let kinds = audit.iter().map(|entry| entry.r#type.as_str()).filter(|kind| *kind != "user.created");
    let kinds: Vec<_> = kinds.collect();
    assert_eq!(kinds, ["instance_key.rotated", "instance_key.rotated", "instance_keys.shredded"]);
    assert!(audit.iter().all(|entry| entry.principal == "system:admin"));
}

#[tokio::test(flavor = "multi_thread")]
async fn data_keys_are_sealed_again_by_the_current_key() {
    let bench = Bench::start().await;
    let keys = Keys::new(Channel::local("instance-keys", bench.service.keys.clone()));
    let instance = bench.instance();
    let (first, secret) = get_key(&keys, instance, "").await.unwrap();
    let sealer = InstanceKey::new(first.clone(), &secret).unwrap();
    let data_key = new_data_key().unwrap();
    let wrapped = sealer.wrap("i/a/b", &data_key).unwrap();
    rotate(&keys).await;
    let key = |object: &str, key_id: &str, wrapped: &[u8]| DataKey {
        object: object.into(),
        key_id: key_id.into(),
        wrapped_key: wrapped.to_vec().into(),
    };
    let request = RewrapDataKeysRequest {
        instance_id: instance.to_string(),
        keys: vec![
            key("i/a/other", &first, &wrapped),
            key("i/a/b", "none", &wrapped),
            key("i/a/b", &first, &wrapped[1..]),
            key("i/a/b", &first, &wrapped),
        ],
    };
    let answer = keys.clone().rewrap_data_keys(request).await.unwrap().into_inner();
    let (second, secret) = get_key(&keys, instance, "").await.unwrap();
    assert_eq!(answer.key_id, second);
    assert!(answer.wrapped_keys[..3].iter().all(bytes::Bytes::is_empty));
    let opener = InstanceKey::new(second, &secret).unwrap();
    assert_eq!(opener.unwrap("i/a/b", &answer.wrapped_keys[3]).unwrap(), data_key);
}
