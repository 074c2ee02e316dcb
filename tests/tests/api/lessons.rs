//! What others' APIs got wrong, each with its number.

use berth_testkit::{Deployment, Setting};
use reqwest::Method;
use serde_json::json;

use crate::{Api, PASSWORD, Tenant, builder, problem};

/// Two tenants of one deployment, for the life of the test process.
async fn two() -> (Tenant<'static>, Tenant<'static>) {
    let deployment: &'static Deployment =
        Box::leak(Box::new(builder(Setting::EMBEDDED).start().await.unwrap()));
    (Tenant::new(deployment, "first").await, Tenant::new(deployment, "second").await)
}

/// Fields that a caller may not set are no fields: nothing is taken over that the message does not have.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cve_2019_16097_nobody_becomes_an_administrator_by_a_field() {
    let (first, _) = two().await;
    let owner = first.owner();
    for field in
        ["has_admin_role", "role", "permissions", "grants", "id", "instance_id", "disabled", "version"]
    {
        let body = json!({ "name": "mallory", "password": PASSWORD, field: true });
        let refused = owner.call(Method::POST, &first.path("/users"), Some(&body)).await;
        assert_eq!(refused.status, 400, "{field}");
        assert!(problem(&refused)["detail"].as_str().unwrap().contains(field), "{field}");
    }
    let made = first.with_role("mallory", "").await;
    let change = json!({ "groups": ["admins"] });
    assert_eq!(owner.call(Method::PATCH, &first.path("/users/mallory"), Some(&change)).await.status, 400);
    assert_eq!(
        made.call(Method::POST, &first.path("/users"), Some(&json!({ "name": "x" }))).await.status,
        403
    );
}

/// What a body says is judged where it says: a robot gets nothing in a place that its maker has nothing in.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cve_2019_16919_a_robot_gets_nothing_that_its_maker_has_not() {
    let (first, second) = two().await;
    for (tenant, name) in [(&first, "mine"), (&first, "theirs"), (&second, "team")] {
        tenant.owner().post(&tenant.path("/namespaces"), json!({ "name": name })).await;
    }
    let role =
        json!({ "name": "maker", "scopes": ["instance"], "permissions": ["robot:create", "robot:read"] });
    first.owner().post(&first.path("/roles"), role).await;
    let maker = first.with_role("maker", "maker").await;
    let grant =
        json!({ "principal": { "kind": "user", "name": "maker" }, "role": "developer", "namespace": "mine" });
    first.owner().post(&first.path("/grants"), grant).await;
    let make = async |name: &str, grant| {
        let body = json!({ "name": name, "grants": [grant] });
        maker.call(Method::POST, &first.path("/robots"), Some(&body)).await.status
    };
    assert_eq!(make("own", json!({ "role": "developer", "namespace": "mine" })).await, 201);
    assert_eq!(make("other", json!({ "role": "developer", "namespace": "theirs" })).await, 403);
    assert_eq!(make("all", json!({ "role": "developer" })).await, 403);
    let every = make("every", json!({ "role": "operator", "deployment": true })).await;
    assert!([400, 403].contains(&every), "{every}");
    assert_eq!(make("absent", json!({ "role": "developer", "namespace": "team" })).await, 404);
}

/// Who may not look for people learns nothing about who there is, from status, body or which of two names is refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cve_2019_19030_cve_2020_13794_cve_2019_3990_people_are_not_found_by_guessing() {
    let (first, _) = two().await;
    let nobody = first.with_role("nobody", "").await;
    for kind in ["users", "robots", "groups"] {
        let there = nobody.call(Method::GET, &first.path(&format!("/{kind}/owner")), None).await;
        let absent = nobody.call(Method::GET, &first.path(&format!("/{kind}/nothing")), None).await;
        assert_eq!((there.status, problem(&there)), (403, problem(&absent)), "{kind}");
        assert_eq!(
            nobody.call(Method::GET, &first.path(&format!("/{kind}?search=o")), None).await.status,
            403
        );
    }
    let login = async |name: &str| {
        let body = json!({ "name": name, "password": "a wrong password" });
        problem(&Api::nobody(first.client()).call(Method::POST, "/sessions", Some(&body)).await)
    };
    assert_eq!(login("owner").await, login("nothing").await);
}

