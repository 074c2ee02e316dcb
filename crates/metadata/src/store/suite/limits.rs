//! Repositories by push: provisional, bound to the token, within the instance's limits.

use berth_database::args;
use berth_oci::{ErrorCode, Problem};
use berth_proto::metadata::{
    SetLimitsRequest, SetLimitsResponse, access::BoundTo, limits_server::Limits as Server,
};
use futures::future::join_all;
use tonic::Request;

use super::{Manifest, World, answer, both, on_both_engines, refusal};

const APP: &str = "team/app";

on_both_engines!(
    a_repository_is_provisional_until_its_first_manifest,
    a_remade_repository_is_closed_to_old_tokens,
    a_token_for_a_namespace_opens_what_is_made_in_it,
    a_limit_of_300_is_exact_under_concurrent_pushes,
    a_namespace_limit_is_judged,
    a_name_without_a_namespace_is_refused,
    limits_are_set_by_revision,
    a_limit_below_todays_use_is_refused,
    a_limit_and_pushes_at_once_agree,
);

async fn a_repository_is_provisional_until_its_first_manifest(world: World) {
    let blob = world.blob(APP, "config").await;
    let provisional = both("SELECT count(*) FROM repositories WHERE provisional");
    assert_eq!(world.count(&provisional).await, 1);
    assert_eq!(world.count(&both("SELECT count(*) FROM repository_review_queue")).await, 1);
    assert!(world.resolve_blob(APP, &blob).await.content.is_some());
    let missing = Manifest::image(&[berth_oci::Digest::of(berth_oci::Algorithm::Sha256, b"absent")]);
    world.put(APP, &missing, &["v1"]).await.unwrap_err();
    assert_eq!(world.count(&provisional).await, 1);
    world.put(APP, &Manifest::image(&[blob]), &["v1"]).await.unwrap();
    assert_eq!(world.count(&provisional).await, 0);
    // A refused manifest leaves no repository behind.
    world.put("team/none", &missing, &[]).await.unwrap_err();
    assert_eq!(world.resolve_tag("team/none", "v1").await.repository_id, "");
    assert_eq!(world.count(&both("SELECT repositories FROM instance_limits")).await, 1);
}

async fn a_remade_repository_is_closed_to_old_tokens(world: World) {
    world.start(APP).await.unwrap();
    let old = world.resolve_tag(APP, "v1").await;
    let of_repository = world.bound(APP, BoundTo::RepositoryId(old.repository_id.clone()));
    let empty = Manifest::index(&[]);
    world.put_as(of_repository.clone(), &empty, &["v1"]).await.unwrap();
    let wipe = &[
        both("DELETE FROM tags"),
        both("DELETE FROM manifests"),
        both("DELETE FROM upload_sessions"),
        both("DELETE FROM repository_terms"),
        both("DELETE FROM repositories"),
    ];
    world.stage(wipe, args![]).await;
    // Absent, and not to be made with this token.
    let problem = world.put_as(of_repository.clone(), &empty, &["v1"]).await.unwrap_err();
    assert_eq!(problem.code, ErrorCode::Unauthorized);
    assert_eq!(problem.message, "the token was issued for another repository of this name; log in again");
    world.put(APP, &empty, &["v1"]).await.unwrap();
    assert_ne!(world.resolve_tag(APP, "v1").await.repository_id, old.repository_id);
    assert_eq!(refusal(world.put_as(of_repository, &empty, &["v2"]).await), ErrorCode::Unauthorized);
    world.stage(wipe, args![]).await;
    world.stage(&[both("DELETE FROM namespaces")], args![]).await;
    let of_namespace = world.bound(APP, BoundTo::NamespaceId(old.namespace_id));
    assert_eq!(refusal(world.put_as(of_namespace, &empty, &["v2"]).await), ErrorCode::Unauthorized);
    let foreign = world.bound(APP, BoundTo::BoundInstanceId("01ARZ3NDEKTSV4RRFFQ69G5FAV".to_owned()));
    assert_eq!(refusal(world.put_as(foreign, &empty, &["v2"]).await), ErrorCode::Unauthorized);
}

async fn a_token_for_a_namespace_opens_what_is_made_in_it(world: World) {
    world.start(APP).await.unwrap();
    let namespace = world.resolve_tag(APP, "v1").await.namespace_id;
    let access = world.bound("team/new", BoundTo::NamespaceId(namespace.clone()));
    let index = Manifest::index(&[]);
    world.put_as(access.clone(), &index, &["v1"]).await.unwrap();
    world.put_as(access, &index, &["v2"]).await.unwrap();
    let elsewhere = world.bound("else/new", BoundTo::NamespaceId(namespace));
    assert_eq!(refusal(world.put_as(elsewhere, &index, &["v1"]).await), ErrorCode::Unauthorized);
}

async fn set(
    world: &World,
    revision: i64,
    namespaces: Option<u64>,
    repositories: Option<u64>,
) -> Result<SetLimitsResponse, Problem> {
    let request = SetLimitsRequest {
        instance_id: world.instance.to_string(),
        revision,
        max_namespaces: namespaces,
        max_repositories: repositories,
        max_depth: None,
    };
    answer(world.service.set_limits(Request::new(request)).await)
}

async fn limit(world: &World, namespaces: Option<u64>, repositories: Option<u64>) {
    set(world, 1, namespaces, repositories).await.unwrap();
}

