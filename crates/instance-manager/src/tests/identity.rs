//! People, robots, groups and roles: what their credentials open, and when they no longer do.

use berth_model::{Principal, RobotName};
use berth_proto::instance_manager::{
    Actor, AddMemberRequest, AddRobotSecretRequest, AuthorizeRequest, CreateGroupRequest, CreateRobotRequest,
    CreateRobotResponse, CreateRoleRequest, CreateTemporaryTokenRequest, Decision, DeleteGrantRequest,
    DeleteRobotSecretRequest, Effect, ListGrantsRequest, ListRobotSecretsRequest, RotateTokenKeyRequest,
    SetPasswordRequest, UpdatePrincipalRequest,
};

use super::*;

fn named(kind: &str, name: &str) -> Option<PrincipalReference> {
    Some(PrincipalReference { id: String::new(), kind: kind.into(), name: name.into() })
}

fn wish(role: &str, namespace: &str) -> GrantWish {
    GrantWish { role: role.into(), namespace: namespace.into(), ..GrantWish::default() }
}

impl Bench {
    /// Trusts what gateways are told now.
    async fn follow(&self) {
        let stream = self.client.clone().watch(WatchRequest::default()).await.unwrap();
        let settings = stream.into_inner().next().await.unwrap().unwrap();
        let mut not_befores = berth_access::NotBefores::default();
        for told in settings.not_befores {
            match told.subject.strip_prefix("instance:") {
                Some(id) => not_befores.instances.insert(id.parse().unwrap(), Timestamp(told.at)),
                None => not_befores.principals.insert(told.subject, Timestamp(told.at)),
            };
        }
        self.verifier.refuse(not_befores);
    }

    async fn robot(&self, name: &str, grants: Vec<GrantWish>) -> CreateRobotResponse {
        let request = CreateRobotRequest {
            instance_id: self.instance().to_string(),
            name: name.into(),
            grants,
            ..CreateRobotRequest::default()
        };
        self.people().create_robot(request).await.unwrap().into_inner()
    }

    async fn actor(&self, credential: Credential) -> Option<Actor> {
        let issued = self.ask(credential, &[]).await.unwrap();
        let token = self.verifier.verify(&issued.token, self.instance()).unwrap();
        Some(Actor {
            instance_id: self.instance().to_string(),
            principal: token.principal.clone(),
            credential: "password".into(),
            ..Actor::default()
        })
    }

    async fn decide(&self, principal: &str, permission: &str, repository: &str) -> Decision {
        let request = AuthorizeRequest {
            instance_id: self.instance().to_string(),
            principal: principal.into(),
            principal_instance_id: self.instance().to_string(),
            effects: vec![Effect {
                permission: permission.into(),
                repository: repository.into(),
                namespace: String::new(),
            }],
        };
        self.roles().authorize(request).await.unwrap().into_inner().decisions.remove(0)
    }
}

fn code<T: std::fmt::Debug>(outcome: Result<T, tonic::Status>) -> ErrorCode {
    from_status(&outcome.unwrap_err()).code
}

