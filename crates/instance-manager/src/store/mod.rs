//! Instance-manager's tables, as one-shot units of work. `None` is absence; nothing here knows a password or a token.

mod keys;
mod known;
mod statements;
mod stores;
#[cfg(test)]
mod suite;

use std::sync::Arc;

use berth_access::{Grant, GrantScope};
use berth_database::{Database, Row, Transaction, args};
use berth_model::{BlobDelivery, EventId, GrantId, InstanceId, Role, UserId};
use berth_service::Timestamp;
pub(crate) use keys::NewKey;
use statements as sql;

pub(crate) use stores::{NewStore, StoredStore};

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
}

/// What gateways have to know, as of a revision.
#[derive(Clone, Debug)]
pub(crate) struct StoredSettings {
    pub(crate) revision: i64,
    pub(crate) issuer: String,
    pub(crate) keys: Vec<StoredKey>,
    pub(crate) instances: Vec<StoredInstance>,
}

/// A person.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct StoredUser {
    pub(crate) id: UserId,
    pub(crate) name: String,
    pub(crate) password_hash: String,
    pub(crate) grants_revision: i64,
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

/// A person to be made, perhaps with a grant.
#[derive(Clone, Debug)]
pub(crate) struct NewUser {
    pub(crate) id: UserId,
    pub(crate) instance: InstanceId,
    pub(crate) name: String,
    pub(crate) password_hash: String,
    pub(crate) grant: Option<(GrantId, Grant)>,
}

/// An audit entry.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct AuditRow {
    pub(crate) event_id: EventId,
    pub(crate) instance: InstanceId,
    pub(crate) kind: String,
    pub(crate) principal: String,
    pub(crate) repository_id: String,
    pub(crate) repository: String,
    pub(crate) digest: String,
    pub(crate) tag: String,
    pub(crate) occurred_at: i64,
}

fn id<T: std::str::FromStr>(row: &Row, index: usize) -> Result<T, Error> {
    row.get::<String>(index)?.parse().map_err(|_| Error::Inconsistent("a malformed id"))
}

fn user(row: &Row) -> Result<StoredUser, Error> {
    Ok(StoredUser {
        id: id(row, 0)?,
        name: row.get(1)?,
        password_hash: row.get(2)?,
        grants_revision: row.get(3)?,
    })
}

fn scope_columns(scope: GrantScope) -> (&'static str, String) {
    match scope {
        GrantScope::Instance(id) => ("instance", id.to_string()),
        GrantScope::Namespace(id) => ("namespace", id.to_string()),
        GrantScope::Repository(id) => ("repository", id.to_string()),
    }
}

/// Records an entry, unless it is there; how many are new.
async fn add_audit(tx: &mut Transaction, row: AuditRow, now: Timestamp) -> Result<u64, Error> {
    let values = args![
        row.event_id.to_string(),
        row.instance.to_string(),
        row.kind,
        row.principal,
        row.repository_id,
        row.repository,
        row.digest,
        row.tag,
        row.occurred_at,
        now,
    ];
    Ok(tx.execute(&sql::INSERT_AUDIT, values).await?)
}

