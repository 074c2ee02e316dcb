//! The tenants' rows: what they are, what they have and what they wish for.

use berth_database::{Row, Transaction, args};
use berth_model::{AddOns, InstanceId, InstanceState};
use berth_oci::{ErrorCode, Problem};
use berth_service::Timestamp;

use super::{AuditRow, Store, add_audit, id, revocations::refuse_instance, statements as sql};
use crate::{
    Error,
    error::{no_instance, stale},
};

/// An instance, whole.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Tenant {
    pub(crate) id: InstanceId,
    pub(crate) name: String,
    pub(crate) default: bool,
    pub(crate) state: InstanceState,
    pub(crate) edition: String,
    pub(crate) add_ons: AddOns,
    /// Until metadata has confirmed the limits of it.
    pub(crate) wish: Option<(String, AddOns)>,
    /// Until metadata has agreed to its end: whether in any case.
    pub(crate) wish_delete: Option<bool>,
    pub(crate) limits_revision: i64,
    pub(crate) limits_in_force: i64,
    pub(crate) region: String,
    pub(crate) description: String,
    pub(crate) create_on_push: bool,
    pub(crate) blob_delivery: String,
    pub(crate) created_at: Timestamp,
    pub(crate) updated_at: Timestamp,
    pub(crate) version: i64,
}

/// The wish for an end in any case, as it is stored.
pub(super) const FORCED: &str = "forced";

/// An instance to be made; it is pending until its limits are known to metadata.
#[derive(Clone, Debug)]
pub(crate) struct NewInstance {
    pub(crate) id: InstanceId,
    pub(crate) name: String,
    pub(crate) edition: String,
    pub(crate) add_ons: AddOns,
    pub(crate) region: String,
    pub(crate) description: String,
    pub(crate) create_on_push: bool,
}

/// What is to be changed; what is absent stays.
#[derive(Clone, Default, Debug)]
pub(crate) struct InstanceChange {
    pub(crate) description: Option<String>,
    pub(crate) create_on_push: Option<bool>,
}

pub(super) fn state(row: &Row, index: usize) -> Result<InstanceState, Error> {
    row.get::<String>(index)?.parse().map_err(|_| Error::Inconsistent("an unknown state of an instance"))
}

fn add_ons(json: &str) -> Result<AddOns, Error> {
    serde_json::from_str(json).map_err(|_| Error::Inconsistent("add-ons that can't be read"))
}

fn json(add_ons: &AddOns) -> String {
    serde_json::to_string(add_ons).unwrap_or_default()
}

fn tenant(row: &Row) -> Result<Tenant, Error> {
    let wish = match (row.get::<Option<String>>(6)?, row.get::<Option<String>>(7)?) {
        (Some(edition), Some(json)) => Some((edition, add_ons(&json)?)),
        _ => None,
    };
    Ok(Tenant {
        id: id(row, 0)?,
        name: row.get(1)?,
        default: row.get(2)?,
        state: state(row, 3)?,
        edition: row.get(4)?,
        add_ons: add_ons(&row.get::<String>(5)?)?,
        wish,
        limits_revision: row.get(8)?,
        limits_in_force: row.get(9)?,
        region: row.get(10)?,
        description: row.get(11)?,
        create_on_push: row.get(12)?,
        created_at: Timestamp(row.get(13)?),
        updated_at: Timestamp(row.get(14)?),
        version: row.get(15)?,
        wish_delete: row.get::<Option<String>>(16)?.map(|wish| wish == FORCED),
        blob_delivery: row.get(17)?,
    })
}

pub(super) async fn lock(
    tx: &mut Transaction,
    instance: InstanceId,
    version: Option<i64>,
) -> Result<Tenant, Error> {
    let row = tx.optional(&sql::LOCK_TENANT, args![instance.to_string()]).await?;
    let found = tenant(&row.ok_or_else(no_instance)?)?;
    if version.is_some_and(|seen| found.version != seen) {
        return Err(stale().into());
    }
    Ok(found)
}

pub(super) async fn read(tx: &mut Transaction, instance: InstanceId) -> Result<Tenant, Error> {
    tenant(&tx.one(&sql::INSTANCE, args![instance.to_string()]).await?)
}

impl Store {
    /// Makes an instance, pending; `None`: the name is taken.
    pub(crate) async fn add_instance(
        &self,
        new: NewInstance,
        entry: AuditRow,
    ) -> Result<Option<Tenant>, Error> {
        self.database
            .write("add_instance", move |tx| {
                let (new, entry) = (new.clone(), entry.clone());
                Box::pin(async move {
                    let now = tx.now();
                    let values = args![
                        new.id.to_string(),
                        &new.name,
                        now,
                        &new.edition,
                        json(&new.add_ons),
                        &new.region,
                        &new.description,
                        new.create_on_push
                    ];
                    if tx.execute(&sql::ADD_INSTANCE, values).await? == 0 {
                        return Ok(None);
                    }
                    add_audit(tx, entry, now).await?;
                    let made = read(tx, new.id).await?;
                    tx.execute(&sql::BUMP_SETTINGS, args![]).await?;
                    Ok(Some(made))
                })
            })
            .await
    }

    /// An instance by its id.
    pub(crate) async fn tenant(&self, instance: InstanceId) -> Result<Option<Tenant>, Error> {
        let row = self.database.read_optional(&sql::INSTANCE, args![instance.to_string()]).await?;
        row.as_ref().map(tenant).transpose()
    }

