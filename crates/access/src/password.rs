//! Passwords: Argon2id in a bounded number of threads, the same time for a name that does not exist, and a short memory
//! of checks that succeeded, because container clients send the password with every token request.

use std::{fmt, sync::Arc, time::Duration};

use argon2::{Argon2, PasswordHash, PasswordHasher, PasswordVerifier};
use aws_lc_rs::{
    digest::{SHA256, digest},
    hmac, rand,
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::Semaphore;

/// A password could be neither accepted nor refused.
#[derive(Debug, thiserror::Error)]
pub enum PasswordError {
    /// Too many checks wait already.
    #[error("too many passwords are being checked")]
    Busy,
    /// A fault of the server.
    #[error("the password can't be hashed")]
    Hash,
}

/// The bounds of password checks.
#[derive(Clone, Debug)]
pub struct PasswordConfig {
    /// Checks at the same time; each takes 19 MiB and a thread.
    pub concurrency: usize,
    /// Checks that may wait for their turn.
    pub waiting: usize,
    /// How long a successful check is remembered.
    pub remember: Duration,
    /// How many successful checks are remembered.
    pub remembered: u64,
}

impl Default for PasswordConfig {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self {
            concurrency: cores.clamp(1, 16),
            waiting: 256,
            remember: Duration::from_secs(60),
            remembered: 10_000,
        }
    }
}

/// The longest password that is looked at, in bytes.
const MAX_BYTES: usize = 1024;

/// Hashes and checks passwords. Clones share bounds and memory.
#[derive(Clone)]
pub struct Passwords {
    running: Arc<Semaphore>,
    admitted: Arc<Semaphore>,
    remembered: moka::sync::Cache<[u8; 32], ()>,
    /// Keys the memory: it holds nothing that could be tried against a password list outside this process.
    key: Arc<hmac::Key>,
    /// The hash of no one's password, in the place of a user who does not exist.
    dummy: Arc<str>,
}

impl fmt::Debug for Passwords {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Passwords")
    }
}

fn hash(secret: &str) -> Result<String, PasswordError> {
    // The defaults of the library: Argon2id, 19 MiB, two passes, one lane, a random salt.
    let hash: PasswordHash =
        Argon2::default().hash_password(secret.as_bytes()).map_err(|_| PasswordError::Hash)?;
    Ok(hash.to_string())
}

fn check(secret: &str, stored: &str) -> bool {
    PasswordHash::new(stored)
        .is_ok_and(|stored| Argon2::default().verify_password(secret.as_bytes(), &stored).is_ok())
}

impl Passwords {
    /// Bounds and an empty memory. Hashes once, so it takes some 20 ms.
    pub fn new(config: &PasswordConfig) -> Result<Self, PasswordError> {
        let mut key = [0; 32];
        rand::fill(&mut key).map_err(|_| PasswordError::Hash)?;
        let dummy = hash(random_secret()?.expose_secret())?.into();
        Ok(Self {
            running: Arc::new(Semaphore::new(config.concurrency)),
            admitted: Arc::new(Semaphore::new(config.concurrency + config.waiting)),
            remembered: moka::sync::Cache::builder()
                .max_capacity(config.remembered)
                .time_to_live(config.remember)
                .build(),
            key: Arc::new(hmac::Key::new(hmac::HMAC_SHA256, &key)),
            dummy,
        })
    }

    async fn bounded<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, PasswordError> {
        let _admitted = self.admitted.try_acquire().map_err(|_| PasswordError::Busy)?;
        // The permit moves into the thread: a caller that goes away must not let another thread start beside it.
        let running = self.running.clone().acquire_owned().await.map_err(|_| PasswordError::Busy)?;
        let work = move || {
            let result = work();
            drop(running);
            result
        };
        tokio::task::spawn_blocking(work).await.map_err(|_| PasswordError::Hash)
    }

    /// The hash to store for a password, as a PHC string.
    pub async fn hash(&self, secret: &SecretString) -> Result<String, PasswordError> {
        let secret = secret.clone();
        self.bounded(move || hash(secret.expose_secret())).await?
    }