impl Store {
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
            });
        }
        Ok(StoredSettings { revision, issuer, keys, instances })
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
                    add_audit(tx, AuditRow { occurred_at: now.0, ..entry }, now).await?;
                    tx.execute(&sql::BUMP_SETTINGS, args![]).await?;
                    Ok::<_, Error>(true)
                })
            })
            .await
    }

    /// Makes a person; `None` when the name is taken.
    pub(crate) async fn create_user(&self, new: NewUser) -> Result<Option<UserId>, Error> {
        self.database
            .write("create_user", move |tx| {
                let new = new.clone();
                Box::pin(async move {
                    let now = tx.now();
                    let values = args![
                        new.id.to_string(),
                        new.instance.to_string(),
                        &new.name,
                        &new.password_hash,
                        now
                    ];
                    if tx.execute(&sql::INSERT_USER, values).await? == 0 {
                        return Ok(None);
                    }
                    if let Some((grant_id, grant)) = new.grant {
                        let (kind, scope) = scope_columns(grant.scope);
                        let values = args![
                            grant_id.to_string(),
                            new.id.to_string(),
                            grant.role.as_str(),
                            kind,
                            scope,
                            now
                        ];
                        tx.execute(&sql::INSERT_GRANT, values).await?;
                    }
                    Ok(Some(new.id))
                })
            })
            .await
    }

    pub(crate) async fn user_by_name(
        &self,
        instance: InstanceId,
        name: &str,
    ) -> Result<Option<StoredUser>, Error> {
        let known = self.known.as_deref();
        if let Some(user) = known.and_then(|known| known.get(instance, name)) {
            return Ok(Some(user));
        }
        let since = known.map(known::Known::since);
        let row = self.database.read_optional(&sql::USER_BY_NAME, args![instance.to_string(), name]).await?;
        let found = row.as_ref().map(user).transpose()?;
        if let (Some(known), Some(since), Some(user)) = (known, since, &found) {
            known.keep(since, instance, user);
        }
        Ok(found)
    }

    pub(crate) async fn user_by_id(
        &self,
        instance: InstanceId,
        id: UserId,
    ) -> Result<Option<StoredUser>, Error> {
        let values = args![instance.to_string(), id.to_string()];
        let row = self.database.read_optional(&sql::USER_BY_ID, values).await?;
        row.as_ref().map(user).transpose()
    }

    /// Whose refresh token this is, in this instance, at this time.
    pub(crate) async fn user_by_refresh_token(
        &self,
        hash: [u8; 32],
        instance: InstanceId,
        now: Timestamp,
    ) -> Result<Option<StoredUser>, Error> {
        let values = args![hash.to_vec(), instance.to_string(), now];
        let row = self.database.read_optional(&sql::USER_BY_REFRESH_TOKEN, values).await?;
        row.as_ref().map(user).transpose()
    }

    /// Sets a password where `current` still is the hash, and takes back what the old one opened.
    pub(crate) async fn set_password(
        &self,
        user: UserId,
        current: String,
        hash: String,
    ) -> Result<bool, Error> {
        self.database
            .write("set_password", move |tx| {
                let (current, hash) = (current.clone(), hash.clone());
                Box::pin(async move {
                    let set =
                        tx.execute(&sql::SET_PASSWORD, args![user.to_string(), current, hash]).await? > 0;
                    if set {
                        tx.execute(&sql::DELETE_REFRESH_TOKENS, args![user.to_string()]).await?;
                    }
                    Ok(set)
                })
            })
            .await
    }

    /// Keeps a refresh token, and lets go of the user's expired ones and of all but the newest hundred.
    pub(crate) async fn keep_refresh_token(
        &self,
        hash: [u8; 32],
        user: UserId,
        instance: InstanceId,
        now: Timestamp,
        expires_at: Timestamp,
    ) -> Result<(), Error> {
        self.database
            .write("keep_refresh_token", move |tx| {
                Box::pin(async move {
                    let values =
                        args![hash.to_vec(), user.to_string(), instance.to_string(), now, expires_at];
                    tx.execute(&sql::INSERT_REFRESH_TOKEN, values).await?;
                    tx.execute(&sql::PRUNE_REFRESH_TOKENS, args![user.to_string(), now]).await?;
                    Ok(())
                })
            })
            .await
    }

    /// Gives a role to the user of this name; `None`: there is no such user. A grant that is there already stays.
    pub(crate) async fn create_grant(
        &self,
        grant_id: GrantId,
        instance: InstanceId,
        name: &str,
        grant: Grant,
    ) -> Result<Option<GrantId>, Error> {
        let name = name.to_owned();
        self.database
            .write("create_grant", move |tx| {
                let name = name.clone();
                Box::pin(async move {
                    let values = args![instance.to_string(), &name];
                    let Some(row) = tx.optional(&sql::BUMP_GRANTS, values).await? else { return Ok(None) };
                    let user: String = row.get(0)?;
                    let (kind, scope) = scope_columns(grant.scope);
                    let role = grant.role.as_str();
                    let now = tx.now();
                    let values = args![grant_id.to_string(), &user, role, kind, &scope, now];
                    tx.execute(&sql::INSERT_GRANT, values).await?;
                    let kept = tx.one(&sql::FIND_GRANT, args![&user, role, kind, &scope]).await?;
                    Ok(Some(id(&kept, 0)?))
                })
            })
            .await
    }

    pub(crate) async fn grants(&self, user: UserId) -> Result<Vec<Grant>, Error> {
        let rows = self.database.read_all(&sql::LIST_GRANTS, args![user.to_string()]).await?;
        let mut grants = Vec::with_capacity(rows.len());
        for row in rows {
            let role: Role = row
                .get::<String>(0)?
                .parse()
                .map_err(|_| Error::Inconsistent("a grant of an unknown role"))?;
            let scope = match row.get::<String>(1)?.as_str() {
                "instance" => GrantScope::Instance(id(&row, 2)?),
                "namespace" => GrantScope::Namespace(id(&row, 2)?),
                "repository" => GrantScope::Repository(id(&row, 2)?),
                _ => return Err(Error::Inconsistent("a grant of an unknown scope")),
            };
            grants.push(Grant { role, scope });
        }
        Ok(grants)
    }

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
            });
        }
        Ok(entries)
    }
}
