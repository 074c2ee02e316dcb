//! Instances: what an edition allows is in force once metadata has agreed, and one instance knows nothing of another.

use berth_model::InstanceState;
use berth_proto::instance_manager::{
    AddOns as WireAddOns, CreateInstanceRequest, DeleteInstanceRequest, GetInstanceRequest,
    GetInstanceUsageRequest, InstanceEntry, ListAuditRequest, SetEditionRequest, StartInstanceRequest,
    StopInstanceRequest, UpdateInstanceRequest, instances_client::InstancesClient, tasks_client::TasksClient,
};
use berth_proto::tasks::ListTasksRequest;

use super::*;

impl Bench {
    fn tenancy(&self) -> InstancesClient<Channel> {
        InstancesClient::new(Channel::local("instances", self.service.instances.clone()))
    }

    async fn create(&self, name: &str, edition: &str) -> Result<InstanceEntry, Problem> {
        let request = CreateInstanceRequest {
            name: name.into(),
            edition: edition.into(),
            region: "eu-central-1".into(),
            ..CreateInstanceRequest::default()
        };
        let answer = self.tenancy().create_instance(request).await;
        answer.map(tonic::Response::into_inner).map_err(|status| from_status(&status))
    }

    async fn edition(&self, id: &str, edition: &str) -> Result<InstanceEntry, Problem> {
        let request =
            SetEditionRequest { id: id.into(), edition: edition.into(), ..SetEditionRequest::default() };
        let answer = self.tenancy().set_edition(request).await;
        answer.map(tonic::Response::into_inner).map_err(|status| from_status(&status))
    }

    async fn show(&self, name: &str) -> InstanceEntry {
        let request = GetInstanceRequest { name: name.into(), id: String::new() };
        self.tenancy().get_instance(request).await.unwrap().into_inner()
    }

