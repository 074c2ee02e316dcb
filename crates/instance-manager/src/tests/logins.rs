//! Logins by a browser, against an issuer of the test's own.

use berth_proto::instance_manager::{
    BeginLoginRequest, CreateGroupRequest, FinishLoginRequest, FinishLoginResponse, GetPrincipalRequest,
    PrincipalEntry, ProviderGroup, ProviderGroups, UpdateIdentityProviderRequest,
    logins_client::LoginsClient,
};
use berth_service::Clock;
use serde_json::{Value, json};

use super::{federation::Issuer, *};

const BACK: &str = "https://registry.example.com/auth/oidc/corp/callback";

/// A browser that was sent away.
#[derive(Clone)]
struct Away {
    browser: String,
    state: String,
    nonce: String,
}

fn parameter(location: &str, name: &str) -> String {
    let query = location.split_once('?').unwrap().1;
    let mut pairs = form_urlencoded::parse(query.as_bytes());
    pairs.find(|(found, _)| found == name).unwrap().1.into_owned()
}

impl Bench {
    fn logins(&self) -> LoginsClient<Channel> {
        LoginsClient::new(Channel::local("logins", self.service.logins.clone()))
    }

    async fn leave(&self) -> Away {
        let request = BeginLoginRequest {
            instance_id: self.instance().to_string(),
            provider: "corp".into(),
            redirect_uri: BACK.into(),
        };
        let sent = self.logins().begin_login(request).await.unwrap().into_inner();
        assert_eq!(parameter(&sent.location, "redirect_uri"), BACK);
        assert_eq!(parameter(&sent.location, "code_challenge_method"), "S256");
        assert_eq!(parameter(&sent.location, "scope"), "openid profile email");
        let (state, nonce) = (parameter(&sent.location, "state"), parameter(&sent.location, "nonce"));
        assert!(!sent.location.contains(&sent.browser));
        Away { browser: sent.browser, state, nonce }
    }

    async fn come_back(&self, away: &Away) -> Result<FinishLoginResponse, Problem> {
        let request = FinishLoginRequest {
            instance_id: self.instance().to_string(),
            provider: "corp".into(),
            redirect_uri: BACK.into(),
            browser: away.browser.clone(),
            state: away.state.clone(),
            code: "the code".into(),
            ..Default::default()
        };
        let finished = self.logins().finish_login(request).await;
        finished.map(tonic::Response::into_inner).map_err(|status| from_status(&status))
    }

    /// A whole login with these claims.
    async fn log_in(&self, issuer: &Issuer, claims: &Value) -> Result<FinishLoginResponse, Problem> {
        let away = self.leave().await;
        issuer.gives(self.clock.now(), &away.nonce, claims);
        self.come_back(&away).await
    }

    async fn known(&self, name: &str) -> PrincipalEntry {
        let request = GetPrincipalRequest {
            instance_id: self.instance().to_string(),
            principal: Some(user_named(name)),
        };
        self.people().get_principal(request).await.unwrap().into_inner()
    }
}

