//! People log in by a browser.

use berth_testkit::Content;
use reqwest::Method;

use crate::{in_both_worlds, parameter, shows};

/// What stands between two texts.
fn between<'a>(text: &'a str, front: &str, back: &str) -> &'a str {
    text.split_once(front).unwrap().1.split_once(back).unwrap().0
}

in_both_worlds! {
    async fn a_person_logs_in_by_a_browser_and_pulls(world: &'static World) {
        let instance = "browser";
        world.instance(instance).await;
        let issuer = world.issuer.url();
        let create = [
            "identity-provider", "create", "corp", &issuer, "--client-id", "web", "--client-secret-file", "-",
            "--login", "true", "--create-users", "true",
        ];
        world.try_admin(instance, &create, "secret").await.unwrap();
        let client = world.at(instance);
        let begin = client.call(Method::GET, "/auth/oidc/corp").send().await.unwrap().expect(302).unwrap();
        assert_eq!(begin.header("cache-control"), Some("no-store"));
        let cookie = begin.header("set-cookie").unwrap().to_owned();
        assert!(cookie.contains("HttpOnly") && cookie.contains("SameSite=Lax") && cookie.contains("Path=/"));
        let cookie = cookie.split(';').next().unwrap().to_owned();
        let location = begin.header("location").unwrap().to_owned();
        assert_eq!(parameter(&location, "redirect_uri"), world.callback(instance));
        let back = world.issuer.log_in(&location, "test-user2", "verysecure").await.unwrap();
        let target = back.strip_prefix(client.url()).unwrap().to_owned();
        // Another browser, or none of ours.
        for stranger in ["", "berth-login=AAAA"] {
            let reply = client.call(Method::GET, &target).header("cookie", stranger).send().await.unwrap();
            assert_eq!(reply.status, 400, "{:?}", reply.body);
        }
        let come_back = async || client.call(Method::GET, &target).header("cookie", &cookie).send().await.unwrap();
        let page = come_back().await.expect(200).unwrap();
        assert_eq!(page.header("content-type"), Some("text/html; charset=utf-8"));
        assert!(page.header("content-security-policy").unwrap().starts_with("default-src 'none'"));
        assert_eq!(page.header("cache-control"), Some("no-store"));
        let text = String::from_utf8(page.body.to_vec()).unwrap();
        let token = between(&text, "<pre id=\"token\">", "</pre>").to_owned();
        assert!(text.contains("docker login -u test-user2 --password-stdin"), "{text}");
        assert_eq!(come_back().await.status, 403, "it has ended");
        // The token has the rights of the user, who has none yet.
        let person = client.clone().with_credentials("test-user2", &token);
        let image = Content::named("login").image(1, 100);
        assert!(person.repository("team/app").push_image("v1", &image).await.is_err());
        world.admin(instance, &["grant", "test-user2", "developer"]).await;
        let person = client.clone().with_credentials("test-user2", &token);
        person.repository("team/app").push_image("v1", &image).await.unwrap();
        person.repository("team/app").pull_image("v1", &image).await.unwrap();
        // Routes that are none, and a provider that is none.
        for (target, status) in [
            ("/auth/oidc/absent", 404),
            ("/auth/oidc/", 404),
            ("/auth/oidc/../v2", 404),
            ("/auth/oidc/corp/other", 404),
            ("/auth/oidc/corp/callback", 400),
            ("/auth/oidc/corp/callback?error=access_denied&state=x", 403),
        ] {
            let reply = client.call(Method::GET, target).send().await.unwrap();
            assert_eq!(reply.status, status, "{target}");
        }
        assert_eq!(client.call(Method::POST, "/auth/oidc/corp").send().await.unwrap().status, 405);
        // Without the provider the token opens nothing.
        assert_eq!(shows(&client, "test-user2", &token).await.status, 200);
        world.admin(instance, &["identity-provider", "delete", "corp"]).await;
        assert_eq!(shows(&client, "test-user2", &token).await.status, 401);
    }

    async fn an_id_token_is_a_password_of_its_linked_user(world: &'static World) {
        let instance = "password";
        world.instance(instance).await;
        let issuer = world.issuer.url();
        let create = [
            "identity-provider", "create", "corp", &issuer, "--client-id", "web", "--audience", "api", "--login", "true",
        ];
        world.admin(instance, &create).await;
        world.try_admin(instance, &["create-user", "ada"], "the password").await.unwrap();
        let client = world.at(instance);
        let token = world.id_token(instance, "test-user2").await;
        assert_eq!(shows(&client, "ada", &token).await.status, 401);
        world.admin(instance, &["identity-provider", "link", "corp", "ada", "id2"]).await;
        let reply = shows(&client, "ada", &token).await.expect(200).unwrap();
        assert!(reply.json().get("refresh_token").is_none());
        assert_eq!(shows(&client, "owner", &token).await.status, 401);
        world.admin(instance, &["identity-provider", "unlink", "corp", "ada"]).await;
        assert_eq!(shows(&client, "ada", &token).await.status, 401);
    }
}
