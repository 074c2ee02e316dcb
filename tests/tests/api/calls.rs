//! What calls do: sessions, versions, pages, keys of repetition, refusals that say what to do.

use std::sync::atomic::{AtomicU32, Ordering};

use berth_testkit::{Content, Deployment, Setting, in_every_setting};
use reqwest::Method;
use serde_json::{Value, json};

use crate::{Api, PASSWORD, problem};

const HERE: &str = "/instances/default";

fn admin(deployment: &Deployment) -> Api {
    Api::basic(deployment.anonymous(), berth_testkit::ADMIN, berth_testkit::PASSWORD)
}

/// A name that no other case has.
fn fresh(prefix: &str) -> String {
    static NUMBER: AtomicU32 = AtomicU32::new(1);
    format!("{prefix}-{}", NUMBER.fetch_add(1, Ordering::Relaxed))
}

in_every_setting! {
    async fn a_session_lasts_until_it_is_ended(deployment: &'static Deployment) {
        let (admin, name) = (admin(deployment), fresh("ada"));
        admin.post(&format!("{HERE}/users"), json!({ "name": name, "password": PASSWORD })).await;
        let login = json!({ "name": name, "password": PASSWORD });
        let opened = Api::nobody(deployment.anonymous()).post("/sessions", login).await;
        let session = Api::bearer(deployment.anonymous(), opened["token"].as_str().unwrap());
        let identity = session.get("/identity").await;
        assert_eq!((identity["name"].as_str(), identity["instance"].as_str()), (Some(&*name), Some("default")));
        assert_eq!(identity["credential"], "refresh_token");
        // Lent by a session it ends no later than that, and logs in by itself.
        let lent = session.call(Method::POST, "/temporary-tokens", None).await.expect(201).unwrap().json();
        let lent = Api::basic(deployment.anonymous(), &name, lent["token"].as_str().unwrap());
        assert_eq!(lent.get("/identity").await["credential"], "temporary_token");
        session.call(Method::DELETE, "/sessions/current", None).await.expect(204).unwrap();
        let after = session.call(Method::GET, "/identity", None).await;
        assert_eq!(after.status, 401);
        assert!(after.header("www-authenticate").unwrap().contains("Basic"));
        let wrong = json!({ "name": name, "password": "not the password" });
        let refused = Api::nobody(deployment.anonymous()).call(Method::POST, "/sessions", Some(&wrong)).await;
        let unknown = json!({ "instance": "nowhere", "name": name, "password": PASSWORD });
        let nowhere = Api::nobody(deployment.anonymous()).call(Method::POST, "/sessions", Some(&unknown)).await;
        assert_eq!((refused.status, problem(&refused)), (401, problem(&nowhere)));
    }

    async fn a_change_says_what_it_saw_and_null_is_not_absent(deployment: &'static Deployment) {
        let (admin, name) = (admin(deployment), fresh("team"));
        let all = format!("{HERE}/namespaces");
        let made = json!({ "name": name, "description": "first" });
        let made = admin.call(Method::POST, &all, Some(&made)).await.expect(201).unwrap();
        let one = made.location().unwrap().replace("/api/v1", "");
        let first = admin.call(Method::GET, &one, None).await.expect(200).unwrap();
        let tag = first.header("etag").unwrap().to_owned();
        let change = json!({ "create_on_push": false });
        let changed = admin.call_with(Method::PATCH, &one, Some(&change), &[("if-match", &tag)]).await;
        let changed = changed.expect(200).unwrap();
        assert_ne!(changed.header("etag").unwrap(), tag);
        assert_eq!((&changed.json()["description"], &changed.json()["create_on_push"]), (&json!("first"), &json!(false)));
        let stale = admin.call_with(Method::PATCH, &one, Some(&change), &[("if-match", &tag)]).await;
        assert_eq!((stale.status, problem(&stale)["code"].as_str()), (412, Some("PRECONDITION_FAILED")));
        let gone = admin.call(Method::PATCH, &one, Some(&json!({ "description": null }))).await.expect(200).unwrap();
        assert_eq!(gone.json()["description"], "");
        let stale = admin.call_with(Method::DELETE, &one, None, &[("if-match", &tag)]).await;
        assert_eq!(stale.status, 412);
        admin.call(Method::DELETE, &one, None).await.expect(202).unwrap();
    }

    async fn the_same_call_with_the_same_key_has_one_effect(deployment: &'static Deployment) {
        let (admin, key) = (admin(deployment), fresh("key"));
        let all = format!("{HERE}/namespaces");
        let headers = [("idempotency-key", key.as_str())];
        let body = json!({ "name": fresh("once") });
        let ask = async |body: &Value| admin.call_with(Method::POST, &all, Some(body), &headers).await;
        let calls = futures::future::join_all((0..8).map(|_| ask(&body))).await;
        for call in &calls {
            assert_eq!((call.status, call.json()), (201, calls[0].json()));
        }
        let other = ask(&json!({ "name": fresh("twice") })).await;
        assert_eq!((other.status, problem(&other)["code"].as_str()), (422, Some("IDEMPOTENCY_KEY_REUSED")));
        let without = admin.call(Method::POST, &all, Some(&body)).await;
        assert_eq!((without.status, problem(&without)["code"].as_str()), (409, Some("ALREADY_EXISTS")));
    }

    async fn pages_are_stable_while_rows_come_and_go(deployment: &'static Deployment) {
        let (admin, prefix) = (admin(deployment), fresh("page"));
        let all = format!("{HERE}/users");
        for number in 0..7 {
            admin.post(&all, json!({ "name": format!("{prefix}-{number}") })).await;
        }
        let first = admin.get(&format!("{all}?search={prefix}&page_size=3")).await;
        let token = first["next_page_token"].as_str().unwrap().to_owned();
        // One that was shown goes, and one comes in front and one behind.
        admin.call(Method::DELETE, &format!("{all}/{prefix}-1"), None).await.expect(204).unwrap();
        for name in ["0a", "3a"] {
            admin.post(&all, json!({ "name": format!("{prefix}-{name}") })).await;
        }
        let second = admin.get(&format!("{all}?search={prefix}&page_size=3&page_token={token}")).await;
        let names: Vec<_> = second["items"].as_array().unwrap().iter().map(|user| user["name"].clone()).collect();
        assert_eq!(names, ["3", "3a", "4"].map(|end| json!(format!("{prefix}-{end}"))));
        for query in [
            format!("search={prefix}x&page_token={token}"),
            format!("page_token={token}"),
            format!("search={prefix}&page_token={}", &token[2..]),
            "page_token=%00".into(),
            "page_size=0".into(),
            "page_size=101".into(),
            "page_size=2147483648".into(),
            "page_size=-1".into(),
        ] {
            let refused = admin.call(Method::GET, &format!("{all}?{query}"), None).await;
            assert_eq!((refused.status, problem(&refused)["code"].as_str()), (400, Some("PAGINATION_INVALID")), "{query}");
        }
    }

    async fn a_robot_is_made_used_renewed_and_ended(deployment: &'static Deployment) {
        let (admin, name, team) = (admin(deployment), fresh("ci"), fresh("team"));
        admin.post(&format!("{HERE}/namespaces"), json!({ "name": team })).await;
        let robots = format!("{HERE}/robots");
        let wish = json!({ "name": name, "grants": [{ "role": "developer", "namespace": team }] });
        let robot = admin.post(&robots, wish).await;
        let (login, secret) = (robot["login"].as_str().unwrap(), robot["secret"].as_str().unwrap());
        let image = Content::named(&name).image(1, 100);
        let push = async |secret: &str| {
            let client = deployment.anonymous().with_credentials(login, secret);
            client.repository(format!("{team}/app")).push_image("v1", &image).await
        };
        push(secret).await.unwrap();
        let one = format!("{robots}/{name}");
        let more = admin.call(Method::POST, &format!("{one}/secrets"), None).await.expect(201).unwrap().json();
        push(more["secret"].as_str().unwrap()).await.unwrap();
        let third = admin.call(Method::POST, &format!("{one}/secrets"), None).await;
        assert_eq!((third.status, problem(&third)["code"].as_str()), (409, Some("CONFLICT")));
        let first = robot["secret_id"].as_str().unwrap();
        admin.call(Method::DELETE, &format!("{one}/secrets/{first}"), None).await.expect(204).unwrap();
        push(secret).await.unwrap_err();
        let shown = admin.get(&format!("{one}/secrets")).await;
        assert_eq!(shown["items"].as_array().unwrap().len(), 1);
        assert!(!shown.to_string().contains("berth_robot_"), "{shown}");
        admin.call(Method::DELETE, &one, None).await.expect(204).unwrap();
        push(more["secret"].as_str().unwrap()).await.unwrap_err();
    }

    async fn groups_roles_grants_and_checks_fit_together(deployment: &'static Deployment) {
        let (admin, user, group, role) = (admin(deployment), fresh("eve"), fresh("crew"), fresh("puller"));
        let here = |rest: &str| format!("{HERE}{rest}");
        admin.post(&here("/users"), json!({ "name": user, "password": PASSWORD })).await;
        admin.post(&here("/groups"), json!({ "name": group })).await;
        let made = json!({ "name": role, "scopes": ["instance"], "permissions": ["artifact:pull"] });
        admin.post(&here("/roles"), made).await;
        let grant = json!({ "principal": { "kind": "group", "name": group }, "role": role });
        let grant = admin.post(&here("/grants"), grant).await;
        let eve = Api::basic(deployment.anonymous(), &user, PASSWORD);
        let check = json!({ "permission": "artifact:pull", "repository": "any/thing" });
        let may = async || {
            let answer = eve.call(Method::POST, &here("/access-checks"), Some(&check)).await.expect(200).unwrap();
            answer.json()["allowed"].as_bool().unwrap()
        };
        assert!(!may().await);
        let member = here(&format!("/groups/{group}/members/user/{user}"));
        admin.call(Method::PUT, &member, None).await.expect(204).unwrap();
        assert!(may().await);
        let members = admin.get(&here(&format!("/groups/{group}/members"))).await;
        assert_eq!(members["items"][0]["name"], user.as_str());
        // Nobody gives more than one has: a puller gives nothing at all.
        let wish = json!({ "principal": { "kind": "user", "name": user }, "role": "instance-admin" });
        let refused = eve.call(Method::POST, &here("/grants"), Some(&wish)).await;
        assert_eq!((refused.status, problem(&refused)["code"].as_str()), (403, Some("DENIED")));
        let used = admin.call(Method::DELETE, &here(&format!("/roles/{role}")), None).await;
        assert_eq!(used.status, 409);
        let grant = here(&format!("/grants/{}", grant["id"].as_str().unwrap()));
        admin.call(Method::DELETE, &grant, None).await.expect(204).unwrap();
        assert!(!may().await);
        admin.call(Method::DELETE, &here(&format!("/roles/{role}")), None).await.expect(204).unwrap();
    }

    async fn everybody_sets_ones_own_password_and_nobody_anothers(deployment: &'static Deployment) {
        let (admin, name, other) = (admin(deployment), fresh("own"), fresh("other"));
        for name in [&name, &other] {
            admin.post(&format!("{HERE}/users"), json!({ "name": name, "password": PASSWORD })).await;
        }
        let me = Api::basic(deployment.anonymous(), &name, PASSWORD);
        let own = format!("{HERE}/users/{name}/password");
        let set = async |path: &str, body: Value| me.call(Method::PUT, path, Some(&body)).await;
        assert_eq!(set(&own, json!({ "password": "another password" })).await.status, 400);
        let wrong = json!({ "password": "another password", "current_password": "wrong" });
        assert_eq!(set(&own, wrong).await.status, 401);
        let others = format!("{HERE}/users/{other}/password");
        let wish = json!({ "password": "another password", "current_password": PASSWORD });
        assert_eq!(set(&others, wish.clone()).await.status, 403);
        set(&own, wish).await.expect(204).unwrap();
        assert_eq!(me.call(Method::GET, "/identity", None).await.status, 401);
        let new = Api::basic(deployment.anonymous(), &name, "another password");
        assert_eq!(new.get("/identity").await["name"], name.as_str());
    }

    async fn repositories_are_listed_searched_changed_and_deleted(deployment: &'static Deployment) {
        let (admin, team) = (admin(deployment), fresh("shop"));
        admin.post(&format!("{HERE}/namespaces"), json!({ "name": team })).await;
        let all = format!("{HERE}/repositories");
        for name in ["app-server", "web/front"] {
            admin.post(&all, json!({ "path": format!("{team}/{name}"), "summary": "one" })).await;
        }
        let names = async |query: &str| -> Vec<String> {
            let found = admin.get(&format!("{all}?namespace={team}{query}")).await;
            let path = |item: &Value| item["path"].as_str().unwrap().replace(&format!("{team}/"), "");
            found["items"].as_array().unwrap().iter().map(path).collect()
        };
        assert_eq!(names("").await, ["app-server", "web/front"]);
        assert_eq!(names("&sort=-created_at").await, ["web/front", "app-server"]);
        assert_eq!(names("&search=serv").await, ["app-server"]);
        assert_eq!(names("&visibility=public").await, Vec::<String>::new());
        let one = format!("{all}/{team}%2Fapp-server");
        let public = json!({ "visibility": "public", "description": "# Hello\n<script>alert(1)</script>" });
        admin.call(Method::PATCH, &one, Some(&public)).await.expect(200).unwrap();
        assert_eq!(names("&visibility=public").await, ["app-server"]);
        let shown = admin.call(Method::GET, &one, None).await.expect(200).unwrap();
        let by_id = admin.get(&format!("{all}/{}", shown.json()["id"].as_str().unwrap())).await;
        assert_eq!(by_id, shown.json());
        // Who has no grant sees what is public, and nothing else.
        let stranger = fresh("stranger");
        admin.post(&format!("{HERE}/users"), json!({ "name": stranger, "password": PASSWORD })).await;
        let stranger = Api::basic(deployment.anonymous(), &stranger, PASSWORD);
        let seen = stranger.get(&format!("{all}?namespace={team}")).await;
        assert_eq!(seen["items"].as_array().unwrap().len(), 1);
        stranger.get(&one).await;
        assert_eq!(stranger.call(Method::DELETE, &one, None).await.status, 403);
        let hidden = stranger.call(Method::GET, &format!("{all}/{team}%2Fweb%2Ffront"), None).await;
        let absent = stranger.call(Method::GET, &format!("{all}/{team}%2Fweb%2Fnothing"), None).await;
        assert_eq!((hidden.status, absent.status), (404, 404));
        admin.call(Method::DELETE, &one, None).await.expect(202).unwrap();
        assert_eq!(admin.call(Method::GET, &one, None).await.status, 404);
    }

    async fn tags_and_artifacts_are_shown_moved_and_deleted(deployment: &'static Deployment) {
        let (admin, team) = (admin(deployment), fresh("tags"));
        admin.post(&format!("{HERE}/namespaces"), json!({ "name": team })).await;
        let registry = deployment.client().repository(format!("{team}/app"));
        let images = [Content::named("one").image(2, 100), Content::named("two").image(1, 100)];
        registry.push_image("v1", &images[0]).await.unwrap();
        registry.push_image("v2", &images[1]).await.unwrap();
        let repository = format!("{HERE}/repositories/{team}%2Fapp");
        let digest = |number: usize| images[number].manifest.digest.to_string();
        let listed = admin.get(&format!("{repository}/tags")).await;
        let names: Vec<_> = listed["items"].as_array().unwrap().iter().map(|tag| tag["name"].clone()).collect();
        assert_eq!(names, ["v1", "v2"]);
        let newest = admin.get(&format!("{repository}/tags?sort=-updated_at&page_size=1")).await;
        assert_eq!(newest["items"][0]["name"], "v2");
        let tag = admin.get(&format!("{repository}/tags/v1")).await;
        assert_eq!((&tag["digest"], &tag["updated_by"]), (&json!(digest(0)), &admin.get("/identity").await["principal"]));
        let blobs: usize = images[0].layers.iter().map(|layer| layer.bytes.len()).sum();
        assert!(tag["content_size"].as_u64().unwrap() >= blobs as u64, "{tag}");
        // Moved by hand it is the other image for whoever pulls.
        let put = async |tag: &str, digest: String| {
            admin.call(Method::PUT, &format!("{repository}/tags/{tag}"), Some(&json!({ "digest": digest }))).await
        };
        put("v1", digest(1)).await.expect(200).unwrap();
        registry.pull_image("v1", &images[1]).await.unwrap();
        put("latest", digest(0)).await.expect(200).unwrap();
        registry.pull_image("latest", &images[0]).await.unwrap();
        assert_eq!(put("v3", format!("sha256:{}", "0".repeat(64))).await.status, 404);
        admin.call(Method::PATCH, &repository, Some(&json!({ "immutable_tags": true }))).await.expect(200).unwrap();
        let fixed = put("v1", digest(0)).await;
        assert_eq!((fixed.status, problem(&fixed)["code"].as_str()), (409, Some("TAG_IMMUTABLE")));
        let artifacts = admin.get(&format!("{repository}/artifacts?tagged=true")).await;
        assert_eq!(artifacts["items"].as_array().unwrap().len(), 2, "{artifacts}");
        let one = format!("{repository}/artifacts/{}", digest(0).replace(':', "%3A"));
        let shown = admin.get(&one).await;
        assert_eq!((&shown["tags"], shown["layers"].as_array().unwrap().len()), (&json!(["latest"]), 2), "{shown}");
        let manifest = admin.call(Method::GET, &format!("{one}/manifest"), None).await.expect(200).unwrap();
        assert_eq!(manifest.body, images[0].manifest.bytes);
        let config = admin.call(Method::GET, &format!("{one}/config"), None).await.expect(200).unwrap();
        assert!(config.json().is_object());
        admin.get(&format!("{one}/history")).await;
        assert_eq!(admin.get(&format!("{one}/referrers")).await["items"], json!([]));
        admin.call(Method::DELETE, &format!("{repository}/tags/v2"), None).await.expect(204).unwrap();
        admin.call(Method::DELETE, &one, None).await.expect(204).unwrap();
        assert_eq!(admin.call(Method::GET, &format!("{repository}/tags/latest"), None).await.status, 404);
        let audit = admin.get(&format!("{HERE}/audit?repository={team}%2Fapp&type=artifact.tagged")).await;
        assert!(audit["items"].as_array().unwrap().len() >= 4, "{audit}");
        let lines = format!("{HERE}/audit/export?repository={team}%2Fapp");
        let lines = admin.call(Method::GET, &lines, None).await.expect(200).unwrap();
        assert_eq!(lines.header("content-type"), Some("application/jsonl"));
        let text = String::from_utf8(lines.body.to_vec()).unwrap();
        assert!(text.lines().all(|line| serde_json::from_str::<Value>(line).unwrap()["type"].is_string()), "{text}");
        let begun = admin.call(Method::DELETE, &repository, None).await.expect(202).unwrap();
        let task = crate::work::ended(&admin, &begun).await;
        assert_eq!((&task["state"], &task["name"]), (&json!("done"), &json!(format!("{team}/app"))));
    }

    async fn what_cannot_be_understood_is_refused_with_what_to_do(deployment: &'static Deployment) {
        let admin = admin(deployment);
        let all = format!("{HERE}/namespaces");
        let send = async |body: &str, media: &str| {
            let call = admin.client.call(Method::POST, format!("/api/v1{all}")).header("content-type", media);
            let call = call.header("authorization", admin.authorization.as_ref().unwrap());
            call.body(body.to_owned()).send().await.unwrap()
        };
        let json = "application/json";
        for (body, media, status) in [
            ("{}", json, 400),
            ("{\"name\":\"ab\",\"owner\":true}", json, 400),
            ("{\"name\":\"ab\",\"name\":\"cd\"}", json, 400),
            ("{\"name\":7}", json, 400),
            ("[]", json, 400),
            ("", json, 400),
            ("{\"name\":\"UPPER\"}", json, 400),
            ("{\"name\":\"ab\"}", "text/plain", 415),
            (&"[".repeat(100_000), json, 400),
            (&format!("{{\"description\":\"{}\"}}", "x".repeat(300_000)), json, 413),
        ] {
            let refused = send(body, media).await;
            let what = format!("{} {media}", &body[..body.len().min(40)]);
            assert_eq!(refused.status, status, "{what}");
            assert!(problem(&refused)["detail"].as_str().unwrap().len() > 10, "{what}");
        }
        let method = admin.call(Method::PUT, &all, None).await;
        assert_eq!(method.status, 405);
        let allow = method.header("allow").unwrap();
        assert!(allow.contains("GET") && allow.contains("POST"), "{allow}");
        assert_eq!(problem(&admin.call(Method::GET, "/nothing", None).await)["code"], "NOT_FOUND");
        let query = admin.call(Method::GET, &format!("{all}?serch=a"), None).await;
        assert!(problem(&query)["detail"].as_str().unwrap().contains("serch"), "{}", query.json());
        let head = admin.call(Method::HEAD, &all, None).await;
        assert_eq!((head.status, head.body.len()), (200, 0));
    }
}

