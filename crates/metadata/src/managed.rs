//! Namespaces and repositories by hand: made, looked at, changed and removed.

use std::sync::Arc;

use berth_database::{Row, Transaction, args};
use berth_model::{InstanceId, RepositoryId};
use berth_oci::{ErrorCode, RepositoryName};
use berth_proto::metadata as proto;
use berth_service::Timestamp;

use crate::{
    Metadata,
    error::{Error, Result},
    limits,
    manager::Order,
    repository::{Defaults, PUBLIC, visibility},
    store::{collect_statements, statements as sql},
    task::{self, Kind},
    terms,
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

/// A repository with its settings.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct ManagedRepository {
    pub(crate) id: String,
    pub(crate) namespace_id: String,
    pub(crate) path: String,
    pub(crate) summary: String,
    pub(crate) description: String,
    pub(crate) public: bool,
    pub(crate) immutable_tags: bool,
    pub(crate) keep_untagged: bool,
    pub(crate) provisional: bool,
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

/// What is to be changed of a repository; what is absent stays, or is as its namespace says.
#[derive(Clone, Default, Debug)]
pub(crate) struct RepositoryChange {
    pub(crate) summary: Option<String>,
    pub(crate) description: Option<String>,
    pub(crate) public: Option<bool>,
    pub(crate) immutable_tags: Option<bool>,
    pub(crate) keep_untagged: Option<bool>,
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

impl From<ManagedRepository> for proto::RepositoryEntry {
    fn from(repository: ManagedRepository) -> Self {
        Self {
            id: repository.id,
            namespace_id: repository.namespace_id,
            path: repository.path,
            summary: repository.summary,
            description: repository.description,
            public: repository.public,
            immutable_tags: repository.immutable_tags,
            keep_untagged: repository.keep_untagged,
            provisional: repository.provisional,
            created_at: repository.created_at.0,
            updated_at: repository.updated_at.0,
            version: repository.version,
        }
    }
}

pub(crate) fn namespace(row: &Row) -> Result<Namespace> {
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

pub(crate) fn managed(row: &Row) -> Result<ManagedRepository> {
    Ok(ManagedRepository {
        id: row.get(0)?,
        namespace_id: row.get(1)?,
        path: row.get(2)?,
        summary: row.get(3)?,
        description: row.get(4)?,
        public: row.get::<String>(5)? == PUBLIC,
        immutable_tags: row.get(6)?,
        keep_untagged: row.get(7)?,
        provisional: row.get(8)?,
        created_at: Timestamp(row.get(9)?),
        updated_at: Timestamp(row.get(10)?),
        version: row.get(11)?,
    })
}

fn no_namespace(name: &str) -> Error {
    Error::new(ErrorCode::NotFound, format!("there is no namespace {name}"))
}

fn no_repository(path: &RepositoryName) -> Error {
    Error::new(ErrorCode::NotFound, format!("there is no repository {path}"))
}

fn check_text(field: &str, text: Option<&String>, most: usize) -> Result<()> {
    let fits =
        |text: &String| text.len() <= most && !text.chars().any(|c| c.is_control() && !"\n\t\r".contains(c));
    if text.is_none_or(fits) {
        return Ok(());
    }
    let message = format!("the {field} has at most {most} bytes, and no control characters");
    Err(Error::new(ErrorCode::RequestInvalid, message))
}

/// The longest summary, and the longest description, in bytes.
const SUMMARY: usize = 200;
const DESCRIPTION: usize = 64 * 1024;

/// A namespace's name: one part of a repository's name, of 2 to 120 characters.
fn check_namespace_name(name: &str) -> Result<()> {
    let one = name.parse::<RepositoryName>().is_ok_and(|name| name.depth() == 1);
    if one && (2..=120).contains(&name.len()) {
        return Ok(());
    }
    let message = "a namespace has 2 to 120 lower-case letters and digits, with . _ or - between them";
    Err(Error::new(ErrorCode::NameInvalid, message))
}

/// Removes a repository whose row and whose instance's limits are locked: its path is free at once.
pub(crate) async fn remove(tx: &mut Transaction, instance: &str, repository: &str) -> Result<()> {
    let now = tx.now();
    tx.execute(&sql::REMOVE_REPOSITORY, args![repository, now]).await?;
    terms::drop(tx, repository).await?;
    tx.execute(&sql::COUNT_MADE, args![instance, 0, -1]).await?;
    tx.execute(&collect_statements::DROP_REPOSITORY_REVIEW, args![repository]).await?;
    tx.execute(&sql::ADD_REMOVAL, args!["repository", repository, now]).await?;
    Ok(())
}

async fn locked_namespace(tx: &mut Transaction, instance: &str, name: &str) -> Result<Namespace> {
    let row = tx.optional(&sql::LOCK_NAMESPACE, args![instance, name]).await?;
    namespace(&row.ok_or_else(|| no_namespace(name))?)
}

async fn locked_repository(
    tx: &mut Transaction,
    instance: &str,
    path: &RepositoryName,
) -> Result<ManagedRepository> {
    let row = tx.optional(&sql::LOCK_REPOSITORY, args![instance, path.as_str()]).await?;
    managed(&row.ok_or_else(|| no_repository(path))?)
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

async fn create_repository(
    tx: &mut Transaction,
    metadata: &Metadata,
    order: &Order<RepositoryChange>,
    (id, path): (&str, &RepositoryName),
) -> Result<proto::RepositoryEntry> {
    if let Some(made) = order.replay(tx).await? {
        return Ok(made);
    }
    let instance = order.instance.to_string();
    let limits = limits::lock(tx, &instance).await?;
    let name = path.namespace();
    let row = tx.optional(&sql::NAMESPACE_AT, args![&instance, name]).await?;
    let defaults = Defaults::read(&row.ok_or_else(|| no_namespace(name))?)?.admit(name)?;
    if tx.optional(&sql::REPOSITORY_AT, args![&instance, path.as_str()]).await?.is_some() {
        let message = format!("there is a repository {path} already");
        return Err(Error::new(ErrorCode::AlreadyExists, message));
    }
    limits.admit_depth(path)?;
    limits.admit(0, 1)?;
    let change = &order.change;
    let values = args![
        id,
        &instance,
        &defaults.namespace,
        path.as_str(),
        tx.now(),
        visibility(change.public.unwrap_or(defaults.public)),
        change.immutable_tags.unwrap_or(defaults.immutable),
        change.summary.clone().unwrap_or_default(),
        change.description.clone().unwrap_or_default()
    ];
    tx.execute(&sql::ADD_REPOSITORY_BY_HAND, values).await?;
    terms::add(tx, id, path.as_str()).await?;
    tx.execute(&sql::COUNT_MADE, args![&instance, 0, 1]).await?;
    let says = order.manager.says(format!("repository:{id}"), path.as_str());
    metadata.journal.record(tx, "repository.created", order.instance, says).await?;
    let made = locked_repository(tx, &instance, path).await?.into();
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

async fn update_repository(
    tx: &mut Transaction,
    metadata: &Metadata,
    order: &Order<RepositoryChange>,
    path: &RepositoryName,
) -> Result<ManagedRepository> {
    let instance = order.instance.to_string();
    let before = locked_repository(tx, &instance, path).await?;
    order.check_version(before.version)?;
    let change = &order.change;
    let values = args![
        &before.id,
        change.summary.as_ref().unwrap_or(&before.summary),
        change.description.as_ref().unwrap_or(&before.description),
        visibility(change.public.unwrap_or(before.public)),
        change.immutable_tags.unwrap_or(before.immutable_tags),
        change.keep_untagged.unwrap_or(before.keep_untagged),
        tx.now()
    ];
    tx.execute(&sql::CHANGE_REPOSITORY, values).await?;
    let public = change.public.unwrap_or(before.public);
    if public != before.public {
        terms::show(tx, &before.id, public).await?;
    }
    let says = order.manager.says(format!("repository:{}", before.id), path.as_str());
    metadata.journal.record(tx, "repository.updated", order.instance, says).await?;
    locked_repository(tx, &instance, path).await
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

async fn delete_repository(
    tx: &mut Transaction,
    metadata: &Metadata,
    order: &Order<()>,
    (task, path): (&str, &RepositoryName),
) -> Result<proto::DeleteRepositoryResponse> {
    if let Some(removed) = order.replay(tx).await? {
        return Ok(removed);
    }
    let instance = order.instance.to_string();
    limits::lock(tx, &instance).await?;
    let row = tx.optional(&sql::LOCK_REPOSITORY, args![&instance, path.as_str()]).await?;
    let removed = match row.as_ref().map(managed).transpose()? {
        Some(before) => {
            order.check_version(before.version)?;
            remove(tx, &instance, &before.id).await?;
            let new = order.manager.task(task, &instance, path.as_str());
            Kind::DeleteRepository.of(&before.id).begin(tx, new).await?;
            let says = order.manager.says(format!("repository:{}", before.id), path.as_str());
            metadata.journal.record(tx, "repository.deleted", order.instance, says).await?;
            proto::DeleteRepositoryResponse { task_id: task.to_owned() }
        }
        None => {
            let running = task::running_on(tx, Kind::DeleteRepository, &instance, path.as_str()).await?;
            proto::DeleteRepositoryResponse { task_id: running.ok_or_else(|| no_repository(path))? }
        }
    };
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

    /// Makes a repository in a namespace that is there, within the limits.
    pub(crate) async fn create_repository(
        &self,
        order: Order<RepositoryChange>,
        path: RepositoryName,
    ) -> Result<proto::RepositoryEntry> {
        check_text("summary", order.change.summary.as_ref(), SUMMARY)?;
        check_text("description", order.change.description.as_ref(), DESCRIPTION)?;
        if path.depth() < 2 {
            let message = format!("a repository lives in a namespace: name it <namespace>/{path}");
            return Err(Error::new(ErrorCode::NameInvalid, message));
        }
        let id = self.ids.ulid().to_string();
        let input = Arc::new((self.clone(), order, id, path));
        self.database
            .write("create_repository", move |tx| {
                let input = Arc::clone(&input);
                Box::pin(async move { create_repository(tx, &input.0, &input.1, (&input.2, &input.3)).await })
            })
            .await
    }

    /// A namespace with its settings.
    pub(crate) async fn namespace(&self, instance: InstanceId, name: &str) -> Result<Namespace> {
        let row = self.database.read_optional(&sql::NAMESPACE, args![instance.to_string(), name]).await?;
        namespace(&row.ok_or_else(|| no_namespace(name))?)
    }

    /// A repository with its settings.
    pub(crate) async fn repository(
        &self,
        instance: InstanceId,
        path: &RepositoryName,
    ) -> Result<ManagedRepository> {
        let values = args![instance.to_string(), path.as_str()];
        let row = self.database.read_optional(&sql::REPOSITORY, values).await?;
        managed(&row.ok_or_else(|| no_repository(path))?)
    }

    /// A repository by its id.
    pub(crate) async fn repository_by_id(
        &self,
        instance: InstanceId,
        id: RepositoryId,
    ) -> Result<ManagedRepository> {
        let values = args![instance.to_string(), id.to_string()];
        let row = self.database.read_optional(&sql::REPOSITORY_BY_ID, values).await?;
        let absent = || Error::new(ErrorCode::NotFound, format!("there is no repository {id}"));
        managed(&row.ok_or_else(absent)?)
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

    /// Changes the settings of a repository.
    pub(crate) async fn update_repository(
        &self,
        order: Order<RepositoryChange>,
        path: RepositoryName,
    ) -> Result<ManagedRepository> {
        check_text("summary", order.change.summary.as_ref(), SUMMARY)?;
        check_text("description", order.change.description.as_ref(), DESCRIPTION)?;
        let input = Arc::new((self.clone(), order, path));
        self.database
            .write("update_repository", move |tx| {
                let input = Arc::clone(&input);
                Box::pin(async move { update_repository(tx, &input.0, &input.1, &input.2).await })
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

    /// Removes a repository: it is gone at once, and its content goes by and by, as its task says.
    pub(crate) async fn delete_repository(
        &self,
        order: Order<()>,
        path: RepositoryName,
    ) -> Result<proto::DeleteRepositoryResponse> {
        let input = Arc::new((self.clone(), order, self.ids.ulid().to_string(), path));
        let removed = self
            .database
            .write("delete_repository", move |tx| {
                let input = Arc::clone(&input);
                Box::pin(async move { delete_repository(tx, &input.0, &input.1, (&input.2, &input.3)).await })
            })
            .await?;
        self.wake.notify_one();
        Ok(removed)
    }
}
