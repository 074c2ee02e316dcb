//! Tokens of other issuers as a password, against an issuer of the test's own.

use std::collections::HashMap;

use berth_access::SigningKey;
use berth_proto::instance_manager::{
    Actor, ClaimCondition, CreateIdentityProviderRequest, CreateInstanceRequest, CreateRobotRequest,
    CreateTrustRequest, DeleteIdentityProviderRequest, DeletePrincipalRequest, DeleteTrustRequest,
    GetPrincipalRequest, LinkUserRequest, ListTrustsRequest, UnlinkUserRequest, UpdatePrincipalRequest,
    identity_providers_client::IdentityProvidersClient, instances_client::InstancesClient,
};
use berth_service::Clock;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use super::*;

/// What the issuer answers at its paths. An empty map: it hangs up.
pub(super) type Pages = Arc<Mutex<HashMap<String, (u16, String)>>>;

/// An issuer.
pub(super) struct Issuer {
    pub(super) url: String,
    pub(super) pages: Pages,
    pub(super) asked: Arc<Mutex<Vec<String>>>,
    keys: Mutex<Vec<(String, Vec<u8>)>>,
}

impl Issuer {
    pub(super) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let pages = Pages::default();
        let asked: Arc<Mutex<Vec<String>>> = Arc::default();
        let (served, heard) = (Arc::clone(&pages), Arc::clone(&asked));
        let serve = async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = Vec::new();
                let mut buffer = [0; 4096];
                // Heads and forms of these tests come at once or in two.
                while let Ok(read @ 1..) = stream.read(&mut buffer).await {
                    request.extend_from_slice(&buffer[..read]);
                    let text = String::from_utf8_lossy(&request).into_owned();
                    let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
                    let length = head.to_ascii_lowercase();
                    let length = length.split("content-length: ").nth(1);
                    let length = length.and_then(|rest| rest.lines().next()?.parse::<usize>().ok());
                    if body.len() >= length.unwrap_or(0) {
                        break;
                    }
                }
                let text = String::from_utf8_lossy(&request).into_owned();
                let path = text.split(' ').nth(1).unwrap_or_default().to_owned();
                heard.lock().unwrap().push(text);
                let page = served.lock().unwrap().get(&path).cloned();
                let Some((status, body)) = page else { continue };
                let length = body.len();
                let answer = format!(
                    "HTTP/1.1 {status} X\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
                );
                let _closed = stream.write_all(answer.as_bytes()).await;
            }
        };
        #[expect(clippy::disallowed_methods, reason = "a test's own server")]
        tokio::spawn(serve);
        let issuer = Self { url, pages, asked, keys: Mutex::default() };
        issuer.rotate();
        issuer.publish();
        issuer
    }

    /// Signs with another key from now on.
    pub(super) fn rotate(&self) {
        let pkcs8 = SigningKey::generate().unwrap().to_vec();
        let jwk = SigningKey::from_pkcs8(&pkcs8).unwrap().public().jwk.clone();
        self.keys.lock().unwrap().push((jwk, pkcs8));
    }

    /// Publishes the key that signs.
    pub(super) fn publish(&self) {
        let url = &self.url;
        let document = json!({
            "issuer": url, "jwks_uri": format!("{url}/jwks"),
            "authorization_endpoint": format!("{url}/authorize"), "token_endpoint": format!("{url}/token"),
        });
        let jwk = self.keys.lock().unwrap().last().unwrap().0.clone();
        let mut pages = self.pages.lock().unwrap();
        pages.insert("/.well-known/openid-configuration".into(), (200, document.to_string()));
        pages.insert("/jwks".into(), (200, format!(r#"{{"keys":[{jwk}]}}"#)));
    }

    /// Says one thing more in its document.
    pub(super) fn publishes(&self, name: &str, value: String) {
        let mut pages = self.pages.lock().unwrap();
        let (_, page) = pages.get_mut("/.well-known/openid-configuration").unwrap();
        let mut document: Value = serde_json::from_str(page).unwrap();
        document[name] = value.into();
        *page = document.to_string();
    }

    pub(super) fn away(&self) {
        self.pages.lock().unwrap().clear();
    }

    /// A token with these claims beside the usual ones.
    pub(super) fn token(&self, now: Timestamp, claims: &Value) -> String {
        let mut all = json!({ "iss": self.url, "iat": now.seconds(), "exp": now.seconds() + 300 });
        for (name, value) in claims.as_object().unwrap() {
            all[name] = value.clone();
        }
        let keys = self.keys.lock().unwrap();
        let (jwk, pkcs8) = keys.last().unwrap();
        let mut header = Header::new(Algorithm::ES256);
        let jwk: Value = serde_json::from_str(jwk).unwrap();
        header.kid = jwk["kid"].as_str().map(str::to_owned);
        encode(&header, &all, &EncodingKey::from_ec_der(pkcs8)).unwrap()
    }
}

impl Bench {
    pub(super) fn identity(&self) -> IdentityProvidersClient<Channel> {
        let server = self.service.identity_providers.clone();
        IdentityProvidersClient::new(Channel::local("identity-providers", server))
    }

    pub(super) async fn provider(&self, name: &str, issuer: &Issuer) {
        let request = CreateIdentityProviderRequest {
            instance_id: self.instance().to_string(),
            name: name.into(),
            issuer: issuer.url.clone(),
            client_id: "client".into(),
            client_secret: "the client's secret".into(),
            login: true,
            create_users: true,
            ..Default::default()
        };
        let made = self.identity().create_identity_provider(request).await.unwrap().into_inner();
        assert!(made.has_client_secret && made.scopes == ["profile", "email"]);
    }

    pub(super) async fn ci_robot(&self, name: &str) {
        let instance_id = self.instance().to_string();
        let request = CreateRobotRequest { instance_id, name: name.into(), ..Default::default() };
        self.people().create_robot(request).await.unwrap();
    }

    pub(super) async fn trust(&self, robot: &str, conditions: &[(&str, &str)]) -> Result<String, Problem> {
        let condition = |(claim, pattern): &(&str, &str)| ClaimCondition {
            claim: (*claim).into(),
            pattern: (*pattern).into(),
        };
        let request = CreateTrustRequest {
            actor: None,
            instance_id: self.instance().to_string(),
            provider: "ci".into(),
            robot: Some(PrincipalReference { id: String::new(), kind: "robot".into(), name: robot.into() }),
            audience: "registry.example.com".into(),
            conditions: conditions.iter().map(condition).collect(),
        };
        let made = self.identity().create_trust(request).await;
        made.map(|made| made.into_inner().id).map_err(|status| from_status(&status))
    }

    /// Who a token makes of a name, or why nobody.
    async fn enters(&self, name: &str, token: &str) -> Result<String, ErrorCode> {
        let issued = self.ask(login(name, token), &[]).await.map_err(|problem| problem.code)?;
        assert!(issued.refresh_token.is_empty(), "it does not last");
        let token = self.verifier.verify(&issued.token, self.instance()).unwrap();
        assert_eq!(issued.expires_in, 300);
        Ok(token.name.clone())
    }
}

fn github(repository: &str, reference: &str) -> Value {
    json!({
        "aud": "registry.example.com", "sub": format!("repo:{repository}:ref:{reference}"),
        "repository": repository, "repository_owner": "acme", "repository_id": "74", "ref": reference,
        "ref_type": "branch", "event_name": "push", "job_workflow_ref": "acme/app/.github/workflows/ci.yml@main",
        "run_attempt": "1", "runner_environment": "github-hosted", "jti": "example",
    })
}

pub(super) fn gitlab() -> Value {
    json!({
        "aud": ["registry.example.com"], "sub": "project_path:acme/app:ref_type:branch:ref:main",
        "project_path": "acme/app", "project_id": "20", "namespace_path": "acme", "user_login": "ada",
        "ref": "main", "ref_protected": "true", "pipeline_source": "push", "jti": "235b3a54",
    })
}

fn kubernetes(namespace: &str) -> Value {
    json!({
        "aud": ["registry.example.com", "https://kubernetes.default.svc"],
        "sub": format!("system:serviceaccount:{namespace}:build"),
        "kubernetes.io": {
            "namespace": namespace,
            "pod": { "name": "build-1", "uid": "5fb2" },
            "serviceaccount": { "name": "build", "uid": "14ee" },
        },
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn workloads_of_github_gitlab_and_kubernetes_are_the_robots_that_trust_them() {
    let (bench, issuer) = (Bench::start().await, Issuer::start().await);
    bench.provider("ci", &issuer).await;
    for robot in ["github", "gitlab", "cluster"] {
        bench.ci_robot(robot).await;
    }
    bench
        .trust("github", &[("sub", "repo:acme/app:ref:refs/heads/*"), ("event_name", "push")])
        .await
        .unwrap();
    bench.trust("gitlab", &[("project_path", "acme/app"), ("ref_protected", "true")]).await.unwrap();
    let kube = [("/kubernetes.io/namespace", "ci"), ("/kubernetes.io/serviceaccount/name", "build")];
    bench.trust("cluster", &kube).await.unwrap();
    let now = bench.clock.now();
    let enters = async |name: &str, claims: &Value| bench.enters(name, &issuer.token(now, claims)).await;
    let no = Err(ErrorCode::Unauthorized);
    let main = github("acme/app", "refs/heads/main");
    assert_eq!(enters("robot+github", &main).await, Ok("robot+github".into()));
    assert_eq!(enters("robot+", &main).await, Ok("robot+github".into()));
    assert_eq!(enters("robot+gitlab", &main).await, no, "the trust of another robot");
    assert_eq!(enters("robot+absent", &main).await, no);
    assert_eq!(enters("github", &main).await, no, "a person's name");
    assert_eq!(enters("robot+github", &github("acme/app", "refs/tags/v1")).await, no);
    assert_eq!(enters("robot+github", &github("evil/app", "refs/heads/main")).await, no);
    assert_eq!(enters("robot+gitlab", &gitlab()).await, Ok("robot+gitlab".into()));
    assert_eq!(enters("robot+", &gitlab()).await, Ok("robot+gitlab".into()));
    assert_eq!(enters("robot+cluster", &kubernetes("ci")).await, Ok("robot+cluster".into()));
    assert_eq!(enters("robot+cluster", &kubernetes("other")).await, no);
    let mut elsewhere = gitlab();
    elsewhere["aud"] = "another-registry.example.com".into();
    assert_eq!(enters("robot+gitlab", &elsewhere).await, no);
    let refusals = [&[] as &[_], &[("ref", "main")], &[("sub", "repo:*")]];
    for conditions in refusals {
        assert_eq!(bench.trust("github", conditions).await.unwrap_err().code, ErrorCode::RequestInvalid);
    }
    assert_eq!(bench.trust("absent", &kube).await.unwrap_err().code, ErrorCode::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_taken_back_opens_nothing_any_more() {
    let (bench, issuer) = (Bench::start().await, Issuer::start().await);
    bench.provider("ci", &issuer).await;
    bench.ci_robot("ci").await;
    let conditions = [("project_path", "acme/app")];
    let trust = bench.trust("ci", &conditions).await.unwrap();
    let instance_id = bench.instance().to_string();
    let no = Err(ErrorCode::Unauthorized);
    let enters = async || bench.enters("robot+ci", &issuer.token(bench.clock.now(), &gitlab())).await;
    assert!(enters().await.is_ok());
    // Times.
    let old = issuer.token(bench.clock.now(), &gitlab());
    bench.clock.advance(Duration::from_secs(359));
    assert!(bench.enters("robot+ci", &old).await.is_ok());
    bench.clock.advance(Duration::from_secs(1));
    assert_eq!(bench.enters("robot+ci", &old).await, no);
    // Another instance has another provider, or none.
    let request = CreateInstanceRequest {
        name: "globex".into(),
        edition: "basic".into(),
        region: "eu-central-1".into(),
        ..Default::default()
    };
    let mut instances = InstancesClient::new(Channel::local("instances", bench.service.instances.clone()));
    let other = instances.create_instance(request).await.unwrap().into_inner();
    let request = IssueTokenRequest {
        instance_id: other.id,
        credential: Some(login("robot+ci", &issuer.token(bench.clock.now(), &gitlab()))),
        ..Default::default()
    };
    let refused = bench.client.clone().issue_token(request).await.unwrap_err();
    assert_eq!(from_status(&refused).code, ErrorCode::Unauthorized);
    // The robot, the trust, the provider.
    let robot = PrincipalReference { id: String::new(), kind: "robot".into(), name: "ci".into() };
    for disabled in [true, false] {
        let request = UpdatePrincipalRequest {
            instance_id: instance_id.clone(),
            principal: Some(robot.clone()),
            disabled: Some(disabled),
            ..Default::default()
        };
        bench.people().update_principal(request).await.unwrap();
        assert_eq!(enters().await.is_ok(), !disabled);
    }
    let request =
        DeleteTrustRequest { actor: None, instance_id: instance_id.clone(), trust_id: trust.clone() };
    bench.identity().delete_trust(request.clone()).await.unwrap();
    assert_eq!(enters().await, no);
    assert!(bench.identity().delete_trust(request).await.is_err());
    bench.trust("ci", &conditions).await.unwrap();
    let request = DeletePrincipalRequest {
        instance_id: instance_id.clone(),
        principal: Some(robot.clone()),
        ..Default::default()
    };
    bench.people().delete_principal(request).await.unwrap();
    let request = ListTrustsRequest { instance_id: instance_id.clone(), ..Default::default() };
    assert!(bench.identity().list_trusts(request).await.unwrap().into_inner().trusts.is_empty());
    bench.ci_robot("ci").await;
    assert_eq!(enters().await, no, "another robot of the same name");
    bench.trust("ci", &conditions).await.unwrap();
    assert!(enters().await.is_ok());
    let request = DeleteIdentityProviderRequest { instance_id, name: "ci".into(), ..Default::default() };
    bench.identity().delete_identity_provider(request).await.unwrap();
    assert_eq!(enters().await, no);
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_change_and_issuers_go_away() {
    let (bench, issuer) = (Bench::start().await, Issuer::start().await);
    bench.provider("ci", &issuer).await;
    bench.ci_robot("ci").await;
    bench.trust("ci", &[("project_path", "acme/app")]).await.unwrap();
    let enters = async || bench.enters("robot+ci", &issuer.token(bench.clock.now(), &gitlab())).await;
    let pages = issuer.pages.lock().unwrap().clone();
    issuer.away();
    assert_eq!(enters().await, Err(ErrorCode::Unavailable), "it was never asked");
    *issuer.pages.lock().unwrap() = pages.clone();
    assert_eq!(enters().await, Err(ErrorCode::Unavailable), "it was asked a moment ago");
    bench.clock.advance(Duration::from_secs(10));
    assert!(enters().await.is_ok());
    // A key that is not known makes it be asked once in ten seconds, whoever shows how many.
    let asked = || issuer.asked.lock().unwrap().len();
    issuer.rotate();
    let before = asked();
    for _ in 0..5 {
        assert_eq!(enters().await, Err(ErrorCode::Unauthorized));
    }
    assert_eq!(asked(), before);
    bench.clock.advance(Duration::from_secs(10));
    assert_eq!(enters().await, Err(ErrorCode::Unauthorized), "it is not published");
    issuer.publish();
    bench.clock.advance(Duration::from_secs(10));
    assert!(enters().await.is_ok());
    // Without an answer it is believed for an hour, but a key that is not known can't be judged.
    issuer.away();
    bench.clock.advance(Duration::from_secs(3_000));
    assert!(enters().await.is_ok());
    issuer.rotate();
    assert_eq!(enters().await, Err(ErrorCode::Unavailable));
    bench.clock.advance(Duration::from_secs(600));
    assert_eq!(enters().await, Err(ErrorCode::Unavailable));
    // Somebody else's document.
    issuer.publish();
    let document =
        json!({ "issuer": "https://other.example.com", "jwks_uri": format!("{}/jwks", issuer.url) });
    let place = "/.well-known/openid-configuration".to_owned();
    issuer.pages.lock().unwrap().insert(place, (200, document.to_string()));
    bench.clock.advance(Duration::from_secs(10));
    assert_eq!(enters().await, Err(ErrorCode::Unavailable));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_token_is_the_password_of_whom_it_is_linked_to() {
    let (bench, issuer) = (Bench::start().await, Issuer::start().await);
    bench.provider("corp", &issuer).await;
    bench.user("ada").await;
    bench.user("bob").await;
    let id_token = |subject: &str, audience: Value| json!({ "sub": subject, "aud": audience, "preferred_username": "ada", "email": "ada@example.com" });
    let enters =
        async |name: &str, claims: &Value| bench.enters(name, &issuer.token(bench.clock.now(), claims)).await;
    let no = Err(ErrorCode::Unauthorized);
    let ada = id_token("1", json!("client"));
    assert_eq!(enters("ada", &ada).await, no, "neither a name nor an address links anybody");
    let link = LinkUserRequest {
        actor: None,
        instance_id: bench.instance().to_string(),
        provider: "corp".into(),
        subject: "1".into(),
        user: Some(user_named("ada")),
    };
    bench.identity().link_user(link.clone()).await.unwrap();
    for (subject, user) in [("1", "bob"), ("2", "ada")] {
        let again = LinkUserRequest { subject: subject.into(), user: Some(user_named(user)), ..link.clone() };
        let refused = from_status(&bench.identity().link_user(again).await.unwrap_err());
        assert_eq!(refused.code, ErrorCode::AlreadyExists);
    }
    assert_eq!(enters("ada", &ada).await, Ok("ada".into()));
    assert_eq!(enters("bob", &ada).await, no);
    assert_eq!(enters("robot+", &ada).await, no);
    assert_eq!(enters("ada", &id_token("2", json!("client"))).await, no);
    assert_eq!(enters("ada", &id_token("1", json!("other"))).await, no);
    assert_eq!(enters("ada", &id_token("1", json!(["client", "other"]))).await, no, "without a party");
    let unlink = UnlinkUserRequest {
        actor: None,
        instance_id: link.instance_id,
        provider: "corp".into(),
        user: link.user,
    };
    bench.identity().unlink_user(unlink).await.unwrap();
    assert_eq!(enters("ada", &ada).await, no);
    // Wrong ones are slowed down, and right ones are not.
    let mut waits = false;
    for _ in 0..12 {
        waits = enters("bob", &ada).await == Err(ErrorCode::TooManyRequests);
    }
    assert!(waits);
    bench
        .identity()
        .link_user(LinkUserRequest {
            actor: None,
            instance_id: bench.instance().to_string(),
            provider: "corp".into(),
            subject: "3".into(),
            user: Some(user_named("bob")),
        })
        .await
        .unwrap();
    assert_eq!(enters("bob", &id_token("3", json!("client"))).await, Ok("bob".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_trusts_strangers_with_more_than_they_may_do() {
    let (bench, issuer) = (Bench::start().await, Issuer::start().await);
    bench.provider("ci", &issuer).await;
    bench.ci_robot("strong").await;
    bench.add("team/app", false);
    bench.user("weak").await;
    let instance_id = bench.instance().to_string();
    let robot = PrincipalReference { id: String::new(), kind: "robot".into(), name: "strong".into() };
    let grant = GrantWish { role: "maintainer".into(), namespace: "team".into(), ..Default::default() };
    let request = CreateGrantRequest {
        instance_id: instance_id.clone(),
        principal: Some(robot.clone()),
        grant: Some(grant),
        actor: None,
    };
    bench.roles().create_grant(request).await.unwrap();
    let request =
        GetPrincipalRequest { instance_id: instance_id.clone(), principal: Some(user_named("weak")) };
    let weak = bench.people().get_principal(request).await.unwrap().into_inner();
    let actor = Actor {
        instance_id: instance_id.clone(),
        principal: format!("user:{}", weak.id),
        credential: "password".into(),
        ..Default::default()
    };
    let condition = ClaimCondition { claim: "sub".into(), pattern: "me".into() };
    let request = CreateTrustRequest {
        actor: Some(actor),
        instance_id,
        provider: "ci".into(),
        robot: Some(robot),
        audience: "a".into(),
        conditions: vec![condition],
    };
    let refused = from_status(&bench.identity().create_trust(request).await.unwrap_err());
    assert_eq!(refused.code, ErrorCode::Denied);
    for (name, url) in [
        ("Upper", "https://a.example.com"),
        ("inside", "https://10.0.0.1"),
        ("metadata", "http://169.254.169.254"),
        ("plain", "http://issuer.example.com"),
        ("query", "https://a.example.com/?a"),
        ("none", ""),
    ] {
        let request = CreateIdentityProviderRequest {
            instance_id: bench.instance().to_string(),
            name: name.into(),
            issuer: url.into(),
            ..Default::default()
        };
        let outcome = bench.identity().create_identity_provider(request).await;
        // A name in a URL without TLS is judged when its address is known.
        if name != "plain" {
            assert_eq!(from_status(&outcome.unwrap_err()).code, ErrorCode::RequestInvalid, "{name}");
        }
    }
}