/// What comes back on a connection until it ends or rests for a while at the end of a message.
async fn answers(stream: &mut tokio::net::TcpStream, count: usize) -> String {
    use tokio::io::AsyncReadExt;
    let (mut seen, mut piece) = (Vec::new(), vec![0; 64 * 1024]);
    while String::from_utf8_lossy(&seen).matches("request_id").count() < count {
        let read = stream.read(&mut piece).await.unwrap();
        assert!(read > 0, "ended after {}", String::from_utf8_lossy(&seen));
        seen.extend_from_slice(&piece[..read]);
    }
    String::from_utf8(seen).unwrap()
}

in_every_setting! {
    async fn a_connection_that_has_more_to_come_says_that_it_ends(deployment: &'static Deployment) {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let head = |length: usize, more: &str| {
            format!("POST /api/v1/identity HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n{more}\r\n")
        };
        // What is small is read to its end, and the next request is answered.
        let mut stream = tokio::net::TcpStream::connect(deployment.address()).await.unwrap();
        let request = head(100_000, "") + &"x".repeat(100_000);
        for number in 1..=2 {
            stream.write_all(request.as_bytes()).await.unwrap();
            let seen = answers(&mut stream, 1).await.to_ascii_lowercase();
            assert!(seen.starts_with("http/1.1 405") && !seen.contains("connection: close"), "{number}: {seen}");
        }
        // What is large, or waits to be asked for, is not.
        for more in ["", "Expect: 100-continue\r\n"] {
            let mut stream = tokio::net::TcpStream::connect(deployment.address()).await.unwrap();
            stream.write_all(head(10_000_000, more).as_bytes()).await.unwrap();
            let seen = answers(&mut stream, 1).await.to_ascii_lowercase();
            assert!(seen.starts_with("http/1.1 405") && seen.contains("connection: close"), "{seen}");
            assert_eq!(stream.read(&mut [0; 1]).await.unwrap(), 0, "{more}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_is_made_managed_while_it_is_stopped_and_ended() {
    let deployment = crate::builder(Setting::EMBEDDED).start().await.unwrap();
    let operator = Api::operator(&deployment);
    let tenant = crate::Tenant::new(&deployment, "acme").await;
    let owner = tenant.owner();
    let here = owner.get(&tenant.path("")).await;
    assert_eq!((&here["edition"], &here["state"]), (&json!("standard"), &json!("running")));
    assert_eq!(here["blob_delivery"], "stream");
    let delivery = json!({ "blob_delivery": "redirect" });
    let path = tenant.path("/blob-delivery");
    owner.call(Method::PUT, &path, Some(&delivery)).await.expect(204).unwrap();
    assert_eq!(owner.get(&tenant.path("")).await["blob_delivery"], "redirect");
    let settings = json!({ "kind": "shared", "settings": { "path": "/etc" } });
    assert_eq!(operator.call(Method::PUT, &tenant.path("/storage"), Some(&settings)).await.status, 400);
    let listed = owner.get("/instances").await;
    assert_eq!(listed["items"].as_array().unwrap().len(), 1, "{listed}");
    assert_eq!(operator.get("/instances").await["items"].as_array().unwrap().len(), 2);
    let endpoint = owner.get(&tenant.path("/endpoints")).await;
    assert_eq!(endpoint["items"][0]["host"], "acme-registry.cn-hangzhou.berth.test");
    let usage = owner.get(&tenant.path("/usage")).await;
    assert_eq!(usage["limits"]["image_namespaces"], 25, "{usage}");
    // What its edition is, is not its own business.
    let change = json!({ "edition": "advanced" });
    let edition = tenant.path("/edition");
    assert_eq!(owner.call(Method::PUT, &edition, Some(&change)).await.status, 403);
    operator.call(Method::PUT, &edition, Some(&change)).await.expect(200).unwrap();
    operator.call(Method::POST, &tenant.path("/stop"), None).await.expect(200).unwrap();
    assert_eq!(owner.get(&tenant.path("")).await["state"], "stopped");
    for content in ["/namespaces", "/repositories", "/repositories/team%2Fapp"] {
        let refused = owner.call(Method::GET, &tenant.path(content), None).await;
        assert_eq!((refused.status, problem(&refused)["code"].as_str()), (403, Some("DENIED")), "{content}");
    }
    owner.get(&tenant.path("/users")).await;
    operator.call(Method::POST, &tenant.path("/start"), None).await.expect(200).unwrap();
    owner.post(&tenant.path("/namespaces"), json!({ "name": "team" })).await;
    owner.post(&tenant.path("/repositories"), json!({ "path": "team/app" })).await;
    let refused = operator.call(Method::DELETE, &tenant.path(""), None).await;
    assert_eq!(refused.status, 409, "{}", refused.json());
    operator.call(Method::DELETE, &tenant.path("?force=true"), None).await.expect(202).unwrap();
    let after = owner.call(Method::GET, &tenant.path(""), None).await;
    assert!(after.status == 401 || after.json()["state"] == "deleting", "{}", after.json());
    let misdirected = Api::operator(&deployment);
    let elsewhere = Api { client: deployment.client_at("nothing.berth.test"), ..misdirected };
    assert_eq!(elsewhere.call(Method::GET, "/identity", None).await.status, 421);
}
