//! A limit is exact, however many ask at once and of whichever process.

use berth_proto::{
    from_status,
    metadata::{CreateRepositoryRequest, DeleteRepositoryRequest, repositories_client::RepositoriesClient},
};
use berth_service::Channel;
use berth_testkit::{Deployment, Engine, Layout, Setting};
use futures::{StreamExt, stream};

use crate::{DOMAIN, Tenant, editions::empty_index};

/// Two gateways, each of which asks another process of metadata on one PostgreSQL.
async fn two_of_metadata() -> &'static Deployment {
    let setting = Setting::new(Layout::RolesApart, Engine::Postgres).with_gateways(2).with_metadata(2);
    let builder = Deployment::builder(setting).with_env("BERTH__GATEWAY__BASE_DOMAIN", DOMAIN);
    Box::leak(Box::new(builder.start().await.unwrap()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_creations_at_once_make_exactly_what_the_edition_allows() {
    let deployment = two_of_metadata().await;
    let tenant = Tenant::new(deployment, "thousand", "personal").await;
    let owner = tenant.owner();
    owner.repository("team/first").put_manifest("v1", &empty_index()).await.unwrap().expect(201).unwrap();
    // The personal edition has 300 repositories: half of the rest are asked for by push, half by hand.
    let shown = deployment.admin(&["instances"], "").await.unwrap();
    let entry = shown.lines().find(|line| line.contains("\"name\":\"thousand\"")).unwrap();
    let entry: serde_json::Value = serde_json::from_str(entry).unwrap();
    let instance = entry["id"].as_str().unwrap().to_owned();
    let processes = ["metadata", "metadata-2"].map(|name| {
        let socket = deployment.folder().join(format!("{name}.sock"));
        let address = format!("unix:{}", socket.display());
        RepositoriesClient::new(Channel::remote("repositories", &address).unwrap())
    });
    let by_hand = |number: usize| {
        let mut client = processes[number % 2].clone();
        let path = format!("team/r{number}");
        let request = CreateRepositoryRequest { instance_id: instance.clone(), path, ..Default::default() };
        async move {
            match client.create_repository(request).await {
                Ok(_) => Ok(()),
                Err(status) => Err(from_status(&status).detail.unwrap()),
            }
        }
    };
    let by_push = |number: usize| {
        let repository = owner.repository(format!("team/r{number}"));
        async move {
            let reply = repository.put_manifest("v1", &empty_index()).await.unwrap();
            match reply.status {
                201 => Ok(()),
                403 => Err(reply.json()["errors"][0]["detail"].clone()),
                status => panic!("{status}: {:?}", reply.json()),
            }
        }
    };
    let outcomes: Vec<_> =
        stream::iter(0..1_000)
            .map(|number| async move {
                if number % 2 == 0 { by_hand(number).await } else { by_push(number).await }
            })
            .buffer_unordered(64)
            .collect()
            .await;
    let refused: Vec<_> = outcomes.iter().filter_map(|outcome| outcome.as_ref().err()).collect();
    assert_eq!(outcomes.len() - refused.len(), 299, "with the first one 300");
    let detail = serde_json::json!({ "used": 300, "limit": 300, "unit": "repositories" });
    assert!(refused.iter().all(|found| **found == detail), "{refused:?}");
    let usage: serde_json::Value = serde_json::from_str(&tenant.admin(&["usage", "thousand"]).await).unwrap();
    assert_eq!(usage["image_repositories"], 300);
    // Deleting is never blocked, and makes room for one.
    let request = DeleteRepositoryRequest {
        instance_id: instance.clone(),
        path: "team/first".into(),
        ..Default::default()
    };
    processes[1].clone().delete_repository(request).await.unwrap();
    by_push(1_001).await.unwrap();
    by_hand(1_002).await.unwrap_err();
}
