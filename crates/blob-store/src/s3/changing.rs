//! Credentials of a store that change while it is in use. Every try of every call is signed with the newest that are
//! known here; a try that is refused has them asked for again, and is made once more.

use std::{
    fmt::Debug,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use aws_sdk_s3::config::{
    Credentials as Given, ProvideCredentials,
    interceptors::InterceptorContext,
    retry::{ClassifyRetry, RetryAction},
};
use parking_lot::Mutex;
use secrecy::{ExposeSecret, SecretString};
use tokio::time::Instant;

/// The longest wait for an answer.
const ANSWER: Duration = Duration::from_secs(5);
/// After an answer that changed nothing a refusal is a refusal for so long.
const PAUSE: Duration = Duration::from_secs(5);
/// So long after a change there may be tries under way that were signed before.
const SETTLING: Duration = Duration::from_secs(30);

/// Who knows the credentials.
#[async_trait]
pub(crate) trait Source: Send + Sync + Debug {
    /// The newest access key and its secret; `None` where there is no answer.
    async fn ask(&self) -> Option<(String, SecretString)>;
}

#[derive(Debug)]
struct Current {
    given: Given,
    changed: Option<Instant>,
    /// When an answer last changed nothing.
    in_vain: Option<Instant>,
}

/// The credentials of one store.
#[derive(Debug)]
pub(crate) struct Changing {
    current: Mutex<Current>,
    /// A try was refused since they were asked for.
    refused: AtomicBool,
    asking: tokio::sync::Mutex<()>,
    source: Arc<dyn Source>,
}

fn given(access_key: &str, secret: &SecretString) -> Given {
    Given::new(access_key, secret.expose_secret(), None, None, "berth")
}

impl Changing {
    pub(crate) fn new(access_key: &str, secret: &SecretString, source: Arc<dyn Source>) -> Self {
        let current = Current { given: given(access_key, secret), changed: None, in_vain: None };
        Self {
            current: Mutex::new(current),
            refused: AtomicBool::new(false),
            asking: tokio::sync::Mutex::default(),
            source,
        }
    }

    /// Takes over credentials; false: they are the same.
    pub(crate) fn set(&self, access_key: &str, secret: &SecretString) -> bool {
        let mut current = self.current.lock();
        let known = &current.given;
        if known.access_key_id() == access_key && known.secret_access_key() == secret.expose_secret() {
            return false;
        }
        current.given = given(access_key, secret);
        current.changed = Some(Instant::now());
        true
    }

    async fn newest(&self) -> Given {
        if self.refused.load(Ordering::SeqCst) {
            let _one = self.asking.lock().await;
            if self.refused.swap(false, Ordering::SeqCst) {
                let answer = tokio::time::timeout(ANSWER, self.source.ask()).await.ok().flatten();
                let changed = answer.is_some_and(|(access_key, secret)| self.set(&access_key, &secret));
                if !changed {
                    self.current.lock().in_vain = Some(Instant::now());
                }
            }
        }
        self.current.lock().given.clone()
    }

    /// Whether a refusal may be of credentials that are old.
    fn may_be_old(&self) -> bool {
        let current = self.current.lock();
        let lately = |at: Option<Instant>, span| at.is_some_and(|at| at.elapsed() < span);
        lately(current.changed, SETTLING) || !lately(current.in_vain, PAUSE)
    }
}

/// Hands them to the SDK.
#[derive(Clone, Debug)]
pub(super) struct Provider(pub(super) Arc<Changing>);

impl ProvideCredentials for Provider {
    fn provide_credentials<'a>(&'a self) -> aws_credential_types::provider::future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        aws_credential_types::provider::future::ProvideCredentials::new(async { Ok(self.0.newest().await) })
    }
}

/// Has a refused try made again when there may be other credentials.
#[derive(Clone, Debug)]
pub(super) struct Refusals(pub(super) Arc<Changing>);

impl ClassifyRetry for Refusals {
    fn classify_retry(&self, context: &InterceptorContext) -> RetryAction {
        let status = context.response().map(|response| response.status().as_u16());
        // Some refuse before they have read the body, and close: then the answer is lost on the way.
        let cut = status.is_none()
            && matches!(context.output_or_error(), Some(Err(error)) if error.is_connector_error());
        if !(status == Some(403) || cut) || !self.0.may_be_old() {
            return RetryAction::NoActionIndicated;
        }
        self.0.refused.store(true, Ordering::SeqCst);
        // A cut is tried again anyway.
        if cut { RetryAction::NoActionIndicated } else { RetryAction::transient_error() }
    }

    fn name(&self) -> &'static str {
        "credentials that change"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Default)]
    struct Answers(Mutex<Vec<&'static str>>);

    #[async_trait]
    impl Source for Answers {
        async fn ask(&self) -> Option<(String, SecretString)> {
            let secret = self.0.lock().pop()?;
            Some(("key".to_owned(), secret.into()))
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_asks_once_and_a_vain_answer_holds_for_a_while() {
        let source = Arc::new(Answers::default());
        let changing = Changing::new("key", &"old".into(), source.clone());
        assert_eq!(changing.newest().await.secret_access_key(), "old");
        source.0.lock().extend(["old", "new"]);
        assert!(changing.may_be_old());
        changing.refused.store(true, Ordering::SeqCst);
        assert_eq!(changing.newest().await.secret_access_key(), "new");
        assert_eq!(changing.newest().await.secret_access_key(), "new", "it is not asked without a refusal");
        tokio::time::advance(SETTLING).await;
        changing.refused.store(true, Ordering::SeqCst);
        assert_eq!(changing.newest().await.secret_access_key(), "old");
        tokio::time::advance(SETTLING).await;
        // Nobody answers: what is known goes on, and refusals are final for a while.
        changing.refused.store(true, Ordering::SeqCst);
        assert_eq!(changing.newest().await.secret_access_key(), "old");
        assert!(!changing.may_be_old());
        tokio::time::advance(PAUSE).await;
        assert!(changing.may_be_old());
    }
}
