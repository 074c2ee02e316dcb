//! The roles that instances have beside the built-in ones.

use berth_database::args;
use berth_model::InstanceId;
use berth_oci::{ErrorCode, Problem};

use super::{AuditRow, Store, add_audit, revocations::refuse_instance, statements as sql};
use crate::{Error, error::stale};

/// How many roles an instance may have of its own.
pub(crate) const MAX_ROLES: usize = 1_000;

/// A role as it is kept: lists in JSON.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct RoleText {
    pub(crate) description: String,
    pub(crate) scopes: String,
    pub(crate) permissions: String,
}

/// A role of an instance.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct StoredRole {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) text: RoleText,
    pub(crate) version: i64,
}

fn no_role(id: &str) -> Error {
    Problem::new(ErrorCode::NotFound, format!("there is no role {id}")).into()
}

impl Store {
    /// The roles of an instance, by name.
    pub(crate) async fn roles(&self, instance: InstanceId) -> Result<Vec<StoredRole>, Error> {
        let rows = self.database.read_all(&sql::LIST_ROLES, args![instance.to_string()]).await?;
        rows.iter()
            .map(|row| {
                Ok(StoredRole {
                    id: row.get(0)?,
                    name: row.get(1)?,
                    text: RoleText {
                        description: row.get(2)?,
                        scopes: row.get(3)?,
                        permissions: row.get(4)?,
                    },
                    version: row.get(5)?,
                })
            })
            .collect()
    }

    /// Makes a role. False: the name is taken.
    pub(crate) async fn add_role(
        &self,
        instance: InstanceId,
        id: &str,
        name: &str,
        text: RoleText,
        entry: AuditRow,
    ) -> Result<bool, Error> {
        let (id, name) = (id.to_owned(), name.to_owned());
        self.database
            .write("add_role", move |tx| {
                let (id, name, text, entry) = (id.clone(), name.clone(), text.clone(), entry.clone());
                Box::pin(async move {
                    let own = instance.to_string();
                    if tx.all(&sql::LIST_ROLES, args![&own]).await?.len() >= MAX_ROLES {
                        let message = format!("an instance has {MAX_ROLES} roles of its own at most");
                        return Err(Problem::new(ErrorCode::RequestInvalid, message).into());
                    }
                    let now = tx.now();
                    let values = args![id, own, name, text.description, text.scopes, text.permissions, now];
                    if tx.execute(&sql::ADD_ROLE, values).await? == 0 {
                        return Ok(false);
                    }
                    add_audit(tx, entry, now).await?;
                    Ok::<_, Error>(true)
                })
            })
            .await
    }

    /// Changes a role; `narrower`: it may allow less than before, so tokens that rest on it are refused.
    pub(crate) async fn change_role(
        &self,
        instance: InstanceId,
        id: &str,
        version: Option<i64>,
        text: RoleText,
        narrower: bool,
        entry: AuditRow,
    ) -> Result<(), Error> {
        let id = id.to_owned();
        self.database
            .write("change_role", move |tx| {
                let (id, text, entry) = (id.clone(), text.clone(), entry.clone());
                Box::pin(async move {
                    let own = instance.to_string();
                    let row = tx.optional(&sql::LOCK_ROLE, args![&own, &id]).await?;
                    let row = row.ok_or_else(|| no_role(&id))?;
                    if version.is_some_and(|seen| row.get::<i64>(0).ok() != Some(seen)) {
                        return Err(stale().into());
                    }
                    let now = tx.now();
                    let values = args![id, text.description, text.scopes, text.permissions, now];
                    tx.execute(&sql::SET_ROLE, values).await?;
                    tx.execute(&sql::BUMP_ACCESS, args![own]).await?;
                    add_audit(tx, entry, now).await?;
                    if narrower {
                        refuse_instance(tx, instance).await?;
                    }
                    Ok::<_, Error>(())
                })
            })
            .await
    }

    /// Deletes a role that nobody has.
    pub(crate) async fn delete_role(
        &self,
        instance: InstanceId,
        id: &str,
        version: Option<i64>,
        entry: AuditRow,
    ) -> Result<(), Error> {
        let id = id.to_owned();
        self.database
            .write("delete_role", move |tx| {
                let (id, entry) = (id.clone(), entry.clone());
                Box::pin(async move {
                    let own = instance.to_string();
                    let row = tx.optional(&sql::LOCK_ROLE, args![&own, &id]).await?;
                    let row = row.ok_or_else(|| no_role(&id))?;
                    if version.is_some_and(|seen| row.get::<i64>(0).ok() != Some(seen)) {
                        return Err(stale().into());
                    }
                    if tx.optional(&sql::ROLE_IS_GIVEN, args![own, &id]).await?.is_some() {
                        let message = "somebody has this role; take it back first";
                        return Err(Problem::new(ErrorCode::Conflict, message).into());
                    }
                    tx.execute(&sql::DELETE_ROLE, args![id]).await?;
                    let now = tx.now();
                    add_audit(tx, entry, now).await?;
                    Ok::<_, Error>(())
                })
            })
            .await
    }
}
