//! Sessions, and what else is kept for somebody: with what they end.

use berth_proto::instance_manager::{
    Actor, AuthenticateRequest, Caller, CreateRobotRequest, CreateTemporaryTokenRequest,
    CreateTemporaryTokenResponse, DeleteIdentityProviderRequest, DeleteRobotSecretRequest,
    DeleteTrustRequest, InstancePassword, LinkUserRequest, OpenSessionRequest, OpenSessionResponse,
    UnlinkUserRequest, UpdateIdentityProviderRequest, authenticate_request, sessions_client::SessionsClient,
};
use berth_service::Clock;
use serde_json::{Value, json};

use super::{
    federation::{Issuer, gitlab},
    *,
};

const MINUTE: Duration = Duration::from_secs(60);

impl Bench {
    fn sessions(&self) -> SessionsClient<Channel> {
        SessionsClient::new(Channel::local("sessions", self.service.sessions.clone()))
    }

    fn shown(&self, name: &str, secret: &str) -> InstancePassword {
        InstancePassword {
            instance_id: self.instance().to_string(),
            name: name.into(),
            secret: secret.into(),
        }
    }

    async fn session(&self, name: &str, secret: &str) -> Result<OpenSessionResponse, Problem> {
        let password = Some(self.shown(name, secret));
        let request = OpenSessionRequest { password, ..Default::default() };
        let opened = self.sessions().open_session(request).await;
        opened.map(tonic::Response::into_inner).map_err(|status| from_status(&status))
    }

    async fn caller(&self, credential: authenticate_request::Credential) -> Result<Caller, ErrorCode> {
        let request = AuthenticateRequest { credential: Some(credential), client_address: String::new() };
        let known = self.sessions().authenticate(request).await;
        known.map(tonic::Response::into_inner).map_err(|status| from_status(&status).code)
    }

    async fn by_token(&self, token: &str) -> Result<Caller, ErrorCode> {
        self.caller(authenticate_request::Credential::Token(token.into())).await
    }

    async fn by_password(&self, name: &str, secret: &str) -> Result<Caller, ErrorCode> {
        self.caller(authenticate_request::Credential::Password(self.shown(name, secret))).await
    }

    /// A temporary token, as the REST API asks for it on behalf of a caller.
    async fn lend(&self, caller: Caller) -> Result<CreateTemporaryTokenResponse, ErrorCode> {
        let actor = Actor {
            instance_id: caller.instance_id,
            principal: caller.principal,
            credential: caller.credential,
            credential_expires_at: caller.expires_at,
            robot_secret_id: caller.robot_secret_id,
            provider_id: caller.provider_id,
            ..Default::default()
        };
        let request = CreateTemporaryTokenRequest { actor: Some(actor) };
        let lent = self.people().create_temporary_token(request).await;
        lent.map(tonic::Response::into_inner).map_err(|status| from_status(&status).code)
    }

    async fn end_trust(&self, trust_id: String) {
        let request = DeleteTrustRequest { actor: None, instance_id: self.instance().to_string(), trust_id };
        self.identity().delete_trust(request).await.unwrap();
    }

    async fn link(&self, subject: &str, user: &str) {
        let request = LinkUserRequest {
            actor: None,
            instance_id: self.instance().to_string(),
            provider: "corp".into(),
            subject: subject.into(),
            user: Some(user_named(user)),
        };
        self.identity().link_user(request).await.unwrap();
    }
}

fn lasting(claims: &Value, now: Timestamp, seconds: i64) -> Value {
    let mut claims = claims.clone();
    claims["exp"] = (now.seconds() + seconds).into();
    claims
}

const NO: ErrorCode = ErrorCode::Unauthorized;

