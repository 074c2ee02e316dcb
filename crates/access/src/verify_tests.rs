//! T35: what a forged, borrowed or stale token gets.

use std::{sync::Arc, time::Duration};

use aws_lc_rs::{hmac, rand::SystemRandom};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use berth_model::{Action, InstanceId, NamespaceId, RepositoryId};
use berth_service::{Clock, Ids, ManualClock, Timestamp};
use serde_json::{Value, json};

use crate::{
    AccessEntry, Basis, Bound, Claim, KeySet, LEEWAY, LIFETIME, NotBefores, Signer, SigningKey, TokenError,
    Verifier,
};

const ISSUER: &str = "berth";

struct Bench {
    clock: Arc<ManualClock>,
    ids: Ids,
    instance: InstanceId,
    pkcs8: Vec<u8>,
    signer: Signer,
    jwks: String,
    verifier: Verifier,
}

fn key() -> SigningKey {
    SigningKey::from_pkcs8(&SigningKey::generate().unwrap()).unwrap()
}

impl Bench {
    fn new() -> Self {
        let clock = ManualClock::at(Timestamp::from_seconds(1_700_000_000));
        let ids = Ids::seeded(3, clock.clone());
        let instance = InstanceId::new(ids.ulid());
        let pkcs8 = SigningKey::generate().unwrap().to_vec();
        let key = SigningKey::from_pkcs8(&pkcs8).unwrap();
        let next = self::key();
        let jwks = KeySet::publish([key.public().jwk.as_str(), next.public().jwk.as_str()]);
        let verifier = Verifier::new(clock.clone());
        verifier.trust(&jwks, ISSUER).unwrap();
        let signer = Signer::new(ISSUER, key, clock.clone(), ids.clone());
        Self { clock, ids, instance, pkcs8, signer, jwks, verifier }
    }

    fn claim<'a>(&self, name: &'a str, access: Vec<AccessEntry>, catalog: bool) -> Claim<'a> {
        let (instance, principal) = (self.instance, "user:a");
        let began = self.clock.now();
        Claim {
            instance,
            principal,
            name,
            credential: "password",
            access,
            catalog,
            began,
            lifetime: LIFETIME,
        }
    }

    fn claims(&self) -> Value {
        let now = 1_700_000_000_i64;
        json!({
            "iss": ISSUER, "aud": self.instance, "sub": "user:a", "name": "a", "iat": now, "nbf": now,
            "began": now * 1_000_000, "exp": now + 300, "jti": "x", "typ": "access", "catalog": false,
            "access": [{"path": "team/app", "actions": ["pull"], "bound": {"instance": self.instance}, "basis": "grant"}],
        })
    }

    fn header(&self) -> Value {
        json!({"alg": "ES256", "typ": "JWT", "kid": self.signer.key_id()})
    }

    /// A token signed with the deployment's own key.
    fn forge(&self, header: &Value, claims: &Value) -> String {
        forge_with(&SigningKey::from_pkcs8(&self.pkcs8).unwrap(), header, claims)
    }

    fn verdict(&self, token: &str) -> Result<(), TokenError> {
        self.verifier.verify(token, self.instance).map(|_| ())
    }
}

fn unsigned(header: &Value, claims: &Value) -> String {
    format!("{}.{}", URL_SAFE_NO_PAD.encode(header.to_string()), URL_SAFE_NO_PAD.encode(claims.to_string()))
}

fn forge_with(key: &SigningKey, header: &Value, claims: &Value) -> String {
    let message = unsigned(header, claims);
    let signature = key.pair.sign(&SystemRandom::new(), message.as_bytes()).unwrap();
    format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
}

#[test]
fn a_signed_token_says_the_same_to_the_verifier() {
    let bench = Bench::new();
    let entry = |path: &str, actions: &[Action], bound, basis| AccessEntry {
        path: path.parse().unwrap(),
        actions: actions.iter().copied().collect(),
        bound,
        basis,
    };
    let repository = Bound::Repository(RepositoryId::new(bench.ids.ulid()));
    let namespace = Bound::Namespace(NamespaceId::new(bench.ids.ulid()));
    let access = vec![
        entry("team/b", &Action::ALL, repository, Basis::Grant),
        entry("team/a", &[Action::Pull], namespace, Basis::Public),
    ];
    let signed = bench.signer.sign(bench.claim("alice", access.clone(), true)).unwrap();
    for _ in 0..2 {
        let token = bench.verifier.verify(&signed.token, bench.instance).unwrap();
        assert_eq!((token.principal.as_str(), token.name.as_str(), token.catalog), ("user:a", "alice", true));
        assert_eq!(token.entry(&"team/b".parse().unwrap()), Some(&access[0]));
        assert_eq!(token.entry(&"team/a".parse().unwrap()), Some(&access[1]));
        assert!(token.entry(&"team/c".parse().unwrap()).is_none());
        assert!(!token.allows(&"team/a".parse().unwrap(), Action::Push));
        assert_eq!(token.expires_at, signed.issued_at.plus(LIFETIME));
    }
}

