//! Identity providers, what hangs on them, and how a login ends.

use berth_model::{PrincipalId, PrincipalKind, ProviderId, TrustId};
use berth_oci::{ErrorCode, Problem};

use super::{
    principals::{add, code, home, refused},
    *,
};

fn provider(bench: &Bench, instance: InstanceId, name: &str, issuer: &str) -> NewProvider {
    NewProvider {
        id: ProviderId::new(bench.ids.ulid()),
        instance,
        name: name.into(),
        issuer: issuer.into(),
        text: ProviderText {
            client_id: "client".into(),
            client_secret: Some(vec![1, 2, 3]),
            scopes: vec!["profile".into()],
            audiences: vec!["a \"quoted\" one".into()],
            username_claim: "sub".into(),
            groups_claim: "groups".into(),
            login: true,
            create_users: true,
        },
        groups: Vec::new(),
    }
}

async fn made(bench: &Bench, new: NewProvider) -> StoredProvider {
    let entry = bench.event(new.instance);
    bench.store.add_provider(new, entry).await.unwrap().unwrap()
}

fn temporary(
    bench: &Bench,
    instance: InstanceId,
    of: PrincipalId,
    by: ProviderId,
    hash: [u8; 32],
) -> SecretToken {
    let now = bench.database_now();
    SecretToken {
        hash,
        kind: TokenKind::Temporary,
        instance,
        principal: of,
        secret: None,
        provider: Some(by),
        trust: None,
        created_at: now,
        expires_at: now.plus(Duration::from_secs(3_600)),
    }
}

async fn opens(bench: &Bench, instance: InstanceId, hash: [u8; 32]) -> bool {
    let found =
        bench.store.principal_by_token(hash, TokenKind::Temporary, instance, bench.database_now()).await;
    found.unwrap().is_some()
}

async fn trust(bench: &Bench, provider: &StoredProvider, robot: PrincipalId) -> NewTrust {
    let new = NewTrust {
        id: TrustId::new(bench.ids.ulid()),
        instance: provider.instance,
        provider: provider.id,
        robot,
        audience: "a".into(),
        conditions: Conditions::from([("sub".to_owned(), "me".to_owned())]),
        created_by: "user:a".into(),
    };
    bench.store.add_trust(new.clone(), bench.event(provider.instance)).await.unwrap();
    new
}

pub(super) async fn a_provider_has_its_name_and_its_issuer_alone(bench: Bench) {
    let instance = home(&bench).await;
    let wanted = provider(&bench, instance, "corp", "https://a.example.com");
    let found = made(&bench, wanted.clone()).await;
    assert_eq!((&found.text, found.version), (&wanted.text, 1));
    for (name, issuer) in [("corp", "https://b.example.com"), ("other", "https://a.example.com")] {
        let again = provider(&bench, instance, name, issuer);
        assert!(bench.store.add_provider(again, bench.event(instance)).await.unwrap().is_none());
    }
    let of = async |issuer: &str| bench.store.provider_of_issuer(instance, issuer).await.unwrap();
    assert_eq!(of("https://a.example.com").await, Some(found.clone()));
    assert_eq!(of("https://a.example.com/").await, None);
    let elsewhere = InstanceId::new(bench.ids.ulid());
    assert!(bench.store.provider_of_issuer(elsewhere, "https://a.example.com").await.unwrap().is_none());
    // A change is of the version that was seen, and ends what came by logins when there are none any more.
    let ada = add(&bench, instance, PrincipalKind::User, "ada").await;
    assert!(
        bench.store.link_user(instance, found.id, "1".into(), ada.id, bench.event(instance)).await.unwrap()
    );
    bench.store.keep_token(temporary(&bench, instance, ada.id, found.id, [1; 32]), None).await.unwrap();
    let mut change = ProviderChange { text: wanted.text, groups: None };
    change.text.client_secret = None;
    let after = bench.store.change_provider(&found, change.clone(), bench.event(instance)).await.unwrap();
    assert_eq!((after.version, &after.text.client_secret), (2, &None));
    assert!(opens(&bench, instance, [1; 32]).await);
    let stale = bench.store.change_provider(&found, change.clone(), bench.event(instance)).await;
    assert_eq!(code(stale), ErrorCode::PreconditionFailed);
    change.text.login = false;
    bench.store.change_provider(&after, change, bench.event(instance)).await.unwrap();
    assert!(!opens(&bench, instance, [1; 32]).await);
    assert_eq!(refused(&bench).await, [format!("instance:{instance}")]);
}