    /// Whether `secret` is the password of `name`, whose stored hash is `stored`; `None`: there is no such name, and
    /// finding that out takes as long.
    pub async fn verify(
        &self,
        name: &str,
        secret: &SecretString,
        stored: Option<&str>,
    ) -> Result<bool, PasswordError> {
        if secret.expose_secret().len() > MAX_BYTES {
            return Ok(false);
        }
        // With the stored hash in the key a changed password forgets at once.
        let key = self.memory_key(name, secret, stored.unwrap_or(&self.dummy));
        if stored.is_some() && self.remembered.contains_key(&key) {
            return Ok(true);
        }
        let hash: Arc<str> = stored.map_or_else(|| self.dummy.clone(), Into::into);
        let attempt = secret.clone();
        let right = self.bounded(move || check(attempt.expose_secret(), &hash)).await?;
        let right = right && stored.is_some();
        if right {
            self.remembered.insert(key, ());
        }
        Ok(right)
    }

    /// Whether this check succeeded a moment ago. Hashes nothing, and says nothing of a password that is right for the
    /// first time.
    pub fn remembers(&self, name: &str, secret: &SecretString, stored: Option<&str>) -> bool {
        stored.is_some_and(|stored| self.remembered.contains_key(&self.memory_key(name, secret, stored)))
    }

    fn memory_key(&self, name: &str, secret: &SecretString, stored: &str) -> [u8; 32] {
        let mut context = hmac::Context::with_key(&self.key);
        for part in [name, secret.expose_secret(), stored] {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part.as_bytes());
        }
        let mut key = [0; 32];
        key.copy_from_slice(context.sign().as_ref());
        key
    }
}

/// A secret of 256 random bits in 43 characters: generated passwords and refresh tokens.
pub fn random_secret() -> Result<SecretString, PasswordError> {
    let mut bytes = zeroize::Zeroizing::new([0; 32]);
    rand::fill(bytes.as_mut()).map_err(|_| PasswordError::Hash)?;
    Ok(SecretString::from(URL_SAFE_NO_PAD.encode(bytes)))
}

/// The hash under which a random secret is stored. Not for passwords, which can be guessed.
pub fn secret_hash(secret: &str) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, secret.as_bytes()).as_ref());
    hash
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(text: &str) -> SecretString {
        SecretString::from(text)
    }

    #[tokio::test]
    async fn a_password_opens_only_what_it_was_set_for() {
        let passwords = Passwords::new(&PasswordConfig::default()).unwrap();
        let stored = passwords.hash(&secret("correct horse")).await.unwrap();
        assert!(stored.starts_with("$argon2id$"));
        for _ in 0..2 {
            assert!(passwords.verify("a", &secret("correct horse"), Some(&stored)).await.unwrap());
            assert!(!passwords.verify("a", &secret("wrong"), Some(&stored)).await.unwrap());
            assert!(!passwords.verify("a", &secret("correct horse"), None).await.unwrap());
        }
        let changed = passwords.hash(&secret("another")).await.unwrap();
        assert!(!passwords.verify("a", &secret("correct horse"), Some(&changed)).await.unwrap());
        assert!(!passwords.verify("a", &secret(&"x".repeat(2000)), Some(&changed)).await.unwrap());
        assert!(!passwords.verify("a", &secret("another"), Some("not a hash")).await.unwrap());
    }

    #[tokio::test]
    async fn a_remembered_check_hashes_nothing() {
        let config = PasswordConfig { concurrency: 1, waiting: 0, ..PasswordConfig::default() };
        let passwords = Passwords::new(&config).unwrap();
        let stored = passwords.hash(&secret("p")).await.unwrap();
        assert!(passwords.verify("a", &secret("p"), Some(&stored)).await.unwrap());
        let _all = passwords.admitted.clone().acquire_owned().await.unwrap();
        assert!(passwords.verify("a", &secret("p"), Some(&stored)).await.unwrap());
        assert!(matches!(passwords.verify("b", &secret("p"), Some(&stored)).await, Err(PasswordError::Busy)));
    }
}
