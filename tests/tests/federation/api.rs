//! The REST API with what another issuer vouches for: in each call, and by sessions that end with it.

use base64::{Engine, engine::general_purpose::STANDARD};
use berth_testkit::{Client, Content, Reply};
use reqwest::Method;
use serde_json::{Value, json};

use crate::{in_both_worlds, shows};

fn basic(name: &str, secret: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{name}:{secret}")))
}

async fn call(client: &Client, who: &str, method: Method, path: &str) -> Reply {
    client.call(method, format!("/api/v1{path}")).header("authorization", who).send().await.unwrap()
}

async fn identity(client: &Client, who: &str) -> Reply {
    call(client, who, Method::GET, "/identity").await
}

async fn opens(client: &Client, body: Value) -> Reply {
    let call = client.call(Method::POST, "/api/v1/sessions").header("content-type", "application/json");
    call.body(body.to_string()).send().await.unwrap()
}

/// A session, and the temporary tokens that it and the token itself lend, as they are shown from then on.
async fn all_that_comes_of(client: &Client, name: &str, token: &str) -> Vec<String> {
    let opened = opens(client, json!({ "name": name, "password": token })).await.expect(201).unwrap().json();
    let session = format!("Bearer {}", opened["token"].as_str().unwrap());
    let whoami = identity(client, &session).await.expect(200).unwrap().json();
    assert_eq!(opened["identity"]["credential"], "identity_token", "{opened}");
    assert_eq!((&whoami["name"], &whoami["credential"]), (&json!(name), &json!("refresh_token")));
    // All in the same form, which orders like times; the first is when the token ends.
    let ends = opened["identity"]["credential_expires_at"].as_str().unwrap();
    assert!(opened["expires_at"].as_str().unwrap() <= ends, "{opened}");
    assert_eq!(whoami["credential_expires_at"], opened["expires_at"]);
    let shown = basic(name, token);
    let whoami = identity(client, &shown).await.expect(200).unwrap().json();
    assert_eq!(
        (&whoami["credential"], &whoami["credential_expires_at"]),
        (&json!("identity_token"), &json!(ends))
    );
    let mut all = vec![session, shown];
    for who in all.clone() {
        let lent = call(client, &who, Method::POST, "/temporary-tokens").await.expect(201).unwrap().json();
        assert!(lent["expires_at"].as_str().unwrap() <= ends, "{lent}");
        all.push(basic(name, lent["token"].as_str().unwrap()));
    }
    all
}

/// None of it opens anything, here or at the registry.
async fn all_has_ended(client: &Client, name: &str, token: &str, all: &[String]) {
    for who in all {
        let reply = identity(client, who).await;
        assert_eq!(reply.status, 401, "{:?}", reply.body);
        let reply = if who.starts_with("Bearer ") {
            renews(client, who).await
        } else {
            client.call(Method::GET, "/token").header("authorization", who).send().await.unwrap()
        };
        assert_eq!(reply.status, 401, "{:?}", reply.body);
    }
    assert_eq!(opens(client, json!({ "name": name, "password": token })).await.status, 401);
}

/// What the registry answers to the token of a session as a refresh token.
async fn renews(client: &Client, session: &str) -> Reply {
    let token = session.strip_prefix("Bearer ").unwrap();
    let form = format!("grant_type=refresh_token&refresh_token={token}");
    let call =
        client.call(Method::POST, "/token").header("content-type", "application/x-www-form-urlencoded");
    call.body(form).send().await.unwrap()
}

