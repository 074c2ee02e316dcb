//! Who may call what: every operation of the document, by everybody who may come along. What is expected is worked out
//! from what the document says an operation needs and from the roles' own permissions. No operation can be left out, since
//! the list is the document's.

use std::collections::BTreeSet;

use berth_model::{Permission, Role, ScopeKind};
use berth_testkit::{Engine, Layout, Reply, Setting};
use reqwest::Method;
use serde_json::{Value, json};

use crate::{Api, PASSWORD, Tenant, builder, document, problem};

/// Somebody, and what they may do where.
struct Caller {
    name: String,
    api: Api,
    /// None: the credential is worth nothing.
    may: Option<BTreeSet<Permission>>,
    /// They are of the tenant, so they know it.
    of_tenant: bool,
    /// In the whole deployment.
    everywhere: BTreeSet<Permission>,
}

impl Caller {
    fn of_tenant(name: &str, api: Api, may: BTreeSet<Permission>) -> Self {
        let everywhere = BTreeSet::new();
        Self { name: name.to_owned(), api, may: Some(may), of_tenant: true, everywhere }
    }

    fn worthless(name: &str, api: Api) -> Self {
        let (may, everywhere) = (None, BTreeSet::new());
        Self { name: name.to_owned(), api, may, of_tenant: false, everywhere }
    }
}

async fn callers(tenant: &Tenant<'_>, neighbour: &Tenant<'_>) -> Vec<Caller> {
    let owner = tenant.owner();
    let mut callers = vec![
        Caller::worthless("anonymous", Api::nobody(tenant.client())),
        // Passwords are no secrets to try so often: guessing is slowed.
        Caller::worthless("a wrong secret", Api::basic(tenant.client(), "robot+ci", "berth_robot_wrong")),
        Caller::worthless("nonsense", Api::bearer(tenant.client(), "nonsense")),
    ];
    let session = neighbour.owner().post("/sessions", json!({ "name": "owner", "password": PASSWORD })).await;
    let neighbours = Api::bearer(neighbour.client(), session["token"].as_str().unwrap());
    let robot = neighbour.owner().post(&neighbour.path("/robots"), json!({ "name": "theirs" })).await;
    // At the tenant's host a neighbour's name is nobody's.
    let theirs = Api::basic(tenant.client(), "robot+theirs", robot["secret"].as_str().unwrap());
    callers.push(Caller::worthless("a neighbour's robot at this host", theirs));
    callers.push(Caller {
        name: "another tenant's owner".into(),
        api: neighbours,
        may: Some(BTreeSet::new()),
        of_tenant: false,
        everywhere: BTreeSet::new(),
    });
    let nobody = tenant.with_role("nobody", "").await;
    callers.push(Caller::of_tenant("without a grant", nobody, BTreeSet::new()));
    for role in Role::built_in().values().filter(|role| role.scopes.contains(&ScopeKind::Instance)) {
        let person = tenant.with_role(&format!("of-{}", role.name), &role.name).await;
        callers.push(Caller::of_tenant(&role.name, person, role.permissions.clone()));
    }
    let robot =
        json!({ "name": "elsewhere", "grants": [{ "role": "namespace-admin", "namespace": "other" }] });
    let robot = owner.post(&tenant.path("/robots"), robot).await;
    let (login, secret) = (robot["login"].as_str().unwrap(), robot["secret"].as_str().unwrap());
    let api = Api::basic(tenant.client(), login, secret);
    callers.push(Caller::of_tenant("a robot of another namespace", api, BTreeSet::new()));
    let leaver = tenant.with_role("leaver", "instance-admin").await;
    let session = leaver.post("/sessions", json!({ "name": "leaver", "password": PASSWORD })).await;
    let user = owner.get(&tenant.path("/users/leaver")).await;
    let path = tenant.path(&format!("/users/{}", user["id"].as_str().unwrap()));
    owner.call(Method::PATCH, &path, Some(&json!({ "disabled": true }))).await.expect(200).unwrap();
    let revoked = Api::bearer(tenant.client(), session["token"].as_str().unwrap());
    callers.push(Caller::worthless("revoked", revoked));
    let operator = Role::built_in()["operator"].permissions.clone();
    callers.push(Caller {
        name: "operator".into(),
        api: Api::operator(tenant.deployment),
        may: Some(operator.clone()),
        of_tenant: false,
        everywhere: operator,
    });
    callers
}

/// A call that changes nothing even where it is allowed: what is changed by a body gets one that can't be read, and what
/// is not is said to have been seen as it never was, or is about what is not there.
async fn ask(caller: &Caller, tenant: &Tenant<'_>, method: &str, path: &str, operation: &Value) -> Reply {
    let mut target = path.replace("{instance}", &tenant.name);
    for (name, value) in
        [("namespace", "team"), ("repository", "team%2Fapp"), ("kind", "user"), ("file", "index.css")]
    {
        target = target.replace(&format!("{{{name}}}"), value);
    }
    while let Some((before, rest)) = target.clone().split_once('{') {
        let (_, after) = rest.split_once('}').unwrap();
        target = format!("{before}absent{after}");
    }
    let body = operation["requestBody"].is_object().then(|| match operation["x-berth-place"].as_str() {
        // Whoever may not is refused for what the body says.
        Some("body") => body_of(operation["operationId"].as_str().unwrap()),
        _ => json!({ "no such field": 1 }),
    });
    let headers = [("if-match", "\"999999\"")];
    let method: Method = method.parse().unwrap();
    caller.api.call_with(method, &target, body.as_ref(), &headers).await
}

