//! Credentials of every kind over HTTP, and how fast they end.

use berth_testkit::Content;
use reqwest::Method;

use crate::{Tenant, in_every_tenancy, until};

fn field(line: &str, name: &str) -> String {
    let line: serde_json::Value = serde_json::from_str(line).unwrap();
    line[name].as_str().unwrap().to_owned()
}

in_every_tenancy! {
    async fn a_robot_pushes_within_its_grant_and_its_secret_is_replaced(deployment: &'static Deployment) {
        let tenant = Tenant::new(deployment, "robot-acme", "basic").await;
        let mut content = Content::named("robot");
        let (image, more) = (content.image(1, 100), content.image(1, 100));
        tenant.owner().repository("team/app").push_image("v1", &image).await.unwrap();
        let made = tenant.admin(&["create-robot", "ci", "--expires-in", "90d"]).await;
        tenant.admin(&["grant", "robot+ci", "developer", "--namespace", "team"]).await;
        let robot = tenant.anonymous().with_credentials("robot+ci", &field(&made, "secret"));
        robot.repository("team/new").push_image("v1", &more).await.unwrap();
        robot.repository("team/app").pull_image("v1", &image).await.unwrap();
        let elsewhere = robot.repository("else/app").start_upload().await;
        assert!(elsewhere.is_err(), "its grant ends with the namespace");
        let refused = robot.repository("team/app").delete("manifests/v1").await.unwrap();
        assert_eq!((refused.status, refused.error_code().as_deref()), (401, Some("DENIED")));

        let second = tenant.admin(&["add-robot-secret", "ci"]).await;
        assert!(tenant.try_admin(&["add-robot-secret", "ci"], "").await.is_err(), "two at a time");
        let renewed = tenant.anonymous().with_credentials("robot+ci", &field(&second, "secret"));
        renewed.repository("team/app").pull_image("v1", &image).await.unwrap();
        let old = robot.repository("team/app").token().await.unwrap();
        tenant.admin(&["delete-robot-secret", "ci", &field(&made, "secret_id")]).await;
        let refused = async || {
            let call = tenant.anonymous().call(Method::GET, "/v2/team/app/manifests/v1").bearer(old.as_str());
            call.send().await.unwrap().status
        };
        for _ in deployment.processes() {
            until("tokens of the old secret are refused", async || refused().await == 401).await;
        }
        assert_eq!(robot.token_reply(&[]).await.unwrap().status, 401);
        let again = tenant.anonymous().with_credentials("robot+ci", &field(&second, "secret"));
        again.repository("team/app").pull_image("v1", &image).await.unwrap();
        let used = tenant.admin(&["robot-secrets", "ci"]).await;
        let used: serde_json::Value = serde_json::from_str(used.trim()).unwrap();
        assert!(used["last_used_at"].is_i64(), "{used}");
    }

    async fn a_right_that_is_taken_away_is_gone_within_five_seconds(deployment: &'static Deployment) {
        let tenant = Tenant::new(deployment, "gone-acme", "basic").await;
        let mut content = Content::named("gone");
        tenant.owner().repository("team/app").push_image("v1", &content.image(1, 100)).await.unwrap();
        for (person, take) in
            [("leaver", "disable"), ("mover", "delete-grant"), ("forgetful", "set-password"), ("dropped", "delete-member")]
        {
            let client = tenant.anonymous().with_credentials(person, "the password");
            tenant.try_admin(&["create-user", person], "the password").await.unwrap();
            if take == "delete-member" {
                tenant.admin(&["create-group", "staff"]).await;
                tenant.admin(&["grant", "group:staff", "reader"]).await;
                tenant.admin(&["add-member", "staff", person]).await;
            } else {
                tenant.admin(&["grant", person, "reader"]).await;
            }
            let token = client.fresh_token(&["repository:team/app:pull"]).await.unwrap();
            let status = async || {
                let call = tenant.anonymous().call(Method::GET, "/v2/team/app/manifests/v1").bearer(token.as_str());
                call.send().await.unwrap().status
            };
            assert_eq!(status().await, 200, "{person}");
            match take {
                "disable" => tenant.admin(&["disable", person]).await,
                "set-password" => tenant.try_admin(&["set-password", person], "another password").await.unwrap(),
                "delete-member" => tenant.admin(&["delete-member", "staff", person]).await,
                _ => {
                    let grants = tenant.admin(&["grants", "--principal", person]).await;
                    tenant.admin(&["delete-grant", &field(grants.trim(), "id")]).await
                }
            };
            for _ in deployment.processes() {
                until("the token is refused", async || status().await == 401).await;
            }
        }
    }

    async fn t36_cve_2026_31801_who_may_only_add_moves_no_tag(deployment: &'static Deployment) {
        let tenant = Tenant::new(deployment, "add-acme", "basic").await;
        let mut content = Content::named("add");
        let (first, second) = (content.image(1, 100), content.image(1, 100));
        let owner = tenant.owner();
        owner.repository("team/app").push_image("latest", &first).await.unwrap();
        let role = ["create-role", "creator", "--permission", "artifact:pull", "--permission", "artifact:push"];
        tenant.admin(&role).await;
        let creator = tenant.user("maker", "creator").await.repository("team/app");
        creator.push_image("v1", &second).await.unwrap();
        // By tag, by digest with a tag beside it, and the same content again, which moves nothing.
        let refused = creator.put_manifest("latest", &second.manifest).await.unwrap();
        assert_eq!((refused.status, refused.error_code().as_deref()), (403, Some("DENIED")));
        assert!(String::from_utf8_lossy(&refused.body).contains("overwrite"));
        let by_digest = format!("{}?tag=v2&tag=latest", second.manifest.digest);
        assert_eq!(creator.put_manifest(&by_digest, &second.manifest).await.unwrap().status, 403);
        assert_eq!(owner.repository("team/app").tags().await.unwrap(), ["latest", "v1"], "all or nothing");
        assert_eq!(creator.put_manifest("latest", &first.manifest).await.unwrap().status, 201);
        owner.repository("team/app").pull_image("latest", &first).await.unwrap();
        assert_eq!(creator.delete("manifests/latest").await.unwrap().error_code().as_deref(), Some("DENIED"));
        // The owner moves it.
        owner.repository("team/app").put_manifest("latest", &second.manifest).await.unwrap().expect(201).unwrap();
        // Many at once, some for a tag that appears meanwhile: one makes it, nobody moves it.
        let pushes = (0..8).map(|n| {
            let (creator, image) = (creator.clone(), if n % 2 == 0 { first.clone() } else { second.clone() });
            async move {
                let digest = image.manifest.digest;
                (digest, creator.put_manifest("race", &image.manifest).await.unwrap().status)
            }
        });
        let outcomes = futures::future::join_all(pushes).await;
        let won: std::collections::BTreeSet<_> =
            outcomes.iter().filter(|(_, status)| *status == 201).map(|(digest, _)| *digest).collect();
        assert_eq!(won.len(), 1, "{outcomes:?}");
        assert!(outcomes.iter().all(|(digest, status)| *status == if won.contains(digest) { 201 } else { 403 }));
    }

    async fn guessing_is_slowed_and_says_for_how_long(deployment: &'static Deployment) {
        let tenant = Tenant::new(deployment, "guess-acme", "basic").await;
        tenant.user("victim", "reader").await;
        let guess = tenant.anonymous().with_credentials("victim", "a guess");
        let mut slowed = None;
        for _ in 0..20 {
            let reply = guess.token_reply(&[]).await.unwrap();
            if reply.status == 429 {
                slowed = Some(reply);
                break;
            }
            assert_eq!(reply.status, 401);
        }
        let slowed = slowed.expect("an answer that slows down");
        assert_eq!(slowed.error_code().as_deref(), Some("TOOMANYREQUESTS"));
        assert!(slowed.header("retry-after").unwrap().parse::<u64>().unwrap() >= 1);
        // Another account is another's.
        tenant.owner().repository("team/app").token().await.unwrap();
    }
}