pub(super) async fn what_hangs_on_a_provider_goes_with_it(bench: Bench) {
    let instance = home(&bench).await;
    let group = add(&bench, instance, PrincipalKind::Group, "developers").await;
    let robot = add(&bench, instance, PrincipalKind::Robot, "ci").await;
    let ada = add(&bench, instance, PrincipalKind::User, "ada").await;
    let mut new = provider(&bench, instance, "corp", "https://a.example.com");
    new.groups = vec![("dev".into(), group.id)];
    let corp = made(&bench, new).await;
    let other = made(&bench, provider(&bench, instance, "other", "https://b.example.com")).await;
    let groups = bench.store.provider_groups(corp.id).await.unwrap();
    assert_eq!(groups, [("dev".to_owned(), group.id, "developers".to_owned())]);
    let (first, kept) = (trust(&bench, &corp, robot.id).await, trust(&bench, &other, robot.id).await);
    for (provider, hash) in [(&corp, [1; 32]), (&other, [2; 32])] {
        let link = |subject: &str, user| {
            bench.store.link_user(instance, provider.id, subject.into(), user, bench.event(instance))
        };
        assert!(link("1", ada.id).await.unwrap());
        assert!(!link("1", ada.id).await.unwrap() && !link("2", ada.id).await.unwrap());
        assert_eq!(code(link("3", robot.id).await), ErrorCode::NotFound);
        let token = temporary(&bench, instance, ada.id, provider.id, hash);
        bench.store.keep_token(token, None).await.unwrap();
    }
    assert_eq!(bench.store.trusts_of(corp.id).await.unwrap()[0].conditions, first.conditions);
    assert_eq!(bench.store.trusts(instance, "", 10).await.unwrap().len(), 2);
    bench.store.delete_provider(instance, corp.id, None, bench.event(instance)).await.unwrap();
    let left: Vec<TrustId> =
        bench.store.trusts(instance, "", 10).await.unwrap().iter().map(|trust| trust.id).collect();
    assert_eq!(left, [kept.id]);
    assert!(!opens(&bench, instance, [1; 32]).await && opens(&bench, instance, [2; 32]).await);
    assert!(bench.store.linked(instance, corp.id, "1").await.unwrap().is_none());
    assert_eq!(bench.store.linked(instance, other.id, "1").await.unwrap().unwrap().id, ada.id);
    // Principals take along what names them.
    for principal in [group.id, robot.id, ada.id] {
        bench.store.delete_principal(instance, principal, None, bench.event(instance)).await.unwrap();
    }
    assert!(bench.store.trusts(instance, "", 10).await.unwrap().is_empty());
    assert!(bench.store.linked(instance, other.id, "1").await.unwrap().is_none());
    let gone = bench.store.delete_provider(instance, corp.id, None, bench.event(instance)).await;
    assert_eq!(code(gone), ErrorCode::NotFound);
}

pub(super) async fn nothing_is_kept_for_whom_nobody_vouches_any_more(bench: Bench) {
    let instance = home(&bench).await;
    let corp = made(&bench, provider(&bench, instance, "corp", "https://a.example.com")).await;
    let robot = add(&bench, instance, PrincipalKind::Robot, "ci").await;
    let ada = add(&bench, instance, PrincipalKind::User, "ada").await;
    let keeps = async |of: PrincipalId, n: u8, trust: Option<TrustId>| {
        let token = SecretToken { trust, ..temporary(&bench, instance, of, corp.id, [n; 32]) };
        bench.store.keep_token(token, None).await
    };
    let no = ErrorCode::Unauthorized;
    assert_eq!(code(keeps(ada.id, 1, None).await), no, "nobody is linked");
    assert_eq!(code(keeps(robot.id, 1, None).await), no, "no trust");
    let link =
        async || bench.store.link_user(instance, corp.id, "1".into(), ada.id, bench.event(instance)).await;
    assert!(link().await.unwrap());
    keeps(ada.id, 1, None).await.unwrap();
    let (first, second) = (trust(&bench, &corp, robot.id).await, trust(&bench, &corp, robot.id).await);
    keeps(robot.id, 2, Some(first.id)).await.unwrap();
    keeps(robot.id, 3, None).await.unwrap();
    // One trust goes: what may have come of it, and no more of it.
    assert!(bench.store.delete_trust(instance, first.id, bench.event(instance)).await.unwrap());
    assert!(!opens(&bench, instance, [2; 32]).await && !opens(&bench, instance, [3; 32]).await);
    assert!(opens(&bench, instance, [1; 32]).await);
    assert_eq!(code(keeps(robot.id, 4, Some(first.id)).await), no);
    keeps(robot.id, 4, Some(second.id)).await.unwrap();
    // At once: whichever comes first, nothing is left.
    let (of_robot, gone) = tokio::join!(
        keeps(robot.id, 5, Some(second.id)),
        bench.store.delete_trust(instance, second.id, bench.event(instance))
    );
    assert!(gone.unwrap() && of_robot.map_err(Problem::from).err().is_none_or(|refused| refused.code == no));
    let (of_ada, gone) = tokio::join!(
        keeps(ada.id, 6, None),
        bench.store.unlink_user(instance, corp.id, ada.id, bench.event(instance))
    );
    assert!(gone.unwrap() && of_ada.map_err(Problem::from).err().is_none_or(|refused| refused.code == no));
    for n in 1..=6 {
        assert!(!opens(&bench, instance, [n; 32]).await, "{n}");
    }
    // A provider by which nobody logs in, and one that is gone.
    assert!(link().await.unwrap());
    let mut change = ProviderChange { text: corp.text.clone(), groups: None };
    change.text.login = false;
    bench.store.change_provider(&corp, change, bench.event(instance)).await.unwrap();
    assert_eq!(code(keeps(ada.id, 7, None).await), no);
    bench.store.delete_provider(instance, corp.id, None, bench.event(instance)).await.unwrap();
    assert_eq!(code(keeps(ada.id, 7, None).await), no);
}

