//! Credentials, from the configuration or whatever the environment has, for the SDK and for what is signed beside it.

use std::{sync::Arc, time::Duration};

use aws_sdk_s3::config::{
    BehaviorVersion, Credentials as Given, ProvideCredentials, Region, SharedCredentialsProvider,
};
use berth_blobs::BlobsError;
use secrecy::ExposeSecret;
use tokio::{sync::Mutex, time::Instant};

use super::{
    Config,
    presign::{Keys, LIFE},
};
use crate::Error;

/// The longest wait for new ones.
const ANSWER: Duration = Duration::from_secs(5);
/// How long those without an end are used before they are asked for again.
const TRUSTED: Duration = Duration::from_secs(15 * 60);
/// The shortest time between two questions.
const PAUSE: Duration = Duration::from_secs(10);

pub(super) async fn provider(config: &Config) -> Result<SharedCredentialsProvider, Error> {
    if let Some(access_key) = &config.access_key {
        let Some(file) = &config.secret_key_file else {
            return Err(Error::ObjectStorage("an access key needs secret_key_file".to_owned()));
        };
        let secret = tokio::fs::read_to_string(file).await.map_err(|error| {
            Error::ObjectStorage(format!("can't read the secret key in {}: {error}", file.display()))
        })?;
        let given = Given::new(access_key, secret.trim(), None, None, "berth");
        return Ok(SharedCredentialsProvider::new(given));
    }
    let mut loader =
        aws_config::defaults(BehaviorVersion::latest()).region(Region::new(config.region.clone()));
    if let Some(profile) = &config.profile {
        loader = loader.profile_name(profile);
    }
    loader.load().await.credentials_provider().ok_or_else(|| {
        Error::ObjectStorage("no credentials are configured, and the environment has none".to_owned())
    })
}

#[derive(Debug)]
struct Held {
    keys: Arc<Keys>,
    asked: Instant,
}

/// The newest credentials, asked for again before they end.
#[derive(Debug)]
pub(super) struct Credentials {
    provider: SharedCredentialsProvider,
    /// They may be others at any time, and to ask costs nothing.
    changing: bool,
    held: Mutex<Option<Held>>,
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

impl Keys {
    /// Whether they last for so long after `now`, in microseconds since 1970.
    pub(super) fn last(&self, now: i64, so_long: Duration) -> bool {
        self.expires.is_none_or(|expires| expires.saturating_sub(now) >= micros(so_long))
    }
}

impl Credentials {
    pub(super) fn new(provider: SharedCredentialsProvider) -> Self {
        Self { provider, changing: false, held: Mutex::new(None) }
    }

    /// Of a provider that knows them by heart.
    pub(super) fn changing(provider: SharedCredentialsProvider) -> Self {
        Self { provider, changing: true, held: Mutex::new(None) }
    }

    /// Those to sign with at `now`, in microseconds since 1970. They may be about to end where there are no newer ones.
    pub(super) async fn keys(&self, now: i64) -> Result<Arc<Keys>, BlobsError> {
        let mut held = self.held.lock().await;
        if let Some(held) = &*held
            && !self.changing
        {
            let age = held.asked.elapsed();
            if age < PAUSE || (age < TRUSTED && held.keys.last(now, 2 * LIFE)) {
                return Ok(Arc::clone(&held.keys));
            }
        }
        let asked = tokio::time::timeout(ANSWER, self.provider.provide_credentials()).await;
        let failure = match asked {
            Ok(Ok(found)) => {
                if let Some(held) = &*held
                    && self.changing
                    && held.keys.access_key == found.access_key_id()
                    && held.keys.secret.expose_secret() == found.secret_access_key()
                {
                    return Ok(Arc::clone(&held.keys));
                }
                let expires = found.expiry().and_then(|at| at.duration_since(std::time::UNIX_EPOCH).ok());
                let keys = Arc::new(Keys {
                    access_key: found.access_key_id().to_owned(),
                    secret: found.secret_access_key().into(),
                    token: found.session_token().map(Into::into),
                    expires: expires.map(micros),
                });
                *held = Some(Held { keys: Arc::clone(&keys), asked: Instant::now() });
                return Ok(keys);
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => "no answer in time".to_owned(),
        };
        tracing::warn!(error = failure, "there are no new credentials for object storage");
        match &mut *held {
            Some(held) => {
                held.asked = Instant::now();
                Ok(Arc::clone(&held.keys))
            }
            None => Err(BlobsError::Unavailable("there are no credentials for object storage".to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicI64, Ordering},
        time::UNIX_EPOCH,
    };

    use super::*;
    use aws_sdk_s3::{config::Credentials as Given, error::BoxError};

    /// Gives out ones that last for an hour after its time; fails at negative times.
    #[derive(Clone, Debug, Default)]
    struct Source(Arc<AtomicI64>);

    impl ProvideCredentials for Source {
        fn provide_credentials<'a>(&'a self) -> aws_credential_types::provider::future::ProvideCredentials<'a>
        where
            Self: 'a,
        {
            let now = self.0.load(Ordering::SeqCst);
            let given = match u64::try_from(now) {
                Ok(now) => Ok(Given::new(
                    format!("key-{now}"),
                    "secret",
                    Some("session".to_owned()),
                    Some(UNIX_EPOCH + Duration::from_secs(now + 3600)),
                    "test",
                )),
                Err(error) => Err(aws_credential_types::provider::error::CredentialsError::provider_error(
                    BoxError::from(error),
                )),
            };
            aws_credential_types::provider::future::ProvideCredentials::ready(given)
        }
    }

    #[tokio::test]
    async fn credentials_are_asked_for_again_before_they_end() {
        let source = Source::default();
        let credentials = Credentials::new(SharedCredentialsProvider::new(source.clone()));
        source.0.store(-1, Ordering::SeqCst);
        assert!(credentials.keys(0).await.is_err());
        let at = async |seconds: i64, source_is_at: i64| {
            source.0.store(source_is_at, Ordering::SeqCst);
            let keys = credentials.keys(seconds * 1_000_000).await.unwrap();
            assert_eq!(keys.token.as_ref().unwrap().expose_secret(), "session");
            keys.access_key.clone()
        };
        let later = async |by: Duration| {
            let mut held = credentials.held.lock().await;
            let held = held.as_mut().unwrap();
            held.asked = held.asked.checked_sub(by).unwrap();
        };
        assert_eq!(at(0, 0).await, "key-0");
        later(Duration::from_secs(60)).await;
        assert_eq!(at(60, 60).await, "key-0");
        // Less than twice the life of a URL is left.
        assert_eq!(at(3001, 3001).await, "key-3001");
        // The source is away: the old ones go on, and it is not asked all the time.
        later(TRUSTED).await;
        assert_eq!(at(3901, -1).await, "key-3001");
        assert_eq!(at(3901, 3901).await, "key-3001");
        later(TRUSTED).await;
        assert_eq!(at(3911, 3911).await, "key-3911");
        let keys = credentials.keys(3_911_000_000).await.unwrap();
        assert!(keys.last(3_911_000_000, LIFE) && !keys.last(7_400_000_000, LIFE));
    }
}
