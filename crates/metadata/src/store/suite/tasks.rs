//! Tasks: what is asked for goes on and says so, until it is done and for a week after.

use std::time::Duration;

use berth_database::args;
use berth_oci::{ErrorCode, Problem};
use berth_proto::{
    metadata::{
        CollectNowRequest, DeleteNamespaceRequest, DeleteRepositoryRequest, Manager,
        metadata_server::Metadata, repositories_server::Repositories, tasks_server::Tasks,
    },
    tasks::{GetTaskRequest, ListTasksRequest, ListTasksResponse, Task},
};
use tonic::Request;

use super::{World, answer, both, on_both_engines, refusal};

on_both_engines!(
    the_end_of_a_repository_says_how_far_it_is,
    the_end_of_a_namespace_says_how_far_it_is,
    what_nobody_asked_for_has_no_task,
    tasks_are_listed_newest_first,
    a_task_is_forgotten_a_week_after_its_end,
    collection_that_was_asked_for_is_done_when_all_has_been_looked_at,
    collection_is_asked_for_once_under_one_key,
);

const APP: &str = "team/app";

impl World {
    async fn removal_of(&self, path: &str) -> Result<String, Problem> {
        let request = DeleteRepositoryRequest {
            manager: Some(Manager { principal: "user:1".into(), ..Manager::default() }),
            instance_id: self.instance.to_string(),
            path: path.to_owned(),
            version: 0,
        };
        answer(self.service.delete_repository(Request::new(request)).await).map(|removed| removed.task_id)
    }

    async fn removal_of_namespace(&self, name: &str) -> Result<String, Problem> {
        let request = DeleteNamespaceRequest {
            instance_id: self.instance.to_string(),
            name: name.to_owned(),
            ..DeleteNamespaceRequest::default()
        };
        answer(self.service.delete_namespace(Request::new(request)).await).map(|removed| removed.task_id)
    }

    async fn task(&self, id: &str) -> Result<Task, Problem> {
        let request = GetTaskRequest { instance_id: self.instance.to_string(), id: id.to_owned() };
        answer(self.service.get_task(Request::new(request)).await)
    }

    /// A task of the deployment.
    pub(super) async fn deployments_task(&self, id: &str) -> Task {
        let request = GetTaskRequest { instance_id: String::new(), id: id.to_owned() };
        answer(self.service.get_task(Request::new(request)).await).unwrap()
    }

    async fn collect_now(&self, manager: Manager) -> Result<String, Problem> {
        let request = CollectNowRequest { manager: Some(manager), instance_id: self.instance.to_string() };
        answer(self.service.collect_now(Request::new(request)).await).map(|begun| begun.task_id)
    }

    async fn tasks(&self, request: ListTasksRequest) -> Result<ListTasksResponse, Problem> {
        let request = ListTasksRequest { instance_id: self.instance.to_string(), ..request };
        answer(self.service.list_tasks(Request::new(request)).await)
    }

    /// One step of a removal, and what the task says then.
    async fn step(&self, task: &str) -> Task {
        self.stage(&[both("UPDATE removals SET due_at = 0")], args![]).await;
        self.metadata.remove_next().await.unwrap();
        self.task(task).await.unwrap()
    }
}

async fn the_end_of_a_repository_says_how_far_it_is(world: World) {
    let image = world.image(APP, "a", &["v0"]).await;
    world.image("team/other", "a", &["v0"]).await;
    // More than a step takes.
    for number in 0..449 {
        let manifest = super::Manifest::with(
            &[berth_oci::Digest::of(berth_oci::Algorithm::Sha256, b"a")],
            &serde_json::json!({ "annotations": { "number": number.to_string() } }),
        );
        world.put(APP, &manifest, &[]).await.unwrap();
    }
    let id = world.removal_of(APP).await.unwrap();
    let begun = world.task(&id).await.unwrap();
    assert_eq!(
        (begun.state.as_str(), begun.kind.as_str(), begun.name.as_str()),
        ("running", "repository.delete", APP)
    );
    assert_eq!((begun.steps_done, begun.steps_total, begun.ended_at), (0, None, None));
    assert_eq!(begun.created_by, "user:1");
    assert!(begun.subject.starts_with("repository:"));
    assert_eq!(world.removal_of(APP).await.unwrap(), id, "it is on its way already");
    let mut seen = Vec::new();
    for _ in 0..100 {
        // Another process goes on where the last one was.
        let other = World::over(world.database.clone(), world.clock.clone());
        let world = World { instance: world.instance, ..other };
        let task = world.step(&id).await;
        if task.state == "done" {
            assert_eq!((task.steps_done, task.steps_total), (450, Some(450)));
            assert!(task.ended_at.is_some());
            break;
        }
        assert_eq!(task.steps_total, Some(450));
        seen.push(task.steps_done);
        while world.metadata.reap_next_session().await.unwrap().is_some() {}
        while world.metadata.forget_closed_sessions().await.unwrap() > 0 {}
    }
    seen.dedup();
    assert_eq!(seen, [0, 200, 400, 450]);
    assert_eq!(refusal(world.removal_of(APP).await), ErrorCode::NotFound);
    // What is made at its path meanwhile is another, with a task of its own.
    world.put("team/other", &image, &["v1"]).await.unwrap();
    let first = world.removal_of("team/other").await.unwrap();
    world.make_repository("team/other").await.unwrap();
    // Ids of the same millisecond come in no order.
    world.clock.advance(Duration::from_secs(1));
    let second = world.removal_of("team/other").await.unwrap();
    assert_ne!(first, second);
    assert_eq!(world.removal_of("team/other").await.unwrap(), second, "the newest");
    world.drain().await;
    for id in [first, second] {
        assert_eq!(world.task(&id).await.unwrap().state, "done");
    }
}

