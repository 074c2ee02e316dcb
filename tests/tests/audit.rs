//! The audit: every operation has its entry with all fields, reads are counted within a bound, nobody sees another's, and
//! no secret is in it.
#![allow(clippy::unwrap_used, reason = "a test ends with what can't be had")]

use std::{collections::BTreeSet, time::Duration};

use berth_testkit::{Client, Content, Deployment, Engine, Layout, Setting, eventually};
use reqwest::Method;
use serde_json::Value;

const DOMAIN: &str = "berth.test";

/// What a gateway has gathered is sent within this time, and some more for a machine that is busy.
const BOUND: Duration = Duration::from_secs(10);

async fn deployment(layout: Layout, engine: Engine) -> Deployment {
    let builder = Deployment::builder(Setting::new(layout, engine));
    builder.with_env("BERTH__GATEWAY__BASE_DOMAIN", DOMAIN).start().await.unwrap()
}

/// An instance with a person of its own.
struct Tenant<'a> {
    deployment: &'a Deployment,
    name: &'static str,
}

impl<'a> Tenant<'a> {
    async fn new(deployment: &'a Deployment, name: &'static str) -> Self {
        let made = [
            "create-instance",
            name,
            "--edition",
            "unlimited",
            "--region",
            "eu-central-1",
            "--create-on-push",
        ];
        deployment.admin(&made, "").await.unwrap();
        let tenant = Self { deployment, name };
        tenant.admin(&["create-user", "owner"], "the password").await;
        tenant.admin(&["grant", "owner", "instance-admin"], "").await;
        eventually("the instance is served", || async {
            let reply = tenant.anonymous().call(Method::GET, "/v2/").send().await.ok()?;
            (reply.status == 401).then_some(())
        })
        .await
        .unwrap();
        tenant
    }

    async fn admin(&self, arguments: &[&str], input: &str) -> String {
        let all = [&["--instance", self.name], arguments].concat();
        self.deployment.admin(&all, input).await.unwrap()
    }

    fn anonymous(&self) -> Client {
        self.deployment.client_at(&format!("{}-registry.eu-central-1.{DOMAIN}", self.name))
    }

    fn owner(&self) -> Client {
        self.anonymous().with_credentials("owner", "the password")
    }

