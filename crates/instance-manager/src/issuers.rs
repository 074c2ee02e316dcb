//! What issuers publish: where they are asked, and the keys that vouch for their tokens. Asked through the guarded client, kept
//! for a while, asked again for a key that is not known, and believed for an hour while they do not answer.

use std::{sync::Arc, time::Duration};

use berth_access::{ForeignClaims, ForeignError, ForeignKeys, verify_foreign};
use berth_oci::{ErrorCode, Problem};
use berth_service::{Outbound, SharedClock, Timestamp};
use parking_lot::Mutex;

use crate::Error;

/// For so long an issuer is not asked again.
const FRESH: Duration = Duration::from_secs(300);
/// For so long it is believed while it does not answer.
const STALE: Duration = Duration::from_secs(3_600);
/// It is not asked more often, whatever keys tokens name.
const PAUSE: Duration = Duration::from_secs(10);
/// How many issuers are remembered.
const REMEMBERED: u64 = 1_000;

/// What an issuer publishes at `/.well-known/openid-configuration` (OpenID Connect Discovery 1.0).
#[derive(Clone, Debug, serde::Deserialize)]
pub(crate) struct Document {
    issuer: String,
    jwks_uri: String,
    #[serde(default)]
    pub(crate) authorization_endpoint: String,
    #[serde(default)]
    pub(crate) token_endpoint: String,
    #[serde(default)]
    pub(crate) userinfo_endpoint: String,
    #[serde(default)]
    pub(crate) token_endpoint_auth_methods_supported: Vec<String>,
}

/// An issuer as it was when it was asked.
#[derive(Debug)]
pub(crate) struct Published {
    pub(crate) document: Document,
    keys: ForeignKeys,
    asked_at: Timestamp,
}

/// The last time that an issuer was asked.
#[derive(Debug, Default)]
struct Asked {
    at: Option<Timestamp>,
    failed: bool,
}

#[derive(Debug, Default)]
struct Slot {
    published: Mutex<Option<Arc<Published>>>,
    /// Held by whoever asks.
    asked: tokio::sync::Mutex<Asked>,
}

impl Slot {
    fn younger_than(&self, age: Duration, now: Timestamp) -> Option<Arc<Published>> {
        let published = self.published.lock().clone();
        published.filter(|published| apart(published.asked_at, now) < age)
    }
}

/// The clock may have stepped.
fn apart(one: Timestamp, other: Timestamp) -> Duration {
    one.since(other).max(other.since(one))
}

/// Issuers. Clones share what is known.
#[derive(Clone, Debug)]
pub(crate) struct Issuers {
    pub(crate) outbound: Outbound,
    clock: SharedClock,
    slots: moka::sync::Cache<String, Arc<Slot>>,
}

fn away(issuer: &str) -> Error {
    let message =
        format!("the identity provider {issuer} does not answer, or not as it should; try again in a while");
    let detail = serde_json::json!({ "retry_after": PAUSE.as_secs() });
    Problem::new(ErrorCode::Unavailable, message).with_detail(detail).into()
}

impl Issuers {
    pub(crate) fn new(outbound: Outbound, clock: SharedClock) -> Self {
        let slots = moka::sync::Cache::builder().max_capacity(REMEMBERED).time_to_idle(STALE * 2).build();
        Self { outbound, clock, slots }
    }

    fn slot(&self, issuer: &str) -> Arc<Slot> {
        self.slots.get_with_by_ref(issuer, Arc::default)
    }

    /// What an issuer publishes. Unavailable: it does not answer, and has not for an hour.
    pub(crate) async fn published(&self, issuer: &str) -> Result<Arc<Published>, Error> {
        let slot = self.slot(issuer);
        if let Some(fresh) = slot.younger_than(FRESH, self.clock.now()) {
            return Ok(fresh);
        }
        let mut asked = slot.asked.lock().await;
        if let Some(fresh) = slot.younger_than(FRESH, self.clock.now()) {
            return Ok(fresh);
        }
        self.ask(issuer, &slot, &mut asked).await;
        slot.younger_than(STALE, self.clock.now()).ok_or_else(|| away(issuer))
    }

    /// The same, newer than what did not have a key. None: there is nothing newer yet.
    async fn newer(&self, issuer: &str, seen: &Published) -> Result<Option<Arc<Published>>, Error> {
        let slot = self.slot(issuer);
        let mut asked = slot.asked.lock().await;
        let newer = || slot.published.lock().clone().filter(|found| found.asked_at != seen.asked_at);
        if let Some(newer) = newer() {
            return Ok(Some(newer));
        }
        self.ask(issuer, &slot, &mut asked).await;
        match newer() {
            None if asked.failed => Err(away(issuer)),
            newer => Ok(newer),
        }
    }

    /// Asks, unless that was done a moment ago.
    async fn ask(&self, issuer: &str, slot: &Slot, asked: &mut Asked) {
        let now = self.clock.now();
        if asked.at.is_some_and(|at| apart(at, now) < PAUSE) {
            return;
        }
        asked.at = Some(now);
        match self.fetch(issuer, now).await {
            Ok(published) => {
                asked.failed = false;
                *slot.published.lock() = Some(Arc::new(published));
            }
            Err(cause) => {
                asked.failed = true;
                tracing::warn!(issuer, cause, "an identity provider can't be asked");
            }
        }
    }

    async fn fetch(&self, issuer: &str, now: Timestamp) -> Result<Published, String> {
        let url = format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'));
        let document: Document = serde_json::from_slice(&self.get(&url).await?)
            .map_err(|error| format!("{url} is no such document: {error}"))?;
        if document.issuer != issuer {
            return Err(format!("{url} is of the issuer {:?}", document.issuer));
        }
        let keys = self.get(&document.jwks_uri).await?;
        let keys = ForeignKeys::parse(&keys).map_err(|error| format!("{}: {error}", document.jwks_uri))?;
        Ok(Published { document, keys, asked_at: now })
    }

    async fn get(&self, url: &str) -> Result<bytes::Bytes, String> {
        let answer = self.outbound.get(url).await.map_err(|error| error.to_string())?;
        if answer.status == 200 { Ok(answer.body) } else { Err(format!("{url} answers {}", answer.status)) }
    }

    /// What a token of an issuer says, if it is one. Unavailable: that can't be said now.
    pub(crate) async fn verify(
        &self,
        issuer: &str,
        token: &str,
    ) -> Result<Result<ForeignClaims, ForeignError>, Error> {
        let published = self.published(issuer).await?;
        let verdict = verify_foreign(token, &published.keys, issuer, self.clock.now());
        if verdict != Err(ForeignError::UnknownKey) {
            return Ok(verdict);
        }
        Ok(match self.newer(issuer, &published).await? {
            Some(newer) => verify_foreign(token, &newer.keys, issuer, self.clock.now()),
            None => verdict,
        })
    }
}
