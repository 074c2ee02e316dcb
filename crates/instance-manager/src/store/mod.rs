//! Instance-manager's tables, as one-shot units of work. `None` is absence; nothing here knows a password or a token.

mod audit;
mod audit_statements;
mod deletion;
mod grants;
mod identity;
mod identity_statements;
mod instances;
mod keys;
mod known;
mod logins;
mod principals;
mod revocations;
mod roles;
mod sealed;
mod secrets;
mod statements;
mod stores;
#[cfg(test)]
mod suite;
mod token_keys;
mod trusts;

use std::sync::Arc;

use audit::add_audit;
pub(crate) use audit::{AuditFilter, AuditRow, Cursor, ExportStep, Recorded, expired};
use berth_database::{
    Database, Once, Row, args, idempotency,
    tasks::{self, Wanted},
};
use berth_model::{BlobDelivery, InstanceId, InstanceState};
use berth_proto::tasks::{GetTaskRequest, ListTasksResponse, Task};
use berth_service::Timestamp;
pub(crate) use deletion::Heads;
pub(crate) use grants::{GrantRow, NewGrant};
pub(crate) use identity::{NewProvider, ProviderChange, ProviderText, StoredProvider};
pub(crate) use instances::{InstanceChange, NewInstance, Tenant};
pub(crate) use keys::NewKey;
pub(crate) use logins::{Login, LoginOutcome};
pub(crate) use principals::{Member, NewPrincipal, PrincipalChange, StoredPrincipal};
pub(crate) use revocations::NotBefore;
pub(crate) use roles::{RoleText, StoredRole};
pub(crate) use sealed::Sealed;
pub(crate) use secrets::{NewSecret, SecretToken, StoredSecret, TokenKind, TokenOwner};
use statements as sql;
pub(crate) use stores::{NewStore, StoredStore};
pub(crate) use token_keys::Rotation;
pub(crate) use trusts::{Conditions, NewTrust, StoredTrust};

use crate::Error;

/// The store. Clones share the database.
#[derive(Clone, Debug)]
pub(crate) struct Store {
    database: Database,
    /// People in memory, where only this process writes the database.
    known: Option<Arc<known::Known>>,
}

/// A key as it is kept.
#[derive(Clone, Debug)]
pub(crate) struct StoredKey {
    pub(crate) id: String,
    pub(crate) sealed: Vec<u8>,
    pub(crate) jwk: String,
    pub(crate) active: bool,
}

/// An instance.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct StoredInstance {
    pub(crate) id: InstanceId,
    pub(crate) name: String,
    pub(crate) default: bool,
    pub(crate) blob_delivery: BlobDelivery,
    /// The store that takes new blobs; none: the deployment's.
    pub(crate) store_id: Option<String>,
    pub(crate) store_stages: bool,
    pub(crate) state: InstanceState,
    pub(crate) region: String,
    /// Whether a push may make namespaces.
    pub(crate) create_on_push: bool,
    pub(crate) edition: String,
}

/// What gateways have to know, as of a revision.
#[derive(Clone, Debug)]
pub(crate) struct StoredSettings {
    pub(crate) revision: i64,
    pub(crate) issuer: String,
    pub(crate) keys: Vec<StoredKey>,
    pub(crate) instances: Vec<StoredInstance>,
    pub(crate) not_befores: Vec<NotBefore>,
}

/// What a first start puts into an empty database.
#[derive(Clone, Debug)]
pub(crate) struct Seed {
    pub(crate) issuer: String,
    pub(crate) instance: InstanceId,
    pub(crate) instance_name: String,
    /// The signing key and the next one.
    pub(crate) keys: [StoredKey; 2],
}

fn id<T: std::str::FromStr>(row: &Row, index: usize) -> Result<T, Error> {
    row.get::<String>(index)?.parse().map_err(|_| Error::Inconsistent("a malformed id"))
}

impl Store {
    /// What was answered to a request before, sealed.
    pub(crate) async fn recorded(&self, once: &Once) -> Result<Option<Vec<u8>>, Error> {
        Ok(once.known(&self.database).await?)
    }

    /// Forgets requests that are older than a day and tasks that ended over a week ago, a bounded number of them; how many.
    pub(crate) async fn forget_old(&self) -> Result<u64, Error> {
        let requests = idempotency::forget(&self.database).await?;
        Ok(requests + tasks::forget(&self.database).await?)
    }

    /// A task.
    pub(crate) async fn task(&self, asked: &GetTaskRequest) -> Result<Option<Task>, Error> {
        Ok(tasks::find(&self.database, asked).await?)
    }