/// Nothing is shown by itself, so no other page can make a browser call: no cookie is set or heard, and no other origin is
/// let in.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cve_2019_19025_a_browser_shows_nothing_by_itself() {
    let (first, _) = two().await;
    let login = json!({ "name": "owner", "password": PASSWORD });
    let opened = Api::nobody(first.client()).call(Method::POST, "/sessions", Some(&login)).await;
    assert_eq!((opened.status, opened.header("set-cookie")), (201, None));
    let token = opened.json()["token"].as_str().unwrap().to_owned();
    let nobody = Api::nobody(first.client());
    for cookie in
        [format!("token={token}"), format!("session={token}"), format!("Authorization=Bearer {token}")]
    {
        let headers = [("cookie", cookie.as_str()), ("origin", "https://evil.example")];
        let reply = nobody.call_with(Method::GET, "/identity", None, &headers).await;
        assert_eq!((reply.status, reply.header("access-control-allow-origin")), (401, None));
    }
    // What a form of another page can send is not read.
    let form = first
        .owner()
        .call_with(Method::POST, &first.path("/users"), None, &[("content-type", "text/plain")])
        .await;
    assert_eq!(form.status, 415);
}

/// Whatever a text says, it is a value: in filters, sorts, names and tokens of pages.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cve_2019_19026_cve_2019_19029_cve_2024_22261_no_text_is_sql() {
    let (first, _) = two().await;
    let owner = first.owner();
    owner.post(&first.path("/namespaces"), json!({ "name": "team" })).await;
    for text in [
        "'",
        "' OR '1'='1",
        "'; DROP TABLE principals; --",
        "%27",
        "\\",
        "a' UNION SELECT secret FROM tokens --",
    ] {
        let encoded: String =
            percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).collect();
        for (path, names) in [
            ("/users?search=", true),
            ("/namespaces?search=", true),
            ("/repositories?search=", true),
            ("/repositories?namespace=", false),
            ("/repositories?sort=", false),
        ] {
            let reply = owner.call(Method::GET, &first.path(&format!("{path}{encoded}")), None).await;
            assert!([200, 400].contains(&reply.status), "{path}{text}: {}", reply.status);
            if names && reply.status == 200 {
                assert_eq!(reply.json()["items"], json!([]), "{path}{text}");
            }
        }
        let status = owner.call(Method::GET, &first.path(&format!("/users/{encoded}")), None).await.status;
        assert!([400, 404].contains(&status), "{text}: {status}");
        let body = json!({ "name": text });
        assert_eq!(owner.call(Method::POST, &first.path("/groups"), Some(&body)).await.status, 400, "{text}");
    }
    owner.get(&first.path("/users/owner")).await;
}

/// Filters are a list of what may be asked; there is none on what is secret.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cve_2025_30086_nothing_secret_can_be_filtered_by() {
    let (first, _) = two().await;
    let owner = first.owner();
    for filter in [
        "password=~a",
        "q=password%3D~a",
        "password_hash=a",
        "secret=a",
        "sort=password_hash",
        "order=-secret",
    ] {
        for list in ["users", "robots", "groups", "grants", "namespaces", "repositories"] {
            let reply = owner.call(Method::GET, &first.path(&format!("/{list}?{filter}")), None).await;
            assert_eq!(reply.status, 400, "{list}?{filter}");
        }
    }
    let shown = owner.get(&first.path("/users")).await.to_string();
    assert!(!shown.contains("argon2") && !shown.contains("password_hash"), "{shown}");
}

/// What people write is data wherever it is answered.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cve_2025_32019_a_description_is_never_a_page() {
    let (first, _) = two().await;
    let owner = first.owner();
    let text = "<script>fetch('/api/v1/instances')</script>";
    owner.post(&first.path("/namespaces"), json!({ "name": "team", "description": text })).await;
    owner.post(&first.path("/repositories"), json!({ "path": "team/app", "description": text })).await;
    for path in ["/namespaces/team", "/repositories/team%2Fapp"] {
        let headers = [("accept", "text/html")];
        let reply =
            owner.call_with(Method::GET, &first.path(path), None, &headers).await.expect(200).unwrap();
        assert_eq!(reply.header("content-type"), Some("application/json"));
        assert_eq!(reply.header("x-content-type-options"), Some("nosniff"));
        assert!(reply.header("content-security-policy").unwrap().contains("default-src 'none'"));
        assert_eq!(reply.json()["description"], text);
    }
}

