//! What the gateway tells the audit: pulls, logins, refused calls. Requests only count them here, in memory that is
//! bounded; a task sends what has gathered every second. Equal ones of a minute are one entry with a count until they are
//! sent.
//!
//! What a process that dies has not sent is lost: about a second's worth. While instance-manager is away entries wait, up
//! to the capacity; what does not fit is counted, and the audit is told how much that was.

use std::{
    collections::HashMap,
    hash::{BuildHasher as _, Hash, Hasher, RandomState},
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use berth_access::AccessToken;
use berth_model::{AuditKind, DONE, InstanceId, RepositoryId};
use berth_oci::{Digest, ErrorCode};
use berth_proto::instance_manager::{AuditEntry, RecordAuditRequest, audit_client::AuditClient};
use berth_service::{Channel, Ids, Registry, Tasks, Timestamp};
use http::StatusCode;
use parking_lot::Mutex;
use prometheus_client::metrics::{counter::Counter, gauge::Gauge};
use tokio::sync::Notify;
use ulid::Ulid;

/// How long entries wait at most for being sent.
const WINDOW: Duration = Duration::from_secs(1);

/// So many that wait are sent at once.
const FULL: usize = 1_000;

/// The most entries of one call.
const BATCH: usize = 500;

/// How long it is waited after a call that failed; twice as long after each more, up to the longest.
const RETRY: Duration = Duration::from_millis(250);
const LONGEST_RETRY: Duration = Duration::from_secs(5);

/// How long a process that stops tries to send the rest.
const LAST: Duration = Duration::from_secs(5);

const SHARDS: usize = 8;

/// So many refusals of those who have shown no right differ by address in a shard; after that, they are one entry. So a
/// flood from many addresses writes little.
const STRANGERS: usize = 64;

const MINUTE: i64 = 60_000_000;

/// A request, as the audit names it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Origin {
    pub(crate) id: Ulid,
    /// Of the peer.
    pub(crate) address: Option<IpAddr>,
}

impl Origin {
    /// The address as text; empty: not known.
    pub(crate) fn address_text(&self) -> String {
        self.address.map(|address| address.to_string()).unwrap_or_default()
    }
}

/// What happened, by reference: nothing is copied when the same happened before.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seen<'a> {
    pub(crate) instance: InstanceId,
    pub(crate) kind: AuditKind,
    pub(crate) principal: &'a str,
    pub(crate) credential: &'a str,
    pub(crate) result: &'static str,
    /// A call: its method and what it is about.
    pub(crate) subject: (&'static str, &'static str),
    pub(crate) repository: &'a str,
    pub(crate) repository_id: Option<RepositoryId>,
    pub(crate) digest: Option<Digest>,
    pub(crate) tag: &'a str,
}

impl<'a> Seen<'a> {
    /// Something that says nothing but who did what.
    pub(crate) fn new(
        instance: InstanceId,
        kind: AuditKind,
        principal: &'a str,
        credential: &'a str,
    ) -> Self {
        Self {
            instance,
            kind,
            principal,
            credential,
            result: DONE,
            subject: ("", ""),
            repository: "",
            repository_id: None,
            digest: None,
            tag: "",
        }
    }

    /// The same by a token's principal.
    pub(crate) fn by(token: &'a AccessToken, kind: AuditKind) -> Self {
        Self::new(token.instance, kind, &token.principal, &token.credential)
    }

    fn is_refusal(&self) -> bool {
        matches!(self.kind, AuditKind::CallRefused | AuditKind::LoginRefused)
    }

    fn hash(&self, hasher: &mut impl Hasher, address: Option<IpAddr>, minute: i64) {
        let strings = (self.principal, self.credential, self.result, self.subject, self.repository, self.tag);
        (self.instance, self.kind, strings, self.repository_id, self.digest, address, minute).hash(hasher);
    }
}

/// Equal things that happened within a minute.
#[derive(Debug)]
struct Gathered {
    instance: InstanceId,
    kind: AuditKind,
    principal: Box<str>,
    credential: Box<str>,
    address: Option<IpAddr>,
    /// Of the first.
    request: Ulid,
    result: &'static str,
    subject: (&'static str, &'static str),
    repository: Box<str>,
    repository_id: Option<RepositoryId>,
    digest: Option<Digest>,
    tag: Box<str>,
    count: i64,
    first: Timestamp,
    last: Timestamp,
}

impl Gathered {
    fn new(seen: &Seen<'_>, address: Option<IpAddr>, request: Ulid, at: Timestamp) -> Self {
        Self {
            instance: seen.instance,
            kind: seen.kind,
            principal: seen.principal.into(),
            credential: seen.credential.into(),
            address,
            request,
            result: seen.result,
            subject: seen.subject,
            repository: seen.repository.into(),
            repository_id: seen.repository_id,
            digest: seen.digest,
            tag: seen.tag.into(),
            count: 1,
            first: at,
            last: at,
        }
    }

