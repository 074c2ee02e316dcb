//! Namespaces and repositories: finding them, making them in the transaction that needs them, listing them.

use std::collections::HashMap;

use berth_database::{Row, TextList, Transaction, args};
use berth_model::{AuditKind, InstanceId};
use berth_oci::{ErrorCode, RepositoryName};
use berth_proto::{WarmReads as _, WarmRepository};

use crate::{
    Metadata,
    access::Access,
    error::{Error, Result},
    event::Journal,
    limits,
    store::statements as sql,
};

/// A repository as a unit of work sees it. Its row is locked against deletion until the transaction ends.
#[derive(Clone, Debug)]
pub(crate) struct Repository {
    pub(crate) id: String,
    pub(crate) provisional: bool,
    /// Tags that are there can't be moved.
    pub(crate) immutable_tags: bool,
}

/// A path and what is there; for tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) path: String,
    pub(crate) repository: Option<String>,
    pub(crate) namespace: Option<String>,
    pub(crate) public: bool,
}

/// Which repositories a principal may read, public ones apart.
#[derive(Clone, Default, Debug)]
pub(crate) struct Readable {
    pub(crate) everything: bool,
    pub(crate) namespaces: TextList,
    pub(crate) repositories: TextList,
}

/// The visibility of public repositories, as it is stored.
pub(crate) const PUBLIC: &str = "public";

/// The repository at the access's path, if there is one that the access covers.
pub(crate) async fn find(tx: &mut Transaction, access: &Access) -> Result<Option<Repository>> {
    let row =
        tx.optional(&sql::REPOSITORY_AT, args![access.instance.to_string(), access.path.as_str()]).await?;
    let Some(row) = row else { return Ok(None) };
    let id: String = row.get(0)?;
    access.check_repository(&id, &row.get::<String>(1)?)?;
    Ok(Some(Repository { id, provisional: row.get(2)?, immutable_tags: row.get(3)? }))
}

/// The repository at the access's path, or NAME_UNKNOWN.
pub(crate) async fn existing(tx: &mut Transaction, access: &Access) -> Result<Repository> {
    if let Some(repository) = find(tx, access).await? {
        return Ok(repository);
    }
    access.check_absent()?;
    Err(Error::new(ErrorCode::NameUnknown, format!("there is no repository {}", access.path)))
}

/// What the transaction needs to make a repository.
#[derive(Clone, Debug)]
pub(crate) struct Maker {
    pub(crate) repository_id: String,
    pub(crate) namespace_id: String,
    pub(crate) review_after: std::time::Duration,
    pub(crate) journal: Journal,
}

/// The repository at the access's path; it, and its namespace, are made if they are absent and the limits allow it.
pub(crate) async fn find_or_make(tx: &mut Transaction, access: &Access, maker: &Maker) -> Result<Repository> {
    if let Some(repository) = find(tx, access).await? {
        return Ok(repository);
    }
    access.check_absent()?;
    if access.path.depth() < 2 {
        return Err(Error::new(
            ErrorCode::NameInvalid,
            format!("a repository lives in a namespace: push to <namespace>/{} instead", access.path),
        ));
    }
    let instance = access.instance.to_string();
    let limits = limits::lock(tx, &instance).await?;
    // Another may have made it while this one waited for the limits.
    if let Some(repository) = find(tx, access).await? {
        return Ok(repository);
    }
    let name = access.path.namespace();
    let found = tx.optional(&sql::NAMESPACE_AT, args![instance.clone(), name]).await?;
    let found = found.as_ref().map(Defaults::read).transpose()?;
    access.check_making(found.as_ref().map(|found| found.namespace.as_str()))?;
    limits.admit_depth(&access.path)?;
    limits.admit(i64::from(found.is_none()), 1)?;
    let now = tx.now();
    tx.execute(&sql::COUNT_MADE, args![instance.clone(), i64::from(found.is_none()), 1]).await?;
    let defaults = match found {
        Some(found) => found.admit_push(name)?,
        None => {
            let id = maker.namespace_id.clone();
            tx.execute(&sql::ADD_NAMESPACE, args![id.clone(), instance.clone(), name, now]).await?;
            let subject = format!("namespace:{id}");
            maker.journal.made(tx, AuditKind::NamespaceCreated, access, subject, name).await?;
            Defaults { namespace: id, ..Defaults::default() }
        }
    };
    let Defaults { namespace, public, immutable, .. } = defaults;
    let id = maker.repository_id.clone();
    let visibility = visibility(public);
    let values = args![id.clone(), instance, namespace, access.path.as_str(), now, visibility, immutable];
    tx.execute(&sql::ADD_REPOSITORY, values).await?;
    tx.execute(&sql::ADD_REPOSITORY_REVIEW, args![id.clone(), now.plus(maker.review_after)]).await?;
    let subject = format!("repository:{id}");
    maker.journal.made(tx, AuditKind::RepositoryCreated, access, subject, access.path.as_str()).await?;
    Ok(Repository { id, provisional: true, immutable_tags: immutable })
}