/// Bodies that say where, and are of no effect.
fn body_of(operation: &str) -> Value {
    match operation {
        "repositories.create" => json!({ "path": "team/NOT A NAME" }),
        "grants.create" => {
            json!({ "principal": { "kind": "user", "name": "absent" }, "role": "absent" })
        }
        "users.set_password" => json!({ "password": "short" }),
        "access_checks.create" => {
            let principal = json!({ "kind": "user", "name": "absent" });
            json!({ "principal": principal, "permission": "artifact:pull" })
        }
        _ => panic!("{operation} needs a body here"),
    }
}

/// Whether a refusal is one of rights: the credential, the permission, or a place that the caller may not know of.
fn refused(reply: &Reply) -> bool {
    let detail = reply.json()["detail"].as_str().unwrap_or_default().to_owned();
    let hidden = ["there is no instance", "there is no namespace team", "there is no repository team"];
    match reply.status {
        401 | 403 => true,
        404 => hidden.iter().any(|text| detail.starts_with(text)),
        _ => false,
    }
}

async fn matrix(setting: Setting) {
    let deployment = builder(setting).start().await.unwrap();
    let (tenant, neighbour) =
        (Tenant::new(&deployment, "matrix").await, Tenant::new(&deployment, "neighbour").await);
    for path in ["team", "other"] {
        tenant.owner().post(&tenant.path("/namespaces"), json!({ "name": path })).await;
    }
    let path = json!({ "path": "team/app" });
    tenant.owner().post(&tenant.path("/repositories"), path).await;
    let callers = callers(&tenant, &neighbour).await;
    let mut asked = 0;
    for (method, path, operation) in document::operations(&document::printed()) {
        let open = operation["security"].as_array().is_some_and(Vec::is_empty);
        // Ends the session that calls, or is open.
        if open || operation["operationId"] == "sessions.delete" {
            continue;
        }
        let (needs, place) = (operation["x-berth-permission"].as_str(), operation["x-berth-place"].as_str());
        let needs = needs.filter(|text| !text.is_empty()).map(|text| {
            Permission::ALL.iter().copied().find(|permission| permission.as_str() == text).unwrap()
        });
        for caller in &callers {
            let reply = ask(caller, &tenant, &method, &path, &operation).await;
            let what = format!("{}: {method} {path}: {} {}", caller.name, reply.status, reply.json());
            asked += 1;
            assert!(reply.status < 500, "{what}");
            let documented = &operation["responses"][reply.status.to_string()];
            assert!(documented.is_object(), "undocumented: {what}");
            let Some(may) = &caller.may else {
                assert_eq!(reply.status, 401, "{what}");
                assert!(reply.header("www-authenticate").is_some(), "{what}");
                continue;
            };
            let in_instance = path.contains("{instance}");
            let sees = caller.of_tenant || may.contains(&Permission::InstanceRead);
            if in_instance && !sees {
                assert_eq!(reply.status, 404, "{what}");
                continue;
            }
            let allowed = match (needs, place) {
                (None, _) => true,
                (Some(needs), Some("deployment")) => caller.everywhere.contains(&needs),
                (Some(needs), _) => may.contains(&needs),
            };
            assert_eq!(!refused(&reply), allowed, "{what}");
        }
    }
    assert!(asked > 500, "{asked}");
    // Nothing was changed by all that.
    let owner = tenant.owner();
    assert_eq!(owner.get(&tenant.path("/namespaces")).await["items"].as_array().unwrap().len(), 2);
    assert_eq!(owner.get(&tenant.path("")).await["state"], "running");
    owner.get(&tenant.path("/repositories/team%2Fapp")).await;
    no_difference(&tenant, &neighbour).await;
}

/// What is a neighbour's is answered as what is not there: status, headers and body.
async fn no_difference(tenant: &Tenant<'_>, neighbour: &Tenant<'_>) {
    let stranger = tenant.owner();
    let repository = neighbour.owner();
    repository.post(&neighbour.path("/namespaces"), json!({ "name": "team" })).await;
    repository.post(&neighbour.path("/repositories"), json!({ "path": "team/app" })).await;
    for (method, path, _) in document::operations(&document::printed()) {
        if !path.contains("{instance}") {
            continue;
        }
        let rest = path.strip_prefix("/instances/{instance}").unwrap();
        let rest = rest.replace("{namespace}", "team").replace("{repository}", "team%2Fapp");
        let rest = rest.replace("{kind}", "user").replace(['{', '}'], "");
        let method: Method = method.parse().unwrap();
        let ask = async |instance: &str| {
            let body = (method != Method::GET && method != Method::DELETE).then(|| json!({}));
            stranger.call(method.clone(), &format!("/instances/{instance}{rest}"), body.as_ref()).await
        };
        let (theirs, nobodys) = (ask("neighbour").await, ask("nowhere").await);
        assert_eq!((theirs.status, nobodys.status), (404, 404), "{method} {path}");
        let mut expected = problem(&nobodys);
        expected["detail"] = expected["detail"].as_str().unwrap().replace("nowhere", "neighbour").into();
        assert_eq!(problem(&theirs), expected, "{method} {path}");
        let names = |reply: &Reply| reply.headers.keys().map(ToString::to_string).collect::<BTreeSet<_>>();
        assert_eq!(names(&theirs), names(&nobodys), "{method} {path}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everybody_may_call_what_their_roles_say_in_one_process() {
    matrix(Setting::EMBEDDED).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everybody_may_call_what_their_roles_say_with_roles_apart_on_postgres() {
    matrix(Setting::new(Layout::RolesApart, Engine::Postgres)).await;
}
