//! The end of an instance: wished for, agreed to, and what is left of it here taken away by and by.

use berth_database::{
    args,
    tasks::{NewTask, Work},
};
use berth_model::{InstanceId, InstanceState, PrincipalKind};

use super::{
    AuditRow, Store, Tenant, add_audit, identity, identity_statements as identity_sql,
    instances::{FORCED, lock, read},
    principals,
    revocations::refuse_instance,
    statements as sql,
};
use crate::{Error, error::no_instance};

/// How many people, robots and groups an instance has.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct Heads {
    pub(crate) users: u64,
    pub(crate) robots: u64,
    pub(crate) groups: u64,
}

/// The end of an instance, as a task of the deployment: the instance will not be there to have any.
fn end_of(instance: InstanceId) -> Work {
    Work { kind: "instance.delete", subject: format!("instance:{instance}") }
}

/// The wish for an end, as it is stored.
fn wish(force: bool) -> &'static str {
    if force { FORCED } else { "empty" }
}

impl Store {
    /// Records the wish for an instance's end, and its task, which has this id unless one runs already. An instance that is
    /// ending already stays as it is.
    pub(crate) async fn wish_deletion(
        &self,
        instance: InstanceId,
        version: Option<i64>,
        (force, task): (bool, String),
        entry: AuditRow,
    ) -> Result<(Tenant, String), Error> {
        self.database
            .write("wish_deletion", move |tx| {
                let (entry, task) = (entry.clone(), task.clone());
                Box::pin(async move {
                    let before = lock(tx, instance, version).await?;
                    if before.state == InstanceState::Deleted {
                        return Err(no_instance().into());
                    }
                    let work = end_of(instance);
                    let task = match work.running(tx).await? {
                        Some(running) => running,
                        None => {
                            let (name, by) = (before.name.as_str(), entry.principal.as_str());
                            work.begin(tx, NewTask { id: &task, instance: "", name, created_by: by }).await?;
                            task
                        }
                    };
                    if before.state.is_ending() {
                        return Ok((before, task));
                    }
                    let now = tx.now();
                    tx.execute(&sql::WISH_DELETION, args![instance.to_string(), wish(force), now]).await?;
                    add_audit(tx, entry, now).await?;
                    Ok((read(tx, instance).await?, task))
                })
            })
            .await
    }

    /// Metadata has agreed: from now on nothing of the instance is served. Done again, it changes nothing.
    pub(crate) async fn begin_deletion(&self, instance: InstanceId, entry: AuditRow) -> Result<(), Error> {
        self.database
            .write("begin_deletion", move |tx| {
                let entry = entry.clone();
                Box::pin(async move {
                    let now = tx.now();
                    if tx.execute(&sql::BEGIN_DELETION, args![instance.to_string(), now]).await? == 0 {
                        return Ok(());
                    }
                    add_audit(tx, entry, now).await?;
                    refuse_instance(tx, instance).await
                })
            })
            .await
    }

    /// Metadata has refused this wish, and why: everything stays as it was.
    pub(crate) async fn drop_deletion_wish(
        &self,
        instance: InstanceId,
        force: bool,
        reason: &str,
        entry: AuditRow,
    ) -> Result<(), Error> {
        let reason = reason.to_owned();
        self.database
            .write("drop_deletion_wish", move |tx| {
                let (entry, reason) = (entry.clone(), reason.clone());
                Box::pin(async move {
                    let now = tx.now();
                    let values = args![instance.to_string(), now, wish(force)];
                    if tx.execute(&sql::DROP_DELETION_WISH, values).await? > 0 {
                        end_of(instance).fail(tx, &reason).await?;
                        add_audit(tx, entry, now).await?;
                    }
                    Ok::<_, Error>(())
                })
            })
            .await
    }

    /// Notes how much is left of an instance that ends, or why that can't be known just now; empty: it is too much.
    pub(crate) async fn note_deletion(
        &self,
        instance: InstanceId,
        left: Result<u64, String>,
    ) -> Result<(), Error> {
        self.database
            .write("note_deletion", move |tx| {
                let left = left.clone();
                Box::pin(async move {
                    let work = end_of(instance);
                    match left {
                        Ok(left) => work.left(tx, left).await?,
                        Err(reason) => work.wait(tx, &reason).await?,
                    }
                    Ok::<_, Error>(())
                })
            })
            .await
    }

    /// Takes away the identity providers of an instance that ends, and a hundred of its principals with all they have; whether there were any.
    pub(crate) async fn delete_some_principals(&self, instance: InstanceId) -> Result<bool, Error> {
        self.database
            .write("delete_some_principals", move |tx| {
                Box::pin(async move {
                    for row in tx.all(&identity_sql::PROVIDERS_OF, args![instance.to_string()]).await? {
                        identity::forget(tx, &row.get::<String>(0)?).await?;
                    }
                    let found = tx.all(&sql::SOME_PRINCIPALS, args![instance.to_string()]).await?;
                    for row in &found {
                        let principal: String = row.get(0)?;
                        principals::forget(tx, &principal).await?;
                    }
                    Ok::<_, Error>(!found.is_empty())
                })
            })
            .await
    }

    /// The rest of an instance whose content and principals are gone: its keys are destroyed, its stores forgotten, and
    /// its name is free. The row stays, and the audit. Done again, it changes nothing.
    pub(crate) async fn finish_deletion(&self, instance: InstanceId, entry: AuditRow) -> Result<(), Error> {
        self.database
            .write("finish_deletion", move |tx| {
                let entry = entry.clone();
                Box::pin(async move {
                    let before = lock(tx, instance, None).await?;
                    if before.state != InstanceState::Deleting {
                        return Ok(());
                    }
                    let key = instance.to_string();
                    for statement in [
                        &sql::SHRED_KEYS,
                        &sql::LEAVE_STORE,
                        &sql::DELETE_STORES,
                        &sql::DELETE_GRANTS_IN,
                        &sql::DELETE_ROLES,
                    ] {
                        tx.execute(statement, args![key.as_str()]).await?;
                    }
                    let now = tx.now();
                    // No name has the form of an id.
                    let deleted = InstanceState::Deleted.as_str();
                    tx.execute(&sql::SET_STATE, args![key.as_str(), deleted, key.as_str(), now]).await?;
                    end_of(instance).end(tx, "").await?;
                    add_audit(tx, entry, now).await?;
                    tx.execute(&sql::BUMP_SETTINGS, args![]).await?;
                    Ok::<_, Error>(())
                })
            })
            .await
    }

    /// How many principals an instance has.
    pub(crate) async fn count_principals(&self, instance: InstanceId) -> Result<Heads, Error> {
        let mut heads = Heads::default();
        for row in self.database.read_all(&sql::COUNT_PRINCIPALS, args![instance.to_string()]).await? {
            let count = row.get::<i64>(1)?.unsigned_abs();
            match row.get::<String>(0)?.parse() {
                Ok(PrincipalKind::User) => heads.users = count,
                Ok(PrincipalKind::Robot) => heads.robots = count,
                Ok(PrincipalKind::Group) => heads.groups = count,
                Err(_) => return Err(Error::Inconsistent("an unknown kind of principal")),
            }
        }
        Ok(heads)
    }
}
