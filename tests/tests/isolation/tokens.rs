//! T35: tokens open what they were issued for and nothing else.

use berth_testkit::{Client, Content, Deployment, in_every_setting};
use reqwest::Method;

async fn with_token(client: &Client, method: Method, path: &str, token: &str) -> berth_testkit::Reply {
    client.call(method, path).bearer(token).send().await.unwrap()
}

/// The challenge of a refusal, which must name the right that is missing.
fn assert_challenged(reply: &berth_testkit::Reply, scope: &str) {
    assert_eq!(reply.status, 401);
    let challenge = reply.header("www-authenticate").unwrap();
    assert!(challenge.starts_with("Bearer realm=\"http://"), "{challenge}");
    assert!(challenge.contains(&format!("scope=\"{scope}\"")), "{challenge}");
}

async fn seeded(deployment: &Deployment, repository: &str) -> berth_testkit::Image {
    let image = Content::named(repository).image(1, 100);
    deployment.client().repository(repository).push_image("v1", &image).await.unwrap().expect(201).unwrap();
    image
}

in_every_setting! {
    async fn t35_a_token_opens_its_repository_and_its_actions_only(deployment: &'static Deployment) {
        let image = seeded(deployment, "t35/a").await;
        seeded(deployment, "t35/b").await;
        let client = deployment.client();
        let pull = client.fresh_token(&["repository:t35/a:pull"]).await.unwrap();
        assert_eq!(with_token(&client, Method::GET, "/v2/t35/a/manifests/v1", &pull).await.status, 200);
        let other = with_token(&client, Method::GET, "/v2/t35/b/manifests/v1", &pull).await;
        assert_challenged(&other, "repository:t35/b:pull");
        let push = with_token(&client, Method::POST, "/v2/t35/a/blobs/uploads/", &pull).await;
        assert_challenged(&push, "repository:t35/a:pull,push");
        let delete = format!("/v2/t35/a/manifests/{}", image.manifest.digest);
        assert_challenged(&with_token(&client, Method::DELETE, &delete, &pull).await, "repository:t35/a:delete");
        assert_challenged(&with_token(&client, Method::DELETE, "/v2/t35/a/manifests/v1", &pull).await, "repository:t35/a:delete");
        assert_eq!(with_token(&client, Method::GET, "/v2/_catalog", &pull).await.status, 401);
    }

    async fn t35_scopes_can_not_smuggle_and_grants_are_the_intersection(deployment: &'static Deployment) {
        seeded(deployment, "t35-scope/a").await;
        let user = deployment.new_user("t35-scope").await.unwrap();
        deployment.admin(&["grant", "t35-scope", "reader", "--repository", "t35-scope/a"], "").await.unwrap();
        let token = user.fresh_token(&["repository:t35-scope/a:pull,push,delete"]).await.unwrap();
        assert_eq!(with_token(&user, Method::GET, "/v2/t35-scope/a/manifests/v1", &token).await.status, 200);
        assert_eq!(with_token(&user, Method::POST, "/v2/t35-scope/a/blobs/uploads/", &token).await.status, 401);
        for scope in ["repository:t35-scope/b,t35-scope/a:push", "repository:*:pull", "repository:t35-scope/*:pull", "x", "repository:t35-scope/b:*"] {
            // An empty grant is a token, and opens nothing.
            let token = user.fresh_token(&[scope]).await.unwrap();
            assert_eq!(with_token(&user, Method::GET, "/v2/t35-scope/a/manifests/v1", &token).await.status, 401, "{scope}");
            assert_eq!(with_token(&user, Method::GET, "/v2/", &token).await.status, 200, "{scope}");
        }
    }

    async fn t35_anonymous_pulls_only_what_is_public(deployment: &'static Deployment) {
        seeded(deployment, "t35-public/a").await;
        let nobody = deployment.anonymous();
        let path = "/v2/t35-public/a/manifests/v1";
        let private = nobody.fresh_token(&["repository:t35-public/a:pull"]).await.unwrap();
        assert_challenged(&with_token(&nobody, Method::GET, path, &private).await, "repository:t35-public/a:pull");
        deployment.admin(&["set-visibility", "t35-public/a", "public"], "").await.unwrap();
        let public = nobody.fresh_token(&["repository:t35-public/a:pull,push"]).await.unwrap();
        assert_eq!(with_token(&nobody, Method::GET, path, &public).await.status, 200);
        assert_eq!(with_token(&nobody, Method::POST, "/v2/t35-public/a/blobs/uploads/", &public).await.status, 401);
        // The token rested on the repository being public: closed is closed at once.
        deployment.admin(&["set-visibility", "t35-public/a", "private"], "").await.unwrap();
        assert_eq!(with_token(&nobody, Method::GET, path, &public).await.status, 401);
    }

    async fn t35_wrong_credentials_and_forged_tokens_are_refused(deployment: &'static Deployment) {
        seeded(deployment, "t35-forged/a").await;
        let client = deployment.client();
        for (name, password) in [("admin", "wrong password"), ("nobody-here", "wrong password"), ("admin", "")] {
            let wrong = deployment.anonymous().with_credentials(name, password);
            let reply = wrong.token_reply(&["repository:t35-forged/a:pull"]).await.unwrap();
            assert_eq!(reply.status, 401, "{name}");
            assert_eq!(reply.error_code().as_deref(), Some("UNAUTHORIZED"));
        }
        let token = client.fresh_token(&["repository:t35-forged/a:pull"]).await.unwrap();
        let path = "/v2/t35-forged/a/manifests/v1";
        let parts: Vec<_> = token.split('.').collect();
        let none = format!("eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.{}.", parts[1]);
        let cut = format!("{}.{}.{}", parts[0], parts[1], &parts[2][..parts[2].len() - 4]);
        for forged in [none.as_str(), cut.as_str(), "", "x", "a.b.c"] {
            assert_challenged(&with_token(&client, Method::GET, path, forged).await, "repository:t35-forged/a:pull");
        }
        let bare = client.call(Method::GET, path).send().await.unwrap();
        assert_challenged(&bare, "repository:t35-forged/a:pull");
    }
}
