//! Tokens that somebody made up.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use berth_testkit::Client;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use reqwest::Method;
use serde_json::{Value, json};

use crate::{in_both_worlds, shows};

fn part(value: &Value) -> String {
    URL_SAFE_NO_PAD.encode(value.to_string())
}

fn claims(token: &str) -> Value {
    let body = URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap();
    serde_json::from_slice(&body).unwrap()
}

in_both_worlds! {
    async fn cve_2026_44428_tokens_for_others_and_forged_ones_open_nothing(world: &'static World) {
        let instance = "hostile";
        world.instance(instance).await;
        let issuer = world.issuer.url();
        world.admin(instance, &["identity-provider", "create", "corp", &issuer]).await;
        world.admin(instance, &["create-robot", "ci"]).await;
        let trust = ["trust", "create", "corp", "ci", "--audience", "api", "--claim", "sub=id2"];
        world.admin(instance, &trust).await;
        let client = world.at(instance);
        let real = world.id_token(instance, "test-user2").await;
        assert_eq!(shows(&client, "robot+ci", &real).await.status, 200);
        let genuine = claims(&real);
        let published = Client::new(issuer.trim_end_matches('/')).call(Method::GET, "/keys").send().await.unwrap().json();
        let key = &published["keys"][0];
        let id = key["kid"].as_str().unwrap().to_owned();
        let (own, other) = (rcgen::KeyPair::generate().unwrap(), EncodingKey::from_secret(key["n"].as_str().unwrap().as_bytes()));
        let own = EncodingKey::from_ec_der(&own.serialize_der());
        let sign = |header: &Header, claims: &Value, key: &EncodingKey| encode(header, claims, key).unwrap();
        let head = |algorithm: Algorithm| {
            let mut header = Header::new(algorithm);
            header.kid = Some(id.clone());
            header
        };
        let mut elsewhere = head(Algorithm::ES256);
        elsewhere.jku = Some("http://127.0.0.1:1/jwks".into());
        let mut another = head(Algorithm::ES256);
        another.kid = Some("another".into());
        let mut huge = genuine.clone();
        huge["more"] = "x".repeat(20_000).into();
        let mut stranger = genuine.clone();
        stranger["iss"] = "https://issuer.example.com".into();
        let mut pieces: Vec<&str> = real.split('.').collect();
        let mut changed = genuine.clone();
        changed["exp"] = json!(4_000_000_000_u64);
        let changed = part(&changed);
        pieces[1] = &changed;
        for (what, token) in [
            ("the public key as a secret", sign(&head(Algorithm::HS256), &genuine, &other)),
            ("no signature", format!("{}.{}.", part(&json!({ "alg": "none", "kid": id })), part(&genuine))),
            ("a signature cut off", real.rsplit_once('.').unwrap().0.to_owned() + "."),
            ("other claims under the same signature", pieces.join(".")),
            ("another key under the same id", sign(&head(Algorithm::ES256), &genuine, &own)),
            ("a key set of its own", sign(&elsewhere, &genuine, &own)),
            ("an unknown key", sign(&another, &genuine, &own)),
            ("another issuer", sign(&head(Algorithm::ES256), &stranger, &own)),
            ("too long", sign(&head(Algorithm::ES256), &huge, &own)),
            ("nothing", "eyJhbGciOiJub25lIn0.e30.".to_owned()),
        ] {
            let reply = shows(&client, "robot+ci", &token).await;
            assert!([401, 429].contains(&reply.status), "{what}: {} {:?}", reply.status, reply.body);
        }
        assert_eq!(shows(&client, "robot+ci", &real).await.status, 200, "what is right does not wait for that");
        // An issuer that is not there.
        let away = "http://localhost:1/";
        world.admin(instance, &["identity-provider", "create", "away", away]).await;
        let mut theirs = genuine;
        theirs["iss"] = away.into();
        let reply = shows(&client, "robot+ci", &sign(&head(Algorithm::ES256), &theirs, &own)).await;
        assert_eq!(reply.status, 503, "{:?}", reply.body);
        assert!(reply.header("retry-after").is_some());
        assert!(String::from_utf8_lossy(&reply.body).contains("does not answer"));
    }
}