in_both_worlds! {
    async fn a_workload_calls_the_api_and_its_session_ends_with_its_trust(world: &'static World) {
        let (instance, neighbour) = ("session", "session-neighbour");
        let issuer = world.issuer.url();
        for instance in [instance, neighbour] {
            world.instance(instance).await;
            world.admin(instance, &["identity-provider", "create", "corp", &issuer]).await;
            world.admin(instance, &["create-robot", "ci"]).await;
            world.admin(instance, &["grant", "robot+ci", "developer"]).await;
        }
        let trust = ["trust", "create", "corp", "ci", "--claim", "sub=id2", "--audience", "api"];
        let trust: Value = serde_json::from_str(&world.admin(instance, &trust).await).unwrap();
        let (client, elsewhere) = (world.at(instance), world.at(neighbour));
        let token = world.id_token(instance, "test-user2").await;
        let all = all_that_comes_of(&client, "robot+ci", &token).await;
        // It does what the robot may.
        let image = Content::named("session").image(1, 100);
        client.clone().with_credentials("robot+ci", &token).repository("team/app").push_image("v1", &image).await.unwrap();
        let tags = format!("/instances/{instance}/repositories/team%2Fapp/tags");
        for who in &all {
            let listed = call(&client, who, Method::GET, &tags).await.expect(200).unwrap().json();
            assert_eq!(listed["items"][0]["name"], "v1", "{listed}");
            assert_eq!(call(&client, who, Method::GET, &format!("/instances/{instance}/users")).await.status, 403);
            assert_eq!(call(&client, who, Method::GET, &tags.replace(instance, neighbour)).await.status, 404);
        }
        assert_eq!(renews(&client, &all[0]).await.status, 200);
        // Nobody else, nobody elsewhere, and no bearer token of the API by itself.
        let stranger = world.id_token(instance, "test-user@localhost").await;
        for (place, name, token) in [(&client, "robot+ci", &stranger), (&client, "owner", &token), (&elsewhere, "robot+ci", &token)] {
            assert_eq!(opens(place, json!({ "name": name, "password": token })).await.status, 401, "{name}");
            assert_eq!(identity(place, &basic(name, token)).await.status, 401, "{name}");
        }
        let named = json!({ "instance": neighbour, "name": "robot+ci", "password": token });
        assert_eq!(opens(&client, named).await.status, 401);
        assert_eq!(identity(&client, &format!("Bearer {token}")).await.status, 401);
        assert_eq!(renews(&elsewhere, &all[0]).await.status, 401);
        world.admin(instance, &["trust", "delete", trust["id"].as_str().unwrap()]).await;
        all_has_ended(&client, "robot+ci", &token, &all).await;
        assert_eq!(shows(&client, "robot+ci", &token).await.status, 401);
    }

    async fn a_person_calls_the_api_by_an_id_token_as_long_as_it_is_linked(world: &'static World) {
        let instance = "person";
        world.instance(instance).await;
        let issuer = world.issuer.url();
        let create = [
            "identity-provider", "create", "corp", &issuer, "--client-id", "web", "--audience", "api", "--login", "true",
        ];
        world.admin(instance, &create).await;
        for name in ["ada", "eve"] {
            world.try_admin(instance, &["create-user", name], "the password").await.unwrap();
        }
        let link = ["identity-provider", "link", "corp", "ada", "id2"];
        let client = world.at(instance);
        let token = world.id_token(instance, "test-user2").await;
        assert_eq!(opens(&client, json!({ "name": "ada", "password": token })).await.status, 401);
        world.admin(instance, &link).await;
        let own = opens(&client, json!({ "name": "ada", "password": "the password" })).await.expect(201).unwrap().json();
        let own = format!("Bearer {}", own["token"].as_str().unwrap());
        let first = all_that_comes_of(&client, "ada", &token).await;
        assert_eq!(opens(&client, json!({ "name": "eve", "password": token })).await.status, 401);
        world.admin(instance, &["identity-provider", "unlink", "corp", "ada"]).await;
        all_has_ended(&client, "ada", &token, &first).await;
        world.admin(instance, &link).await;
        let second = all_that_comes_of(&client, "ada", &token).await;
        assert_eq!(identity(&client, &first[0]).await.status, 401, "a link made again does not bring it back");
        world.admin(instance, &["identity-provider", "delete", "corp"]).await;
        all_has_ended(&client, "ada", &token, &second).await;
        assert_eq!(identity(&client, &own).await.status, 200, "the password has nothing to do with it");
    }
}