async fn the_end_of_a_namespace_says_how_far_it_is(world: World) {
    world.make_namespace("team", |_| {}).await.unwrap();
    for number in 0..60 {
        world.make_repository(&format!("team/r{number}")).await.unwrap();
    }
    let early = world.removal_of("team/r0").await.unwrap();
    let id = world.removal_of_namespace("team").await.unwrap();
    assert_eq!(world.removal_of_namespace("team").await.unwrap(), id);
    world
        .stage(&[both("UPDATE removals SET due_at = 9000000000000000 WHERE kind = 'repository'")], args![])
        .await;
    world.metadata.remove_next().await.unwrap();
    let begun = world.task(&id).await.unwrap();
    assert_eq!((begun.steps_done, begun.steps_total), (0, Some(60)));
    assert_eq!(
        (begun.state.as_str(), begun.kind.as_str(), begun.name.as_str()),
        ("running", "namespace.delete", "team")
    );
    assert_eq!(begun.created_by, "system:admin");
    let halfway = "UPDATE removals SET due_at = CASE kind WHEN 'repository' THEN 0 ELSE 9000000000000000 END";
    for _ in 0..25 {
        world.stage(&[both(halfway)], args![]).await;
        world.metadata.remove_next().await.unwrap();
    }
    let task = world.task(&id).await.unwrap();
    assert!((1..60).contains(&task.steps_done), "{task:?}");
    world.drain().await;
    let done = world.task(&id).await.unwrap();
    assert_eq!((done.state.as_str(), done.steps_done, done.steps_total), ("done", 60, Some(60)));
    assert_eq!(world.task(&early).await.unwrap().state, "done");
}

async fn what_nobody_asked_for_has_no_task(world: World) {
    world.image(APP, "a", &["v1"]).await;
    let id = world.removal_of_namespace("team").await.unwrap();
    world.drain().await;
    let listed = world.tasks(ListTasksRequest::default()).await.unwrap();
    assert_eq!(listed.tasks.len(), 1, "the repositories of a namespace go with it");
    assert_eq!(listed.tasks[0].id, id);
}

async fn tasks_are_listed_newest_first(world: World) {
    let mut ids = Vec::new();
    for number in 0..4 {
        world.clock.advance(Duration::from_secs(1));
        let name = format!("team{number}");
        world.make_namespace(&name, |_| {}).await.unwrap();
        world.make_repository(&format!("{name}/app")).await.unwrap();
        ids.insert(0, world.removal_of(&format!("{name}/app")).await.unwrap());
        if number == 0 {
            world.drain().await;
        }
    }
    world.clock.advance(Duration::from_secs(1));
    ids.insert(0, world.removal_of_namespace("team3").await.unwrap());
    let list = async |state: &str, kind: &str, limit: u32| {
        let mut found = Vec::new();
        let mut after = String::new();
        loop {
            let request = ListTasksRequest {
                state: state.to_owned(),
                kind: kind.to_owned(),
                limit,
                after,
                ..ListTasksRequest::default()
            };
            let page = world.tasks(request).await.unwrap();
            found.extend(page.tasks.into_iter().map(|task| task.id));
            if page.next.is_empty() {
                return found;
            }
            after = page.next;
        }
    };
    for limit in [1, 2, 100] {
        assert_eq!(list("", "", limit).await, ids);
        assert_eq!(list("running", "", limit).await, ids[..4]);
        assert_eq!(list("done", "", limit).await, ids[4..]);
        assert_eq!(list("", "repository.delete", limit).await, ids[1..]);
        assert_eq!(list("running", "repository.delete", limit).await, ids[1..4]);
        assert!(list("failed", "", limit).await.is_empty());
    }
    let wrong = ListTasksRequest { state: "lost".into(), ..Default::default() };
    assert_eq!(refusal(world.tasks(wrong).await), ErrorCode::RequestInvalid);
    let wrong = ListTasksRequest { after: "x".into(), ..Default::default() };
    assert_eq!(refusal(world.tasks(wrong).await), ErrorCode::PaginationInvalid);
    let foreign =
        World { instance: berth_model::InstanceId::new(world.metadata.ids.ulid()), ..world.clone() };
    assert!(foreign.tasks(ListTasksRequest::default()).await.unwrap().tasks.is_empty());
    assert_eq!(refusal(foreign.task(&ids[0]).await), ErrorCode::NotFound);
    assert_eq!(refusal(world.task("x").await), ErrorCode::NotFound);
}

