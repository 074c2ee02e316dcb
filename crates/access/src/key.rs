//! ES256 keys: made here, kept as PKCS #8 (sealed by the caller), published as a JWK set.

use std::{collections::HashMap, fmt};

use aws_lc_rs::{
    digest::{SHA256, digest},
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::DecodingKey;
use zeroize::Zeroizing;

/// A key that can't be made, read or used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The cryptographic library refused.
    #[error("the key can't be made or read")]
    Crypto,
    /// Not a JWK set (RFC 7517) with at least one ES256 key.
    #[error("not a JWK set with an ES256 key")]
    KeySet,
}

/// The public half of a signing key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PublicKey {
    /// The key id: the JWK's thumbprint (RFC 7638).
    pub id: String,
    /// The key as a JWK, in JSON.
    pub jwk: String,
}

/// A private key that signs tokens.
pub struct SigningKey {
    pub(crate) pair: EcdsaKeyPair,
    public: PublicKey,
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningKey").field("id", &self.public.id).finish_non_exhaustive()
    }
}

impl SigningKey {
    /// A new key in PKCS #8, which [`Self::from_pkcs8`] reads.
    pub fn generate() -> Result<Zeroizing<Vec<u8>>, KeyError> {
        let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new())
            .map_err(|_| KeyError::Crypto)?;
        Ok(Zeroizing::new(document.as_ref().to_vec()))
    }

    /// Reads a key.
    pub fn from_pkcs8(pkcs8: &[u8]) -> Result<Self, KeyError> {
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8)
            .map_err(|_| KeyError::Crypto)?;
        // An uncompressed point: 4, x, y.
        let point = pair.public_key().as_ref();
        if point.len() != 65 {
            return Err(KeyError::Crypto);
        }
        let (x, y) = (URL_SAFE_NO_PAD.encode(&point[1..33]), URL_SAFE_NO_PAD.encode(&point[33..]));
        // RFC 7638: the required members in this order, without white space.
        let canonical = format!(r#"{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}"#);
        let id = URL_SAFE_NO_PAD.encode(digest(&SHA256, canonical.as_bytes()));
        let jwk = format!(
            r#"{{"kty":"EC","use":"sig","alg":"ES256","kid":"{id}","crv":"P-256","x":"{x}","y":"{y}"}}"#
        );
        Ok(Self { pair, public: PublicKey { id, jwk } })
    }

    /// The public half.
    pub fn public(&self) -> &PublicKey {
        &self.public
    }
}

/// The public keys that verify tokens.
pub struct KeySet(HashMap<String, DecodingKey>);

impl fmt::Debug for KeySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

#[derive(serde::Deserialize)]
struct Jwk {
    kty: String,
    #[serde(default)]
    crv: String,
    #[serde(default)]
    kid: String,
    #[serde(default)]
    x: String,
    #[serde(default)]
    y: String,
}

#[derive(serde::Deserialize)]
struct Jwks {
    keys: Vec<Jwk>,
}

impl KeySet {
    /// A JWK set of public keys, in JSON.
    pub fn publish<'a>(jwks: impl IntoIterator<Item = &'a str>) -> String {
        let jwks: Vec<&str> = jwks.into_iter().collect();
        format!(r#"{{"keys":[{}]}}"#, jwks.join(","))
    }

    /// Reads a JWK set. Keys of another kind than P-256 are left out, as is a key without an id.
    pub fn parse(jwks: &str) -> Result<Self, KeyError> {
        let set: Jwks = serde_json::from_str(jwks).map_err(|_| KeyError::KeySet)?;
        let mut keys = HashMap::new();
        for key in set.keys {
            if key.kty == "EC" && key.crv == "P-256" && !key.kid.is_empty() {
                let decoding =
                    DecodingKey::from_ec_components(&key.x, &key.y).map_err(|_| KeyError::KeySet)?;
                keys.insert(key.kid, decoding);
            }
        }
        if keys.is_empty() { Err(KeyError::KeySet) } else { Ok(Self(keys)) }
    }

    pub(crate) fn find(&self, id: &str) -> Option<&DecodingKey> {
        self.0.get(id)
    }
}
