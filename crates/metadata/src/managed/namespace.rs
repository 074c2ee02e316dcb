//! Namespaces by hand: made, looked at, changed and removed.

use std::sync::Arc;

use berth_database::{Row, Transaction, args};
use berth_model::{InstanceId, NamespaceId};
use berth_oci::{ErrorCode, RepositoryName};
use berth_proto::metadata as proto;
use berth_service::Timestamp;

use super::{DESCRIPTION, check_text};
use crate::{
    Metadata,
    error::{Error, Result},
    limits,
    manager::Order,
    repository::{PUBLIC, visibility},
    store::statements as sql,
    task::Kind,
};

/// A namespace with its settings.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Namespace {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) description: String,
    pub(crate) create_on_push: bool,
    pub(crate) default_public: bool,
    pub(crate) default_immutable: bool,
    pub(crate) removing: bool,
    pub(crate) created_at: Timestamp,
    pub(crate) updated_at: Timestamp,
    pub(crate) version: i64,
}

/// What is to be changed of a namespace; what is absent stays, or is as it is without a wish.
#[derive(Clone, Default, Debug)]
pub(crate) struct NamespaceChange {
    pub(crate) description: Option<String>,
    pub(crate) create_on_push: Option<bool>,
    pub(crate) default_public: Option<bool>,
    pub(crate) default_immutable: Option<bool>,
}

impl From<Namespace> for proto::NamespaceEntry {
    fn from(namespace: Namespace) -> Self {
        Self {
            id: namespace.id,
            name: namespace.name,
            description: namespace.description,
            create_on_push: namespace.create_on_push,
            default_public: namespace.default_public,
            default_immutable: namespace.default_immutable,
            removing: namespace.removing,
            created_at: namespace.created_at.0,
            updated_at: namespace.updated_at.0,
            version: namespace.version,
        }
    }
}

pub(crate) fn read(row: &Row) -> Result<Namespace> {
    Ok(Namespace {
        id: row.get(0)?,
        name: row.get(1)?,
        description: row.get(2)?,
        create_on_push: row.get(3)?,
        default_public: row.get::<String>(4)? == PUBLIC,
        default_immutable: row.get(5)?,
        removing: row.get(6)?,
        created_at: Timestamp(row.get(7)?),
        updated_at: Timestamp(row.get(8)?),
        version: row.get(9)?,
    })
}

pub(super) fn no_namespace(name: &str) -> Error {
    Error::new(ErrorCode::NotFound, format!("there is no namespace {name}"))
}

/// A namespace's name: one part of a repository's name, of 2 to 120 characters.
fn check_namespace_name(name: &str) -> Result<()> {
    let one = name.parse::<RepositoryName>().is_ok_and(|name| name.depth() == 1);
    if one && (2..=120).contains(&name.len()) {
        return Ok(());
    }
    let message = "a namespace has 2 to 120 lower-case letters and digits, with . _ or - between them";
    Err(Error::new(ErrorCode::NameInvalid, message))
}

async fn locked_namespace(tx: &mut Transaction, instance: &str, name: &str) -> Result<Namespace> {
    let row = tx.optional(&sql::LOCK_NAMESPACE, args![instance, name]).await?;
    read(&row.ok_or_else(|| no_namespace(name))?)
}

async fn create_namespace(
    tx: &mut Transaction,
    metadata: &Metadata,
    order: &Order<NamespaceChange>,
    (id, name): (&str, &str),
) -> Result<proto::NamespaceEntry> {
    if let Some(made) = order.replay(tx).await? {
        return Ok(made);
    }
    let instance = order.instance.to_string();
    let limits = limits::lock(tx, &instance).await?;
    if tx.optional(&sql::NAMESPACE_AT, args![&instance, name]).await?.is_some() {
        let message = format!("there is a namespace {name} already");
        return Err(Error::new(ErrorCode::AlreadyExists, message));
    }
    limits.admit(1, 0)?;
    let change = &order.change;
    let values = args![
        id,
        &instance,
        name,
        tx.now(),
        change.description.clone().unwrap_or_default(),
        change.create_on_push.unwrap_or(true),
        visibility(change.default_public.unwrap_or(false)),
        change.default_immutable.unwrap_or(false)
    ];
    tx.execute(&sql::ADD_NAMESPACE_BY_HAND, values).await?;
    tx.execute(&sql::COUNT_MADE, args![&instance, 1, 0]).await?;
    let says = order.manager.says(format!("namespace:{id}"), name);
    metadata.journal.record(tx, "namespace.created", order.instance, says).await?;
    let made = locked_namespace(tx, &instance, name).await?.into();
    order.record(tx, &made).await?;
    Ok(made)
}

