//! The audit's rows: added, never changed.

use berth_database::{Transaction, args};
use berth_model::{EventId, InstanceId};
use berth_service::Timestamp;

use super::{Store, id, statements as sql};
use crate::Error;

/// An audit entry.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct AuditRow {
    pub(crate) event_id: EventId,
    pub(crate) instance: InstanceId,
    /// What was done.
    pub(crate) kind: String,
    /// Who did it, by what kind of credential, from where, in which request.
    pub(crate) principal: String,
    pub(crate) credential: String,
    pub(crate) address: String,
    pub(crate) request_id: String,
    /// done, or why not.
    pub(crate) result: String,
    /// To what, where that is no artifact.
    pub(crate) subject: String,
    pub(crate) repository_id: String,
    pub(crate) repository: String,
    pub(crate) digest: String,
    pub(crate) tag: String,
    /// 0: when it is recorded.
    pub(crate) occurred_at: i64,
}

/// Records an entry, unless it is there; how many are new.
pub(super) async fn add_audit(tx: &mut Transaction, row: AuditRow, now: Timestamp) -> Result<u64, Error> {
    let occurred_at = if row.occurred_at == 0 { now.0 } else { row.occurred_at };
    let values = args![
        row.event_id.to_string(),
        row.instance.to_string(),
        row.kind,
        row.principal,
        row.repository_id,
        row.repository,
        row.digest,
        row.tag,
        occurred_at,
        now,
        row.credential,
        row.address,
        row.request_id,
        row.result,
        row.subject,
    ];
    Ok(tx.execute(&sql::INSERT_AUDIT, values).await?)
}

impl Store {
    /// Records events, each once; returns how many were new.
    pub(crate) async fn record(&self, rows: Vec<AuditRow>) -> Result<u64, Error> {
        let new = self
            .database
            .write("record_audit", move |tx| {
                let rows = rows.clone();
                Box::pin(async move {
                    let now = tx.now();
                    let mut new = 0;
                    for row in rows {
                        new += add_audit(tx, row, now).await?;
                    }
                    berth_service::crash::point("audit.before_commit");
                    Ok::<_, Error>(new)
                })
            })
            .await?;
        berth_service::crash::point("audit.committed");
        Ok(new)
    }

    /// Audit entries of an instance after an event, by event id.
    pub(crate) async fn audit(
        &self,
        instance: InstanceId,
        after: Option<EventId>,
        limit: i64,
    ) -> Result<Vec<AuditRow>, Error> {
        let after = after.map(|id| id.to_string()).unwrap_or_default();
        let values = args![instance.to_string(), after, limit];
        let mut entries = Vec::new();
        for row in self.database.read_all(&sql::LIST_AUDIT, values).await? {
            entries.push(AuditRow {
                event_id: id(&row, 0)?,
                instance,
                kind: row.get(1)?,
                principal: row.get(2)?,
                repository_id: String::new(),
                repository: row.get(3)?,
                digest: row.get(4)?,
                tag: row.get(5)?,
                occurred_at: row.get(6)?,
                credential: row.get(7)?,
                address: row.get(8)?,
                request_id: row.get(9)?,
                result: row.get(10)?,
                subject: row.get(11)?,
            });
        }
        Ok(entries)
    }
}
