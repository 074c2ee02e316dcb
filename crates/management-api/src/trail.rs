//! What the audit is told of refused calls. Each is sent at once, a bounded number at the same time; what does not fit is
//! counted and lost. What was done is written by the service that did it, in the same transaction.

use std::sync::Arc;

use berth_model::AuditKind;
use berth_proto::instance_manager::{AuditEntry, RecordAuditRequest, audit_client::AuditClient};
use berth_service::{Channel, Ids, Registry, SharedClock, Tasks};
use prometheus_client::metrics::counter::Counter;
use tokio::sync::Semaphore;

/// The most entries that are on their way at once.
const AT_ONCE: usize = 64;

/// The way to the audit.
#[derive(Debug)]
pub(crate) struct Trail {
    client: AuditClient<Channel>,
    ids: Ids,
    clock: SharedClock,
    tasks: Tasks,
    room: Arc<Semaphore>,
    lost: Counter,
}

impl Trail {
    pub(crate) fn new(
        client: AuditClient<Channel>,
        ids: Ids,
        clock: SharedClock,
        tasks: Tasks,
        registry: &mut Registry,
    ) -> Self {
        let lost = Counter::default();
        let registry = registry.sub_registry_with_prefix("berth_management_api");
        registry.register("audit_lost", "Refused calls that the audit was not told of", lost.clone());
        Self { client, ids, clock, tasks, room: Arc::new(Semaphore::new(AT_ONCE)), lost }
    }

    /// A credential opened nothing.
    pub(crate) fn login_refused(&self, instance: &str, principal: &str, credential: &str, address: String) {
        self.tell(AuditEntry {
            instance_id: instance.to_owned(),
            r#type: AuditKind::LoginRefused.as_str().to_owned(),
            principal: principal.to_owned(),
            credential: credential.to_owned(),
            address,
            result: "unauthorized".to_owned(),
            ..AuditEntry::default()
        });
    }

    /// Something else was refused.
    pub(crate) fn call_refused(&self, entry: AuditEntry) {
        self.tell(AuditEntry { r#type: AuditKind::CallRefused.as_str().to_owned(), ..entry });
    }

    fn tell(&self, mut entry: AuditEntry) {
        let Ok(permit) = Arc::clone(&self.room).try_acquire_owned() else {
            self.lost.inc();
            return;
        };
        entry.event_id = self.ids.ulid().to_string();
        if entry.request_id.is_empty() {
            entry.request_id.clone_from(&entry.event_id);
        }
        entry.occurred_at = self.clock.now().0;
        entry.last_at = entry.occurred_at;
        entry.count = 1;
        let (mut client, lost) = (self.client.clone(), self.lost.clone());
        self.tasks.spawn("tell the audit", async move {
            let _permit = permit;
            if let Err(status) = client.record_audit(RecordAuditRequest { entries: vec![entry] }).await {
                tracing::warn!(code = ?status.code(), cause = status.message(), "the audit was not told");
                lost.inc();
            }
        });
    }
}
