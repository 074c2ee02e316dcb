//! Long work is a task: where it is, how far, and what it came to.

use berth_testkit::{Content, Engine, Layout, Reply, Setting, eventually};
use reqwest::Method;
use serde_json::{Value, json};

use crate::{Api, Tenant, problem};

/// What a task says once it has ended, which an answer speaks of.
pub(crate) async fn ended(api: &Api, begun: &Reply) -> Value {
    let location = begun.header("location").unwrap().strip_prefix("/api/v1").unwrap().to_owned();
    assert!(location.ends_with(begun.json()["task_id"].as_str().unwrap()), "{location}");
    let ended = async || Some(api.get(&location).await).filter(|task| task["state"] != "running");
    eventually("the task ends", ended).await.unwrap()
}

async fn work(setting: Setting) {
    let deployment = crate::builder(setting).collecting_at_once().start().await.unwrap();
    let operator = Api::operator(&deployment);
    let tenant = Tenant::new(&deployment, "acme").await;
    let image = Content::seeded(7).image(2, 2000);
    let registry = tenant.client().with_credentials("owner", crate::PASSWORD).repository("team/app");
    registry.push_image("v1", &image).await.unwrap();

    // Everything that was touched is looked at, and none of it goes.
    let begun = operator.call(Method::POST, "/garbage-collection/runs", None).await.expect(202).unwrap();
    let run = ended(&operator, &begun).await;
    assert_eq!((&run["state"], &run["kind"]), (&json!("done"), &json!("garbage_collection.run")), "{run}");
    assert!(
        run["progress"]["total"].as_u64().unwrap() >= 4
            && run["progress"]["total"] == run["progress"]["done"]
    );
    assert!(run["created_by"].as_str().unwrap().starts_with("user:"), "{run}");
    registry.pull_image("v1", &image).await.unwrap();

    // An answer that was lost is had again by the same key.
    let scrub = async |key: &str| {
        let (body, headers) = (json!({ "unpaced": true }), [("idempotency-key", key)]);
        operator.call_with(Method::POST, "/scrub", Some(&body), &headers).await.expect(202).unwrap()
    };
    let begun = scrub("one").await;
    let pass = ended(&operator, &begun).await;
    assert_eq!((&pass["state"], &pass["message"]), (&json!("done"), &Value::Null), "{pass}");
    assert_eq!(scrub("one").await.json(), begun.json());
    assert_eq!(operator.get("/scrub").await["number"], 1);

    // Whoever has no say in the deployment does not see its tasks, nor are they an instance's.
    let owner = tenant.owner();
    for path in ["/tasks".to_owned(), begun.header("location").unwrap().replace("/api/v1", "")] {
        assert_eq!(owner.call(Method::GET, &path, None).await.status, 403, "{path}");
    }
    let id = begun.json()["task_id"].as_str().unwrap().to_owned();
    let astray = operator.call(Method::GET, &format!("/instances/default/tasks/{id}"), None).await;
    assert_eq!((astray.status, problem(&astray)["code"].as_str()), (404, Some("NOT_FOUND")));

    // An instance's end outlives it.
    let refused = operator.call(Method::DELETE, &tenant.path(""), None).await;
    assert_eq!(refused.status, 409, "{}", refused.json());
    let begun = operator.call(Method::DELETE, &tenant.path("?force=true"), None).await.expect(202).unwrap();
    // Its blobs wait for their reviews.
    let hastened = operator.call(Method::POST, "/garbage-collection/runs", None).await.expect(202).unwrap();
    ended(&operator, &hastened).await;
    let gone = ended(&operator, &begun).await;
    assert_eq!((&gone["state"], &gone["name"]), (&json!("done"), &json!("acme")), "{gone}");
    assert!(gone["progress"]["total"].as_u64().unwrap() >= 1, "{gone}");
    assert_eq!(operator.call(Method::GET, &tenant.path(""), None).await.status, 404);
    Tenant::new(&deployment, "acme").await;

    // All of them, newest first, whichever service they are of.
    let (mut kinds, mut token) = (Vec::new(), String::new());
    loop {
        let page = operator.get(&format!("/tasks?page_size=1{token}")).await;
        kinds.extend(page["items"].as_array().unwrap().iter().map(|task| task["kind"].clone()));
        let Some(next) = page["next_page_token"].as_str() else { break };
        token = format!("&page_token={next}");
    }
    let (end, run, scrub) = ("instance.delete", "garbage_collection.run", "scrub.run");
    assert_eq!(kinds, [run, end, end, scrub, run]);
    let failed = operator.get("/tasks?kind=instance.delete&state=failed").await;
    assert_eq!(failed["items"].as_array().unwrap().len(), 1, "{failed}");
    assert!(failed["items"][0]["message"].as_str().unwrap().contains("1 repositories"), "{failed}");

    // The audit names who asked.
    let found = async |kind: &str| {
        let audit = operator.get(&format!("/instances/default/audit?type={kind}")).await;
        audit["items"].as_array().unwrap().iter().filter(|entry| entry["credential"] == "password").count()
    };
    let told = async || {
        let both = (found("garbage_collection.requested").await, found("scrub.requested").await);
        (both == (2, 1)).then_some(())
    };
    eventually("the audit names who asked", told).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_work_is_a_task_in_one_process() {
    work(Setting::EMBEDDED).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_work_is_a_task_with_roles_apart_on_postgres() {
    work(Setting::new(Layout::RolesApart, Engine::Postgres)).await;
}