#[tokio::test(flavor = "multi_thread")]
async fn a_robots_secret_is_replaced_without_an_outage_and_shut_at_once() {
    let bench = Bench::start().await;
    bench.add("team/app", false);
    let made = bench.robot("ci", vec![wish("developer", "team")]).await;
    let scope = ["repository:team/app:pull,push,delete"];
    let login_name = RobotName::login("ci");
    let first = bench.ask(login(&login_name, &made.secret), &scope).await.unwrap();
    assert_eq!(first.scope, "repository:team/app:pull,push");
    let token = bench.verifier.verify(&first.token, bench.instance()).unwrap();
    assert_eq!(token.name, "robot+ci");
    assert!(matches!(token.principal.parse(), Ok(Principal::Known(berth_model::PrincipalKind::Robot, _))));
    // The secret is no person's password, nor that of another robot.
    bench.user("ci").await;
    bench.robot("other", Vec::new()).await;
    for name in ["ci", "robot+other", "robot+", "robot+absent"] {
        let refused = bench.ask(login(name, &made.secret), &scope).await.unwrap_err();
        assert_eq!(refused.code, ErrorCode::Unauthorized, "{name}");
    }
    let request = AddRobotSecretRequest {
        instance_id: bench.instance().to_string(),
        robot: named("robot", "ci"),
        actor: None,
    };
    let second = bench.people().add_robot_secret(request.clone()).await.unwrap().into_inner();
    assert_eq!(code(bench.people().add_robot_secret(request).await), ErrorCode::Conflict);
    for secret in [&made.secret, &second.secret] {
        assert!(bench.ask(login(&login_name, secret), &scope).await.is_ok());
    }
    bench.clock.advance(Duration::from_millis(1));
    let request = DeleteRobotSecretRequest {
        instance_id: bench.instance().to_string(),
        robot: named("robot", "ci"),
        secret_id: made.secret_id,
        actor: None,
    };
    bench.people().delete_robot_secret(request).await.unwrap();
    bench.follow().await;
    assert!(bench.ask(login(&login_name, &made.secret), &scope).await.is_err());
    assert!(bench.ask(Credential::RefreshToken(first.refresh_token), &scope).await.is_err());
    assert!(bench.verifier.verify(&first.token, bench.instance()).is_err());
    bench.clock.advance(Duration::from_millis(1));
    let with_second = bench.ask(login(&login_name, &second.secret), &scope).await.unwrap();
    let request =
        ListRobotSecretsRequest { instance_id: bench.instance().to_string(), robot: named("robot", "ci") };
    let left = bench.people().list_robot_secrets(request).await.unwrap().into_inner().secrets;
    assert!(left.len() == 1 && left[0].last_used_at > 0, "each secret has its own last use: {left:?}");
    assert!(bench.verifier.verify(&with_second.token, bench.instance()).is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_robot_ends_when_it_was_said_and_no_token_of_it_lives_longer() {
    let bench = Bench::start().await;
    let request = CreateRobotRequest {
        instance_id: bench.instance().to_string(),
        name: "short".into(),
        expires_at: Timestamp::from_seconds(1_700_000_000 + 100).0,
        ..CreateRobotRequest::default()
    };
    let made = bench.people().create_robot(request.clone()).await.unwrap().into_inner();
    let issued = bench.ask(login("robot+short", &made.secret), &[]).await.unwrap();
    assert_eq!(issued.expires_in, 100);
    bench.clock.advance(Duration::from_secs(100));
    for credential in [login("robot+short", &made.secret), Credential::RefreshToken(issued.refresh_token)] {
        assert_eq!(bench.ask(credential, &[]).await.unwrap_err().code, ErrorCode::Unauthorized);
    }
    let again = CreateRobotRequest { name: "late".into(), ..request };
    assert_eq!(code(bench.people().create_robot(again).await), ErrorCode::RequestInvalid);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_temporary_token_has_its_owners_rights_for_an_hour() {
    let bench = Bench::start().await;
    bench.add("team/app", false);
    let bob = bench.user("bob").await;
    bench.grant("bob", "developer", "team", "").await.unwrap();
    let actor = bench.actor(bob.clone()).await;
    let lent = actor.clone().map(|actor| Actor { credential: "temporary_token".into(), ..actor });
    let lasting = bench.people().create_temporary_token(CreateTemporaryTokenRequest { actor: lent }).await;
    assert_eq!(code(lasting), ErrorCode::Denied, "what is lent is not made to last");
    let request = CreateTemporaryTokenRequest { actor };
    let made = bench.people().create_temporary_token(request).await.unwrap().into_inner();
    assert_eq!(made.expires_at, Timestamp::from_seconds(1_700_000_000 + 3_600).0);
    // Whatever name it comes with: it says itself whose it is.
    let scope = ["repository:team/app:pull,push,delete"];
    let issued = bench.ask(login("anything", &made.token), &scope).await.unwrap();
    assert_eq!(issued.scope, "repository:team/app:pull,push");
    bench.clock.advance(Duration::from_secs(3_590));
    let last = bench.ask(login(&made.login, &made.token), &scope).await.unwrap();
    assert_eq!(last.expires_in, 10);
    bench.clock.advance(Duration::from_secs(10));
    assert!(bench.ask(login(&made.login, &made.token), &scope).await.is_err());
    assert!(
        bench.ask(Credential::RefreshToken(last.refresh_token), &scope).await.is_err(),
        "nothing outlives it"
    );
    assert!(bench.ask(bob, &scope).await.is_ok());
    let nobody = CreateTemporaryTokenRequest { actor: None };
    assert_eq!(code(bench.people().create_temporary_token(nobody).await), ErrorCode::RequestInvalid);
}

#[tokio::test(flavor = "multi_thread")]
async fn cve_2019_19023_nobody_makes_another_more_powerful_than_oneself() {
    let bench = Bench::start().await;
    bench.add("team/app", false);
    bench.add("other/app", false);
    let lead = bench.user("lead").await;
    bench.user("bob").await;
    bench.grant("lead", "namespace-admin", "team", "").await.unwrap();
    let actor = bench.actor(lead).await;
    let instance_id = bench.instance().to_string();
    let give = async |role: &str, namespace: &str, deployment| {
        let request = CreateGrantRequest {
            actor: actor.clone(),
            instance_id: instance_id.clone(),
            principal: Some(user_named("bob")),
            grant: Some(GrantWish { deployment, ..wish(role, namespace) }),
        };
        bench.roles().create_grant(request).await
    };
    give("developer", "team", false).await.unwrap();
    give("reader", "team", false).await.unwrap();
    for (role, namespace, deployment) in [
        ("reader", "other", false),
        ("reader", "", false),
        ("instance-admin", "", false),
        ("operator", "", true),
    ] {
        assert_eq!(code(give(role, namespace, deployment).await), ErrorCode::Denied, "{role} {namespace}");
    }
    // Nor by another's password, a group, a robot or a role.
    let request = SetPasswordRequest {
        actor: actor.clone(),
        instance_id: instance_id.clone(),
        user: Some(user_named("admin")),
        password: "mine-from-now-on".into(),
        ..SetPasswordRequest::default()
    };
    assert_eq!(code(bench.people().set_password(request).await), ErrorCode::Denied);
    let request = CreateGroupRequest {
        instance_id: instance_id.clone(),
        name: "admins".into(),
        ..CreateGroupRequest::default()
    };
    bench.people().create_group(request).await.unwrap();
    let request = CreateGrantRequest {
        instance_id: instance_id.clone(),
        principal: named("group", "admins"),
        grant: Some(wish("instance-admin", "")),
        actor: None,
    };
    bench.roles().create_grant(request).await.unwrap();
    let join = |actor: Option<Actor>, who: &str| AddMemberRequest {
        actor,
        instance_id: instance_id.clone(),
        group: named("group", "admins"),
        member: named("user", who),
    };
    assert_eq!(code(bench.people().add_member(join(actor.clone(), "lead")).await), ErrorCode::Denied);
    let request = CreateRobotRequest {
        actor: actor.clone(),
        instance_id: instance_id.clone(),
        name: "strong".into(),
        grants: vec![wish("instance-admin", "")],
        ..CreateRobotRequest::default()
    };
    assert_eq!(code(bench.people().create_robot(request).await), ErrorCode::Denied);
    let request = CreateRoleRequest {
        actor: actor.clone(),
        instance_id: instance_id.clone(),
        name: "mine".into(),
        scopes: vec!["namespace".into()],
        permissions: vec!["user:*".into()],
        ..CreateRoleRequest::default()
    };
    assert_eq!(code(bench.roles().create_role(request).await), ErrorCode::Denied);
    // Whoever has it all may.
    let admin = bench.actor(login("admin", &bench.password)).await;
    bench.people().add_member(join(admin, "lead")).await.unwrap();
    assert!(give("reader", "other", false).await.is_ok(), "lead is an administrator by the group now");
}

#[tokio::test(flavor = "multi_thread")]
async fn guessing_is_slowed_for_an_account_and_what_was_right_goes_on() {
    let bench = Bench::start().await;
    let bob = bench.user("bob").await;
    let carol = bench.user("carol").await;
    // Remembered from here on for a minute.
    assert!(bench.ask(carol.clone(), &[]).await.is_ok());
    for name in ["bob", "carol", "nobody"] {
        for n in 0..11 {
            let refused = bench.ask(login(name, "wrong"), &[]).await.unwrap_err();
            let expected = if n < 10 { ErrorCode::Unauthorized } else { ErrorCode::TooManyRequests };
            assert_eq!(refused.code, expected, "{name} {n}");
        }
    }
    let slowed = bench.ask(bob.clone(), &[]).await.unwrap_err();
    assert_eq!(slowed.code, ErrorCode::TooManyRequests);
    assert_eq!(slowed.detail.unwrap()["retry_after"], 2);
    assert!(bench.ask(carol, &[]).await.is_ok());
    assert!(bench.ask(login("admin", &bench.password), &[]).await.is_ok());
    bench.clock.advance(Duration::from_secs(1));
    assert!(bench.ask(bob, &[]).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn t36_cve_2026_31801_a_role_may_make_tags_without_moving_any() {
    let bench = Bench::start().await;
    bench.add("team/app", false);
    bench.user("bob").await;
    let request = CreateRoleRequest {
        instance_id: bench.instance().to_string(),
        name: "creator".into(),
        scopes: vec!["namespace".into()],
        permissions: vec!["artifact:pull".into(), "artifact:push".into()],
        ..CreateRoleRequest::default()
    };
    bench.roles().create_role(request.clone()).await.unwrap();
    assert_eq!(code(bench.roles().create_role(request).await), ErrorCode::AlreadyExists);
    bench.grant("bob", "creator", "team", "").await.unwrap();
    let scope = ["repository:team/app:pull,push,delete", "repository:team/new:push"];
    let issued = bench.ask(login("bob", "password"), &scope).await.unwrap();
    // It may make no repository, so it can't push to one that is absent.
    assert_eq!(issued.scope, "repository:team/app:pull,push");
    let token = bench.verifier.verify(&issued.token, bench.instance()).unwrap();
    let path = "team/app".parse().unwrap();
    assert!(token.allows(&path, Action::Push) && !token.allows(&path, Action::Overwrite));
    bench.grant("bob", "developer", "team", "").await.unwrap();
    let issued = bench.ask(login("bob", "password"), &scope).await.unwrap();
    assert_eq!(issued.scope, "repository:team/app:pull,push repository:team/new:push");
    let token = bench.verifier.verify(&issued.token, bench.instance()).unwrap();
    assert!(token.allows(&path, Action::Overwrite));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_taken_away_is_gone_from_tokens_too() {
    let bench = Bench::start().await;
    bench.add("team/app", false);
    let bob = bench.user("bob").await;
    let grant_id = bench.grant("bob", "developer", "team", "").await.unwrap();
    let scope = ["repository:team/app:pull,push"];
    let issued = bench.ask(bob.clone(), &scope).await.unwrap();
    let principal = bench.verifier.verify(&issued.token, bench.instance()).unwrap().principal.clone();
    let yes = bench.decide(&principal, "artifact:push", "team/app").await;
    assert!(yes.allowed && yes.reason.contains("developer") && yes.grant_ids == [grant_id.clone()]);
    bench.clock.advance(Duration::from_millis(1));
    let request = DeleteGrantRequest { instance_id: bench.instance().to_string(), grant_id, actor: None };
    bench.roles().delete_grant(request.clone()).await.unwrap();
    assert_eq!(code(bench.roles().delete_grant(request).await), ErrorCode::NotFound);
    bench.follow().await;
    assert!(bench.verifier.verify(&issued.token, bench.instance()).is_err());
    bench.clock.advance(Duration::from_millis(1));
    assert_eq!(bench.ask(bob.clone(), &scope).await.unwrap().scope, "");
    let no = bench.decide(&principal, "artifact:push", "team/app").await;
    assert!(!no.allowed && no.grant_ids.is_empty() && no.reason.contains("none of its"), "{no:?}");
    let set = async |disabled| {
        let request = UpdatePrincipalRequest {
            instance_id: bench.instance().to_string(),
            principal: Some(user_named("bob")),
            disabled: Some(disabled),
            ..UpdatePrincipalRequest::default()
        };
        bench.people().update_principal(request).await.unwrap();
    };
    let issued = bench.ask(bob.clone(), &[]).await.unwrap();
    bench.clock.advance(Duration::from_millis(1));
    set(true).await;
    bench.follow().await;
    assert!(bench.verifier.verify(&issued.token, bench.instance()).is_err());
    let refused = bench.ask(bob.clone(), &[]).await.unwrap_err();
    assert_eq!(refused, bench.ask(login("nobody", "password"), &[]).await.unwrap_err());
    assert!(bench.ask(Credential::RefreshToken(issued.refresh_token), &[]).await.is_err());
    assert!(bench.decide(&principal, "artifact:pull", "team/app").await.reason.contains("disabled"));
    set(false).await;
    assert!(bench.ask(bob, &[]).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_done_is_in_the_audit_with_who_did_it_and_without_secrets() {
    let bench = Bench::start().await;
    let admin = bench.actor(login("admin", &bench.password)).await.unwrap();
    let by = Actor { address: "192.0.2.7".into(), request_id: "R1".into(), ..admin.clone() };
    let request = CreateRobotRequest {
        actor: Some(by),
        instance_id: bench.instance().to_string(),
        name: "ci".into(),
        grants: vec![wish("reader", "")],
        ..CreateRobotRequest::default()
    };
    let made = bench.people().create_robot(request).await.unwrap().into_inner();
    let entries = bench.audit().await;
    let entry = entries.iter().find(|entry| entry.r#type == "robot.created").unwrap();
    assert_eq!(entry.subject, format!("robot:{}", made.robot.unwrap().id));
    assert_eq!((entry.principal.as_str(), entry.credential.as_str()), (admin.principal.as_str(), "password"));
    assert_eq!(
        (entry.address.as_str(), entry.request_id.as_str(), entry.result.as_str()),
        ("192.0.2.7", "R1", "done")
    );
    assert!(!format!("{entries:?}").contains(&made.secret));
    let request = ListGrantsRequest {
        instance_id: bench.instance().to_string(),
        principal: named("robot", "ci"),
        ..ListGrantsRequest::default()
    };
    let grants = bench.roles().list_grants(request).await.unwrap().into_inner().grants;
    assert_eq!((grants.len(), grants[0].created_by.as_str()), (1, admin.principal.as_str()));
}

#[tokio::test(flavor = "multi_thread")]
async fn another_key_signs_and_no_token_that_is_out_fails() {
    let bench = Bench::start().await;
    let keys = async || {
        let stream = bench.client.clone().watch(WatchRequest::default()).await.unwrap();
        let settings = stream.into_inner().next().await.unwrap().unwrap();
        (settings.jwks, settings.issuer)
    };
    let rotate = async || bench.client.clone().rotate_token_key(RotateTokenKeyRequest {}).await;
    let ask = async || bench.ask(login("admin", &bench.password), &[]).await.unwrap().token;
    let before = ask().await;
    assert_eq!(code(rotate().await), ErrorCode::Conflict, "the next key is not known everywhere yet");
    bench.clock.advance(Duration::from_secs(120));
    let first = rotate().await.unwrap().into_inner().key_id;
    // A gateway that has not heard of it verifies what the next key signs: it knew that key before.
    let after = ask().await;
    assert!(bench.verifier.verify(&before, bench.instance()).is_ok());
    assert!(bench.verifier.verify(&after, bench.instance()).is_ok());
    let (jwks, issuer) = keys().await;
    assert!(jwks.contains(&first));
    bench.verifier.trust(&jwks, &issuer).unwrap();
    assert!(bench.verifier.verify(&before, bench.instance()).is_ok());
    assert!(bench.verifier.verify(&after, bench.instance()).is_ok());
    assert_eq!(code(rotate().await), ErrorCode::Conflict);
    assert_eq!(
        serde_json::from_str::<serde_json::Value>(&jwks).unwrap()["keys"].as_array().unwrap().len(),
        3
    );
    bench.clock.advance(Duration::from_secs(361));
    let instances = &bench.service.domain;
    assert!(instances.store.forget_token_keys().await.unwrap());
    assert!(!instances.store.forget_token_keys().await.unwrap());
    instances.settings.refresh().await.unwrap();
    let (jwks, _) = keys().await;
    assert_eq!(
        serde_json::from_str::<serde_json::Value>(&jwks).unwrap()["keys"].as_array().unwrap().len(),
        2
    );
}
