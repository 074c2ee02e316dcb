//! Verifies access tokens. Key material comes only from the deployment's own key set: what a token's header offers
//! (`jwk`, `jku`, `x5c`, `x5u`) is never looked at (CVE-2025-24976). Verified tokens are kept under their hash.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::{ArcSwap, ArcSwapOption};
use aws_lc_rs::digest::{SHA256, digest};
use berth_model::InstanceId;
use berth_service::{SharedClock, Timestamp};
use jsonwebtoken::{Algorithm, Validation, decode, decode_header};
use quick_cache::{Weighter, sync::Cache};

use crate::{
    AccessToken, KeyError, KeySet, TokenError,
    token::{ACCESS, Claims},
};

/// How far clocks of a deployment may lie apart.
pub const LEEWAY: Duration = Duration::from_secs(30);

/// The longest token that is looked at, in bytes.
pub const MAX_TOKEN_BYTES: usize = 64 * 1024;

/// The cache may hold this much, in bytes of tokens.
const CACHE_BYTES: u64 = 64 * 1024 * 1024;

#[derive(Debug)]
struct Trusted {
    jwks: String,
    issuer: String,
    keys: KeySet,
    revision: u64,
}

#[derive(Clone, Debug)]
struct Cached {
    token: Arc<AccessToken>,
    /// The key set that vouched for it.
    revision: u64,
    bytes: u32,
}

#[derive(Clone, Debug)]
struct Bytewise;

impl Weighter<[u8; 32], Cached> for Bytewise {
    fn weight(&self, _: &[u8; 32], cached: &Cached) -> u64 {
        cached.bytes.into()
    }
}

/// Moments that tokens must not be older than: a right was taken away.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct NotBefores {
    /// By principal.
    pub principals: HashMap<String, Timestamp>,
    /// For everybody in an instance.
    pub instances: HashMap<InstanceId, Timestamp>,
}

impl NotBefores {
    fn refuse(&self, token: &AccessToken) -> bool {
        let before = |at: Option<&Timestamp>| at.is_some_and(|at| token.began <= *at);
        // Most of the time nothing was taken away lately.
        (!self.principals.is_empty() && before(self.principals.get(&token.principal)))
            || (!self.instances.is_empty() && before(self.instances.get(&token.instance)))
    }
}

/// Verifies tokens; one for the whole process.
#[derive(Debug)]
pub struct Verifier {
    trusted: ArcSwapOption<Trusted>,
    not_befores: ArcSwap<NotBefores>,
    revisions: AtomicU64,
    /// Every request asks it, so it is one that writes nothing down about who asks. What is expired falls out by size.
    cache: Cache<[u8; 32], Cached, Bytewise>,
    validation: Validation,
    clock: SharedClock,
}

impl Verifier {
    /// A verifier that trusts nothing until [`Self::trust`] was called.
    pub fn new(clock: SharedClock) -> Self {
        let mut validation = Validation::new(Algorithm::ES256);
        // Times are judged against the injected clock, and issuer and audience beside them, in one place.
        validation.validate_exp = false;
        validation.validate_nbf = false;
        validation.validate_aud = false;
        validation.required_spec_claims.clear();
        // A token of one repository takes some two kibibytes.
        let entries = usize::try_from(CACHE_BYTES / 2048).unwrap_or(usize::MAX);
        let cache = Cache::with_weighter(entries, CACHE_BYTES, Bytewise);
        let not_befores = ArcSwap::default();
        Self {
            trusted: ArcSwapOption::empty(),
            not_befores,
            revisions: AtomicU64::new(0),
            cache,
            validation,
            clock,
        }
    }

    /// Trusts the keys of a JWK set and this issuer from now on, and nothing else. Tokens verified before are verified
    /// again at their next use.
    pub fn trust(&self, jwks: &str, issuer: &str) -> Result<(), KeyError> {
        let current = self.trusted.load();
        if current.as_ref().is_some_and(|trusted| trusted.jwks == jwks && trusted.issuer == issuer) {
            return Ok(());
        }
        let keys = KeySet::parse(jwks)?;
        let revision = self.revisions.fetch_add(1, Ordering::Relaxed) + 1;
        let trusted = Trusted { jwks: jwks.to_owned(), issuer: issuer.to_owned(), keys, revision };
        self.trusted.store(Some(Arc::new(trusted)));
        Ok(())
    }

    /// Refuses what is older than these moments from now on, also of what was verified before.
    pub fn refuse(&self, not_befores: NotBefores) {
        self.not_befores.store(Arc::new(not_befores));
    }

    /// The access token in `token`, which must be for `instance`.
    pub fn verify(&self, token: &str, instance: InstanceId) -> Result<Arc<AccessToken>, TokenError> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(TokenError::Invalid);
        }
        let trusted = self.trusted.load();
        let trusted = trusted.as_ref().ok_or(TokenError::Invalid)?;
        let mut key = [0; 32];
        key.copy_from_slice(digest(&SHA256, token.as_bytes()).as_ref());
        let cached = self.cache.get(&key).filter(|cached| cached.revision == trusted.revision);
        let access = match cached {
            Some(cached) => cached.token,
            None => {
                let access = Arc::new(self.open(token, trusted)?);
                let bytes = u32::try_from(token.len() * 2 + 512).unwrap_or(u32::MAX);
                let cached = Cached { token: access.clone(), revision: trusted.revision, bytes };
                self.cache.insert(key, cached);
                access
            }
        };
        if access.instance != instance {
            return Err(TokenError::Audience);
        }
        let now = self.clock.now();
        if now >= access.expires_at.plus(LEEWAY) {
            return Err(TokenError::Expired);
        }
        if now.plus(LEEWAY) < access.not_before {
            return Err(TokenError::NotYet);
        }
        if self.not_befores.load().refuse(&access) {
            return Err(TokenError::Revoked);
        }
        Ok(access)
    }

    /// Everything but time and audience.
    fn open(&self, token: &str, trusted: &Trusted) -> Result<AccessToken, TokenError> {
        let invalid = |_| TokenError::Invalid;
        let header = decode_header(token).map_err(invalid)?;
        // An extension that must be understood, and none is.
        if header.crit.is_some() || header.alg != Algorithm::ES256 {
            return Err(TokenError::Invalid);
        }
        let key = header.kid.as_deref().and_then(|id| trusted.keys.find(id)).ok_or(TokenError::Invalid)?;
        let claims: Claims<'static> = decode(token, key, &self.validation).map_err(invalid)?.claims;
        if claims.typ != ACCESS || claims.iss != trusted.issuer {
            return Err(TokenError::Invalid);
        }
        let ascending = claims.access.windows(2).all(|pair| pair[0].path < pair[1].path);
        if !ascending {
            return Err(TokenError::Invalid);
        }
        Ok(AccessToken {
            principal: claims.sub,
            name: claims.name,
            credential: claims.cred,
            instance: claims.aud,
            access: claims.access,
            catalog: claims.catalog,
            issued_at: Timestamp::from_seconds(claims.iat),
            began: Timestamp(claims.began),
            not_before: Timestamp::from_seconds(claims.nbf),
            expires_at: Timestamp::from_seconds(claims.exp),
        })
    }
}
