//! Signs access tokens. The key is parsed once: the token library would read it again for each token, which costs more
//! than the signature.

use std::{borrow::Cow, sync::Arc, time::Duration};

use aws_lc_rs::rand::SystemRandom;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use berth_model::InstanceId;
use berth_service::{Ids, SharedClock, Timestamp};

use crate::{
    AccessEntry, KeyError, SigningKey,
    token::{ACCESS, Claims},
};

/// How long a token is valid.
pub const LIFETIME: Duration = Duration::from_secs(300);

/// What a token is to say.
#[derive(Clone, Debug)]
pub struct Claim<'a> {
    /// The instance it is for.
    pub instance: InstanceId,
    /// Who acts.
    pub principal: &'a str,
    /// What that is called.
    pub name: &'a str,
    /// The kind of credential that was shown.
    pub credential: &'a str,
    /// At most one entry a path.
    pub access: Vec<AccessEntry>,
    /// Whether repositories may be listed.
    pub catalog: bool,
    /// Before the rights were looked up: what is taken away later is compared with it.
    pub began: Timestamp,
    /// At most [`LIFETIME`].
    pub lifetime: Duration,
}

/// A token, fresh from the signer.
#[derive(Clone, Debug)]
pub struct SignedToken {
    /// The compact form (RFC 7519).
    pub token: String,
    /// When it was issued, in whole seconds.
    pub issued_at: Timestamp,
}

/// Issues tokens with one key.
#[derive(Clone, Debug)]
pub struct Signer {
    issuer: Arc<str>,
    key: Arc<SigningKey>,
    header: Arc<str>,
    clock: SharedClock,
    ids: Ids,
}

impl Signer {
    /// A signer that names `issuer` and signs with `key`.
    pub fn new(issuer: &str, key: SigningKey, clock: SharedClock, ids: Ids) -> Self {
        let header = format!(r#"{{"alg":"ES256","typ":"JWT","kid":"{}"}}"#, key.public().id);
        let header = URL_SAFE_NO_PAD.encode(header).into();
        Self { issuer: issuer.into(), key: Arc::new(key), header, clock, ids }
    }

    /// The id of the key in use.
    pub fn key_id(&self) -> &str {
        &self.key.public().id
    }

    /// Signs a token.
    pub fn sign(&self, claim: Claim<'_>) -> Result<SignedToken, KeyError> {
        let Claim { instance, principal, name, credential, mut access, catalog, began, lifetime } = claim;
        access.sort_unstable_by(|a, b| a.path.cmp(&b.path));
        let now = self.clock.now().seconds();
        let claims = Claims {
            iss: Cow::Borrowed(&self.issuer),
            aud: instance,
            sub: principal.to_owned(),
            name: name.to_owned(),
            cred: credential.to_owned(),
            iat: now,
            began: began.0,
            nbf: now,
            exp: now.saturating_add(i64::try_from(lifetime.as_secs()).unwrap_or(300)),
            jti: self.ids.ulid().to_string(),
            typ: ACCESS.to_owned(),
            access,
            catalog,
        };
        let claims = serde_json::to_vec(&claims).map_err(|_| KeyError::Crypto)?;
        let mut token = String::with_capacity(self.header.len() + claims.len() * 4 / 3 + 100);
        token.push_str(&self.header);
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(claims, &mut token);
        let signature =
            self.key.pair.sign(&SystemRandom::new(), token.as_bytes()).map_err(|_| KeyError::Crypto)?;
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(signature, &mut token);
        Ok(SignedToken { token, issued_at: Timestamp::from_seconds(now) })
    }
}
