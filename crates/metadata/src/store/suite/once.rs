//! What is asked for by hand under a key is done once.

use berth_oci::{ErrorCode, Problem};
use berth_proto::metadata::{
    CreateNamespaceRequest, CreateRepositoryRequest, DeleteNamespaceRequest, DeleteRepositoryRequest,
    DeleteRepositoryResponse, Manager, NamespaceEntry, RepositoryEntry, repositories_server::Repositories,
};
use futures::future::join_all;
use tonic::Request;

use super::{World, answer, both, on_both_engines, refusal};

on_both_engines!(
    twenty_creations_under_one_key_are_one,
    a_key_is_for_one_request_of_one_principal,
    what_was_refused_under_a_key_may_be_tried_again,
    a_deletion_under_a_key_is_answered_again,
);

fn manager(principal: &str, key: &str, fingerprint: &'static [u8]) -> Option<Manager> {
    Some(Manager {
        principal: principal.to_owned(),
        idempotency_key: key.to_owned(),
        fingerprint: fingerprint.into(),
        ..Manager::default()
    })
}

impl World {
    async fn namespace_as(&self, manager: Option<Manager>, name: &str) -> Result<NamespaceEntry, Problem> {
        let request = CreateNamespaceRequest {
            manager,
            instance_id: self.instance.to_string(),
            name: name.to_owned(),
            create_on_push: true,
            ..CreateNamespaceRequest::default()
        };
        answer(self.service.create_namespace(Request::new(request)).await)
    }

    async fn repository_as(&self, manager: Option<Manager>, path: &str) -> Result<RepositoryEntry, Problem> {
        let request = CreateRepositoryRequest {
            manager,
            instance_id: self.instance.to_string(),
            path: path.to_owned(),
            ..CreateRepositoryRequest::default()
        };
        answer(self.service.create_repository(Request::new(request)).await)
    }

    async fn remove_as(
        &self,
        manager: Option<Manager>,
        path: &str,
    ) -> Result<DeleteRepositoryResponse, Problem> {
        let request = DeleteRepositoryRequest {
            manager,
            instance_id: self.instance.to_string(),
            path: path.to_owned(),
            version: 0,
        };
        answer(self.service.delete_repository(Request::new(request)).await)
    }
}

async fn twenty_creations_under_one_key_are_one(world: World) {
    let asked = (0..20).map(|_| world.namespace_as(manager("user:1", "k", b"f"), "team"));
    let made: Vec<_> = join_all(asked).await.into_iter().map(Result::unwrap).collect();
    assert!(made.iter().all(|one| *one == made[0]), "{made:?}");
    let asked = (0..20).map(|_| world.repository_as(manager("user:1", "k2", b"f"), "team/app"));
    let made: Vec<_> = join_all(asked).await.into_iter().map(Result::unwrap).collect();
    assert!(made.iter().all(|one| *one == made[0]), "{made:?}");
    assert_eq!(world.count(&both("SELECT count(*) FROM namespaces")).await, 1);
    assert_eq!(world.count(&both("SELECT count(*) FROM repositories")).await, 1);
    assert_eq!(world.count(&both("SELECT count(*) FROM outbox")).await, 2, "each is told once");
    assert_eq!(world.count(&both("SELECT namespaces + repositories FROM instance_limits")).await, 2);
}

async fn a_key_is_for_one_request_of_one_principal(world: World) {
    let first = world.namespace_as(manager("user:1", "k", b"one"), "team").await.unwrap();
    let reused = world.namespace_as(manager("user:1", "k", b"two"), "more").await;
    assert_eq!(refusal(reused), ErrorCode::IdempotencyKeyReused);
    // Without a key, and under another's, it is another request.
    assert_eq!(
        refusal(world.namespace_as(manager("user:1", "", b"one"), "team").await),
        ErrorCode::AlreadyExists
    );
    assert_eq!(
        refusal(world.namespace_as(manager("user:2", "k", b"one"), "team").await),
        ErrorCode::AlreadyExists
    );
    // It says what it said, whatever became of it.
    let request = DeleteNamespaceRequest {
        instance_id: world.instance.to_string(),
        name: "team".into(),
        ..DeleteNamespaceRequest::default()
    };
    answer(world.service.delete_namespace(Request::new(request)).await).unwrap();
    assert_eq!(world.namespace_as(manager("user:1", "k", b"one"), "team").await.unwrap(), first);
    let wrong = world.namespace_as(manager("user:1", "with space", b"one"), "other").await;
    assert_eq!(refusal(wrong), ErrorCode::RequestInvalid);
}

async fn what_was_refused_under_a_key_may_be_tried_again(world: World) {
    let asked = || world.repository_as(manager("user:1", "k", b"f"), "team/app");
    assert_eq!(refusal(asked().await), ErrorCode::NotFound);
    world.namespace_as(None, "team").await.unwrap();
    let made = asked().await.unwrap();
    assert_eq!(asked().await.unwrap(), made);
}

async fn a_deletion_under_a_key_is_answered_again(world: World) {
    world.image("team/app", "a", &["v1"]).await;
    let asked = || world.remove_as(manager("user:1", "k", b"f"), "team/app");
    let removed = asked().await.unwrap();
    let successor = world.repository_as(None, "team/app").await.unwrap();
    assert_eq!(asked().await.unwrap(), removed, "the one that was made since then stays");
    assert_eq!(world.repository_as(None, "team/app").await.unwrap_err().code, ErrorCode::AlreadyExists);
    assert!(!successor.id.is_empty());
}