pub(super) async fn a_login_is_finished_once_and_all_at_once(bench: Bench) {
    let instance = home(&bench).await;
    let corp = made(&bench, provider(&bench, instance, "corp", "https://a.example.com")).await;
    let group = add(&bench, instance, PrincipalKind::Group, "developers").await;
    let login = |n: u8, subject: &str, name: Option<&str>, of: PrincipalId, inside: bool| Login {
        provider: corp.id,
        // After any time that a database may have.
        state: ([n; 32], Timestamp::from_seconds(4_000_000_000)),
        subject: subject.into(),
        new: name.map(|name| NewPrincipal {
            id: of,
            instance,
            kind: PrincipalKind::User,
            name: name.into(),
            description: String::new(),
            password_hash: None,
            email: String::new(),
            expires_at: None,
            grants: Vec::new(),
            secret: None,
        }),
        token: temporary(&bench, instance, of, corp.id, [n; 32]),
        groups: vec![(group.id, inside)],
        made: bench.event(instance),
        regrouped: bench.event(instance),
        entered: bench.event(instance),
    };
    let fresh = || PrincipalId::new(bench.ids.ulid());
    let ada = fresh();
    // Two that come at once: one of them is it.
    let both = login(1, "1", Some("ada"), ada, true);
    let outcomes =
        futures::future::join_all([bench.store.finish_login(both.clone()), bench.store.finish_login(both)])
            .await;
    let mut outcomes: Vec<String> =
        outcomes.into_iter().map(|outcome| format!("{:?}", outcome.unwrap())).collect();
    outcomes.sort();
    assert_eq!(outcomes, ["Done", "Repeated"]);
    assert!(bench.store.login_is_finished([1; 32]).await.unwrap());
    assert!(opens(&bench, instance, [1; 32]).await);
    assert_eq!(bench.store.groups_of(ada).await.unwrap(), ["developers"]);
    let ends = async |login: Login| bench.store.finish_login(login).await.unwrap();
    assert_eq!(ends(login(2, "2", Some("ada"), fresh(), false)).await, LoginOutcome::NameTaken);
    assert_eq!(ends(login(3, "1", Some("eve"), fresh(), false)).await, LoginOutcome::Overtaken);
    assert_eq!(ends(login(4, "9", None, ada, false)).await, LoginOutcome::Overtaken);
    assert!(refused(&bench).await.is_empty());
    assert_eq!(ends(login(5, "1", None, ada, false)).await, LoginOutcome::Done);
    assert!(bench.store.groups_of(ada).await.unwrap().is_empty());
    assert_eq!(refused(&bench).await, [format!("user:{ada}")], "who has left a group");
    bench.store.delete_provider(instance, corp.id, None, bench.event(instance)).await.unwrap();
    assert_eq!(ends(login(6, "6", Some("bob"), fresh(), false)).await, LoginOutcome::Overtaken);
    for n in [2, 3, 4, 6] {
        assert!(!opens(&bench, instance, [n; 32]).await, "{n}");
    }
}