/// What a namespace says of the repositories that are made in it.
#[derive(Clone, Default, Debug)]
pub(crate) struct Defaults {
    pub(crate) namespace: String,
    create_on_push: bool,
    removing: bool,
    pub(crate) public: bool,
    pub(crate) immutable: bool,
}

impl Defaults {
    pub(crate) fn read(row: &Row) -> Result<Self> {
        Ok(Self {
            namespace: row.get(0)?,
            create_on_push: row.get(1)?,
            removing: row.get(2)?,
            public: row.get::<String>(3)? == PUBLIC,
            immutable: row.get(4)?,
        })
    }

    /// Whether anything may be made here.
    pub(crate) fn admit(self, name: &str) -> Result<Self> {
        if self.removing {
            let message = format!("the namespace {name} is being removed; try again when it is gone");
            return Err(Error::new(ErrorCode::Denied, message));
        }
        Ok(self)
    }

    fn admit_push(self, name: &str) -> Result<Self> {
        let admitted = self.admit(name)?;
        if !admitted.create_on_push {
            let message =
                format!("pushes make no repositories in the namespace {name}; make the repository first");
            return Err(Error::new(ErrorCode::Denied, message));
        }
        Ok(admitted)
    }
}

/// As it is stored.
pub(crate) fn visibility(public: bool) -> &'static str {
    if public { PUBLIC } else { "private" }
}

impl Metadata {
    pub(crate) fn maker(&self) -> Maker {
        Maker {
            repository_id: self.ids.ulid().to_string(),
            namespace_id: self.ids.ulid().to_string(),
            review_after: self.config.review_after(),
            journal: self.journal.clone(),
        }
    }

    /// What is at each path, in the order asked.
    pub(crate) async fn lookup_repositories(
        &self,
        instance: InstanceId,
        paths: Vec<RepositoryName>,
    ) -> Result<Vec<Identity>> {
        let Some(warm) = &self.warm else { return self.query_repositories(instance, &paths).await };
        let known = paths.iter().map(|path| {
            let found = warm.repository(instance, path)?;
            Some(Identity {
                path: path.as_str().to_owned(),
                repository: Some(found.id.to_string()),
                namespace: Some(found.namespace.to_string()),
                public: found.public,
            })
        });
        if let Some(known) = known.collect() {
            return Ok(known);
        }
        let since = warm.since();
        let identities = self.query_repositories(instance, &paths).await?;
        let found = paths.into_iter().zip(&identities).filter_map(|(path, identity)| {
            let (id, namespace) = (identity.repository.as_ref()?, identity.namespace.as_ref()?);
            let (id, namespace) = (id.parse().ok()?, namespace.parse().ok()?);
            Some((path, WarmRepository { id, namespace, public: identity.public }))
        });
        warm.keep_repositories(since, instance, found.collect());
        Ok(identities)
    }

    async fn query_repositories(
        &self,
        instance: InstanceId,
        paths: &[RepositoryName],
    ) -> Result<Vec<Identity>> {
        let instance = instance.to_string();
        let names = TextList(paths.iter().map(|path| path.namespace().to_owned()).collect());
        let listed = TextList(paths.iter().map(|path| path.as_str().to_owned()).collect());
        let mut namespaces = HashMap::new();
        for row in self.database.read_all(&sql::NAMESPACES_AT, args![instance.clone(), names]).await? {
            namespaces.insert(row.get::<String>(0)?, row.get::<String>(1)?);
        }
        let mut repositories = HashMap::new();
        for row in self.database.read_all(&sql::REPOSITORIES_AT, args![instance, listed]).await? {
            let public = row.get::<String>(2)? == PUBLIC;
            repositories.insert(row.get::<String>(0)?, (row.get::<String>(1)?, public));
        }
        let identities = paths.iter().map(|path| {
            let found = repositories.get(path.as_str());
            Identity {
                path: path.as_str().to_owned(),
                repository: found.map(|(id, _)| id.clone()),
                namespace: namespaces.get(path.namespace()).cloned(),
                public: found.is_some_and(|(_, public)| *public),
            }
        });
        Ok(identities.collect())
    }

    /// A page of the repositories that may be read, by path. Provisional ones are not listed.
    pub(crate) async fn list_repositories(
        &self,
        instance: InstanceId,
        readable: Readable,
        last: &str,
        limit: u32,
    ) -> Result<(Vec<String>, bool)> {
        let args = args![
            instance.to_string(),
            last,
            readable.everything,
            readable.repositories,
            readable.namespaces,
            i64::from(limit) + 1
        ];
        let rows = self.database.read_all(&sql::LIST_REPOSITORIES, args).await?;
        page(&rows, limit)
    }
}

/// The first `limit` texts of rows that were read with one more than that, and whether there was one more.
pub(crate) fn page(rows: &[Row], limit: u32) -> Result<(Vec<String>, bool)> {
    let limit = limit as usize;
    let texts =
        rows.iter().take(limit).map(|row| row.get::<String>(0)).collect::<std::result::Result<_, _>>()?;
    Ok((texts, rows.len() > limit))
}