#[test]
fn t35_unsigned_and_confused_algorithms_are_refused() {
    let bench = Bench::new();
    let (mut header, claims) = (bench.header(), bench.claims());
    assert_eq!(bench.verdict(&bench.forge(&header, &claims)), Ok(()));
    for alg in ["none", "None", "NONE", ""] {
        header["alg"] = json!(alg);
        let message = unsigned(&header, &claims);
        for token in
            [message.clone(), format!("{message}."), format!("{message}.AAAA"), bench.forge(&header, &claims)]
        {
            assert_eq!(bench.verdict(&token), Err(TokenError::Invalid), "{alg}");
        }
    }
    // The public key, in every spelling an attacker has, as the secret of an HMAC.
    let jwk = SigningKey::from_pkcs8(&bench.pkcs8).unwrap().public().jwk.clone();
    let parsed: Value = serde_json::from_str(&jwk).unwrap();
    let part = |name: &str| URL_SAFE_NO_PAD.decode(parsed[name].as_str().unwrap()).unwrap();
    let point = [vec![4], part("x"), part("y")].concat();
    for alg in ["HS256", "HS384", "HS512"] {
        header["alg"] = json!(alg);
        for secret in [jwk.as_bytes(), bench.jwks.as_bytes(), &point] {
            let message = unsigned(&header, &claims);
            let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), message.as_bytes());
            let token = format!("{message}.{}", URL_SAFE_NO_PAD.encode(tag));
            assert_eq!(bench.verdict(&token), Err(TokenError::Invalid));
        }
    }
}

#[test]
fn t35_cve_2025_24976_a_header_brings_no_key() {
    let bench = Bench::new();
    let attacker = key();
    let jwk: Value = serde_json::from_str(&attacker.public().jwk).unwrap();
    let mut offered_as_known = jwk.clone();
    offered_as_known["kid"] = json!(bench.signer.key_id());
    let offers = [
        ("jwk", jwk.clone()),
        ("jwk", offered_as_known),
        ("jku", json!("https://attacker.example/jwks.json")),
        ("x5u", json!("https://attacker.example/chain.pem")),
        ("x5c", json!(["MIIB"])),
    ];
    for (name, value) in offers {
        for kid in [bench.signer.key_id(), attacker.public().id.as_str()] {
            let mut header = bench.header();
            header["kid"] = json!(kid);
            header[name] = value.clone();
            let token = forge_with(&attacker, &header, &bench.claims());
            assert_eq!(bench.verdict(&token), Err(TokenError::Invalid), "{name}");
        }
        // With the right signature such a header changes nothing.
        let mut header = bench.header();
        header[name] = value;
        assert_eq!(bench.verdict(&bench.forge(&header, &bench.claims())), Ok(()), "{name}");
    }
    for kid in [json!(null), json!(""), json!("../../key"), json!("unknown")] {
        let mut header = bench.header();
        header["kid"] = kid;
        assert_eq!(bench.verdict(&bench.forge(&header, &bench.claims())), Err(TokenError::Invalid));
    }
    let mut header = bench.header();
    header["crit"] = json!(["exp"]);
    assert_eq!(bench.verdict(&bench.forge(&header, &bench.claims())), Err(TokenError::Invalid));
}

#[test]
fn t35_issuer_audience_and_kind_must_be_ours() {
    let bench = Bench::new();
    let other = InstanceId::new(bench.ids.ulid());
    let altered = |name: &str, value: Value| {
        let mut claims = bench.claims();
        claims[name] = value;
        bench.verdict(&bench.forge(&bench.header(), &claims))
    };
    assert_eq!(altered("iss", json!("elsewhere")), Err(TokenError::Invalid));
    assert_eq!(altered("aud", json!(other)), Err(TokenError::Audience));
    assert_eq!(altered("aud", json!([bench.instance])), Err(TokenError::Invalid));
    assert_eq!(altered("typ", json!("refresh")), Err(TokenError::Invalid));
    // The cache knows the token; the instance it is asked for still decides.
    let token = bench.forge(&bench.header(), &bench.claims());
    assert_eq!(bench.verdict(&token), Ok(()));
    assert_eq!(bench.verifier.verify(&token, other).unwrap_err(), TokenError::Audience);
    for name in ["iss", "aud", "sub", "name", "iat", "nbf", "exp", "jti", "typ", "access", "catalog"] {
        let mut claims = bench.claims();
        claims.as_object_mut().unwrap().remove(name);
        let verdict = bench.verdict(&bench.forge(&bench.header(), &claims));
        assert_eq!(verdict, Err(TokenError::Invalid), "{name}");
    }
}

