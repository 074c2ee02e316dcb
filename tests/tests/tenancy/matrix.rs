//! Who may do what: every method of every route, by everybody who may come along. What is expected is worked out from the
//! roles' own permissions; a route or a method that is missing here fails, since what the gateway says it allows is compared.

use std::collections::{BTreeMap, BTreeSet};

use berth_model::{Permission, Role, ScopeKind};
use berth_oci::Route;
use berth_testkit::{Client, Content, Deployment, Engine, Image, Layout, Reply, Setting, Skewed};
use reqwest::Method;

use crate::{DOMAIN, Tenant, until};

const APP: &str = "team/app";

/// What a route asks of whoever calls it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Asks {
    /// Any valid token.
    Token,
    /// A token that may list repositories; what it lists is what its principal may read.
    Catalog,
    Action(Permission),
}

/// One method of one route.
#[derive(Clone, Debug)]
struct Case {
    route: &'static str,
    method: Method,
    target: String,
    asks: Asks,
    body: Vec<u8>,
    content_type: &'static str,
}

/// The name of every kind of route. A new one does not compile until it is here, and fails until it has cases.
fn name(route: &Route) -> &'static str {
    match route {
        Route::Base => "base",
        Route::Catalog => "catalog",
        Route::Tags(_) => "tags",
        Route::Manifest(..) => "manifest",
        Route::Blob(..) => "blob",
        Route::Uploads(_) => "uploads",
        Route::Upload(..) => "upload",
        Route::Referrers(..) => "referrers",
    }
}
const ROUTES: usize = 8;

/// Everything that can be asked of a repository with this image in it, in an order in which nothing that is needed is
/// deleted first.
fn cases(image: &Image, upload: &str) -> Vec<Case> {
    use Permission::{ArtifactDelete as Delete, ArtifactPull as Pull, ArtifactPush as Push};
    let (digest, blob) = (&image.manifest.digest, &image.layers[0].digest);
    let media_type = "application/vnd.oci.image.manifest.v1+json";
    let manifest = image.manifest.bytes.to_vec();
    let rows: Vec<(Method, String, Asks, Vec<u8>)> = vec![
        (Method::GET, "/v2/".into(), Asks::Token, vec![]),
        (Method::HEAD, "/v2/".into(), Asks::Token, vec![]),
        (Method::GET, "/v2/_catalog".into(), Asks::Catalog, vec![]),
        (Method::HEAD, "/v2/_catalog".into(), Asks::Catalog, vec![]),
        (Method::GET, format!("/v2/{APP}/tags/list"), Asks::Action(Pull), vec![]),
        (Method::HEAD, format!("/v2/{APP}/tags/list"), Asks::Action(Pull), vec![]),
        (Method::GET, format!("/v2/{APP}/referrers/{digest}"), Asks::Action(Pull), vec![]),
        (Method::HEAD, format!("/v2/{APP}/referrers/{digest}"), Asks::Action(Pull), vec![]),
        (Method::GET, format!("/v2/{APP}/manifests/v1"), Asks::Action(Pull), vec![]),
        (Method::HEAD, format!("/v2/{APP}/manifests/v1"), Asks::Action(Pull), vec![]),
        (Method::GET, format!("/v2/{APP}/manifests/{digest}"), Asks::Action(Pull), vec![]),
        (Method::HEAD, format!("/v2/{APP}/manifests/{digest}"), Asks::Action(Pull), vec![]),
        (Method::PUT, format!("/v2/{APP}/manifests/v2"), Asks::Action(Push), manifest.clone()),
        (Method::PUT, format!("/v2/{APP}/manifests/{digest}"), Asks::Action(Push), manifest),
        (Method::DELETE, format!("/v2/{APP}/manifests/v2"), Asks::Action(Delete), vec![]),
        (Method::DELETE, format!("/v2/{APP}/manifests/{digest}"), Asks::Action(Delete), vec![]),
        (Method::GET, format!("/v2/{APP}/blobs/{blob}"), Asks::Action(Pull), vec![]),
        (Method::HEAD, format!("/v2/{APP}/blobs/{blob}"), Asks::Action(Pull), vec![]),
        (Method::DELETE, format!("/v2/{APP}/blobs/{blob}"), Asks::Action(Delete), vec![]),
        (Method::POST, format!("/v2/{APP}/blobs/uploads/"), Asks::Action(Push), vec![]),
        (
            Method::POST,
            format!("/v2/{APP}/blobs/uploads/?mount={blob}&from={APP}"),
            Asks::Action(Push),
            vec![],
        ),
        (Method::GET, upload.into(), Asks::Action(Push), vec![]),
        (Method::HEAD, upload.into(), Asks::Action(Push), vec![]),
        (Method::PATCH, upload.into(), Asks::Action(Push), b"bytes".to_vec()),
        (Method::PUT, format!("{upload}?digest={blob}"), Asks::Action(Push), vec![]),
        (Method::DELETE, upload.into(), Asks::Action(Push), vec![]),
    ];
    let case = |(method, target, asks, body): (Method, String, Asks, Vec<u8>)| {
        let path = target.split('?').next().unwrap_or_default();
        let route = name(&Route::parse(path).unwrap());
        let content_type = if route == "manifest" { media_type } else { "application/octet-stream" };
        Case { route, method, target, asks, body, content_type }
    };
    rows.into_iter().map(case).collect()
}

