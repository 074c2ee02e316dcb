//! The keys of instances: one is the current one, former ones wait until nothing names them.

use berth_database::{Transaction, args};
use berth_model::{EventId, InstanceId};
use berth_service::Timestamp;

use super::{AuditRow, Store, add_audit, id, statements as sql};
use crate::Error;

/// A key that may become an instance's.
#[derive(Clone, Debug)]
pub(crate) struct NewKey {
    pub(crate) id: String,
    pub(crate) sealed: Vec<u8>,
}

/// A key that was replaced.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct FormerKey {
    pub(crate) id: String,
    pub(crate) instance: InstanceId,
    pub(crate) replaced_at: Timestamp,
    /// The database's time, if it has a clock of its own.
    pub(crate) now: Option<Timestamp>,
}

/// What the audit says of what an operator did to an instance's keys.
fn audit(event: EventId, instance: InstanceId, kind: &str, now: Timestamp) -> AuditRow {
    let mut entry = AuditRow::new(event, instance, kind);
    entry.principal = "system:admin".to_owned();
    entry.credential = "socket".to_owned();
    entry.address = "local".to_owned();
    entry.request_id = event.to_string();
    entry.subject = format!("instance:{instance}");
    entry.occurred_at = now.0;
    entry
}

async fn add(tx: &mut Transaction, instance: InstanceId, key: &NewKey) -> Result<(), Error> {
    let values = args![&key.id, instance.to_string(), key.sealed.as_slice(), tx.now()];
    tx.execute(&sql::ADD_INSTANCE_KEY, values).await?;
    Ok(())
}

async fn lock(tx: &mut Transaction, name: &str) -> Result<Option<InstanceId>, Error> {
    tx.optional(&sql::LOCK_INSTANCE_NAMED, args![name]).await?.map(|row| id(&row, 0)).transpose()
}

impl Store {
    /// The current key of an instance, and how it is sealed.
    pub(crate) async fn current_key(&self, instance: InstanceId) -> Result<Option<NewKey>, Error> {
        let row = self.database.read_optional(&sql::CURRENT_KEY, args![instance.to_string()]).await?;
        row.map(|row| Ok(NewKey { id: row.get(0)?, sealed: row.get(1)? })).transpose()
    }

    /// A key of an instance, whichever state it is in.
    pub(crate) async fn instance_key(
        &self,
        instance: InstanceId,
        key_id: &str,
    ) -> Result<Option<Vec<u8>>, Error> {
        let values = args![key_id, instance.to_string()];
        let row = self.database.read_optional(&sql::INSTANCE_KEY, values).await?;
        Ok(row.map(|row| row.get(0)).transpose()?)
    }

    /// Makes `key` the first of an instance, unless there is one by now; the one that is. None: no such instance.
    pub(crate) async fn first_key(&self, instance: InstanceId, key: NewKey) -> Result<Option<NewKey>, Error> {
        self.database
            .write("first_instance_key", move |tx| {
                let key = key.clone();
                Box::pin(async move {
                    if tx.optional(&sql::LOCK_INSTANCE, args![instance.to_string()]).await?.is_none() {
                        return Ok(None);
                    }
                    let found = tx.optional(&sql::CURRENT_KEY, args![instance.to_string()]).await?;
                    if let Some(row) = found {
                        return Ok(Some(NewKey { id: row.get(0)?, sealed: row.get(1)? }));
                    }
                    add(tx, instance, &key).await?;
                    Ok(Some(key))
                })
            })
            .await
    }

    /// Makes `key` the current one of the instance of this name; false: there is no such instance.
    pub(crate) async fn rotate_key(&self, name: String, key: NewKey, event: EventId) -> Result<bool, Error> {
        self.database
            .write("rotate_instance_key", move |tx| {
                let (name, key) = (name.clone(), key.clone());
                Box::pin(async move {
                    let Some(instance) = lock(tx, &name).await? else { return Ok(false) };
                    let now = tx.now();
                    tx.execute(&sql::REPLACE_INSTANCE_KEY, args![instance.to_string(), now]).await?;
                    add(tx, instance, &key).await?;
                    add_audit(tx, audit(event, instance, "instance_key.rotated", now), now).await?;
                    Ok(true)
                })
            })
            .await
    }

    /// Former keys after an id, by their ids.
    pub(crate) async fn former_keys(&self, after: &str, limit: i64) -> Result<Vec<FormerKey>, Error> {
        let rows = self.database.read_all(&sql::FORMER_KEYS, args![after, limit]).await?;
        let mut keys = Vec::with_capacity(rows.len());
        for row in rows {
            keys.push(FormerKey {
                id: row.get(0)?,
                instance: id(&row, 1)?,
                replaced_at: Timestamp(row.get::<Option<i64>>(2)?.unwrap_or_default()),
                now: row.get::<Option<i64>>(3)?.map(Timestamp),
            });
        }
        Ok(keys)
    }

    /// Destroys a former key.
    pub(crate) async fn drop_former_key(&self, key_id: String) -> Result<(), Error> {
        self.database
            .write("drop_former_key", move |tx| {
                let key_id = key_id.clone();
                Box::pin(async move {
                    tx.execute(&sql::DROP_FORMER_KEY, args![key_id]).await?;
                    Ok(())
                })
            })
            .await
    }

    /// Destroys every key of the instance of this name; how many. None: there is no such instance.
    pub(crate) async fn shred_keys(&self, name: String, event: EventId) -> Result<Option<u64>, Error> {
        self.database
            .write("shred_instance_keys", move |tx| {
                let name = name.clone();
                Box::pin(async move {
                    let Some(instance) = lock(tx, &name).await? else { return Ok(None) };
                    let destroyed = tx.execute(&sql::SHRED_KEYS, args![instance.to_string()]).await?;
                    let now = tx.now();
                    add_audit(tx, audit(event, instance, "instance_keys.shredded", now), now).await?;
                    Ok(Some(destroyed))
                })
            })
            .await
    }
}