    async fn audit(&self, arguments: &[&str]) -> Vec<Value> {
        let printed = self.admin(&[&["audit"], arguments].concat(), "").await;
        printed.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Waits until the audit has it.
    async fn until(&self, what: &str, arguments: &[&str], so: impl Fn(&[Value]) -> bool) -> Vec<Value> {
        let wait = async {
            loop {
                let entries = self.audit(arguments).await;
                if so(&entries) {
                    return entries;
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        let found = tokio::time::timeout(BOUND, wait).await;
        found.unwrap_or_else(|_| panic!("not within {BOUND:?}: {what}"))
    }
}

fn text<'a>(entry: &'a Value, field: &str) -> &'a str {
    entry[field].as_str().unwrap()
}

fn kinds(entries: &[Value]) -> BTreeSet<&str> {
    entries.iter().map(|entry| text(entry, "type")).collect()
}

fn total(entries: &[Value]) -> i64 {
    entries.iter().map(|entry| entry["count"].as_i64().unwrap()).sum()
}

async fn every_operation_has_its_entry(deployment: &Deployment) {
    let tenant = Tenant::new(deployment, "audit-all").await;
    let owner = tenant.owner();
    let (app, other) = (owner.repository("team/app"), owner.repository("team/other"));
    let mut content = Content::named("audit-all");
    let (image, loose) = (content.image(1, 100), content.layer(10));
    app.push_image("v1", &image).await.unwrap().expect(201).unwrap();
    app.put_manifest("v2", &image.manifest).await.unwrap().expect(201).unwrap();
    app.push_blob(&loose).await.unwrap();
    other.push_blob_at_once(&content.layer(10)).await.unwrap();
    let scopes = ["repository:team/app:pull", "repository:team/other:pull,push"];
    let token = owner.fresh_token(&scopes).await.unwrap();
    let mount = format!("/v2/team/other/blobs/uploads/?mount={}&from=team/app", image.layers[0].digest);
    owner.call(Method::POST, mount).bearer(&token).send().await.unwrap().expect(201).unwrap();
    // Reads: a manifest and a blob count, a part is told apart, and a HEAD does not count.
    let pulled = app.get("manifests/v1").await.unwrap().expect(200).unwrap();
    let layer = format!("blobs/{}", image.layers[0].digest);
    app.get(&layer).await.unwrap().expect(200).unwrap();
    app.head(&layer).await.unwrap().expect(200).unwrap();
    let part = app.call(Method::GET, &layer).await.unwrap().header("range", "bytes=0-1");
    part.send().await.unwrap().expect(206).unwrap();
    // What is refused.
    let reader = tenant.anonymous().with_credentials("reader", "another password");
    tenant.admin(&["create-user", "reader"], "another password").await;
    tenant.admin(&["grant", "reader", "reader"], "").await;
    let read = reader.fresh_token(&["repository:team/app:pull"]).await.unwrap();
    let put = |token: &str| {
        let call = owner.call(Method::PUT, "/v2/team/app/manifests/v3").bearer(token);
        call.header("content-type", &image.manifest.media_type).body(image.manifest.bytes.clone())
    };
    let refused = put(&read).send().await.unwrap();
    assert_eq!(refused.status, 401);
    assert_eq!(put("nonsense").send().await.unwrap().status, 401);
    let wrong = tenant.anonymous().with_credentials("owner", "wrong");
    assert_eq!(wrong.token_reply(&[]).await.unwrap().status, 401);
    // And deletes.
    app.delete("manifests/v2").await.unwrap().expect(202).unwrap();
    app.delete(&format!("manifests/{}", image.manifest.digest)).await.unwrap().expect(202).unwrap();
    app.delete(&format!("blobs/{}", loose.digest)).await.unwrap().expect(202).unwrap();
    tenant.admin(&["set-visibility", "team/app", "public"], "").await;

    let wanted = BTreeSet::from([
        "artifact.deleted",
        "artifact.pulled",
        "artifact.pushed",
        "artifact.tagged",
        "blob.deleted",
        "blob.mounted",
        "blob.pulled",
        "blob.pushed",
        "call.refused",
        "grant.created",
        "instance.created",
        "login.accepted",
        "login.refused",
        "namespace.created",
        "repository.created",
        "repository.updated",
        "user.created",
    ]);
    let entries = tenant
        .until("everything is in the audit", &[], |entries| {
            let seen = |result: &str| {
                entries
                    .iter()
                    .any(|entry| text(entry, "principal").is_empty() && text(entry, "result") == result)
            };
            kinds(entries).is_superset(&wanted) && seen("unauthorized")
        })
        .await;
    for entry in &entries {
        let has = |field: &str| assert!(!text(entry, field).is_empty(), "{field} of {entry}");
        ["event_id", "instance_id", "credential", "address", "request_id", "result"]
            .into_iter()
            .for_each(has);
        if text(entry, "credential") != "bearer" {
            has("principal");
        }
        if text(entry, "type").starts_with("artifact.") || text(entry, "type").starts_with("blob.") {
            ["repository", "repository_id", "digest"].into_iter().for_each(has);
            assert_eq!((text(entry, "credential"), text(entry, "address")), ("password", "127.0.0.1"));
        }
    }
    let of =
        |kind: &str| entries.iter().filter(|entry| text(entry, "type") == kind).cloned().collect::<Vec<_>>();
    let manifests = of("artifact.pulled");
    let by_request = |entry: &&Value| text(entry, "request_id") == pulled.header("x-request-id").unwrap();
    let found = manifests.iter().find(by_request).unwrap();
    assert_eq!((text(found, "tag"), text(found, "repository")), ("v1", "team/app"));
    let (parts, whole): (Vec<_>, Vec<_>) =
        of("blob.pulled").into_iter().partition(|entry| text(entry, "subject") == "GET part");
    assert_eq!((total(&manifests), total(&whole), total(&parts)), (1, 1, 1));
    let refusals = of("call.refused");
    let denied = refusals.iter().find(|entry| text(entry, "result") == "denied").unwrap();
    assert_eq!((text(denied, "subject"), text(denied, "repository")), ("PUT manifest", "team/app"));
    assert_eq!(text(denied, "request_id"), refused.header("x-request-id").unwrap());
    assert!(text(denied, "principal").starts_with("user:"));
    let login = &of("login.refused")[0];
    assert_eq!((text(login, "result"), text(login, "credential")), ("unauthorized", "password"));
    assert_eq!(text(login, "principal"), text(&of("artifact.pushed")[0], "principal"));

    // Each filter finds what is meant, and pages lead to one another.
    let deleted = tenant.audit(&["--kind", "artifact.deleted", "--repository", "team/app"]).await;
    assert_eq!(kinds(&deleted), BTreeSet::from(["artifact.deleted"]));
    let one = tenant.audit(&["--request-id", text(found, "request_id")]).await;
    assert_eq!(one, std::slice::from_ref(found));
    let namespace = tenant.audit(&["--namespace", "team", "--kind", "namespace.created"]).await;
    assert_eq!(namespace.len(), 1);
    assert!(
        tenant.audit(&["--to", text(&entries[0], "occurred_at"), "--kind", "blob.pulled"]).await.is_empty()
    );
    let first = tenant.audit(&["--limit", "3"]).await;
    let rest = tenant.audit(&["--after", text(&first[2], "cursor")]).await;
    assert_eq!([first, rest].concat()[..entries.len()], entries[..]);

    // Nobody else's audit has any of it.
    let stranger = Tenant::new(deployment, "audit-other").await;
    let ids: BTreeSet<&str> = entries.iter().map(|entry| text(entry, "event_id")).collect();
    for entry in stranger.audit(&[]).await.iter().chain(&deployment.audit().await.unwrap()) {
        assert!(!ids.contains(text(entry, "event_id")), "{entry}");
    }
    assert!(stranger.audit(&["--request-id", text(found, "request_id")]).await.is_empty());
}

async fn pulls_are_counted(deployment: &Deployment) {
    let tenant = Tenant::new(deployment, "audit-count").await;
    let image = Content::named("audit-count").image(1, 100);
    let app = tenant.owner().repository("team/app");
    app.push_image("v1", &image).await.unwrap().expect(201).unwrap();
    tenant.admin(&["set-visibility", "team/app", "public"], "").await;
    let nobody = tenant.anonymous();
    let token = nobody.fresh_token(&["repository:team/app:pull"]).await.unwrap();
    for _ in 0..1_000 {
        let call = nobody.call(Method::GET, "/v2/team/app/manifests/v1").bearer(&token);
        call.send().await.unwrap().expect(200).unwrap();
    }
    let pulls = ["--kind", "artifact.pulled", "--principal", "anonymous"];
    let entries = tenant.until("every pull is counted", &pulls, |entries| total(entries) >= 1_000).await;
    assert_eq!(total(&entries), 1_000);
    assert!(entries.len() < 100, "{} entries", entries.len());
    assert!(entries.iter().all(|entry| text(entry, "credential") == "anonymous"));
}

/// Secrets that were made and typed everywhere are in no entry, no log and no database.
async fn no_secret_is_anywhere(deployment: &Deployment) {
    let tenant = Tenant::new(deployment, "audit-secret").await;
    let marked = |what: &str| format!("MARKED-{what}-7c1f9e");
    tenant.admin(&["create-user", "mia"], &marked("password")).await;
    tenant.admin(&["set-password", "mia"], &marked("renewed")).await;
    let made: Value = serde_json::from_str(tenant.admin(&["create-robot", "ci"], "").await.trim()).unwrap();
    let more: Value =
        serde_json::from_str(tenant.admin(&["add-robot-secret", "ci"], "").await.trim()).unwrap();
    let mut secrets =
        vec![marked("password"), marked("renewed"), marked("wrong"), marked("name"), marked("bearer")];
    secrets.extend([text(&made, "secret").to_owned(), text(&more, "secret").to_owned()]);
    let login = |name: &str, password: &str| tenant.anonymous().with_credentials(name, password);
    let renewed = login("mia", &marked("renewed")).token_reply(&[]).await.unwrap().expect(200).unwrap();
    secrets.push(text(&renewed.json(), "token").to_owned());
    for (name, password) in [("mia", marked("wrong")), (marked("name").as_str(), marked("wrong"))] {
        assert_eq!(login(name, &password).token_reply(&[]).await.unwrap().status, 401);
    }
    login("robot+ci", text(&made, "secret")).token_reply(&[]).await.unwrap().expect(200).unwrap();
    let call = tenant.anonymous().call(Method::GET, "/v2/").bearer(marked("bearer"));
    assert_eq!(call.send().await.unwrap().status, 401);
    tenant.admin(&["delete-robot-secret", "ci", text(&made, "secret_id")], "").await;
    tenant.admin(&["disable", "mia"], "").await;
    tenant.admin(&["delete-principal", "mia"], "").await;
    let entries = tenant
        .until("logins and refusals are in the audit", &[], |entries| {
            let kinds = kinds(entries);
            ["login.refused", "login.accepted", "call.refused", "user.deleted"]
                .iter()
                .all(|kind| kinds.contains(kind))
        })
        .await;
    let mut texts = vec![("the audit".to_owned(), format!("{entries:?}").into_bytes())];
    for process in deployment.processes() {
        texts.push((format!("the log of {}", process.name()), process.log().join("\n").into_bytes()));
    }
    let mut folders = vec![deployment.folder().to_owned()];
    while let Some(folder) = folders.pop() {
        for path in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                folders.push(path);
            } else if path.to_string_lossy().contains(".db") {
                texts.push((path.display().to_string(), std::fs::read(&path).unwrap()));
            }
        }
    }
    for (place, text) in &texts {
        for secret in &secrets {
            let found = text.windows(secret.len()).any(|part| part == secret.as_bytes());
            assert!(!found, "{} is in {place}", &secret[..20.min(secret.len())]);
        }
    }
}