async fn ask(client: &Client, case: &Case, token: Option<&str>) -> Reply {
    let mut call = client.call(case.method.clone(), case.target.as_str());
    if matches!(case.method, Method::PUT | Method::PATCH | Method::POST) {
        call = call.header("content-type", case.content_type).body(case.body.clone());
    }
    if let Some(token) = token {
        call = call.bearer(token);
    }
    call.send().await.unwrap()
}

/// Somebody who comes along, with the token they have and what they may do with it.
struct Caller {
    name: String,
    token: Option<String>,
    /// None: the token is worth nothing.
    may: Option<BTreeSet<Permission>>,
}

impl Caller {
    fn with(name: impl Into<String>, token: String, may: BTreeSet<Permission>) -> Self {
        Self { name: name.into(), token: Some(token), may: Some(may) }
    }

    fn worthless(name: impl Into<String>, token: Option<String>) -> Self {
        Self { name: name.into(), token, may: None }
    }

    fn allows(&self, asks: Asks) -> bool {
        match (&self.may, asks) {
            (None, _) => false,
            (Some(_), Asks::Token | Asks::Catalog) => true,
            (Some(may), Asks::Action(permission)) => may.contains(&permission),
        }
    }
}

/// A token for everything, of which its owner gets what their grants allow.
async fn everything(client: &Client) -> String {
    let scope = format!("repository:{APP}:pull,push,delete");
    client.fresh_token(&[&scope, "registry:catalog:*"]).await.unwrap()
}

async fn callers(tenant: &Tenant, neighbour: &Tenant, image: &Image) -> Vec<Caller> {
    let old = everything(&tenant.owner()).await;
    tenant.admin(&["delete-repository", APP]).await;
    tenant.owner().repository(APP).push_image("v1", image).await.unwrap();
    let mut callers = vec![
        Caller::with("token of the repository before", old, BTreeSet::new()),
        Caller::worthless("anonymous", None),
        Caller::worthless("nonsense", Some("nonsense".into())),
        Caller::worthless("another tenant's owner", Some(everything(&neighbour.owner()).await)),
    ];
    tenant.try_admin(&["create-user", "nobody"], "the password").await.unwrap();
    let nobody = tenant.anonymous().with_credentials("nobody", "the password");
    callers.push(Caller::with("without a grant", everything(&nobody).await, BTreeSet::new()));
    for role in Role::built_in().values().filter(|role| role.scopes.contains(&ScopeKind::Instance)) {
        let person = tenant.user(&format!("of-{}", role.name), &role.name).await;
        callers.push(Caller::with(&role.name, everything(&person).await, role.permissions.clone()));
    }
    let made = tenant.admin(&["create-robot", "elsewhere"]).await;
    let made: serde_json::Value = serde_json::from_str(made.trim()).unwrap();
    tenant.admin(&["grant", "robot+elsewhere", "maintainer", "--namespace", "other"]).await;
    let robot = tenant.anonymous().with_credentials("robot+elsewhere", made["secret"].as_str().unwrap());
    callers.push(Caller::with("a robot of another namespace", everything(&robot).await, BTreeSet::new()));
    let leaver = tenant.user("leaver", "instance-admin").await;
    let revoked = everything(&leaver).await;
    tenant.admin(&["disable", "leaver"]).await;
    until("the token is refused", async || {
        let call = tenant.anonymous().call(Method::GET, "/v2/").bearer(revoked.as_str());
        call.send().await.unwrap().status == 401
    })
    .await;
    callers.push(Caller::worthless("revoked", Some(revoked)));
    callers
}

/// The repository, whole again, and an upload in it by whoever has the token.
async fn scene(tenant: &Tenant, image: &Image, caller: &Caller) -> String {
    tenant.owner().repository(APP).push_image("v1", image).await.unwrap();
    let own = caller.allows(Asks::Action(Permission::ArtifactPush));
    let token = if own { caller.token.clone().unwrap() } else { everything(&tenant.owner()).await };
    let call = tenant.anonymous().call(Method::POST, format!("/v2/{APP}/blobs/uploads/")).bearer(token);
    call.send().await.unwrap().expect(202).unwrap().location().unwrap()
}