async fn a_task_is_forgotten_a_week_after_its_end(world: World) {
    world.image(APP, "a", &["v1"]).await;
    world.image("team/other", "a", &["v1"]).await;
    let ended = world.removal_of(APP).await.unwrap();
    world.drain().await;
    let runs = world.removal_of("team/other").await.unwrap();
    assert_eq!(world.metadata.forget_tasks().await.unwrap(), 0);
    world.stage(&[both("UPDATE tasks SET ended_at = 1 WHERE ended_at IS NOT NULL")], args![]).await;
    assert_eq!(world.metadata.forget_tasks().await.unwrap(), 1);
    assert_eq!(refusal(world.task(&ended).await), ErrorCode::NotFound);
    assert_eq!(world.task(&runs).await.unwrap().state, "running");
}

async fn collection_that_was_asked_for_is_done_when_all_has_been_looked_at(world: World) {
    let by = |name: &str| Manager { principal: name.to_owned(), ..Manager::default() };
    world.blob(APP, "loose").await;
    let id = world.collect_now(by("user:1")).await.unwrap();
    let begun = world.deployments_task(&id).await;
    assert_eq!((begun.state.as_str(), begun.kind.as_str()), ("running", "garbage_collection.run"));
    assert_eq!((begun.steps_total, begun.waits_until, begun.created_by.as_str()), (None, None, "user:1"));
    assert_eq!(refusal(world.task(&id).await), ErrorCode::NotFound, "it is no instance's");
    // Another process goes on where the one died that was asked.
    let other = World::over(world.database.clone(), world.clock.clone());
    assert!(other.metadata.go_on_with_runs().await.unwrap(), "it has to be counted");
    assert!(!world.metadata.go_on_with_runs().await.unwrap());
    let waits = world.deployments_task(&id).await;
    // Link, blob, repository.
    assert_eq!((waits.steps_done, waits.steps_total), (0, Some(3)));
    let (now, _) = world.metadata.first_due().await.unwrap();
    let until = berth_service::Timestamp(waits.waits_until.unwrap());
    assert!(until.since(now) + Duration::from_secs(5) > world.metadata.config.review_floor());
    // Asked for again, it is another, which takes what has come since.
    world.clock.advance(Duration::from_secs(1));
    world.blob(APP, "later").await;
    let second = world.collect_now(by("user:2")).await.unwrap();
    assert_ne!(second, id);
    while world.metadata.go_on_with_runs().await.unwrap() {}
    let (first, next) = (world.deployments_task(&id).await, world.deployments_task(&second).await);
    assert_eq!((first.waits_until, first.steps_total), (waits.waits_until, Some(3)));
    assert!(next.waits_until > first.waits_until && next.steps_total == Some(5), "{next:?}");
    // What the reviews free is due a floor later, and so after all that was asked for.
    world.clock.advance(Duration::from_secs(1));
    world.make_due().await;
    assert_eq!(world.review_due().await, 2);
    while world.metadata.go_on_with_runs().await.unwrap() {}
    for (id, steps) in [(&id, 3), (&second, 5)] {
        let done = world.deployments_task(id).await;
        assert_eq!((done.state.as_str(), done.steps_done, done.waits_until), ("done", steps, None));
        assert!(done.ended_at.is_some());
    }
    assert!(!world.metadata.go_on_with_runs().await.unwrap());
    // What waits for the floor can't pile up.
    for _ in 0..10 {
        world.collect_now(by("user:1")).await.unwrap();
    }
    assert_eq!(refusal(world.collect_now(by("user:1")).await), ErrorCode::Conflict);
    // With nothing to look at they are done at once.
    world
        .stage(&[both("DELETE FROM link_review_queue"), both("DELETE FROM blob_review_queue")], args![])
        .await;
    world
        .stage(&[both("DELETE FROM repository_review_queue"), both("DELETE FROM object_deletes")], args![])
        .await;
    while world.metadata.go_on_with_runs().await.unwrap() {}
    world.collect_now(by("user:1")).await.unwrap();
}

async fn collection_is_asked_for_once_under_one_key(world: World) {
    let manager = Manager {
        principal: "user:1".into(),
        idempotency_key: "k".into(),
        fingerprint: vec![1].into(),
        ..Manager::default()
    };
    let id = world.collect_now(manager.clone()).await.unwrap();
    while world.metadata.go_on_with_runs().await.unwrap() {}
    assert_eq!(world.deployments_task(&id).await.state, "done");
    assert_eq!(world.collect_now(manager.clone()).await.unwrap(), id);
    let other = Manager { fingerprint: vec![2].into(), ..manager };
    assert_eq!(refusal(world.collect_now(other).await), ErrorCode::IdempotencyKeyReused);
}
