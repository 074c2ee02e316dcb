//! Repositories by hand: made, looked at, changed and removed.

use std::sync::Arc;

use berth_database::{Row, Transaction, args};
use berth_model::{InstanceId, RepositoryId};
use berth_oci::{ErrorCode, RepositoryName};
use berth_proto::metadata as proto;
use berth_service::Timestamp;

use super::{DESCRIPTION, SUMMARY, check_text, namespace::no_namespace};
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

/// What is to be changed of a repository; what is absent stays, or is as its namespace says.
#[derive(Clone, Default, Debug)]
pub(crate) struct RepositoryChange {
    pub(crate) summary: Option<String>,
    pub(crate) description: Option<String>,
    pub(crate) public: Option<bool>,
    pub(crate) immutable_tags: Option<bool>,
    pub(crate) keep_untagged: Option<bool>,
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

pub(crate) fn read(row: &Row) -> Result<ManagedRepository> {
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

fn no_repository(path: &RepositoryName) -> Error {
    Error::new(ErrorCode::NotFound, format!("there is no repository {path}"))
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

async fn locked_repository(
    tx: &mut Transaction,
    instance: &str,
    path: &RepositoryName,
) -> Result<ManagedRepository> {
    let row = tx.optional(&sql::LOCK_REPOSITORY, args![instance, path.as_str()]).await?;
    read(&row.ok_or_else(|| no_repository(path))?)
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
    let removed = match row.as_ref().map(read).transpose()? {
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

    /// A repository with its settings.
    pub(crate) async fn repository(
        &self,
        instance: InstanceId,
        path: &RepositoryName,
    ) -> Result<ManagedRepository> {
        let values = args![instance.to_string(), path.as_str()];
        let row = self.database.read_optional(&sql::REPOSITORY, values).await?;
        read(&row.ok_or_else(|| no_repository(path))?)
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
        read(&row.ok_or_else(absent)?)
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