async fn update_namespace(
    tx: &mut Transaction,
    metadata: &Metadata,
    order: &Order<NamespaceChange>,
    name: &str,
) -> Result<Namespace> {
    let instance = order.instance.to_string();
    let before = locked_namespace(tx, &instance, name).await?;
    order.check_version(before.version)?;
    let change = &order.change;
    let values = args![
        &before.id,
        change.description.as_ref().unwrap_or(&before.description),
        change.create_on_push.unwrap_or(before.create_on_push),
        visibility(change.default_public.unwrap_or(before.default_public)),
        change.default_immutable.unwrap_or(before.default_immutable),
        tx.now()
    ];
    tx.execute(&sql::CHANGE_NAMESPACE, values).await?;
    let says = order.manager.says(format!("namespace:{}", before.id), name);
    metadata.journal.record(tx, "namespace.updated", order.instance, says).await?;
    locked_namespace(tx, &instance, name).await
}

async fn delete_namespace(
    tx: &mut Transaction,
    metadata: &Metadata,
    order: &Order<()>,
    (task, name): (&str, &str),
) -> Result<proto::DeleteNamespaceResponse> {
    if let Some(removed) = order.replay(tx).await? {
        return Ok(removed);
    }
    let instance = order.instance.to_string();
    // Whoever makes something in it holds the limits.
    limits::lock(tx, &instance).await?;
    let before = locked_namespace(tx, &instance, name).await?;
    order.check_version(before.version)?;
    let running = Kind::DeleteNamespace.of(&before.id).running(tx).await?;
    let removed =
        proto::DeleteNamespaceResponse { task_id: running.clone().unwrap_or_else(|| task.to_owned()) };
    if running.is_none() {
        // It may be on its way already with its instance, unasked.
        let new = order.manager.task(task, &instance, name);
        Kind::DeleteNamespace.of(&before.id).begin(tx, new).await?;
    }
    if !before.removing {
        let now = tx.now();
        tx.execute(&sql::REMOVE_NAMESPACE, args![&before.id, now]).await?;
        tx.execute(&sql::ADD_REMOVAL, args!["namespace", &before.id, now]).await?;
        let says = order.manager.says(format!("namespace:{}", before.id), name);
        metadata.journal.record(tx, "namespace.deleted", order.instance, says).await?;
    }
    order.record(tx, &removed).await?;
    Ok(removed)
}

impl Metadata {
    /// Makes a namespace, within the limits.
    pub(crate) async fn create_namespace(
        &self,
        order: Order<NamespaceChange>,
        name: &str,
    ) -> Result<proto::NamespaceEntry> {
        check_namespace_name(name)?;
        check_text("description", order.change.description.as_ref(), DESCRIPTION)?;
        let id = self.ids.ulid().to_string();
        let input = Arc::new((self.clone(), order, id, name.to_owned()));
        self.database
            .write("create_namespace", move |tx| {
                let input = Arc::clone(&input);
                Box::pin(async move { create_namespace(tx, &input.0, &input.1, (&input.2, &input.3)).await })
            })
            .await
    }

    /// A namespace by its id.
    pub(crate) async fn namespace_by_id(&self, instance: InstanceId, id: NamespaceId) -> Result<Namespace> {
        let values = args![instance.to_string(), id.to_string()];
        let row = self.database.read_optional(&sql::NAMESPACE_BY_ID, values).await?;
        read(&row.ok_or_else(|| no_namespace(&id.to_string()))?)
    }

    /// A namespace with its settings.
    pub(crate) async fn namespace(&self, instance: InstanceId, name: &str) -> Result<Namespace> {
        let row = self.database.read_optional(&sql::NAMESPACE, args![instance.to_string(), name]).await?;
        read(&row.ok_or_else(|| no_namespace(name))?)
    }

    /// Changes the settings of a namespace.
    pub(crate) async fn update_namespace(
        &self,
        order: Order<NamespaceChange>,
        name: &str,
    ) -> Result<Namespace> {
        check_text("description", order.change.description.as_ref(), DESCRIPTION)?;
        let input = Arc::new((self.clone(), order, name.to_owned()));
        self.database
            .write("update_namespace", move |tx| {
                let input = Arc::clone(&input);
                Box::pin(async move { update_namespace(tx, &input.0, &input.1, &input.2).await })
            })
            .await
    }

    /// Removes a namespace: nothing is made in it from now on, and what is in it goes by and by, as its task says.
    pub(crate) async fn delete_namespace(
        &self,
        order: Order<()>,
        name: &str,
    ) -> Result<proto::DeleteNamespaceResponse> {
        let input = Arc::new((self.clone(), order, self.ids.ulid().to_string(), name.to_owned()));
        let removed = self
            .database
            .write("delete_namespace", move |tx| {
                let input = Arc::clone(&input);
                Box::pin(async move { delete_namespace(tx, &input.0, &input.1, (&input.2, &input.3)).await })
            })
            .await?;
        self.wake.notify_one();
        Ok(removed)
    }
}