    /// The id of the instance of a name.
    pub(crate) async fn instance_named(&self, name: &str) -> Result<Option<InstanceId>, Error> {
        let row = self.database.read_optional(&sql::INSTANCE_NAMED, args![name]).await?;
        row.map(|row| id(&row, 0)).transpose()
    }

    /// Instances by id.
    pub(crate) async fn tenants(&self, after: Option<InstanceId>, limit: u32) -> Result<Vec<Tenant>, Error> {
        let after = after.map(|id| id.to_string()).unwrap_or_default();
        let rows = self.database.read_all(&sql::PAGE_INSTANCES, args![after, i64::from(limit)]).await?;
        rows.iter().map(tenant).collect()
    }

    /// Instances for which something is still to be done.
    pub(crate) async fn tenants_to_tend(
        &self,
        after: Option<InstanceId>,
        limit: u32,
    ) -> Result<Vec<InstanceId>, Error> {
        let after = after.map(|id| id.to_string()).unwrap_or_default();
        let rows = self.database.read_all(&sql::INSTANCES_TO_TEND, args![after, i64::from(limit)]).await?;
        rows.iter().map(|row| id(row, 0)).collect()
    }

    /// Changes what is said of an instance, and what a push may make.
    pub(crate) async fn change_instance(
        &self,
        instance: InstanceId,
        version: Option<i64>,
        change: InstanceChange,
        entry: AuditRow,
    ) -> Result<Tenant, Error> {
        self.database
            .write("change_instance", move |tx| {
                let (change, entry) = (change.clone(), entry.clone());
                Box::pin(async move {
                    let before = lock(tx, instance, version).await?;
                    let now = tx.now();
                    let values = args![
                        instance.to_string(),
                        change.description.as_ref().unwrap_or(&before.description),
                        change.create_on_push.unwrap_or(before.create_on_push),
                        now
                    ];
                    tx.execute(&sql::CHANGE_INSTANCE, values).await?;
                    add_audit(tx, entry, now).await?;
                    let after = read(tx, instance).await?;
                    tx.execute(&sql::BUMP_SETTINGS, args![]).await?;
                    Ok(after)
                })
            })
            .await
    }

    /// Records the wish for an edition and add-ons, in place of an older one.
    pub(crate) async fn wish_edition(
        &self,
        instance: InstanceId,
        version: Option<i64>,
        edition: &str,
        add_ons: Option<AddOns>,
        entry: AuditRow,
    ) -> Result<Tenant, Error> {
        let edition = edition.to_owned();
        self.database
            .write("wish_edition", move |tx| {
                let (edition, entry) = (edition.clone(), entry.clone());
                Box::pin(async move {
                    let before = lock(tx, instance, version).await?;
                    if before.state.is_ending() {
                        return Err(no_instance().into());
                    }
                    let add_ons = add_ons.unwrap_or(before.add_ons);
                    let now = tx.now();
                    let values = args![instance.to_string(), edition, json(&add_ons), now];
                    tx.execute(&sql::WISH_EDITION, values).await?;
                    add_audit(tx, entry, now).await?;
                    read(tx, instance).await
                })
            })
            .await
    }

    /// Ends the wish of a revision: granted, or not. One that another took the place of is left alone.
    pub(crate) async fn settle_wish(
        &self,
        instance: InstanceId,
        revision: i64,
        granted: bool,
        entry: AuditRow,
    ) -> Result<Option<Tenant>, Error> {
        self.database
            .write("settle_wish", move |tx| {
                let entry = entry.clone();
                Box::pin(async move {
                    let statement = if granted { &sql::GRANT_WISH } else { &sql::DROP_WISH };
                    let now = tx.now();
                    let values = args![instance.to_string(), revision, now];
                    let settled = tx.execute(statement, values).await? > 0;
                    let row = tx.optional(&sql::INSTANCE, args![instance.to_string()]).await?;
                    let after = row.as_ref().map(tenant).transpose()?;
                    if settled {
                        add_audit(tx, entry, now).await?;
                        tx.execute(&sql::BUMP_SETTINGS, args![]).await?;
                    }
                    Ok::<_, Error>(after)
                })
            })
            .await
    }

    /// Moves an instance to another state, where `from` allows it; its tokens end when it stops being served.
    pub(crate) async fn set_state(
        &self,
        instance: InstanceId,
        version: Option<i64>,
        to: InstanceState,
        entry: AuditRow,
    ) -> Result<Tenant, Error> {
        self.database
            .write("set_instance_state", move |tx| {
                let entry = entry.clone();
                Box::pin(async move {
                    let before = lock(tx, instance, version).await?;
                    if before.state == to {
                        return Ok(before);
                    }
                    if !before.state.may_become(to) {
                        let message = format!("the instance is {}, so it can't become {to}", before.state);
                        return Err(Problem::new(ErrorCode::Conflict, message).into());
                    }
                    let now = tx.now();
                    tx.execute(&sql::SET_STATE, args![instance.to_string(), to.as_str(), before.name, now])
                        .await?;
                    add_audit(tx, entry, now).await?;
                    let after = read(tx, instance).await?;
                    if to == InstanceState::Running {
                        tx.execute(&sql::BUMP_SETTINGS, args![]).await?;
                    } else {
                        refuse_instance(tx, instance).await?;
                    }
                    Ok(after)
                })
            })
            .await
    }
}