    async fn ask_in(
        &self,
        instance: &str,
        credential: Credential,
        scope: &str,
    ) -> Result<IssueTokenResponse, Problem> {
        let request = IssueTokenRequest {
            instance_id: instance.into(),
            credential: Some(credential),
            scopes: vec![scope.into()],
            ..IssueTokenRequest::default()
        };
        let answer = self.client.clone().issue_token(request).await;
        answer.map(tonic::Response::into_inner).map_err(|status| from_status(&status))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edition_is_in_force_when_what_is_used_fits() {
    let bench = Bench::start().await;
    let made = bench.create("acme", "basic").await.unwrap();
    assert_eq!(
        (made.state.as_str(), made.edition.as_str(), made.wished_edition.as_str()),
        ("running", "basic", "")
    );
    assert_eq!(made.limits.unwrap().image_namespaces, Some(15));
    assert_eq!(*bench.bounds.told.lock().unwrap(), [(made.id.parse().unwrap(), 1)]);
    let raised = bench.edition(&made.id, "advanced").await.unwrap();
    assert_eq!((raised.edition.as_str(), raised.limits.unwrap().image_namespaces), ("advanced", Some(50)));
    *bench.bounds.used.lock().unwrap() = 20;
    assert_eq!(bench.edition(&made.id, "basic").await.unwrap_err().code, ErrorCode::QuotaExceeded);
    let kept = bench.show("acme").await;
    assert_eq!((kept.edition.as_str(), kept.wished_edition.as_str()), ("advanced", ""));
    let request = SetEditionRequest {
        id: made.id.clone(),
        edition: "basic".into(),
        add_ons: Some(WireAddOns { namespaces: 5, ..WireAddOns::default() }),
        ..SetEditionRequest::default()
    };
    let lowered = bench.tenancy().set_edition(request.clone()).await.unwrap().into_inner();
    assert_eq!((lowered.edition.as_str(), lowered.limits.unwrap().image_namespaces), ("basic", Some(20)));
    let stale = SetEditionRequest { version: 1, ..request.clone() };
    assert_eq!(
        from_status(&bench.tenancy().set_edition(stale).await.unwrap_err()).code,
        ErrorCode::PreconditionFailed
    );
    let uneven =
        SetEditionRequest { add_ons: Some(WireAddOns { namespaces: 3, ..WireAddOns::default() }), ..request };
    assert_eq!(
        from_status(&bench.tenancy().set_edition(uneven).await.unwrap_err()).code,
        ErrorCode::RequestInvalid
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wish_outlasts_metadata_being_away() {
    let bench = Bench::start().await;
    bench.bounds.away.store(true, Ordering::SeqCst);
    let made = bench.create("acme", "basic").await.unwrap();
    assert_eq!((made.state.as_str(), made.wished_edition.as_str()), ("pending", "basic"));
    let login = login("admin", &bench.password);
    assert_eq!(bench.ask_in(&made.id, login, "").await.unwrap_err().code, ErrorCode::Denied);
    bench.bounds.away.store(false, Ordering::SeqCst);
    // The worker comes by; here by hand, as it would.
    let instances = &bench.service.domain;
    assert_eq!(instances.store.tenants_to_tend(None, 10).await.unwrap().len(), 1);
    instances.tend(made.id.parse().unwrap()).await.unwrap();
    assert_eq!(bench.show("acme").await.state, "running");
    assert!(instances.store.tenants_to_tend(None, 10).await.unwrap().is_empty());
    bench.bounds.away.store(true, Ordering::SeqCst);
    let wished = bench.edition(&made.id, "standard").await.unwrap();
    assert_eq!((wished.edition.as_str(), wished.wished_edition.as_str()), ("basic", "standard"));
    // Another wish takes its place, and the answer to the first one settles nothing.
    let again = bench.edition(&made.id, "advanced").await.unwrap();
    let id: InstanceId = made.id.parse().unwrap();
    let entry = crate::actor::Actor::system().entry(&bench.ids, id, "instance.edition_changed", "");
    let late = instances.store.settle_wish(id, 2, true, entry).await.unwrap().unwrap();
    assert_eq!(late.wish.unwrap().0, "advanced");
    bench.bounds.away.store(false, Ordering::SeqCst);
    instances.tend(made.id.parse().unwrap()).await.unwrap();
    assert_eq!(bench.show("acme").await.edition, "advanced");
    assert!(bench.show("acme").await.version > again.version);
}

#[tokio::test(flavor = "multi_thread")]
async fn instances_have_names_editions_and_regions_that_exist() {
    let bench = Bench::start().await;
    bench.create("acme", "basic").await.unwrap();
    for (name, edition, code) in [
        ("acme", "basic", ErrorCode::AlreadyExists),
        ("default", "basic", ErrorCode::AlreadyExists),
        ("Acme", "basic", ErrorCode::RequestInvalid),
        ("ab", "basic", ErrorCode::RequestInvalid),
        ("other", "golden", ErrorCode::RequestInvalid),
    ] {
        assert_eq!(bench.create(name, edition).await.unwrap_err().code, code, "{name} {edition}");
    }
    let request = CreateInstanceRequest {
        name: "other".into(),
        edition: "basic".into(),
        region: "atlantis".into(),
        ..CreateInstanceRequest::default()
    };
    assert_eq!(
        from_status(&bench.tenancy().create_instance(request).await.unwrap_err()).code,
        ErrorCode::RequestInvalid
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn t34_cve_2022_31667_one_instance_knows_nobody_of_another() {
    let bench = Bench::start().await;
    let acme = bench.create("acme", "basic").await.unwrap();
    let alice = bench.user("alice").await;
    let refused = bench.ask_in(&acme.id, alice.clone(), "").await.unwrap_err();
    assert_eq!(refused, bench.ask_in(&acme.id, login("nobody", "password"), "").await.unwrap_err());
    let admin = login("admin", &bench.password);
    assert_eq!(bench.ask_in(&acme.id, admin, "").await.unwrap_err(), refused);
    // The same name there is somebody else.
    let request = CreateUserRequest {
        instance_id: acme.id.clone(),
        name: "alice".into(),
        password: "another password".into(),
        ..CreateUserRequest::default()
    };
    let there = bench.people().create_user(request).await.unwrap().into_inner();
    assert!(bench.ask_in(&acme.id, login("alice", "another password"), "").await.is_ok());
    assert_eq!(bench.ask_in(&acme.id, alice, "").await.unwrap_err(), refused);
    let issued = bench.ask_in(&acme.id, login("alice", "another password"), "").await.unwrap();
    assert!(bench.verifier.verify(&issued.token, bench.instance()).is_err());
    // By its id it is not there either, seen from here.
    let request = CreateGrantRequest {
        instance_id: bench.instance().to_string(),
        principal: Some(PrincipalReference { id: there.id, ..PrincipalReference::default() }),
        grant: Some(GrantWish { role: "reader".into(), ..GrantWish::default() }),
        actor: None,
    };
    assert_eq!(
        from_status(&bench.roles().create_grant(request).await.unwrap_err()).code,
        ErrorCode::NotFound
    );
    // Whoever runs the deployment is of the default instance.
    let request = CreateGrantRequest {
        instance_id: acme.id.clone(),
        principal: Some(user_named("alice")),
        grant: Some(GrantWish { role: "operator".into(), deployment: true, ..GrantWish::default() }),
        actor: None,
    };
    assert_eq!(
        from_status(&bench.roles().create_grant(request).await.unwrap_err()).code,
        ErrorCode::RequestInvalid
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_instance_gives_no_tokens_and_refuses_the_old_ones() {
    let bench = Bench::start().await;
    let acme = bench.create("acme", "basic").await.unwrap();
    let anonymous = || Credential::Anonymous(true);
    let issued = bench.ask_in(&acme.id, anonymous(), "").await.unwrap();
    bench.clock.advance(Duration::from_millis(1));
    let stop = StopInstanceRequest { id: acme.id.clone(), ..StopInstanceRequest::default() };
    assert_eq!(bench.tenancy().stop_instance(stop.clone()).await.unwrap().into_inner().state, "stopped");
    assert_eq!(bench.tenancy().stop_instance(stop).await.unwrap().into_inner().state, "stopped");
    assert_eq!(bench.ask_in(&acme.id, anonymous(), "").await.unwrap_err().code, ErrorCode::Denied);
    let stream = bench.client.clone().watch(WatchRequest::default()).await.unwrap();
    let settings = stream.into_inner().next().await.unwrap().unwrap();
    let told = settings.instances.iter().find(|told| told.id == acme.id).unwrap();
    assert_eq!((told.state.as_str(), told.region.as_str()), ("stopped", "eu-central-1"));
    assert!(settings.not_befores.iter().any(|told| told.subject == format!("instance:{}", acme.id)));
    assert!(bench.verifier.verify(&issued.token, acme.id.parse().unwrap()).is_ok(), "until it hears of it");
    let start = StartInstanceRequest { id: acme.id.clone(), ..StartInstanceRequest::default() };
    let started = bench.tenancy().start_instance(start).await.unwrap().into_inner();
    assert_eq!(started.state.parse(), Ok(InstanceState::Running));
    assert!(bench.ask_in(&acme.id, anonymous(), "").await.is_ok());
    let default = StopInstanceRequest { id: bench.instance().to_string(), ..StopInstanceRequest::default() };
    assert_eq!(
        from_status(&bench.tenancy().stop_instance(default).await.unwrap_err()).code,
        ErrorCode::RequestInvalid
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_makes_namespaces_only_where_the_instance_allows_it() {
    let bench = Bench::start().await;
    let acme = bench.create("acme", "basic").await.unwrap();
    let request = CreateUserRequest {
        instance_id: acme.id.clone(),
        name: "alice".into(),
        password: "password".into(),
        ..CreateUserRequest::default()
    };
    bench.people().create_user(request).await.unwrap();
    let request = CreateGrantRequest {
        instance_id: acme.id.clone(),
        principal: Some(user_named("alice")),
        grant: Some(GrantWish { role: "instance-admin".into(), ..GrantWish::default() }),
        actor: None,
    };
    bench.roles().create_grant(request).await.unwrap();
    let scope = "repository:new/app:pull,push";
    let ask = async || bench.ask_in(&acme.id, login("alice", "password"), scope).await.unwrap().scope;
    assert_eq!(ask().await, "repository:new/app:pull");
    let request = UpdateInstanceRequest {
        id: acme.id.clone(),
        create_on_push: Some(true),
        ..UpdateInstanceRequest::default()
    };
    bench.tenancy().update_instance(request).await.unwrap();
    assert_eq!(ask().await, scope);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_ends_when_metadata_agrees_and_its_people_and_keys_go_last() {
    let bench = Bench::start().await;
    let made = bench.create("acme", "basic").await.unwrap();
    let request = CreateUserRequest {
        instance_id: made.id.clone(),
        name: "bob".into(),
        password: "password".into(),
        ..CreateUserRequest::default()
    };
    bench.people().create_user(request).await.unwrap();
    let end = async |id: &str, force| {
        let request = DeleteInstanceRequest { id: id.into(), force, ..DeleteInstanceRequest::default() };
        let answer = bench.tenancy().delete_instance(request).await;
        answer.map(tonic::Response::into_inner).map_err(|status| from_status(&status))
    };
    let tasks = async |state: &str| {
        let mut work = TasksClient::new(Channel::local("tasks", bench.service.tasks.clone()));
        let request = ListTasksRequest { state: state.into(), ..ListTasksRequest::default() };
        work.list_tasks(request).await.unwrap().into_inner().tasks
    };
    let default = bench.instance().to_string();
    assert_eq!(end(&default, true).await.unwrap_err().code, ErrorCode::RequestInvalid);
    *bench.bounds.used.lock().unwrap() = 2;
    let usage = GetInstanceUsageRequest { id: made.id.clone() };
    let usage = bench.tenancy().get_usage(usage).await.unwrap().into_inner();
    assert_eq!(
        (usage.image_namespaces, usage.users, usage.limits.unwrap().image_namespaces),
        (2, 1, Some(15))
    );
    assert_eq!(end(&made.id, false).await.unwrap_err().code, ErrorCode::Conflict);
    let refused = tasks("").await;
    assert_eq!((refused.len(), refused[0].state.as_str()), (1, "failed"));
    assert_eq!((refused[0].name.as_str(), refused[0].message.as_str()), ("acme", "it has repositories"));
    let kept = bench.show("acme").await;
    assert_eq!((kept.state.as_str(), kept.deletion_wished), ("running", false));
    // Metadata is away: the wish stays, and the instance runs until it has agreed.
    bench.bounds.away.store(true, Ordering::SeqCst);
    let asked = end(&made.id, true).await.unwrap();
    let again = end(&made.id, true).await.unwrap();
    assert_eq!(again.task_id, asked.task_id, "it is on its way already");
    let waits = tasks("running").await;
    assert_eq!((waits.len(), waits[0].id.as_str()), (1, asked.task_id.as_str()));
    assert_eq!(waits[0].message, "its content can't be removed just now: away");
    let wished = &asked;
    assert_eq!((wished.state.as_str(), wished.deletion_wished), ("running", true));
    bench.bounds.away.store(false, Ordering::SeqCst);
    let instances = &bench.service.domain;
    let id: InstanceId = made.id.parse().unwrap();
    assert_eq!(instances.store.tenants_to_tend(None, 10).await.unwrap(), [id]);
    instances.tend(id).await.unwrap();
    let ending = bench.show("acme").await;
    assert_eq!((ending.state.as_str(), ending.deletion_wished), ("deleting", false));
    assert_eq!(
        bench.ask_in(&made.id, login("bob", "password"), "").await.unwrap_err().code,
        ErrorCode::Denied
    );
    instances.tend(id).await.unwrap();
    assert_eq!(bench.show("acme").await.state, "deleting", "content is left");
    assert_eq!(instances.store.count_principals(id).await.unwrap().users, 1);
    bench.bounds.left.lock().unwrap().insert(id, 3);
    instances.tend(id).await.unwrap();
    let goes = tasks("running").await.remove(0);
    assert_eq!((goes.steps_done, goes.steps_total, goes.message.as_str()), (4, Some(7), ""));
    assert_eq!(end(&made.id, true).await.unwrap().task_id, asked.task_id);
    bench.bounds.left.lock().unwrap().insert(id, 0);
    let gone = instances.tend(id).await.unwrap().unwrap();
    let done = tasks("done").await.remove(0);
    assert_eq!((done.id, done.steps_done, done.steps_total), (asked.task_id, 7, Some(7)));
    assert_eq!((done.kind.as_str(), done.subject), ("instance.delete", format!("instance:{id}")));
    assert_eq!(gone.state, InstanceState::Deleted);
    assert_eq!(instances.store.count_principals(id).await.unwrap(), crate::store::Heads::default());
    assert!(instances.store.tenants_to_tend(None, 10).await.unwrap().is_empty());
    assert_eq!(end(&made.id, true).await.unwrap_err().code, ErrorCode::NotFound);
    // The name is free for another.
    *bench.bounds.used.lock().unwrap() = 0;
    let next = bench.create("acme", "basic").await.unwrap();
    assert_ne!(next.id, made.id);
    assert_eq!(
        bench.ask_in(&next.id, login("bob", "password"), "").await.unwrap_err().code,
        ErrorCode::Unauthorized
    );
    let request = ListAuditRequest {
        filter: Some(AuditFilter { instance_id: made.id, ..AuditFilter::default() }),
        ..ListAuditRequest::default()
    };
    let told = bench.trail().list_audit(request).await.unwrap().into_inner().entries;
    let kinds: Vec<String> = told.into_iter().map(|entry| entry.r#type).collect();
    for kind in ["deletion_requested", "deletion_refused", "deletion_began", "deleted"] {
        assert!(kinds.contains(&format!("instance.{kind}")), "{kinds:?}");
    }
}