#[tokio::test(flavor = "multi_thread")]
async fn a_session_of_a_workload_is_not_longer_than_its_token_or_an_hour() {
    let (bench, issuer) = (Bench::start().await, Issuer::start().await);
    bench.provider("ci", &issuer).await;
    bench.ci_robot("ci").await;
    bench.trust("ci", &[("project_path", "acme/app")]).await.unwrap();
    let now = bench.clock.now();
    for (lasts, session) in [(300, 360), (3_539, 3_599), (3_540, 3_600), (86_400, 3_600)] {
        let token = issuer.token(now, &lasting(&gitlab(), now, lasts));
        let opened = bench.session("robot+ci", &token).await.unwrap();
        assert_eq!(opened.expires_at, now.plus(Duration::from_secs(session)).0, "{lasts}");
        let caller = opened.caller.unwrap();
        assert_eq!((caller.name.as_str(), caller.credential.as_str()), ("robot+ci", "identity_token"));
    }
    let token = issuer.token(now, &lasting(&gitlab(), now, 300));
    let opened = bench.session("robot+", &token).await.unwrap();
    let caller = bench.by_token(&opened.token).await.unwrap();
    assert_eq!((caller.name.as_str(), caller.credential.as_str()), ("robot+ci", "refresh_token"));
    assert_eq!(caller.expires_at, opened.expires_at);
    // Nothing that comes of either lasts longer.
    let shown = bench.by_password("robot+ci", &token).await.unwrap();
    assert_eq!((shown.credential.as_str(), shown.expires_at), ("identity_token", opened.expires_at));
    for caller in [caller, shown] {
        assert_eq!(bench.lend(caller).await.unwrap().expires_at, opened.expires_at);
    }
    bench.clock.advance(MINUTE * 5);
    let refresh = Credential::RefreshToken(opened.token.clone());
    let issued = bench.ask(refresh.clone(), &[]).await.unwrap();
    assert_eq!((issued.expires_in, issued.refresh_token.as_str()), (60, opened.token.as_str()));
    bench.clock.advance(MINUTE);
    assert_eq!(bench.by_token(&opened.token).await.unwrap_err(), NO);
    assert_eq!(bench.ask(refresh, &[]).await.unwrap_err().code, NO);
    assert_eq!(bench.by_password("robot+ci", &token).await.unwrap_err(), NO);
    assert_eq!(bench.session("robot+ci", &token).await.unwrap_err().code, NO);
    let entries = bench.audit().await;
    let login = entries.iter().find(|entry| entry.r#type == "login.accepted").unwrap();
    assert_eq!(login.credential, "identity_token");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_of_a_workload_ends_with_its_trust() {
    let (bench, issuer) = (Bench::start().await, Issuer::start().await);
    bench.provider("ci", &issuer).await;
    bench.ci_robot("ci").await;
    bench.ci_robot("other").await;
    let trust = bench.trust("ci", &[("project_path", "acme/app")]).await.unwrap();
    bench.trust("ci", &[("project_path", "acme/other")]).await.unwrap();
    bench.trust("other", &[("project_path", "acme/app")]).await.unwrap();
    let token = issuer.token(bench.clock.now(), &gitlab());
    let opened = bench.session("robot+ci", &token).await.unwrap();
    let other = bench.session("robot+other", &token).await.unwrap();
    let mut lent = Vec::new();
    for caller in [bench.by_token(&opened.token).await, bench.by_password("robot+ci", &token).await] {
        lent.push(bench.lend(caller.unwrap()).await.unwrap().token);
    }
    // A token of another kind of the same robot stays.
    let request = CreateRobotRequest {
        instance_id: bench.instance().to_string(),
        name: "keeps-a-secret".into(),
        ..Default::default()
    };
    let secret = bench.people().create_robot(request).await.unwrap().into_inner();
    let kept = bench.session("robot+keeps-a-secret", &secret.secret).await.unwrap();
    bench.end_trust(trust).await;
    for ended in lent.iter().chain([&opened.token]) {
        assert_eq!(bench.by_token(ended).await.unwrap_err(), NO);
        assert_eq!(bench.ask(login("robot+ci", ended), &[]).await.unwrap_err().code, NO);
    }
    assert_eq!(bench.session("robot+ci", &token).await.unwrap_err().code, NO);
    assert!(bench.by_token(&other.token).await.is_ok() && bench.by_token(&kept.token).await.is_ok());
    // The provider takes all of it along.
    let instance_id = bench.instance().to_string();
    let request = DeleteIdentityProviderRequest { instance_id, name: "ci".into(), ..Default::default() };
    bench.identity().delete_identity_provider(request).await.unwrap();
    assert_eq!(bench.by_token(&other.token).await.unwrap_err(), NO);
    assert!(bench.by_token(&kept.token).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_by_an_id_token_is_for_an_hour_and_ends_with_the_link() {
    let (bench, issuer) = (Bench::start().await, Issuer::start().await);
    bench.provider("corp", &issuer).await;
    bench.user("ada").await;
    bench.link("1", "ada").await;
    let now = bench.clock.now();
    let claims = json!({ "sub": "1", "aud": "client" });
    let token = issuer.token(now, &lasting(&claims, now, 86_400));
    let opens = async || {
        let opened = bench.session("ada", &token).await.unwrap();
        assert_eq!(opened.expires_at, bench.clock.now().plus(MINUTE * 60).0);
        let lent = bench.lend(bench.by_token(&opened.token).await.unwrap()).await.unwrap();
        let again = bench.lend(bench.by_token(&lent.token).await.unwrap()).await.unwrap();
        assert_eq!(again.expires_at, opened.expires_at, "what is lent does not grow");
        [opened.token, lent.token, again.token]
    };
    let ended = async |tokens: [String; 3]| {
        for token in tokens {
            assert_eq!(bench.by_token(&token).await.unwrap_err(), NO);
        }
    };
    let by_password = bench.session("ada", "password").await.unwrap();
    let tokens = opens().await;
    let request = UnlinkUserRequest {
        actor: None,
        instance_id: bench.instance().to_string(),
        provider: "corp".into(),
        user: Some(user_named("ada")),
    };
    bench.identity().unlink_user(request).await.unwrap();
    ended(tokens).await;
    assert_eq!(bench.session("ada", &token).await.unwrap_err().code, NO);
    bench.link("1", "ada").await;
    let tokens = opens().await;
    let request = UpdateIdentityProviderRequest {
        instance_id: bench.instance().to_string(),
        name: "corp".into(),
        login: Some(false),
        create_users: Some(false),
        ..Default::default()
    };
    bench.identity().update_identity_provider(request).await.unwrap();
    ended(tokens).await;
    assert_eq!(bench.session("ada", &token).await.unwrap_err().code, NO);
    assert!(bench.by_token(&by_password.token).await.is_ok(), "the password has nothing to do with it");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_robots_secret_lends_ends_with_it() {
    let bench = Bench::start().await;
    let instance_id = bench.instance().to_string();
    let request =
        CreateRobotRequest { instance_id: instance_id.clone(), name: "ci".into(), ..Default::default() };
    let made = bench.people().create_robot(request).await.unwrap().into_inner();
    let opened = bench.session("robot+ci", &made.secret).await.unwrap();
    let mut lent = Vec::new();
    for caller in [bench.by_password("robot+ci", &made.secret).await, bench.by_token(&opened.token).await] {
        lent.push(bench.lend(caller.unwrap()).await.unwrap().token);
    }
    let again = bench.lend(bench.by_token(&lent[0]).await.unwrap()).await.unwrap().token;
    lent.push(again);
    let robot = PrincipalReference { id: String::new(), kind: "robot".into(), name: "ci".into() };
    let request =
        DeleteRobotSecretRequest { actor: None, instance_id, robot: Some(robot), secret_id: made.secret_id };
    bench.people().delete_robot_secret(request).await.unwrap();
    for ended in lent.iter().chain([&opened.token]) {
        assert_eq!(bench.by_token(ended).await.unwrap_err(), NO);
    }
}