/// An id in a path is looked up within what the path says above it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cve_2022_31666_to_31671_an_id_is_of_its_tenant_or_is_not_there() {
    let (first, second) = two().await;
    let (owner, victim) = (first.owner(), second.owner());
    victim.post(&second.path("/namespaces"), json!({ "name": "team" })).await;
    let repository = victim.post(&second.path("/repositories"), json!({ "path": "team/app" })).await;
    let robot = victim.post(&second.path("/robots"), json!({ "name": "ci" })).await;
    let user = victim.get(&second.path("/users/owner")).await;
    let grants = victim.get(&second.path("/grants")).await;
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    let (repository, robot_id, user) = (text(&repository["id"]), text(&robot["id"]), text(&user["id"]));
    let (grant, secret) = (text(&grants["items"][0]["id"]), text(&robot["secret_id"]));
    let own = owner.post(&first.path("/robots"), json!({ "name": "ci" })).await;
    for (method, path) in [
        (Method::GET, format!("/repositories/{repository}")),
        (Method::PATCH, format!("/repositories/{repository}")),
        (Method::DELETE, format!("/repositories/{repository}")),
        (Method::GET, format!("/robots/{robot_id}")),
        (Method::PATCH, format!("/robots/{robot_id}")),
        (Method::DELETE, format!("/robots/{robot_id}")),
        (Method::GET, format!("/robots/{robot_id}/secrets")),
        (Method::POST, format!("/robots/{robot_id}/secrets")),
        // A secret of another robot, below one's own.
        (Method::DELETE, format!("/robots/{}/secrets/{secret}", text(&own["id"]))),
        (Method::GET, format!("/users/{user}")),
        (Method::PATCH, format!("/users/{user}")),
        (Method::DELETE, format!("/users/{user}")),
        (Method::DELETE, format!("/grants/{grant}")),
        // An id of another kind.
        (Method::GET, format!("/groups/{}", text(&own["id"]))),
    ] {
        let body = (method == Method::PATCH).then(|| json!({}));
        let reply = owner.call(method.clone(), &first.path(&path), body.as_ref()).await;
        assert_eq!(reply.status, 404, "{method} {path}: {}", reply.json());
    }
    victim.get(&second.path("/repositories/team%2Fapp")).await;
    assert_eq!(victim.get(&second.path("/robots/ci/secrets")).await["items"].as_array().unwrap().len(), 1);
}

/// Paths that are written otherwise lead nowhere, or to the same check.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cve_2020_29662_no_way_of_writing_a_path_leads_around_the_check() {
    let (first, _) = two().await;
    let nobody = Api::nobody(first.client());
    for path in [
        "/instances/",
        "//instances",
        "/instances//users",
        "/./instances",
        "/docs/../instances",
        "/docs/%2e%2e/instances",
        "/instances/first/users/",
        "/INSTANCES",
        "/instances;x=1",
        "/instances%2ffirst",
        "/docs/..%2finstances",
    ] {
        let reply = nobody.call(Method::GET, path, None).await;
        assert!([400, 401, 404].contains(&reply.status), "{path}: {}", reply.status);
        assert!(reply.json()["items"].is_null(), "{path}");
    }
}

/// No answer sends anybody elsewhere.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cve_2024_22244_nothing_redirects() {
    let (first, _) = two().await;
    for path in
        ["/docs?next=https://evil.example", "/sessions?redirect=//evil.example", "//evil.example", "/docs/"]
    {
        let reply = first.owner().call(Method::GET, path, None).await;
        assert!(!(300..400).contains(&reply.status), "{path}: {}", reply.status);
        assert_eq!(reply.header("location"), None, "{path}");
    }
}

/// What only the operator says of an instance is no field of what its administrator may change.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cve_2024_22278_cve_2019_19023_each_field_has_its_permission() {
    let (first, _) = two().await;
    let owner = first.owner();
    for field in ["edition", "state", "region", "add_ons", "limits", "name"] {
        let refused = owner.call(Method::PATCH, &first.path(""), Some(&json!({ field: "advanced" }))).await;
        assert_eq!(refused.status, 400, "{field}");
    }
    let edition = json!({ "edition": "advanced" });
    assert_eq!(owner.call(Method::PUT, &first.path("/edition"), Some(&edition)).await.status, 403);
    for act in ["/stop", "/start"] {
        assert_eq!(owner.call(Method::POST, &first.path(act), None).await.status, 403);
    }
    assert_eq!(owner.call(Method::DELETE, &first.path(""), None).await.status, 403);
    assert_eq!(owner.call(Method::POST, "/instances", Some(&json!({}))).await.status, 403);
}

/// A token that reads content is none of this API, or what was lent for one repository would manage the instance.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_access_token_of_the_registry_manages_nothing() {
    let (first, _) = two().await;
    let client = first.client().with_credentials("owner", PASSWORD);
    let token = client.fresh_token(&["repository:team/app:pull", "registry:catalog:*"]).await.unwrap();
    assert_eq!(Api::bearer(first.client(), &token).call(Method::GET, "/identity", None).await.status, 401);
}