impl Issuer {
    /// Gives an ID token for any code.
    fn gives(&self, now: Timestamp, nonce: &str, claims: &Value) {
        let mut all = json!({ "aud": "client", "nonce": nonce });
        for (name, value) in claims.as_object().unwrap() {
            all[name] = value.clone();
        }
        let body = json!({ "token_type": "Bearer", "access_token": "the access token", "id_token": self.token(now, &all) }).to_string();
        self.pages.lock().unwrap().insert("/token".into(), (200, body));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn somebody_new_is_made_and_known_by_the_subject_alone() {
    let (bench, issuer) = (Bench::start().await, Issuer::start().await);
    bench.provider("corp", &issuer).await;
    let ada = json!({ "sub": "1", "preferred_username": "Ada", "email": "ada@example.com" });
    let entered = bench.log_in(&issuer, &ada).await.unwrap();
    assert_eq!(entered.login, "ada");
    let asked = issuer.asked.lock().unwrap().last().unwrap().clone();
    assert!(asked.starts_with("POST /token ") && asked.contains("code_verifier="), "{asked}");
    assert!(asked.to_ascii_lowercase().contains("authorization: basic "), "{asked}");
    let issued = bench.ask(login("ada", &entered.token), &["registry:catalog:*"]).await.unwrap();
    assert_eq!(issued.scope, "registry:catalog:*");
    let known = bench.known("ada").await;
    assert!(!known.has_password && known.email == "ada@example.com");
    // Another name, the same subject; and the same name, another subject.
    let renamed = json!({ "sub": "1", "preferred_username": "lovelace" });
    assert_eq!(bench.log_in(&issuer, &renamed).await.unwrap().login, "ada");
    let namesake = json!({ "sub": "2", "preferred_username": "ada", "email": "ada@example.com" });
    let refused = bench.log_in(&issuer, &namesake).await.unwrap_err();
    assert_eq!(refused.code, ErrorCode::AlreadyExists);
    let admin = json!({ "sub": "3", "preferred_username": "admin" });
    assert_eq!(bench.log_in(&issuer, &admin).await.unwrap_err().code, ErrorCode::AlreadyExists);
    for name in [json!("robot+ci"), json!("no body"), json!(""), json!(["a"]), Value::Null] {
        let claims = json!({ "sub": "4", "preferred_username": name });
        assert_eq!(bench.log_in(&issuer, &claims).await.unwrap_err().code, ErrorCode::Denied, "{name}");
    }
    let entries = bench.audit().await;
    let of_logins = entries.iter().filter(|entry| entry.credential == "oidc");
    let mut kinds: Vec<&str> = of_logins.map(|entry| entry.r#type.as_str()).collect();
    kinds.sort_unstable();
    assert_eq!(kinds, ["user.created", "user.logged_in", "user.logged_in"]);
    assert!(!format!("{entries:?}").contains(&entered.token));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_id_token_does_not_say_is_asked_for() {
    let (bench, issuer) = (Bench::start().await, Issuer::start().await);
    issuer.publishes("userinfo_endpoint", format!("{}/me", issuer.url));
    bench.provider("corp", &issuer).await;
    let says = |document: Value| {
        issuer.pages.lock().unwrap().insert("/me".into(), (200, document.to_string()));
    };
    let bare = json!({ "sub": "1" });
    says(json!({ "sub": "2", "preferred_username": "ada" }));
    assert_eq!(bench.log_in(&issuer, &bare).await.unwrap_err().code, ErrorCode::Denied, "of somebody else");
    says(json!({ "sub": "1", "preferred_username": "ada", "email": "ada@example.com" }));
    assert_eq!(bench.log_in(&issuer, &bare).await.unwrap().login, "ada");
    let asked = issuer.asked.lock().unwrap().last().unwrap().clone();
    assert!(asked.to_ascii_lowercase().contains("authorization: bearer the access token"), "{asked}");
    // What the ID token says counts, and then nothing is asked.
    let whole = json!({ "sub": "5", "preferred_username": "eve" });
    assert_eq!(bench.log_in(&issuer, &whole).await.unwrap().login, "eve");
    assert!(issuer.asked.lock().unwrap().last().unwrap().starts_with("POST /token "));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_ends_once_in_the_browser_that_began_it_and_in_time() {
    let (bench, issuer) = (Bench::start().await, Issuer::start().await);
    bench.provider("corp", &issuer).await;
    let ada = json!({ "sub": "1", "preferred_username": "ada" });
    let away = bench.leave().await;
    issuer.gives(bench.clock.now(), &away.nonce, &ada);
    let other = bench.leave().await;
    let code = async |away: &Away| bench.come_back(away).await.map_err(|problem| problem.code).err();
    for wrong in [
        Away { browser: other.browser.clone(), ..away.clone() },
        Away { browser: String::new(), ..away.clone() },
        Away { state: other.state.clone(), ..away.clone() },
        Away { state: format!("{}x", away.state), ..away.clone() },
        Away { state: "x".into(), ..away.clone() },
    ] {
        assert_eq!(code(&wrong).await, Some(ErrorCode::RequestInvalid));
    }
    assert_eq!(code(&other).await, Some(ErrorCode::Denied), "the nonce of another login");
    assert_eq!(code(&away).await, None);
    assert_eq!(code(&away).await, Some(ErrorCode::Denied), "it has ended");
    let late = bench.leave().await;
    bench.clock.advance(Duration::from_secs(600));
    issuer.gives(bench.clock.now(), &late.nonce, &ada);
    assert_eq!(code(&late).await, Some(ErrorCode::RequestInvalid));
    // What the provider says against it.
    let away = bench.leave().await;
    issuer.pages.lock().unwrap().insert("/token".into(), (400, r#"{"error":"invalid_grant"}"#.into()));
    assert_eq!(code(&away).await, Some(ErrorCode::Denied));
    issuer.pages.lock().unwrap().insert("/token".into(), (500, String::new()));
    assert_eq!(code(&away).await, Some(ErrorCode::Unavailable));
    for (claim, value) in
        [("aud", json!("other")), ("nonce", json!("x")), ("sub", json!("")), ("exp", json!(1))]
    {
        let mut claims = ada.clone();
        claims[claim] = value;
        assert_eq!(bench.log_in(&issuer, &claims).await.unwrap_err().code, ErrorCode::Denied, "{claim}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn cve_2025_23208_groups_that_are_mapped_follow_the_provider_and_others_do_not() {
    let (bench, issuer) = (Bench::start().await, Issuer::start().await);
    bench.provider("corp", &issuer).await;
    let instance_id = bench.instance().to_string();
    for name in ["developers", "admins"] {
        let request =
            CreateGroupRequest { instance_id: instance_id.clone(), name: name.into(), ..Default::default() };
        bench.people().create_group(request).await.unwrap();
    }
    let group = ProviderGroup { value: "dev".into(), group: "developers".into() };
    let request = UpdateIdentityProviderRequest {
        instance_id: instance_id.clone(),
        name: "corp".into(),
        groups_claim: Some("groups".into()),
        groups: Some(ProviderGroups { groups: vec![group] }),
        ..Default::default()
    };
    bench.identity().update_identity_provider(request).await.unwrap();
    let with = |groups: Value| json!({ "sub": "1", "preferred_username": "ada", "groups": groups });
    for (groups, inside) in [
        (json!(["dev", "admins", "developers"]), vec!["developers".to_owned()]),
        (json!("dev"), vec!["developers".to_owned()]),
        (json!(["ops"]), vec![]),
        (json!(["dev"]), vec!["developers".to_owned()]),
        (Value::Null, vec![]),
    ] {
        bench.log_in(&issuer, &with(groups.clone())).await.unwrap();
        assert_eq!(bench.known("ada").await.groups, inside, "{groups}");
    }
    // Without login nobody gets in by it, and what came of it ends.
    let entered = bench.log_in(&issuer, &with(json!([]))).await.unwrap();
    let shows = async || bench.ask(login("ada", &entered.token), &[]).await.is_ok();
    assert!(shows().await);
    let request = UpdateIdentityProviderRequest {
        instance_id,
        name: "corp".into(),
        login: Some(false),
        create_users: Some(false),
        ..Default::default()
    };
    bench.identity().update_identity_provider(request).await.unwrap();
    assert!(!shows().await);
}
