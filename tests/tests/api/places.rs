//! What a role opens where it was given, what it does not take from others, and what of it the audit tells.

use berth_testkit::{Content, Engine, Layout, Setting, eventually};
use reqwest::Method;
use serde_json::{Value, json};

use crate::{Api, PASSWORD, Tenant, problem};

/// Gives a new user a role somewhere.
async fn person(tenant: &Tenant<'_>, name: &str, grant: Value) -> Api {
    let person = tenant.with_role(name, "").await;
    let mut grant = grant;
    grant["principal"] = json!({ "kind": "user", "name": name });
    tenant.owner().post(&tenant.path("/grants"), grant).await;
    person
}

async fn in_a_namespace(tenant: &Tenant<'_>) {
    let owner = tenant.owner();
    for name in ["team", "other"] {
        owner.post(&tenant.path("/namespaces"), json!({ "name": name })).await;
        owner.post(&tenant.path("/repositories"), json!({ "path": format!("{name}/app") })).await;
    }
    let eve = person(tenant, "eve", json!({ "role": "namespace-admin", "namespace": "team" })).await;
    let aud = person(tenant, "aud", json!({ "role": "auditor", "namespace": "team" })).await;
    person(tenant, "dev", json!({ "role": "developer", "namespace": "other" })).await;

    // Grants of the namespace: given, listed by what they are called, and taken back.
    let grants = tenant.path("/grants");
    let reader =
        json!({ "principal": { "kind": "user", "name": "dev" }, "role": "reader", "namespace": "team" });
    let given = eve.post(&grants, reader).await;
    assert_eq!(given["scope_name"], "team", "{given}");
    let listed = eve.get(&format!("{grants}?namespace=team")).await;
    assert_eq!(listed["items"].as_array().unwrap().len(), 3, "{listed}");
    assert!(
        listed["items"].as_array().unwrap().iter().all(|grant| grant["scope_name"] == "team"),
        "{listed}"
    );
    for elsewhere in
        [grants.clone(), format!("{grants}?namespace=other"), format!("{grants}?repository=other%2Fapp")]
    {
        let refused = eve.call(Method::GET, &elsewhere, None).await;
        assert!([403, 404].contains(&refused.status), "{elsewhere}: {}", refused.status);
    }
    let others = owner.get(&format!("{grants}?namespace=other")).await;
    let others = format!("{grants}/{}", others["items"][0]["id"].as_str().unwrap());
    let refused = eve.call(Method::DELETE, &others, None).await;
    assert!([403, 404].contains(&refused.status), "{}", refused.status);
    let given = format!("{grants}/{}", given["id"].as_str().unwrap());
    eve.call(Method::DELETE, &given, None).await.expect(204).unwrap();
    assert_eq!(
        eve.call(Method::DELETE, &given, None).await.status,
        403,
        "who takes none back learns of none"
    );

    // Who deletes may see how far it is.
    let app = tenant.path("/repositories/team%2Fapp");
    let begun = eve.call(Method::DELETE, &app, None).await.expect(202).unwrap();
    assert_eq!(crate::work::ended(&eve, &begun).await["state"], "done");
    let task = begun.header("location").unwrap().strip_prefix("/api/v1").unwrap().to_owned();
    assert_eq!(aud.call(Method::GET, &task, None).await.status, 403, "it is hers");

    // The audit of the namespace, since it is there, and no other's.
    let audit = tenant.path("/audit");
    let deleted = format!("{audit}?namespace=team&type=repository.deleted");
    let told = async || (aud.get(&deleted).await["items"] != json!([])).then_some(());
    eventually("the audit of the namespace tells it", told).await.unwrap();
    for elsewhere in
        [audit.clone(), format!("{audit}?namespace=other"), format!("{audit}?repository=other%2Fapp")]
    {
        let refused = aud.call(Method::GET, &elsewhere, None).await;
        assert!([403, 404].contains(&refused.status), "{elsewhere}: {}", refused.status);
    }
    aud.call(Method::GET, &format!("{audit}/export?namespace=team"), None).await.expect(200).unwrap();
    for wrong in ["type=user.made", "result=fine", "principal=ada"] {
        let refused = owner.call(Method::GET, &format!("{audit}?{wrong}"), None).await;
        assert_eq!(
            (refused.status, problem(&refused)["code"].as_str()),
            (400, Some("REQUEST_INVALID")),
            "{wrong}"
        );
    }
}

async fn nobody_puts_away_who_is_above(tenant: &Tenant<'_>) {
    let (owner, operator) = (tenant.owner(), Api::operator(tenant.deployment));
    let (users, grants) = (tenant.path("/users"), tenant.path("/grants"));
    let people = json!({ "name": "people", "scopes": ["instance"],
        "permissions": ["instance:read", "user:*", "grant:*"] });
    owner.post(&tenant.path("/roles"), people).await;
    let clerk = person(tenant, "clerk", json!({ "role": "people" })).await;
    tenant.with_role("boss", "instance-admin").await;
    tenant.with_role("hand", "developer").await;
    let (boss, hand) = (format!("{users}/boss"), format!("{users}/hand"));
    let disabled = json!({ "disabled": true });
    for (method, path, body) in [(Method::DELETE, &boss, None), (Method::PATCH, &boss, Some(&disabled))] {
        let refused = clerk.call(method, path, body).await;
        assert_eq!((refused.status, problem(&refused)["code"].as_str()), (403, Some("DENIED")));
    }
    let of_boss = owner.get(&format!("{grants}?principal_kind=user&principal=boss")).await;
    let of_boss = format!("{grants}/{}", of_boss["items"][0]["id"].as_str().unwrap());
    assert_eq!(clerk.call(Method::DELETE, &of_boss, None).await.status, 403);
    // Those who only work are its business.
    clerk.call(Method::PATCH, &hand, Some(&disabled)).await.expect(200).unwrap();
    clerk.call(Method::DELETE, &hand, None).await.expect(204).unwrap();
    owner.call(Method::DELETE, &boss, None).await.expect(204).unwrap();
    // An administrator of the default instance runs no deployment.
    let here = "/instances/default";
    operator.post(&format!("{here}/users"), json!({ "name": "local", "password": PASSWORD })).await;
    let grant = json!({ "principal": { "kind": "user", "name": "local" }, "role": "instance-admin" });
    operator.post(&format!("{here}/grants"), grant).await;
    let local = Api::basic(tenant.deployment.client_at(crate::DOMAIN), "local", PASSWORD);
    let refused = local.call(Method::DELETE, &format!("{here}/users/admin"), None).await;
    assert_eq!(refused.status, 403, "{}", refused.json());
}

