//! Verifies tokens that another issuer signed (RFC 7519, OpenID Connect Core 3.1.3.7). Key material comes only from the
//! issuer's published key set: what a token's header offers (`jwk`, `jku`, `x5c`, `x5u`) is never looked at. The algorithm is one
//! of a fixed list of signatures by private keys, and one that the key is made for.

use std::{collections::HashSet, fmt, time::Duration};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use berth_service::Timestamp;
use jsonwebtoken::{
    Algorithm, DecodingKey, Validation, decode, decode_header,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, PublicKeyUse},
};
use serde_json::{Map, Value};

use crate::KeyError;

/// The longest token of another issuer that is looked at, in bytes.
pub const MAX_FOREIGN_TOKEN_BYTES: usize = 16 * 1024;

/// How far the issuer's clock and ours may lie apart.
pub const FOREIGN_LEEWAY: Duration = Duration::from_secs(60);

/// The most keys of a set that are looked at.
const MAX_KEYS: usize = 100;

/// Why a token of another issuer is not accepted. For the log: whoever shows it is told less.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ForeignError {
    /// Too long, no token, or one that needs an extension.
    #[error("not a token that can be read")]
    Malformed,
    /// Not signed by a private key, or by an algorithm that is not known here.
    #[error("signed by an algorithm that is not accepted")]
    Algorithm,
    /// The key set has no such key; a newer one may.
    #[error("signed by a key that the issuer has not published")]
    UnknownKey,
    /// The signature is wrong.
    #[error("the signature is wrong")]
    Signature,
    /// It names another issuer.
    #[error("it names another issuer")]
    Issuer,
    /// It is for somebody else.
    #[error("it is for another audience")]
    Audience,
    /// A time that it has to name is missing, or not a number.
    #[error("its claim {0} is missing or malformed")]
    Claim(&'static str),
    /// It has expired.
    #[error("it has expired")]
    Expired,
    /// It is not valid yet.
    #[error("it is not valid yet")]
    NotYet,
}

/// One published key, and what it may verify.
struct ForeignKey {
    id: Option<String>,
    algorithms: Vec<Algorithm>,
    key: DecodingKey,
}

/// The published keys of an issuer.
pub struct ForeignKeys(Vec<ForeignKey>);

impl fmt::Debug for ForeignKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|key| &key.id)).finish()
    }
}

const RSA: [Algorithm; 6] = [
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
];

fn accepted(algorithm: Algorithm) -> bool {
    RSA.contains(&algorithm) || matches!(algorithm, Algorithm::ES256 | Algorithm::ES384 | Algorithm::EdDSA)
}

/// What a key may verify, by what it is and by what it says.
fn algorithms(jwk: &Jwk) -> Vec<Algorithm> {
    let fitting: Vec<Algorithm> = match &jwk.algorithm {
        AlgorithmParameters::RSA(_) => RSA.to_vec(),
        AlgorithmParameters::EllipticCurve(key) => match key.curve {
            EllipticCurve::P256 => vec![Algorithm::ES256],
            EllipticCurve::P384 => vec![Algorithm::ES384],
            _ => Vec::new(),
        },
        AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => {
            vec![Algorithm::EdDSA]
        }
        // A shared secret among published keys is no secret.
        _ => Vec::new(),
    };
    let said = jwk.common.key_algorithm;
    let says = |algorithm: &Algorithm| {
        said.is_none_or(|said: KeyAlgorithm| said.to_string() == format!("{algorithm:?}"))
    };
    fitting.into_iter().filter(says).collect()
}