    /// A page of tasks, newest first.
    pub(crate) async fn tasks(&self, wanted: &Wanted) -> Result<ListTasksResponse, Error> {
        Ok(tasks::list(&self.database, wanted).await?)
    }

    pub(crate) fn new(database: Database) -> Self {
        let known = known::Known::of(&database);
        Self { database, known }
    }

    /// Makes the settings row, the default instance and two token keys, each if it is absent. Returns the default
    /// instance. Of two processes that start together one waits for the other's commit.
    pub(crate) async fn bootstrap(&self, seed: Seed) -> Result<InstanceId, Error> {
        self.database
            .write("bootstrap", move |tx| {
                let seed = seed.clone();
                Box::pin(async move {
                    let now = tx.now();
                    let mut changed = tx.execute(&sql::INSERT_SETTINGS, args![&seed.issuer]).await?;
                    tx.one(&sql::LOCK_SETTINGS, args![]).await?;
                    if tx.optional(&sql::DEFAULT_INSTANCE, args![]).await?.is_none() {
                        let values = args![seed.instance.to_string(), &seed.instance_name, true, now];
                        changed += tx.execute(&sql::INSERT_INSTANCE, values).await?;
                    }
                    let found = tx.one(&sql::DEFAULT_INSTANCE, args![]).await?;
                    let instance: InstanceId = id(&found, 0)?;
                    if tx.all(&sql::LIST_KEYS, args![]).await?.is_empty() {
                        for key in &seed.keys {
                            let activated = key.active.then_some(now.0);
                            let values = args![&key.id, &key.sealed, &key.jwk, now, activated];
                            changed += tx.execute(&sql::INSERT_KEY, values).await?;
                        }
                    }
                    if changed > 0 {
                        tx.execute(&sql::BUMP_SETTINGS, args![]).await?;
                    }
                    Ok(instance)
                })
            })
            .await
    }

    /// The revision of the settings, and the database's time, if it has a clock of its own.
    pub(crate) async fn revision(&self) -> Result<(i64, Option<Timestamp>), Error> {
        let row = self.database.read_optional(&sql::READ_REVISION, args![]).await?;
        let row = row.ok_or(Error::Inconsistent("no settings"))?;
        Ok((row.get(0)?, row.get::<Option<i64>>(1)?.map(Timestamp)))
    }

    /// The settings. What is read may be newer than the revision it carries, never older.
    pub(crate) async fn settings(&self) -> Result<StoredSettings, Error> {
        let row = self.database.read_optional(&sql::READ_SETTINGS, args![]).await?;
        let row = row.ok_or(Error::Inconsistent("no settings"))?;
        let (revision, issuer) = (row.get(0)?, row.get(1)?);
        let mut keys = Vec::new();
        for row in self.database.read_all(&sql::LIST_KEYS, args![]).await? {
            keys.push(StoredKey {
                id: row.get(0)?,
                sealed: row.get(1)?,
                jwk: row.get(2)?,
                active: row.get(3)?,
            });
        }
        let mut instances = Vec::new();
        for row in self.database.read_all(&sql::LIST_INSTANCES, args![]).await? {
            let blob_delivery = row.get::<String>(3)?.parse();
            instances.push(StoredInstance {
                id: id(&row, 0)?,
                name: row.get(1)?,
                default: row.get(2)?,
                blob_delivery: blob_delivery.map_err(|_| Error::Inconsistent("an unknown blob delivery"))?,
                store_id: row.get(4)?,
                store_stages: row.get(5)?,
                state: instances::state(&row, 6)?,
                region: row.get(7)?,
                create_on_push: row.get(8)?,
                edition: row.get(9)?,
            });
        }
        let not_befores = self.not_befores().await?;
        Ok(StoredSettings { revision, issuer, keys, instances, not_befores })
    }

    /// Says how an instance's blobs reach clients, and records `entry` in the audit. False: it was so already.
    pub(crate) async fn set_blob_delivery(
        &self,
        instance: InstanceId,
        delivery: BlobDelivery,
        entry: AuditRow,
    ) -> Result<bool, Error> {
        self.database
            .write("set_blob_delivery", move |tx| {
                let entry = entry.clone();
                Box::pin(async move {
                    let args = args![instance.to_string(), delivery.as_str()];
                    if tx.execute(&sql::SET_BLOB_DELIVERY, args).await? == 0 {
                        return Ok(false);
                    }
                    let now = tx.now();
                    add_audit(tx, entry, now).await?;
                    tx.execute(&sql::BUMP_SETTINGS, args![]).await?;
                    Ok::<_, Error>(true)
                })
            })
            .await
    }
}
