//! What a forged, borrowed or stale token of another issuer gets.

use aws_lc_rs::{
    encoding::AsDer,
    hmac,
    rand::SystemRandom,
    rsa::{KeyPair as RsaKeyPair, KeySize},
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use berth_service::Timestamp;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode, jwk::Jwk};
use serde_json::{Value, json};

use crate::{ForeignClaims, ForeignError, ForeignKeys, MAX_FOREIGN_TOKEN_BYTES, peek_issuer, verify_foreign};

const ISSUER: &str = "https://issuer.example.com";
const NOW: i64 = 1_700_000_000;

struct Signer {
    algorithm: Algorithm,
    key: EncodingKey,
    jwk: Value,
}

fn signer(algorithm: Algorithm, id: &str) -> Signer {
    let random = SystemRandom::new();
    let (key, mut jwk) = match algorithm {
        Algorithm::ES256 => {
            let pair = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
            let key = EncodingKey::from_ec_der(pair.as_ref());
            let jwk = Jwk::from_encoding_key(&key, algorithm).unwrap();
            (key, serde_json::to_value(jwk).unwrap())
        }
        Algorithm::EdDSA => {
            let document = Ed25519KeyPair::generate_pkcs8(&random).unwrap();
            let pair = Ed25519KeyPair::from_pkcs8(document.as_ref()).unwrap();
            let x = URL_SAFE_NO_PAD.encode(pair.public_key().as_ref());
            let jwk = json!({ "kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "x": x });
            (EncodingKey::from_ed_der(document.as_ref()), jwk)
        }
        _ => {
            let pair = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
            let key = EncodingKey::from_rsa_der(pkcs1(pair.as_der().unwrap().as_ref()));
            let jwk = Jwk::from_encoding_key(&key, algorithm).unwrap();
            (key, serde_json::to_value(jwk).unwrap())
        }
    };
    jwk["kid"] = id.into();
    jwk["use"] = "sig".into();
    Signer { algorithm, key, jwk }
}

/// The inner key of a PKCS #8 document, whose head has a fixed length for this size of key.
fn pkcs1(pkcs8: &[u8]) -> &[u8] {
    &pkcs8[26..]
}

impl Signer {
    fn sign(&self, claims: &Value) -> String {
        let mut header = Header::new(self.algorithm);
        header.kid = self.jwk["kid"].as_str().map(str::to_owned);
        encode(&header, claims, &self.key).unwrap()
    }
}

fn keys(signers: &[&Signer]) -> ForeignKeys {
    let keys: Vec<&Value> = signers.iter().map(|signer| &signer.jwk).collect();
    ForeignKeys::parse(json!({ "keys": keys }).to_string().as_bytes()).unwrap()
}

fn claims() -> Value {
    json!({ "iss": ISSUER, "sub": "s", "aud": "berth", "iat": NOW, "exp": NOW + 600 })
}

fn verify(token: &str, keys: &ForeignKeys) -> Result<ForeignClaims, ForeignError> {
    verify_foreign(token, keys, ISSUER, Timestamp::from_seconds(NOW))
}

#[test]
fn signatures_by_private_keys_are_accepted() {
    for algorithm in [Algorithm::ES256, Algorithm::EdDSA, Algorithm::RS256] {
        let signer = signer(algorithm, "a");
        let token = signer.sign(&claims());
        assert_eq!(peek_issuer(&token).as_deref(), Some(ISSUER));
        let found = verify(&token, &keys(&[&signer])).unwrap();
        assert_eq!(found.subject().as_deref(), Some("s"));
        let mut cut = token.clone();
        let last = if cut.pop() == Some('A') { 'B' } else { 'A' };
        cut.insert(cut.len() - 4, last);
        assert!(verify(&cut, &keys(&[&signer])).is_err(), "{algorithm:?}");
    }
    // Without an id in the header the only key that fits is meant, and of two none.
    let (one, two) = (signer(Algorithm::ES256, "a"), signer(Algorithm::ES256, "b"));
    let token = encode(&Header::new(Algorithm::ES256), &claims(), &one.key).unwrap();
    verify(&token, &keys(&[&one])).unwrap();
    assert_eq!(verify(&token, &keys(&[&one, &two])), Err(ForeignError::UnknownKey));
}

#[test]
fn an_algorithm_has_to_be_one_of_private_keys_and_fit_the_key() {
    let rsa = signer(Algorithm::RS256, "a");
    let published = keys(&[&rsa]);
    let body = URL_SAFE_NO_PAD.encode(claims().to_string());
    // The public key as a shared secret.
    let head = URL_SAFE_NO_PAD.encode(json!({ "alg": "HS256", "typ": "JWT", "kid": "a" }).to_string());
    let secret = hmac::Key::new(hmac::HMAC_SHA256, rsa.jwk["n"].as_str().unwrap().as_bytes());
    let tag = hmac::sign(&secret, format!("{head}.{body}").as_bytes());
    let forged = format!("{head}.{body}.{}", URL_SAFE_NO_PAD.encode(tag.as_ref()));
    assert_eq!(verify(&forged, &published), Err(ForeignError::Algorithm));
    for none in ["none", "None", "NONE", ""] {
        let head = URL_SAFE_NO_PAD.encode(json!({ "alg": none, "kid": "a" }).to_string());
        assert_eq!(verify(&format!("{head}.{body}."), &published), Err(ForeignError::Malformed), "{none}");
    }
    // Another kind of key under the same id.
    let other = signer(Algorithm::ES256, "a");
    assert_eq!(verify(&other.sign(&claims()), &published), Err(ForeignError::UnknownKey));
    // What a header brings along is of no weight.
    let stranger = signer(Algorithm::RS256, "a");
    let mut header = Header::new(Algorithm::RS256);
    header.kid = Some("a".into());
    header.jwk = serde_json::from_value(stranger.jwk.clone()).ok();
    header.jku = Some("https://evil.example.com/jwks".into());
    let token = encode(&header, &claims(), &stranger.key).unwrap();
    assert_eq!(verify(&token, &published), Err(ForeignError::Signature));
    let mut header = Header::new(Algorithm::RS256);
    (header.kid, header.crit) = (Some("a".into()), Some(vec!["b64".into()]));
    let token = encode(&header, &claims(), &rsa.key).unwrap();
    assert_eq!(verify(&token, &published), Err(ForeignError::Malformed));
    // A key that says what it is for is for nothing else, and a shared or a sealing key is no key.
    let mut said = rsa.jwk.clone();
    said["alg"] = "PS256".into();
    let set = |key: &Value| ForeignKeys::parse(json!({ "keys": [key] }).to_string().as_bytes());
    assert_eq!(verify(&rsa.sign(&claims()), &set(&said).unwrap()), Err(ForeignError::UnknownKey));
    said["use"] = "enc".into();
    assert!(set(&said).is_err());
    assert!(set(&json!({ "kty": "oct", "k": "AAAA", "kid": "a" })).is_err());
    assert!(ForeignKeys::parse(b"{}").is_err() && ForeignKeys::parse(b"<html>").is_err());
}

#[test]
fn times_issuer_and_size_are_judged() {
    let signer = signer(Algorithm::ES256, "a");
    let published = keys(&[&signer]);
    let verdict = |name: &str, value: Value| {
        let mut claims = claims();
        match value {
            Value::Null => claims.as_object_mut().unwrap().remove(name),
            value => claims.as_object_mut().unwrap().insert(name.into(), value),
        };
        verify(&signer.sign(&claims), &published).err()
    };
    for (name, value, error) in [
        ("exp", json!(NOW - 59), None),
        ("exp", json!(NOW - 60), Some(ForeignError::Expired)),
        ("exp", Value::Null, Some(ForeignError::Claim("exp"))),
        ("exp", json!("tomorrow"), Some(ForeignError::Claim("exp"))),
        ("exp", json!(1e300), Some(ForeignError::Claim("exp"))),
        ("exp", json!(NOW as f64 + 0.5), None),
        ("iat", json!(NOW + 60), None),
        ("iat", json!(NOW + 61), Some(ForeignError::NotYet)),
        ("iat", Value::Null, Some(ForeignError::Claim("iat"))),
        ("nbf", json!(NOW + 61), Some(ForeignError::NotYet)),
        ("iss", json!("https://issuer.example.com/"), Some(ForeignError::Issuer)),
        ("iss", Value::Null, Some(ForeignError::Issuer)),
    ] {
        assert_eq!(verdict(name, value.clone()), error, "{name} {value}");
    }
    let huge = "x".repeat(MAX_FOREIGN_TOKEN_BYTES);
    assert_eq!(verdict("more", json!(huge)), Some(ForeignError::Malformed));
    for text in ["", "a", "a.b.c", "a.b.c.d", "....", "eyJ.eyJ.eyJ"] {
        assert_eq!(peek_issuer(text), None, "{text}");
        assert!(verify(text, &published).is_err(), "{text}");
    }
}

#[test]
fn an_audience_is_one_that_is_named_and_meant() {
    let signer = signer(Algorithm::ES256, "a");
    let read = |aud: Value, azp: Option<&str>| {
        let mut claims = claims();
        claims["aud"] = aud;
        if let Some(azp) = azp {
            claims["azp"] = azp.into();
        }
        let found = verify(&signer.sign(&claims), &keys(&[&signer])).unwrap();
        (found.is_for("berth"), found.is_id_token_for("berth"))
    };
    assert_eq!(read(json!("berth"), None), (true, true));
    assert_eq!(read(json!(["berth"]), Some("berth")), (true, true));
    assert_eq!(read(json!("berth"), Some("other")), (true, false));
    assert_eq!(read(json!(["berth", "other"]), None), (true, false));
    assert_eq!(read(json!(["berth", "other"]), Some("berth")), (true, true));
    assert_eq!(read(json!(["berth", "other"]), Some("other")), (false, false));
    for other in
        [json!("berths"), json!("Berth"), json!([]), json!(null), json!({ "berth": 1 }), json!(["a", "b"])]
    {
        assert_eq!(read(other, None), (false, false));
    }
}

#[test]
fn claims_are_found_where_kubernetes_nests_them() {
    let signer = signer(Algorithm::ES256, "a");
    let mut claims = claims();
    claims["kubernetes.io"] = json!({ "namespace": "ci", "serviceaccount": { "name": "build" } });
    claims["ref_protected"] = json!("true");
    claims["run_attempt"] = json!(2);
    let found = verify(&signer.sign(&claims), &keys(&[&signer])).unwrap();
    assert_eq!(found.at("/kubernetes.io/namespace").as_deref(), Some("ci"));
    assert_eq!(found.at("/kubernetes.io/serviceaccount/name").as_deref(), Some("build"));
    assert_eq!(found.at("/kubernetes.io/pod/name"), None);
    assert_eq!(found.at("kubernetes.io"), None);
    assert_eq!(found.at("ref_protected").as_deref(), Some("true"));
    assert_eq!(found.at("run_attempt").as_deref(), Some("2"));
}
