//! T35: tokens open what they were issued for and nothing else.

use std::collections::BTreeSet;

use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use berth_testkit::{ADMIN, Client, Content, Deployment, PASSWORD, in_every_setting};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
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

/// POST of a form to the token endpoint.
async fn post(client: &Client, form: &[(&str, &str)]) -> berth_testkit::Reply {
    let encode = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
    let fields: Vec<_> = form.iter().map(|(key, value)| format!("{key}={}", encode(value))).collect();
    let call =
        client.call(Method::POST, "/token").header("content-type", "application/x-www-form-urlencoded");
    call.body(fields.join("&")).send().await.unwrap()
}

/// What a token's payload says, unverified.
fn claims(token: &str) -> serde_json::Value {
    let payload = token.split('.').nth(1).unwrap();
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).unwrap()).unwrap()
}

fn text<'a>(document: &'a serde_json::Value, key: &str) -> &'a str {
    document[key].as_str().unwrap_or_else(|| panic!("no {key} in {document}"))
}

/// Granted scopes, in any order.
fn scopes(document: &serde_json::Value) -> BTreeSet<&str> {
    text(document, "scope").split(' ').filter(|scope| !scope.is_empty()).collect()
}

in_every_setting! {
    async fn t35_the_form_grants_what_the_query_grants(deployment: &'static Deployment) {
        seeded(deployment, "t35-form/a").await;
        let nobody = deployment.anonymous();
        let scope = "repository:t35-form/a:pull";
        let login = [("grant_type", "password"), ("service", "default"), ("client_id", "test"), ("username", ADMIN), ("password", PASSWORD)];
        let first = post(&nobody, &[&login[..], &[("scope", scope), ("access_type", "offline")]].concat()).await.expect(200).unwrap();
        assert_eq!(first.header("cache-control"), Some("no-store"));
        let document = first.json();
        assert_eq!((text(&document, "token_type"), text(&document, "scope")), ("Bearer", scope));
        assert_eq!(document["expires_in"], 300);
        assert_eq!(text(&document, "token"), text(&document, "access_token"));
        assert_eq!(with_token(&nobody, Method::GET, "/v2/t35-form/a/manifests/v1", text(&document, "access_token")).await.status, 200);
        // The refresh token gets access tokens, is none itself, and stays the same.
        let refresh = text(&document, "refresh_token").to_owned();
        assert_challenged(&with_token(&nobody, Method::GET, "/v2/t35-form/a/manifests/v1", &refresh).await, scope);
        let renew = |token: &str| [("grant_type", "refresh_token".to_owned()), ("service", "default".to_owned()), ("refresh_token", token.to_owned()), ("scope", scope.to_owned()), ("access_type", "offline".to_owned())];
        let form = renew(&refresh);
        let again = post(&nobody, &form.each_ref().map(|(key, value)| (*key, value.as_str()))).await.expect(200).unwrap().json();
        assert_eq!((text(&again, "scope"), text(&again, "refresh_token")), (scope, refresh.as_str()));
        assert_eq!(with_token(&nobody, Method::GET, "/v2/t35-form/a/manifests/v1", text(&again, "token")).await.status, 200);
        // An access token refreshes nothing; nor does a wrong, a changed or an empty one.
        for (token, status) in [(text(&again, "token"), 401), ("wrong", 401), (&refresh[1..], 401), ("", 400)] {
            let form = renew(token);
            let refused = post(&nobody, &form.each_ref().map(|(key, value)| (*key, value.as_str()))).await;
            assert_eq!(refused.status, status, "{token:?}");
        }
        let plain = post(&nobody, &login).await.expect(200).unwrap().json();
        assert!(plain.get("refresh_token").is_none(), "nobody asked for one");
        for (form, status) in [
            (vec![("grant_type", "password"), ("username", ADMIN), ("password", "wrong password")], 401),
            (vec![("grant_type", "password"), ("username", ADMIN)], 400),
            (vec![("grant_type", "client_credentials")], 400),
            (vec![("grant_type", "password"), ("service", "elsewhere"), ("username", ADMIN), ("password", PASSWORD)], 400),
        ] {
            assert_eq!(post(&nobody, &form).await.status, status, "{form:?}");
        }
        let long = post(&nobody, &[("grant_type", "password"), ("username", ADMIN), ("password", &"x".repeat(70_000))]).await;
        assert_eq!(long.status, 413);
    }

    async fn t35_the_query_gives_a_refresh_token_only_to_a_person_who_asks(deployment: &'static Deployment) {
        let basic = format!("Basic {}", STANDARD.encode(format!("{ADMIN}:{PASSWORD}")));
        let client = deployment.anonymous();
        let ask = async |query: &str, authorization: Option<&str>| {
            let call = client.call(Method::GET, format!("/token?service=default{query}"));
            let call = match authorization {
                Some(value) => call.header("authorization", value),
                None => call,
            };
            call.send().await.unwrap()
        };
        assert!(ask("&offline_token=true", Some(&basic)).await.expect(200).unwrap().json()["refresh_token"].is_string());
        assert!(ask("", Some(&basic)).await.expect(200).unwrap().json().get("refresh_token").is_none());
        assert!(ask("&offline_token=true", None).await.expect(200).unwrap().json().get("refresh_token").is_none());
        for wrong in ["Basic", "Basic !", "Bearer x", "Basic YQ=="] {
            assert_eq!(ask("", Some(wrong)).await.status, 400, "{wrong}");
        }
        let elsewhere = client.call(Method::GET, "/token?service=elsewhere").header("authorization", &basic).send().await.unwrap();
        assert_eq!((elsewhere.status, elsewhere.json().get("token").is_some()), (400, false));
    }

    async fn t35_several_scopes_come_in_one_parameter_or_in_many(deployment: &'static Deployment) {
        seeded(deployment, "t35-many/a").await;
        seeded(deployment, "t35-many/b").await;
        let client = deployment.client();
        let one = client.token_reply(&["repository:t35-many/a:pull repository:t35-many/b:pull,push registry:catalog:*"]).await.unwrap().json();
        let many = client.token_reply(&["repository:t35-many/a:pull", "repository:t35-many/b:pull", "x", "repository:t35-many/b:push", "registry:catalog:*"]).await.unwrap().json();
        for document in [&one, &many] {
            let expected = ["repository:t35-many/a:pull", "repository:t35-many/b:pull,push", "registry:catalog:*"];
            assert_eq!(scopes(document), BTreeSet::from(expected));
            let token = text(document, "token");
            assert_eq!(with_token(&client, Method::GET, "/v2/t35-many/a/manifests/v1", token).await.status, 200);
            assert_eq!(with_token(&client, Method::GET, "/v2/_catalog", token).await.status, 200);
            assert_eq!(with_token(&client, Method::POST, "/v2/t35-many/b/blobs/uploads/", token).await.status, 202);
            assert_eq!(with_token(&client, Method::POST, "/v2/t35-many/a/blobs/uploads/", token).await.status, 401);
        }
        // A hundred are answered, and their token is accepted; more are not.
        let names: Vec<_> = (0..101).map(|number| format!("repository:t35-many/n{number}:pull")).collect();
        let hundred: Vec<_> = names[..100].iter().map(String::as_str).collect();
        let token = client.fresh_token(&hundred).await.unwrap();
        assert_eq!(with_token(&client, Method::GET, "/v2/", &token).await.status, 200);
        assert_eq!(with_token(&client, Method::GET, "/v2/t35-many/n99/tags/list", &token).await.status, 404);
        let more: Vec<_> = names.iter().map(String::as_str).collect();
        assert_eq!(client.token_reply(&more).await.unwrap().status, 400);
        // Short names are granted under the name that was asked.
        let short = client.token_reply(&["repository:t35-short:pull"]).await.unwrap().json();
        assert_eq!(scopes(&short), BTreeSet::from(["repository:t35-short:pull"]));
    }

    async fn t35_nobody_gets_a_token_that_opens_nothing(deployment: &'static Deployment) {
        seeded(deployment, "t35-nobody/a").await;
        let nobody = deployment.anonymous();
        // There and not there look the same.
        for name in ["t35-nobody/a", "t35-nobody/absent", "t35-nowhere/absent"] {
            let scope = format!("repository:{name}:pull,push");
            let document = nobody.token_reply(&[&scope, "registry:catalog:*"]).await.unwrap().expect(200).unwrap().json();
            assert!(scopes(&document).is_empty(), "{document}");
            let token = text(&document, "token");
            assert_eq!(claims(token)["sub"], "anonymous");
            assert_eq!(with_token(&nobody, Method::GET, "/v2/", token).await.status, 200);
            assert_eq!(with_token(&nobody, Method::GET, "/v2/_catalog", token).await.status, 401);
            let refused = with_token(&nobody, Method::GET, &format!("/v2/{name}/tags/list"), token).await;
            assert_challenged(&refused, &format!("repository:{name}:pull"));
            let body = String::from_utf8_lossy(&refused.body).replace(name, "<name>");
            assert!(body.contains("pull on <name> is not allowed"), "{body}");
        }
    }

    async fn t35_published_keys_verify_a_token_offline(deployment: &'static Deployment) {
        use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header, jwk::JwkSet};
        let client = deployment.client();
        let token = client.fresh_token(&["repository:t35-jwks/a:pull"]).await.unwrap();
        let published = client.call(Method::GET, "/.well-known/jwks.json").send().await.unwrap().expect(200).unwrap();
        assert_eq!(published.header("content-type"), Some("application/jwk-set+json"));
        assert!(published.json()["keys"].as_array().unwrap().iter().all(|key| key.get("d").is_none()), "only public keys");
        let keys: JwkSet = serde_json::from_slice(&published.body).unwrap();
        assert_eq!(keys.keys.len(), 2, "the key in use and the next one");
        let header = decode_header(&token).unwrap();
        assert_eq!(header.alg, Algorithm::ES256);
        let key = DecodingKey::from_jwk(keys.find(&header.kid.unwrap()).unwrap()).unwrap();
        let mut validation = Validation::new(Algorithm::ES256);
        validation.set_audience(&[text(&claims(&token), "aud")]);
        let verified = decode::<serde_json::Value>(&token, &key, &validation).unwrap().claims;
        assert_eq!((text(&verified, "name"), text(&verified, "typ")), (ADMIN, "access"));
        assert_eq!(verified["exp"].as_i64().unwrap() - verified["iat"].as_i64().unwrap(), 300);
        let other = keys.keys.iter().find(|other| other.common.key_id != decode_header(&token).unwrap().kid).unwrap();
        assert!(decode::<serde_json::Value>(&token, &DecodingKey::from_jwk(other).unwrap(), &validation).is_err());
    }

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