#[test]
fn t35_times_are_judged_by_the_injected_clock_with_little_leeway() {
    let bench = Bench::new();
    let token = bench.signer.sign(bench.claim("a", Vec::new(), false)).unwrap().token;
    let mut claims = bench.claims();
    claims["nbf"] = json!(1_700_000_000 + 31);
    let early = bench.forge(&bench.header(), &claims);
    assert_eq!(bench.verdict(&early), Err(TokenError::NotYet));
    bench.clock.advance(Duration::from_secs(1));
    assert_eq!(bench.verdict(&early), Ok(()));
    assert!(LEEWAY <= Duration::from_secs(60));
    bench.clock.advance(LIFETIME + LEEWAY - Duration::from_secs(2));
    assert_eq!(bench.verdict(&token), Ok(()));
    bench.clock.advance(Duration::from_secs(1));
    assert_eq!(bench.verdict(&token), Err(TokenError::Expired));
}

#[test]
fn t35_a_tampered_payload_is_refused_and_so_is_nonsense() {
    let bench = Bench::new();
    let token = bench.signer.sign(bench.claim("a", Vec::new(), false)).unwrap().token;
    assert_eq!(bench.verdict(&token), Ok(()));
    let parts: Vec<&str> = token.split('.').collect();
    let mut claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(parts[1]).unwrap()).unwrap();
    claims["sub"] = json!("user:root");
    let tampered = format!("{}.{}.{}", parts[0], URL_SAFE_NO_PAD.encode(claims.to_string()), parts[2]);
    assert_eq!(bench.verdict(&tampered), Err(TokenError::Invalid));
    let long = "a".repeat(100_000);
    for nonsense in ["", ".", "..", "a.b.c", &token[1..], &format!("{token}.x"), &format!(" {token}"), &long]
    {
        assert_eq!(bench.verdict(nonsense), Err(TokenError::Invalid));
    }
    // Two entries for one path could say two things.
    let mut claims = bench.claims();
    let entry = claims["access"][0].clone();
    claims["access"].as_array_mut().unwrap().push(entry);
    assert_eq!(bench.verdict(&bench.forge(&bench.header(), &claims)), Err(TokenError::Invalid));
    claims["access"] = json!([{"path": "Team/../x", "actions": ["pull"], "bound": {"instance": bench.instance}, "basis": "grant"}]);
    assert_eq!(bench.verdict(&bench.forge(&bench.header(), &claims)), Err(TokenError::Invalid));
}

#[test]
fn a_retired_key_opens_nothing_not_even_from_the_cache() {
    let bench = Bench::new();
    let token = bench.signer.sign(bench.claim("a", Vec::new(), false)).unwrap().token;
    assert_eq!(bench.verdict(&token), Ok(()));
    bench.verifier.trust(&KeySet::publish([key().public().jwk.as_str()]), ISSUER).unwrap();
    assert_eq!(bench.verdict(&token), Err(TokenError::Invalid));
    bench.verifier.trust(&bench.jwks, ISSUER).unwrap();
    assert_eq!(bench.verdict(&token), Ok(()));
    assert!(bench.verifier.trust("{}", ISSUER).is_err());
    assert_eq!(bench.verdict(&token), Ok(()));
    assert_eq!(
        Verifier::new(bench.clock.clone()).verify(&token, bench.instance).unwrap_err(),
        TokenError::Invalid
    );
}

#[test]
fn a_token_from_before_a_right_was_taken_away_opens_nothing_not_even_from_the_cache() {
    let bench = Bench::new();
    let token = bench.signer.sign(bench.claim("a", Vec::new(), false)).unwrap().token;
    assert_eq!(bench.verdict(&token), Ok(()));
    let at = bench.clock.now();
    let other = InstanceId::new(bench.ids.ulid());
    let refuse = |principal: &str, instance| {
        bench.verifier.refuse(NotBefores {
            principals: [(principal.to_owned(), at)].into(),
            instances: [(instance, at)].into(),
        });
    };
    refuse("user:b", other);
    assert_eq!(bench.verdict(&token), Ok(()));
    refuse("user:a", other);
    assert_eq!(bench.verdict(&token), Err(TokenError::Revoked));
    refuse("user:b", bench.instance);
    assert_eq!(bench.verdict(&token), Err(TokenError::Revoked));
    // A millisecond later, in the same second, it is another token.
    bench.clock.advance(Duration::from_millis(1));
    let later = bench.signer.sign(bench.claim("a", Vec::new(), false)).unwrap().token;
    refuse("user:a", bench.instance);
    assert_eq!(bench.verdict(&later), Ok(()));
    bench.verifier.refuse(NotBefores::default());
    assert_eq!(bench.verdict(&token), Ok(()));
}
