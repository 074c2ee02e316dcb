//! Workloads that are trusted to be a robot.

use berth_testkit::Content;
use reqwest::Method;

use crate::{in_both_worlds, shows};

in_both_worlds! {
    async fn a_workload_pushes_what_its_robot_may_and_nothing_else(world: &'static World) {
        let (instance, neighbour) = ("workload", "neighbour");
        world.instance(instance).await;
        world.instance(neighbour).await;
        let issuer = world.issuer.url();
        for instance in [instance, neighbour] {
            world.admin(instance, &["identity-provider", "create", "corp", &issuer]).await;
            world.admin(instance, &["create-robot", "ci"]).await;
        }
        world.admin(instance, &["create-namespace", "team", "--create-on-push", "true"]).await;
        world.admin(instance, &["grant", "robot+ci", "developer", "--namespace", "team"]).await;
        let token = world.id_token(instance, "test-user2").await;
        let client = world.at(instance);
        assert_eq!(shows(&client, "robot+ci", &token).await.status, 401, "nobody trusts it");
        let create = ["trust", "create", "corp", "ci", "--claim", "sub=id2", "--audience"];
        let other: Vec<&str> = create.iter().copied().chain(["web"]).collect();
        world.admin(instance, &other).await;
        assert_eq!(shows(&client, "robot+ci", &token).await.status, 401, "another audience");
        let own: Vec<&str> = create.iter().copied().chain(["api"]).collect();
        let trust: serde_json::Value = serde_json::from_str(&world.admin(instance, &own).await).unwrap();
        for name in ["robot+ci", "robot+"] {
            let robot = client.clone().with_credentials(name, &token);
            let image = Content::named(name).image(1, 100);
            robot.repository("team/app").push_image("v1", &image).await.unwrap();
            robot.repository("team/app").pull_image("v1", &image).await.unwrap();
            assert!(robot.repository("elsewhere/app").push_image("v1", &image).await.is_err());
        }
        // The form of OAuth2.
        let form = format!("grant_type=password&username=robot%2Bci&password={token}&access_type=offline");
        let call = client.call(Method::POST, "/token").header("content-type", "application/x-www-form-urlencoded");
        let reply = call.body(form).send().await.unwrap().expect(200).unwrap();
        assert!(reply.json().get("refresh_token").is_none());
        // Another person of the issuer, another instance with the same issuer and robot.
        let other = world.id_token(instance, "test-user@localhost").await;
        assert_eq!(shows(&client, "robot+ci", &other).await.status, 401);
        assert_eq!(shows(&world.at(neighbour), "robot+ci", &token).await.status, 401);
        // Taken back.
        world.admin(instance, &["trust", "delete", trust["id"].as_str().unwrap()]).await;
        assert_eq!(shows(&client, "robot+ci", &token).await.status, 401);
        let listed = world.admin(instance, &["trust", "list"]).await;
        assert_eq!(listed.lines().count(), 1);
        let refused = world.try_admin(
            instance, &["trust", "create", "corp", "ci", "--audience", "api", "--claim", "ref=main"], "",
        ).await.unwrap_err();
        assert!(refused.to_string().contains("who is meant"), "{refused}");
    }
}
