//! What of metadata's work has tasks, and how much of it there is.

use berth_database::{
    Transaction, args,
    tasks::{self, NewTask, Work},
};

use crate::{Metadata, error::Result, manager::Manager, store::task_statements as sql};

/// What is done. Its subject is `<noun>:<id>`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// A step is a repository.
    DeleteNamespace,
    /// A step is a manifest.
    DeleteRepository,
    /// A step is a blob, a manifest or an object.
    Scrub,
    /// A step is a row of a queue.
    Collect,
}

impl Kind {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::DeleteNamespace => "namespace.delete",
            Self::DeleteRepository => "repository.delete",
            Self::Scrub => "scrub.run",
            Self::Collect => "garbage_collection.run",
        }
    }

    /// It, done to what has this id.
    pub(crate) fn of(self, id: &str) -> Work {
        let noun = match self {
            Self::DeleteNamespace => "namespace",
            Self::DeleteRepository => "repository",
            Self::Scrub => "scrub",
            Self::Collect => "garbage_collection",
        };
        Work { kind: self.name(), subject: format!("{noun}:{id}") }
    }
}

impl Manager {
    /// A task that this one asks for. An empty instance: it is the deployment's.
    pub(crate) fn task<'a>(&'a self, id: &'a str, instance: &'a str, name: &'a str) -> NewTask<'a> {
        NewTask { id, instance, name, created_by: &self.principal }
    }
}

/// The work that runs on what had this name.
pub(crate) async fn running_on(
    tx: &mut Transaction,
    kind: Kind,
    instance: &str,
    name: &str,
) -> Result<Option<String>> {
    let found = tx.optional(&sql::RUNNING_TASK_NAMED, args![instance, kind.name(), name]).await?;
    Ok(found.map(|row| row.get(0)).transpose()?)
}

/// Says how much there is to be done of a namespace or a repository, unless that is known.
pub(crate) async fn measure(tx: &mut Transaction, kind: Kind, id: &str) -> Result<()> {
    let statement = match kind {
        Kind::DeleteNamespace => &sql::MEASURE_NAMESPACE,
        Kind::DeleteRepository => &sql::MEASURE_REPOSITORY,
        // Counted when they begin.
        Kind::Scrub | Kind::Collect => return Ok(()),
    };
    let Work { kind, subject } = kind.of(id);
    let now = tx.now();
    tx.execute(statement, args![kind, subject, id, now]).await?;
    Ok(())
}

impl Metadata {
    /// Forgets tasks that ended long ago, a bounded number of them; how many.
    pub(crate) async fn forget_tasks(&self) -> Result<u64> {
        Ok(tasks::forget(&self.database).await?)
    }
}