    fn is(&self, seen: &Seen<'_>, address: Option<IpAddr>, minute: i64) -> bool {
        self.instance == seen.instance
            && self.kind == seen.kind
            && self.address == address
            && self.repository_id == seen.repository_id
            && self.digest == seen.digest
            && self.first.0 / MINUTE == minute
            && self.result == seen.result
            && self.subject == seen.subject
            && *self.principal == *seen.principal
            && *self.credential == *seen.credential
            && *self.repository == *seen.repository
            && *self.tag == *seen.tag
    }

    fn entry(self, ids: &Ids) -> AuditEntry {
        let (method, about) = self.subject;
        AuditEntry {
            event_id: ids.ulid().to_string(),
            instance_id: self.instance.to_string(),
            r#type: self.kind.to_string(),
            principal: self.principal.into(),
            credential: self.credential.into(),
            address: self.address.map(|address| address.to_string()).unwrap_or_default(),
            request_id: self.request.to_string(),
            result: self.result.to_owned(),
            subject: if method.is_empty() { String::new() } else { format!("{method} {about}") },
            repository_id: self.repository_id.map(|id| id.to_string()).unwrap_or_default(),
            repository: self.repository.into(),
            digest: self.digest.map(|digest| digest.to_string()).unwrap_or_default(),
            tag: self.tag.into(),
            count: self.count,
            occurred_at: self.first.0,
            last_at: self.last.0,
            ..AuditEntry::default()
        }
    }
}

/// Under a hash, or one of the next numbers, should two have the same.
#[derive(Debug, Default)]
struct Shard {
    gathered: HashMap<u64, Gathered>,
    strangers: usize,
}

/// What waits to be sent.
#[derive(Debug)]
pub(crate) struct Audit {
    shards: [Mutex<Shard>; SHARDS],
    hashes: RandomState,
    capacity: usize,
    /// Entries in the shards.
    waiting: AtomicUsize,
    /// Entries that are being sent.
    sending: AtomicUsize,
    /// What did not fit, by instance.
    lost: Mutex<HashMap<InstanceId, i64>>,
    full: Notify,
    dropped: Counter,
}

impl Audit {
    pub(crate) fn new(capacity: usize, registry: &mut Registry) -> Arc<Self> {
        let dropped = Counter::default();
        registry.register(
            "berth_audit_dropped",
            "Pulls, logins and refused calls that the audit was not told one by one",
            dropped.clone(),
        );
        Arc::new(Self {
            shards: Default::default(),
            hashes: RandomState::new(),
            capacity: capacity.max(FULL),
            waiting: AtomicUsize::new(0),
            sending: AtomicUsize::new(0),
            lost: Mutex::default(),
            full: Notify::new(),
            dropped,
        })
    }

    /// Counts something. Takes no time worth mentioning, and no memory when the same is here already.
    pub(crate) fn saw(&self, seen: &Seen<'_>, origin: Origin, now: Timestamp) {
        let mut address = origin.address;
        let mut place = self.place(seen, address, now);
        let mut shard = self.shards[place.1].lock();
        if seen.is_refusal() && shard.strangers >= STRANGERS {
            drop(shard);
            address = None;
            place = self.place(seen, address, now);
            shard = self.shards[place.1].lock();
        }
        let (mut key, minute) = (place.0, now.0 / MINUTE);
        while let Some(known) = shard.gathered.get_mut(&key) {
            if known.is(seen, address, minute) {
                known.count += 1;
                known.last = now;
                return;
            }
            key = key.wrapping_add(1);
        }
        let waiting = self.waiting.load(Ordering::Relaxed);
        if waiting + self.sending.load(Ordering::Relaxed) >= self.capacity {
            drop(shard);
            self.lose(seen.instance, 1);
            return;
        }
        shard.strangers += usize::from(seen.is_refusal());
        shard.gathered.insert(key, Gathered::new(seen, address, origin.id, now));
        // While the shard is held, so that nobody takes the entry before it is counted.
        if self.waiting.fetch_add(1, Ordering::Relaxed) + 1 == FULL {
            self.full.notify_one();
        }
    }

    fn place(&self, seen: &Seen<'_>, address: Option<IpAddr>, now: Timestamp) -> (u64, usize) {
        let mut hasher = self.hashes.build_hasher();
        seen.hash(&mut hasher, address, now.0 / MINUTE);
        let hash = hasher.finish();
        (hash, usize::try_from(hash >> 32).unwrap_or_default() % SHARDS)
    }