async fn holds(tenant: &Tenant, image: &Image, callers: &[Caller]) {
    for caller in callers {
        let before = tenant.owner().repository(APP).tags().await.unwrap();
        let count = cases(image, &format!("/v2/{APP}/blobs/uploads/01ARZ3NDEKTSV4RRFFQ69G5FAV")).len();
        for number in 0..count {
            let upload = scene(tenant, image, caller).await;
            let case = cases(image, &upload).swap_remove(number);
            let what = format!("{}: {} {}", caller.name, case.method, case.target);
            let reply = ask(&tenant.anonymous(), &case, caller.token.as_deref()).await;
            if caller.allows(case.asks) || (case.asks == Asks::Token && caller.may.is_some()) {
                assert!(
                    reply.status < 300
                        || [404, 405].contains(&reply.status) && case.method == Method::DELETE
                        || reply.status == 400 && case.target.contains("?digest="),
                    "{what}: {}",
                    reply.status
                );
            } else {
                assert_eq!(reply.status, 401, "{what}");
                assert!(reply.header("www-authenticate").is_some(), "{what}");
                if case.method != Method::HEAD {
                    let code = reply.error_code();
                    let known = ["UNAUTHORIZED", "DENIED"];
                    assert!(code.as_deref().is_some_and(|code| known.contains(&code)), "{what}: {code:?}");
                }
                assert!(!String::from_utf8_lossy(&reply.body).contains("v1"), "{what}");
            }
        }
        // What was refused has changed nothing.
        if !caller.allows(Asks::Action(Permission::ArtifactPush)) {
            let app = tenant.owner().repository(APP);
            assert_eq!(app.tags().await.unwrap(), before, "{}", caller.name);
            app.pull_image("v1", image).await.unwrap();
        }
    }
}

/// Every route has a case, and every method that the gateway says a route has.
async fn is_whole(tenant: &Tenant, image: &Image) {
    let upload = format!("/v2/{APP}/blobs/uploads/01ARZ3NDEKTSV4RRFFQ69G5FAV");
    let mut covered: BTreeMap<&str, (String, BTreeSet<String>)> = BTreeMap::new();
    for case in cases(image, &upload) {
        let target = case.target.split('?').next().unwrap_or_default().to_owned();
        covered
            .entry(case.route)
            .or_insert_with(|| (target, BTreeSet::new()))
            .1
            .insert(case.method.to_string());
    }
    assert_eq!(covered.len(), ROUTES);
    for (route, (target, methods)) in covered {
        let reply = tenant.anonymous().call(Method::OPTIONS, target).send().await.unwrap();
        assert_eq!(reply.status, 405, "{route}");
        let allowed = reply.header("allow").unwrap().split(", ").map(str::to_owned).collect();
        assert_eq!(methods, allowed, "{route}");
    }
}

async fn matrix(deployment: &'static Deployment) {
    let (tenant, neighbour) = (
        Tenant::new(deployment, "matrix", "basic").await,
        Tenant::new(deployment, "neighbour", "basic").await,
    );
    let image = Content::named("matrix").image(1, 100);
    for owner in [tenant.owner(), neighbour.owner()] {
        owner.repository(APP).push_image("v1", &image).await.unwrap();
        owner.repository("other/app").push_image("v1", &image).await.unwrap();
    }
    let callers = callers(&tenant, &neighbour, &image).await;
    is_whole(&tenant, &image).await;
    holds(&tenant, &image, &callers).await;
}

fn leaked(deployment: Deployment) -> &'static Deployment {
    Box::leak(Box::new(deployment))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everybody_may_do_what_their_roles_say_with_roles_apart_on_postgres() {
    let setting = Setting::new(Layout::RolesApart, Engine::Postgres).with_gateways(2);
    let builder = Deployment::builder(setting).with_env("BERTH__GATEWAY__BASE_DOMAIN", DOMAIN);
    matrix(leaked(builder.start().await.unwrap())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everybody_may_do_what_their_roles_say_and_nothing_with_an_expired_token() {
    let builder = Deployment::builder(Setting::EMBEDDED).with_env("BERTH__GATEWAY__BASE_DOMAIN", DOMAIN);
    let deployment = leaked(builder.start().await.unwrap());
    let clock = Skewed::start(deployment, "berth", 0).await;
    matrix(deployment).await;
    let tenant = Tenant { deployment, name: "matrix" };
    let image = Content::named("matrix").image(1, 100);
    let expired = everything(&tenant.owner()).await;
    clock.step(400);
    holds(&tenant, &image, &[Caller::worthless("expired", Some(expired))]).await;
}
