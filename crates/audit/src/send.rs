//! What has gathered goes to the audit.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use berth_oci::ErrorCode;
use berth_proto::instance_manager::{AuditEntry, RecordAuditRequest, audit_client::AuditClient};
use berth_service::{Channel, Ids, Tasks, Timestamp};

use crate::Audit;

/// How long entries wait at most for being sent.
const WINDOW: Duration = Duration::from_secs(1);

/// The most entries of one call.
const BATCH: usize = 500;

/// How long it is waited after a call that failed; twice as long after each more, up to the longest.
const RETRY: Duration = Duration::from_millis(250);
const LONGEST_RETRY: Duration = Duration::from_secs(5);

/// How long a process that stops tries to send the rest.
const LAST: Duration = Duration::from_secs(5);

impl Audit {
    /// Sends what gathers, until `tasks` are told to stop, and then the rest.
    pub fn send(
        self: &Arc<Self>,
        client: AuditClient<Channel>,
        now: impl Fn() -> Timestamp + Send + Sync + 'static,
        ids: Ids,
        tasks: &Tasks,
    ) {
        let audit = Arc::clone(self);
        let stopping = tasks.stopping();
        tasks.spawn("audit", async move {
            loop {
                let stops = tokio::select! {
                    () = stopping.cancelled() => true,
                    () = audit.full.notified() => false,
                    () = tokio::time::sleep(WINDOW) => false,
                };
                let taken = audit.take(&ids, now());
                audit.waits.set(i64::try_from(taken.len()).unwrap_or(i64::MAX));
                let mut sending = std::pin::pin!(send_all(&audit, &client, &taken));
                if !stops {
                    tokio::select! {
                        () = stopping.cancelled() => {}
                        () = &mut sending => {
                            audit.waits.set(0);
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
                tracing::error!(%problem, entries = batch.len(), "the audit does not take entries");
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
