//! CNCF distribution with its filesystem driver, its descriptor cache in memory, and token authentication: this program
//! signs the tokens, so that no token server runs beside it.

use std::{
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey, Header};

use super::{Authorise, Kind, Scope, Server};
use crate::process::{Process, free_address};

/// Signs access tokens as distribution's documentation describes them.
pub(crate) struct Signer {
    key: EncodingKey,
}

const ISSUER: &str = "bench";
const SERVICE: &str = "distribution";

impl Signer {
    /// A new key, and its public part as a JWK set.
    fn new() -> anyhow::Result<(Self, String)> {
        let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
        // An uncompressed point: 4, x, y.
        let point = pair.public_key_raw();
        let part = |range: std::ops::Range<usize>| BASE64_URL_SAFE_NO_PAD.encode(&point[range]);
        let jwk = serde_json::json!({
            "kty": "EC", "crv": "P-256", "kid": ISSUER, "use": "sig", "alg": "ES256",
            "x": part(1..33), "y": part(33..65),
        });
        let key = EncodingKey::from_ec_der(&pair.serialize_der());
        Ok((Self { key }, serde_json::json!({ "keys": [jwk] }).to_string()))
    }

    pub(super) fn token(&self, scope: Scope<'_>) -> anyhow::Result<String> {
        #[expect(clippy::disallowed_methods, reason = "a benchmark has no other clock")]
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        let actions = if scope.push { &["pull", "push"][..] } else { &["pull"] };
        let access: Vec<_> = scope
            .repositories
            .iter()
            .map(|name| serde_json::json!({ "type": "repository", "name": name, "actions": actions }))
            .collect();
        let claims = serde_json::json!({
            "iss": ISSUER, "sub": "bench", "aud": SERVICE, "iat": now, "nbf": now - 60, "exp": now + 86_400,
            "jti": "bench", "access": access,
        });
        let header = Header { kid: Some(ISSUER.to_owned()), ..Header::new(Algorithm::ES256) };
        Ok(format!("Bearer {}", jsonwebtoken::encode(&header, &claims, &self.key)?))
    }
}

pub(super) async fn start(program: &str, folder: &Path) -> anyhow::Result<Server> {
    let address = free_address()?;
    let (signer, jwks) = Signer::new()?;
    let (keys, config) = (folder.join("jwks.json"), folder.join("config.yml"));
    std::fs::write(&keys, jwks)?;
    let text = format!(
        "version: 0.1\nlog:\n  level: error\n  accesslog:\n    disabled: true\n\
         storage:\n  filesystem:\n    rootdirectory: {root}\n  cache:\n    blobdescriptor: inmemory\n\
         http:\n  addr: {address}\n  secret: bench\n\
         auth:\n  token:\n    realm: http://{address}/token\n    service: {SERVICE}\n    issuer: {ISSUER}\n    \
         jwks: {keys}\n    signingalgorithms: [ES256]\n",
        root = folder.join("data").display(),
        keys = keys.display(),
    );
    std::fs::write(&config, text)?;
    let environment = [("OTEL_TRACES_EXPORTER", "none")];
    let mut process = Process::start(program, &["serve", &config.display().to_string()], &environment)?;
    process.listens(address).await?;
    let authorise = Authorise::Signed(Box::new(signer));
    Ok(Server { kind: Kind::Distribution, address, process, authorise, _storage: None })
}