async fn all_of_it(layout: Layout, engine: Engine) {
    let deployment = deployment(layout, engine).await;
    every_operation_has_its_entry(&deployment).await;
    pulls_are_counted(&deployment).await;
    no_secret_is_anywhere(&deployment).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_is_told_in_one_process_on_sqlite() {
    all_of_it(Layout::OneProcess, Engine::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_is_told_by_roles_apart_on_postgres() {
    all_of_it(Layout::RolesApart, Engine::Postgres).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pulls_go_on_while_instance_manager_is_away_and_are_told_later() {
    let deployment = deployment(Layout::RolesApart, Engine::Postgres).await;
    let tenant = Tenant::new(&deployment, "audit-away").await;
    let image = Content::named("audit-away").image(1, 100);
    let app = tenant.owner().repository("team/app");
    app.push_image("v1", &image).await.unwrap().expect(201).unwrap();
    let owner = tenant.owner();
    let token = owner.fresh_token(&["repository:team/app:pull"]).await.unwrap();
    deployment.process("instance-manager").kill();
    for _ in 0..200 {
        let call = owner.call(Method::GET, "/v2/team/app/manifests/v1").bearer(&token);
        call.send().await.unwrap().expect(200).unwrap();
    }
    deployment.restart("instance-manager").await.unwrap();
    let pulls = ["--kind", "artifact.pulled"];
    let entries = tenant.until("every pull is told", &pulls, |entries| total(entries) >= 200).await;
    assert_eq!(total(&entries), 200, "and none twice");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_that_dies_takes_the_last_second_of_pulls_along_and_no_write() {
    let deployment = deployment(Layout::RolesApart, Engine::Postgres).await;
    let tenant = Tenant::new(&deployment, "audit-kill").await;
    let image = Content::named("audit-kill").image(1, 100);
    let pull = async || {
        let owner = tenant.owner();
        let token = owner.fresh_token(&["repository:team/app:pull"]).await.unwrap();
        for _ in 0..50 {
            let call = owner.call(Method::GET, "/v2/team/app/manifests/v1").bearer(&token);
            call.send().await.unwrap().expect(200).unwrap();
        }
    };
    let app = tenant.owner().repository("team/app");
    app.push_image("v1", &image).await.unwrap().expect(201).unwrap();
    pull().await;
    let pulls = ["--kind", "artifact.pulled"];
    tenant.until("the first pulls are told", &pulls, |entries| total(entries) == 50).await;
    pull().await;
    app.put_manifest("last", &image.manifest).await.unwrap().expect(201).unwrap();
    deployment.process("gateway-1").kill();
    let tagged = ["--kind", "artifact.tagged"];
    let last = |entries: &[Value]| entries.iter().any(|entry| text(entry, "tag") == "last");
    tenant.until("the last write is there", &tagged, last).await;
    deployment.restart("gateway-1").await.unwrap();
    let told = total(&tenant.audit(&pulls).await);
    assert!((50..=100).contains(&told), "{told}");
}
