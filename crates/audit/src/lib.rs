//! What services that own no rows tell the audit: pulls, logins, refused calls. Requests only count them here, in memory
//! that is bounded; a task sends what has gathered every second. Equal ones of a minute are one entry with a count until they
//! are sent.
//!
//! What a process that dies has not sent is lost: about a second's worth. While instance-manager is away entries wait, up
//! to the capacity; what does not fit is counted, and the audit is told how much that was.

mod gathered;
mod send;
#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    hash::{BuildHasher as _, Hasher as _, RandomState},
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use berth_model::{AuditKind, InstanceId};
use berth_oci::ErrorCode;
use berth_proto::instance_manager::AuditEntry;
use berth_service::{Ids, Registry, Timestamp};
use parking_lot::Mutex;
use prometheus_client::metrics::{counter::Counter, gauge::Gauge};
use tokio::sync::Notify;
use ulid::Ulid;

pub use crate::gathered::Seen;
use crate::gathered::{Gathered, MINUTE};

/// So many that wait are sent at once.
const FULL: usize = 1_000;

const SHARDS: usize = 8;

/// So many refusals of those who have shown no right differ by address in a shard; after that, they are one entry. So a
/// flood from many addresses writes little.
const STRANGERS: usize = 64;

/// A request, as the audit names it.
#[derive(Clone, Copy, Debug)]
pub struct Origin {
    /// Its id.
    pub id: Ulid,
    /// Of the peer.
    pub address: Option<IpAddr>,
}

impl Origin {
    /// The address as text; empty: not known.
    pub fn address_text(&self) -> String {
        self.address.map(|address| address.to_string()).unwrap_or_default()
    }
}

/// What the audit says of a refusal.
pub fn result_of(code: ErrorCode) -> &'static str {
    match code {
        ErrorCode::Unauthorized => "unauthorized",
        ErrorCode::Denied => "denied",
        ErrorCode::TooManyRequests => "too_many_requests",
        ErrorCode::QuotaExceeded => "quota_exceeded",
        ErrorCode::NotFound => "not_found",
        ErrorCode::TagImmutable => "tag_immutable",
        _ => "refused",
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
pub struct Audit {
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
    /// Entries that are being sent, as the metrics say it.
    waits: Gauge,
    /// Who tells: a principal of the system.
    teller: &'static str,
}

impl Audit {
    /// What `teller` sees, in room for so many different entries. The registry has the prefix of the service.
    pub fn new(teller: &'static str, capacity: usize, registry: &mut Registry) -> Arc<Self> {
        let (dropped, waits) = (Counter::default(), Gauge::default());
        registry.register(
            "audit_dropped",
            "Pulls, logins and refused calls that the audit was not told one by one",
            dropped.clone(),
        );
        registry.register("audit_waiting", "Entries that the audit has not been told yet", waits.clone());
        Arc::new(Self {
            shards: Default::default(),
            hashes: RandomState::new(),
            capacity: capacity.max(FULL),
            waiting: AtomicUsize::new(0),
            sending: AtomicUsize::new(0),
            lost: Mutex::default(),
            full: Notify::new(),
            dropped,
            waits,
            teller,
        })
    }

    /// Counts something. Takes no time worth mentioning, and no memory when the same is here already.
    pub fn saw(&self, seen: &Seen<'_>, origin: Origin, now: Timestamp) {
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
            let seen = Seen::new(instance, AuditKind::AuditLost, self.teller, "none");
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
