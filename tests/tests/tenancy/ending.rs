//! The end of an instance: nothing of it is served from then on, and nothing of it is left in the end.

use berth_testkit::{Content, Deployment, Engine, Layout, Setting, eventually};

use crate::{DOMAIN, Tenant};

async fn an_instance_ends(setting: Setting) {
    let builder =
        Deployment::builder(setting).with_env("BERTH__GATEWAY__BASE_DOMAIN", DOMAIN).collecting_at_once();
    let deployment: &'static Deployment = Box::leak(Box::new(builder.start().await.unwrap()));
    let (going, staying) =
        (Tenant::new(deployment, "going", "basic").await, Tenant::new(deployment, "staying", "basic").await);
    let image = Content::named("ending").image(2, 4_000);
    for tenant in [&going, &staying] {
        let owner = tenant.owner();
        for repository in ["team/app", "team/other", "more/app"] {
            owner.repository(repository).push_image("v1", &image).await.unwrap();
        }
    }
    let usage: serde_json::Value = serde_json::from_str(&going.admin(&["usage", "going"]).await).unwrap();
    let bytes: usize = image.blobs().map(|blob| blob.bytes.len()).sum();
    for (field, expected) in [
        ("image_namespaces", 2),
        ("image_repositories", 3),
        ("blobs", 3),
        ("blob_bytes", bytes),
        ("users", 1),
    ] {
        assert_eq!(usage[field], expected, "{field}: {usage}");
    }
    assert_eq!(usage["limits"]["image_repositories"], 1000, "{usage}");
    // What was uploaded again goes soon.
    let once = async || (deployment.objects().len() == 6).then_some(());
    eventually("each blob of an instance is kept once", once).await.unwrap();
    let refused = going.try_admin(&["delete-instance", "going"], "").await.unwrap_err().to_string();
    assert!(refused.contains("3 repositories"), "{refused}");
    going.owner().repository("team/app").pull_image("v1", &image).await.unwrap();

    // Tokens from before end with it, too.
    let token = going.owner().repository("team/app").token().await.unwrap();
    let pull = async || {
        let call = going.anonymous().call(reqwest::Method::GET, "/v2/team/app/manifests/v1").bearer(&token);
        call.send().await.unwrap().status
    };
    assert_eq!(pull().await, 200);
    let ending = going.admin(&["delete-instance", "going", "--force"]).await;
    assert!(ending.contains("\"state\":\"deleting\""), "{ending}");
    crate::until("the instance is served no more", async || pull().await == 403).await;
    let gone = async || {
        let shown = deployment.admin(&["instances"], "").await.ok()?;
        let deleted = |line: &&str| line.contains("\"state\":\"deleted\"");
        shown.lines().any(|line| deleted(&line)).then_some(())
    };
    eventually("the instance is gone", gone).await.unwrap();
    crate::until("nobody knows its host", async || pull().await == 421).await;
    assert_eq!(deployment.objects().len(), 3, "the bytes of the other instance, and no others");
    staying.owner().repository("more/app").pull_image("v1", &image).await.unwrap();

    // Its name is another's now, who finds nothing.
    let next = Tenant::new(deployment, "going", "basic").await;
    let owner = next.owner();
    assert_eq!(owner.repository("team/app").manifest("v1").await.unwrap().status, 404);
    assert_eq!(owner.catalog("").await.unwrap().json()["repositories"], serde_json::json!([]));
    owner.repository("team/app").push_image("v1", &image).await.unwrap();
    assert_eq!(pull().await, 401);
    let audit = deployment.admin(&["instances"], "").await.unwrap();
    assert_eq!(audit.lines().filter(|line| line.contains("\"name\":\"going\"")).count(), 1, "{audit}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_leaves_nothing_in_one_process_sealed() {
    an_instance_ends(Setting::EMBEDDED.sealed()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_leaves_nothing_with_roles_apart_on_postgres() {
    an_instance_ends(Setting::new(Layout::RolesApart, Engine::Postgres)).await;
}