impl ForeignKeys {
    /// Reads a JWK set (RFC 7517). Keys that are not for signatures, or of a kind that is not known here, are left out.
    pub fn parse(jwks: &[u8]) -> Result<Self, KeyError> {
        let set: Value = serde_json::from_slice(jwks).map_err(|_| KeyError::KeySet)?;
        let listed = set.get("keys").and_then(Value::as_array).ok_or(KeyError::KeySet)?;
        let mut keys = Vec::new();
        for key in listed.iter().take(MAX_KEYS) {
            let Ok(jwk) = serde_json::from_value::<Jwk>(key.clone()) else { continue };
            let signs = matches!(jwk.common.public_key_use, None | Some(PublicKeyUse::Signature));
            let algorithms = algorithms(&jwk);
            if !signs || algorithms.is_empty() {
                continue;
            }
            let Ok(key) = DecodingKey::from_jwk(&jwk) else { continue };
            keys.push(ForeignKey { id: jwk.common.key_id, algorithms, key });
        }
        if keys.is_empty() { Err(KeyError::KeySet) } else { Ok(Self(keys)) }
    }

    /// The one key that a header means: by its id, or the only one that fits.
    fn find(&self, id: Option<&str>, algorithm: Algorithm) -> Option<&DecodingKey> {
        let mut fitting = self
            .0
            .iter()
            .filter(|key| key.algorithms.contains(&algorithm) && (id.is_none() || key.id.as_deref() == id));
        let found = fitting.next()?;
        fitting.next().is_none().then_some(&found.key)
    }
}

/// What a verified token says.
#[derive(Clone, PartialEq, Debug)]
pub struct ForeignClaims(Map<String, Value>);

impl ForeignClaims {
    /// A claim as text: a text, a number or a truth value.
    pub fn text(&self, name: &str) -> Option<String> {
        match self.0.get(name)? {
            Value::String(text) => Some(text.clone()),
            Value::Number(number) => Some(number.to_string()),
            Value::Bool(truth) => Some(truth.to_string()),
            _ => None,
        }
    }

    /// A claim as texts: a list of them, or one.
    pub fn texts(&self, name: &str) -> Vec<&str> {
        match self.0.get(name) {
            Some(Value::String(text)) => vec![text],
            Some(Value::Array(list)) => list.iter().filter_map(Value::as_str).collect(),
            _ => Vec::new(),
        }
    }

    /// The same at a path of names, since Kubernetes nests: `kubernetes.io/namespace`, as RFC 6901 has it, from a slash on.
    pub fn at(&self, path: &str) -> Option<String> {
        if !path.starts_with('/') {
            return self.text(path);
        }
        let mut names = path[1..].split('/').map(|name| name.replace("~1", "/").replace("~0", "~"));
        let mut found = self.0.get(&names.next()?)?;
        for name in names {
            found = found.get(&name)?;
        }
        match found {
            Value::String(text) => Some(text.clone()),
            Value::Number(number) => Some(number.to_string()),
            Value::Bool(truth) => Some(truth.to_string()),
            _ => None,
        }
    }

    /// Adds what another document of the issuer says of the same subject (OpenID Connect Core 5.3). What the token says
    /// itself stays. False: the document is about somebody else.
    pub fn complete(&mut self, document: Map<String, Value>) -> bool {
        if document.get("sub").and_then(Value::as_str).map(str::to_owned) != self.subject() {
            return false;
        }
        for (name, value) in document {
            self.0.entry(name).or_insert(value);
        }
        true
    }