async fn a_limit_of_300_is_exact_under_concurrent_pushes(world: World) {
    limit(&world, None, Some(300)).await;
    let mut made = 0;
    let mut refused = 0;
    let all: Vec<u32> = (0..330).collect();
    for some in all.chunks(55) {
        let pushes = some.iter().map(|number| {
            let world = world.clone();
            async move { world.start(&format!("team{}/app{number}", number % 3)).await }
        });
        for outcome in join_all(pushes).await {
            match outcome {
                Ok(_) => made += 1,
                Err(problem) => {
                    refused += 1;
                    assert_eq!(problem.code, ErrorCode::QuotaExceeded);
                    let detail = problem.detail.unwrap();
                    assert_eq!((&detail["used"], &detail["limit"]), (&300.into(), &300.into()));
                    assert_eq!(detail["unit"], "repositories");
                }
            }
        }
    }
    assert_eq!((made, refused), (300, 30));
    assert_eq!(world.count(&both("SELECT count(*) FROM repositories")).await, 300);
    assert_eq!(world.count(&both("SELECT repositories FROM instance_limits")).await, 300);
    assert_eq!(world.count(&both("SELECT namespaces FROM instance_limits")).await, 3);
    // What exists goes on.
    world.start("team0/app0").await.unwrap();
}

async fn a_namespace_limit_is_judged(world: World) {
    limit(&world, Some(1), None).await;
    world.start("one/app").await.unwrap();
    world.start("one/other").await.unwrap();
    let problem = world.start("two/app").await.unwrap_err();
    assert_eq!(problem.code, ErrorCode::QuotaExceeded);
    assert_eq!(problem.detail.unwrap()["unit"], "namespaces");
}

async fn a_name_without_a_namespace_is_refused(world: World) {
    let problem = world.start("app").await.unwrap_err();
    assert_eq!(problem.code, ErrorCode::NameInvalid);
    assert!(problem.message.contains("<namespace>/app"));
    assert_eq!(refusal(world.start("team/UPPER").await), ErrorCode::NameInvalid);
}

async fn limits_are_set_by_revision(world: World) {
    assert_eq!(refusal(set(&world, 0, None, None).await), ErrorCode::RequestInvalid);
    assert_eq!(refusal(set(&world, 1, Some(u64::MAX), None).await), ErrorCode::SizeInvalid);
    limit(&world, Some(1), Some(1)).await;
    world.start("one/app").await.unwrap();
    assert_eq!(refusal(world.start("one/other").await), ErrorCode::QuotaExceeded);
    let set_by = set(&world, 3, Some(1), Some(2)).await.unwrap();
    assert_eq!((set_by.revision, set_by.namespaces, set_by.repositories), (3, 1, 1));
    world.start("one/other").await.unwrap();
    // Late and repeated wishes change nothing, whatever they ask for, and tell what is in force.
    for revision in [2, 3] {
        let ignored = set(&world, revision, None, Some(0)).await.unwrap();
        assert_eq!((ignored.revision, ignored.repositories), (3, 2));
        assert_eq!(refusal(world.start("one/third").await), ErrorCode::QuotaExceeded);
    }
    set(&world, 4, None, None).await.unwrap();
    world.start("two/app").await.unwrap();
}

async fn a_limit_below_todays_use_is_refused(world: World) {
    limit(&world, Some(2), Some(3)).await;
    for path in ["one/a", "one/b", "two/c"] {
        world.start(path).await.unwrap();
    }
    for (namespaces, repositories, used, limit, unit, all) in
        [(1, 3, 2, 1, "namespaces", 1), (2, 2, 3, 2, "repositories", 1), (0, 0, 2, 0, "namespaces", 2)]
    {
        let problem = set(&world, 2, Some(namespaces), Some(repositories)).await.unwrap_err();
        assert_eq!(problem.code, ErrorCode::QuotaExceeded);
        let said = format!("the instance has {used} of at most {limit} {unit}");
        assert!(problem.message.starts_with(&said), "{}", problem.message);
        let detail = problem.detail.unwrap();
        assert_eq!(
            (&detail["used"], &detail["limit"], &detail["unit"]),
            (&used.into(), &limit.into(), &unit.into())
        );
        assert_eq!(detail["exceeded"].as_array().unwrap().len(), all, "all that stands in the way: {detail}");
    }
    // Nothing of a refused wish is in force, its revision included.
    assert_eq!(refusal(world.start("one/d").await), ErrorCode::QuotaExceeded);
    assert_eq!(set(&world, 2, Some(2), Some(3)).await.unwrap().revision, 2);
}

async fn a_limit_and_pushes_at_once_agree(world: World) {
    let pushes = (0..24).map(|number| {
        let world = world.clone();
        async move { world.start(&format!("team/app{number}")).await.is_ok() }
    });
    let wish = async {
        tokio::task::yield_now().await;
        set(&world, 1, None, Some(10)).await
    };
    let (made, set) = tokio::join!(join_all(pushes), wish);
    let made = made.into_iter().filter(|made| *made).count();
    match set {
        Ok(set) => assert!(made == 10 && set.repositories <= 10, "{made} {set:?}"),
        Err(problem) => assert!(made == 24 && problem.code == ErrorCode::QuotaExceeded, "{made} {problem:?}"),
    }
}
