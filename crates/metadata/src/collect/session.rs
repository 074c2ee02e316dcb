//! Upload sessions at their end: open ones are reaped, closed ones forgotten.

use std::sync::Arc;

use berth_database::{Engine, TextList, Transaction, args};

use super::{Verdict, is_deleted};
use crate::{
    Metadata,
    error::{Error, Result},
    staging::{Columns, Ended},
    store::{collect_statements as sql, statements},
};

async fn reap(tx: &mut Transaction, metadata: &Metadata) -> Result<Option<Verdict>> {
    let now = tx.now();
    let Some(row) = tx.optional(&sql::NEXT_SESSION, args![now]).await? else { return Ok(None) };
    let id: String = row.get(0)?;
    let columns = Columns::read(&row, 5)?;
    // SQLite's leases are in memory, but for what is put aside.
    if tx.engine() == Engine::Sqlite
        && !columns.staged
        && let Some(until) = metadata.leases.live_until(&id, now)
    {
        tx.execute(&sql::PUT_OFF_SESSION, args![id, until]).await?;
        return Ok(Some(Verdict::PutOff));
    }
    let (store_id, object_key, size): (String, String, i64) = (row.get(1)?, row.get(2)?, row.get(3)?);
    let forgotten_at = now.plus(metadata.config.closed_upload());
    tx.execute(&sql::REAP_SESSION, args![id.as_str(), now, forgotten_at]).await?;
    // A call to storage may still be on its way; it lands before the object goes.
    let not_before = now.plus(metadata.config.longest_operation());
    let ended = Ended {
        id: &id,
        store_id: &store_id,
        object_key: &object_key,
        columns: &columns,
        epoch: row.get(4)?,
    };
    match ended.remains(tx, None).await? {
        Some(remains) => {
            let args = args![store_id, object_key, not_before, size, remains];
            tx.execute(&statements::ADD_REMAINS, args).await?;
        }
        None => {
            tx.execute(&statements::ADD_OBJECT_DELETE, args![store_id, object_key, not_before, size]).await?;
        }
    }
    Ok(Some(Verdict::Deleted))
}

async fn forget(tx: &mut Transaction) -> Result<u64> {
    let mut ids = Vec::new();
    for row in tx.all(&sql::CLOSED_SESSIONS, args![tx.now()]).await? {
        ids.push(row.get::<String>(0)?);
    }
    if ids.is_empty() {
        return Ok(0);
    }
    tx.execute(&sql::DROP_PARTS, args![TextList(ids.clone())]).await?;
    Ok(tx.execute(&sql::DROP_SESSIONS, args![TextList(ids)]).await?)
}

impl Metadata {
    /// Reaps the open session that expired first, once nobody has its lease. Whoever held it finds out at the next word.
    pub(crate) async fn reap_next_session(&self) -> Result<Option<Verdict>> {
        let metadata = Arc::new(self.clone());
        let outcome = self
            .database
            .write("reap_next_session", move |tx| {
                let metadata = Arc::clone(&metadata);
                Box::pin(async move {
                    let outcome = reap(tx, &metadata).await;
                    if is_deleted(&outcome) {
                        berth_service::crash::point("collect_session.before_commit");
                    }
                    outcome
                })
            })
            .await;
        if is_deleted(&outcome) {
            berth_service::crash::point("collect_session.committed");
        }
        outcome
    }

    /// Forgets some closed sessions whose time is over; how many.
    pub(crate) async fn forget_closed_sessions(&self) -> Result<u64> {
        let forgotten = self
            .database
            .write("forget_closed_sessions", |tx| {
                Box::pin(async move {
                    let forgotten = forget(tx).await?;
                    if forgotten > 0 {
                        berth_service::crash::point("forget_sessions.before_commit");
                    }
                    Ok::<_, Error>(forgotten)
                })
            })
            .await?;
        if forgotten > 0 {
            berth_service::crash::point("forget_sessions.committed");
        }
        Ok(forgotten)
    }
}