    fn lose(&self, instance: InstanceId, count: i64) {
        self.dropped.inc_by(count.unsigned_abs());
        let mut lost = self.lost.lock();
        let total = lost.entry(instance).or_default();
        *total = total.saturating_add(count);
    }

    /// What has gathered, as entries with ids of their own; and how much was lost.
    fn take(&self, ids: &Ids, now: Timestamp) -> Vec<AuditEntry> {
        let mut taken = Vec::new();
        for shard in &self.shards {
            let mut shard = shard.lock();
            let gathered = std::mem::take(&mut *shard).gathered;
            self.sending.fetch_add(gathered.len(), Ordering::Relaxed);
            self.waiting.fetch_sub(gathered.len(), Ordering::Relaxed);
            drop(shard);
            taken.extend(gathered.into_values().map(|gathered| gathered.entry(ids)));
        }
        for (instance, count) in std::mem::take(&mut *self.lost.lock()) {
            let seen = Seen::new(instance, AuditKind::AuditLost, "system:gateway", "none");
            let mut entry = Gathered::new(&seen, None, ids.ulid(), now).entry(ids);
            entry.address = "local".to_owned();
            entry.subject = "audit".to_owned();
            entry.count = count;
            self.sending.fetch_add(1, Ordering::Relaxed);
            taken.push(entry);
        }
        taken
    }

    /// These will never be recorded.
    fn give_up(&self, entries: &[AuditEntry]) {
        for entry in entries {
            if let Ok(instance) = entry.instance_id.parse() {
                self.lose(instance, entry.count);
            }
        }
    }
}

/// Whether the audit hears of a refusal with credentials: what somebody was not allowed, not what can't be.
pub(crate) fn is_heard_of(code: ErrorCode, status: StatusCode) -> bool {
    let by_status =
        matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::TOO_MANY_REQUESTS);
    by_status || matches!(code, ErrorCode::Denied | ErrorCode::TagImmutable)
}

/// What the audit says of a refusal.
pub(crate) fn result_of(code: ErrorCode) -> &'static str {
    match code {
        ErrorCode::Unauthorized => "unauthorized",
        ErrorCode::Denied => "denied",
        ErrorCode::TooManyRequests => "too_many_requests",
        ErrorCode::QuotaExceeded => "quota_exceeded",
        ErrorCode::TagImmutable => "tag_immutable",
        _ => "refused",
    }
}

/// Sends what gathers, until `tasks` are told to stop, and then the rest.
pub(crate) fn send(
    audit: Arc<Audit>,
    client: AuditClient<Channel>,
    now: impl Fn() -> Timestamp + Send + Sync + 'static,
    ids: Ids,
    registry: &mut Registry,
    tasks: &Tasks,
) {
    let waits = Gauge::<i64>::default();
    registry.register("berth_audit_waiting", "Entries that the audit has not been told yet", waits.clone());
    let stopping = tasks.stopping();
    tasks.spawn("audit", async move {
        loop {
            let stops = tokio::select! {
                () = stopping.cancelled() => true,
                () = audit.full.notified() => false,
                () = tokio::time::sleep(WINDOW) => false,
            };
            let taken = audit.take(&ids, now());
            waits.set(i64::try_from(taken.len()).unwrap_or(i64::MAX));
            let mut sending = std::pin::pin!(send_all(&audit, &client, &taken));
            if !stops {
                tokio::select! {
                    () = stopping.cancelled() => {}
                    () = &mut sending => {
                        waits.set(0);
                        continue;
                    }
                }
            }
            // The last ones may have been counted while the others were sent.
            let rest = async {
                sending.await;
                send_all(&audit, &client, &audit.take(&ids, now())).await;
            };
            if tokio::time::timeout(LAST, rest).await.is_err() {
                let left = audit.sending.load(Ordering::Relaxed) + audit.waiting.load(Ordering::Relaxed);
                tracing::warn!(entries = left, "the audit could not be told everything before the end");
            }
            return;
        }
    });
}

/// Sends everything, however often that takes. What is sent again is recorded once.
async fn send_all(audit: &Audit, client: &AuditClient<Channel>, entries: &[AuditEntry]) {
    for batch in entries.chunks(BATCH) {
        let mut wait = RETRY;
        loop {
            let request = RecordAuditRequest { entries: batch.to_vec() };
            let Err(status) = client.clone().record_audit(request).await else { break };
            let problem = berth_proto::from_status(&status);
            if problem.code == ErrorCode::RequestInvalid {
                tracing::error!(%problem, entries = batch.len(), "the audit does not take entries of this gateway");
                audit.give_up(batch);
                break;
            }
            tracing::debug!(%problem, "the audit can't be told; tried again");
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(LONGEST_RETRY);
        }
        audit.sending.fetch_sub(batch.len(), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests;