async fn the_audit_says_who_that_was(tenant: &Tenant<'_>) {
    let owner = tenant.owner();
    let (team, image) = ("named/app", Content::seeded(11).image(1, 2000));
    let registry = tenant.client().with_credentials("owner", PASSWORD).repository(team);
    registry.push_image("v1", &image).await.unwrap();
    let artifact = tenant.path("/repositories/named%2Fapp/artifacts/v1");
    for part in ["manifest", "config"] {
        owner.call(Method::GET, &format!("{artifact}/{part}"), None).await.expect(200).unwrap();
    }
    owner.post(&tenant.path("/users"), json!({ "name": "gone", "password": PASSWORD })).await;
    let grant =
        json!({ "principal": { "kind": "user", "name": "gone" }, "role": "reader", "namespace": "named" });
    owner.post(&tenant.path("/grants"), grant).await;
    owner.call(Method::DELETE, &tenant.path("/users/gone"), None).await.expect(204).unwrap();
    let names = async |kind: &str| {
        let found = owner.get(&tenant.path(&format!("/audit?type={kind}&page_size=100"))).await;
        let texts = found["items"].as_array().unwrap().iter().map(|entry| {
            let text = |name: &str| entry[name].as_str().unwrap_or_default().to_owned();
            format!("{} {} {}", text("name"), text("repository"), text("tag"))
        });
        texts.map(|text| text.trim().to_owned()).collect::<Vec<_>>()
    };
    assert!(names("user.deleted").await.contains(&"gone".to_owned()));
    assert!(names("grant.created").await.contains(&"reader for gone in the namespace named".to_owned()));
    let told = async || {
        let (manifests, blobs) = (names("artifact.pulled").await, names("blob.pulled").await);
        let both = manifests.contains(&"named/app v1".to_owned()) && blobs.contains(&"named/app".to_owned());
        both.then_some(())
    };
    eventually("the audit tells what was read", told).await.unwrap();
}

async fn what_is_sent_is_what_is_meant(tenant: &Tenant<'_>) {
    let owner = tenant.owner();
    let refused = async |path: &str, body: Value, words: &str| {
        let reply = owner.call(Method::POST, &tenant.path(path), Some(&body)).await;
        let detail = problem(&reply)["detail"].as_str().unwrap().to_owned();
        assert!(reply.status == 400 && detail.contains(words), "{path}: {} {detail}", reply.status);
    };
    refused("/namespaces", json!(["seqns", "text", true, false, false]), "expected an object").await;
    let grant = json!({ "principal": ["user", "owner"], "role": "reader" });
    refused("/grants", grant, "expected an object").await;
    refused("/users", json!({ "name": "empty", "password": "" }), "leave it out").await;
    for email in ["a\nb@example.com", "nobody", "@example.com", "a b@example.com"] {
        refused("/users", json!({ "name": "mail", "email": email }), "name@host").await;
    }
    let lines = json!({ "path": "named/lines", "summary": "one\ntwo" });
    refused("/repositories", lines, "no line ends").await;
    // What was made under a key is told of as long as it is there.
    let robot = |key: &'static str| {
        let (owner, path) = (owner.clone(), tenant.path("/robots"));
        async move {
            let body = json!({ "name": "once" });
            owner.call_with(Method::POST, &path, Some(&body), &[("idempotency-key", key)]).await
        }
    };
    let made = robot("k").await.expect(201).unwrap().json();
    assert_eq!(robot("k").await.expect(201).unwrap().json()["secret"], made["secret"]);
    owner.call(Method::DELETE, &tenant.path("/robots/once"), None).await.expect(204).unwrap();
    let gone = robot("k").await;
    let detail = problem(&gone)["detail"].as_str().unwrap().to_owned();
    assert!(gone.status == 404 && detail.contains("deleted since"), "{} {detail}", gone.status);
    robot("another").await.expect(201).unwrap();
}

async fn places(setting: Setting) {
    let deployment = crate::builder(setting).start().await.unwrap();
    let tenant = Tenant::new(&deployment, "placed").await;
    in_a_namespace(&tenant).await;
    nobody_puts_away_who_is_above(&tenant).await;
    the_audit_says_who_that_was(&tenant).await;
    what_is_sent_is_what_is_meant(&tenant).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_role_opens_where_it_was_given_in_one_process() {
    places(Setting::EMBEDDED).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_role_opens_where_it_was_given_with_roles_apart_on_postgres() {
    places(Setting::new(Layout::RolesApart, Engine::Postgres)).await;
}