    /// Whether it says anything by a name.
    pub fn says(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// From when on it is no longer accepted: some time after it has expired.
    pub fn ends(&self) -> Option<Timestamp> {
        let expires = self.seconds("exp").ok()??;
        Some(expires.plus(FOREIGN_LEEWAY))
    }

    /// Who it is about; never empty.
    pub fn subject(&self) -> Option<String> {
        self.text("sub").filter(|subject| !subject.is_empty())
    }

    /// Whether it is for `audience`. Of several audiences, the party that it was given to (`azp`), where it is named, is that one.
    pub fn is_for(&self, audience: &str) -> bool {
        let audiences = self.texts("aud");
        let party = self.text("azp");
        audiences.contains(&audience) && (audiences.len() == 1 || party.is_none_or(|party| party == audience))
    }

    /// The same as an ID token has it: the party is this one where it is named, and it is named where there are several
    /// audiences.
    pub fn is_id_token_for(&self, client: &str) -> bool {
        let audiences: HashSet<&str> = self.texts("aud").into_iter().collect();
        let party = self.text("azp");
        audiences.contains(client)
            && party.as_deref().is_none_or(|party| party == client)
            && (audiences.len() == 1 || party.is_some())
    }

    fn seconds(&self, name: &'static str) -> Result<Option<Timestamp>, ForeignError> {
        match self.0.get(name) {
            None => Ok(None),
            Some(Value::Number(number)) => {
                let seconds = number.as_i64().or_else(|| {
                    let seconds = number.as_f64().filter(|seconds| seconds.abs() < 1e12)?;
                    #[expect(clippy::cast_possible_truncation, reason = "checked, and whole seconds will do")]
                    let whole = seconds as i64;
                    Some(whole)
                });
                Ok(Some(Timestamp::from_seconds(seconds.ok_or(ForeignError::Claim(name))?)))
            }
            Some(_) => Err(ForeignError::Claim(name)),
        }
    }

    fn check_times(&self, now: Timestamp) -> Result<(), ForeignError> {
        let ends = self.seconds("exp")?.ok_or(ForeignError::Claim("exp"))?;
        let issued = self.seconds("iat")?.ok_or(ForeignError::Claim("iat"))?;
        let begins = self.seconds("nbf")?.unwrap_or(issued);
        if now >= ends.plus(FOREIGN_LEEWAY) {
            return Err(ForeignError::Expired);
        }
        let soon = now.plus(FOREIGN_LEEWAY);
        if issued > soon || begins > soon { Err(ForeignError::NotYet) } else { Ok(()) }
    }
}

/// Who a token says it is from, without looking whether that is true. None: it is no token of another issuer.
pub fn peek_issuer(token: &str) -> Option<String> {
    if token.len() > MAX_FOREIGN_TOKEN_BYTES {
        return None;
    }
    let mut parts = token.split('.');
    let (_header, claims, _signature) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() {
        return None;
    }
    let claims = URL_SAFE_NO_PAD.decode(claims).ok()?;
    let claims: Value = serde_json::from_slice(&claims).ok()?;
    claims.get("iss")?.as_str().filter(|issuer| !issuer.is_empty()).map(str::to_owned)
}

/// What a token says, if `keys` vouch for it, `issuer` is who it names, and it is valid at `now`. Whom it is for is left to
/// be asked.
pub fn verify_foreign(
    token: &str,
    keys: &ForeignKeys,
    issuer: &str,
    now: Timestamp,
) -> Result<ForeignClaims, ForeignError> {
    if token.len() > MAX_FOREIGN_TOKEN_BYTES {
        return Err(ForeignError::Malformed);
    }
    let header = decode_header(token).map_err(|_| ForeignError::Malformed)?;
    if header.crit.is_some() || header.enc.is_some() || header.zip.is_some() {
        return Err(ForeignError::Malformed);
    }
    if !accepted(header.alg) {
        return Err(ForeignError::Algorithm);
    }
    let key = keys.find(header.kid.as_deref(), header.alg).ok_or(ForeignError::UnknownKey)?;
    let mut validation = Validation::new(header.alg);
    // Times are judged against the injected clock, and issuer and audience beside them, in one place.
    validation.validate_exp = false;
    validation.validate_nbf = false;
    validation.validate_aud = false;
    validation.required_spec_claims.clear();
    let claims: Map<String, Value> =
        decode(token, key, &validation).map_err(|_| ForeignError::Signature)?.claims;
    let claims = ForeignClaims(claims);
    if claims.text("iss").as_deref() != Some(issuer) {
        return Err(ForeignError::Issuer);
    }
    claims.check_times(now)?;
    Ok(claims)
}
