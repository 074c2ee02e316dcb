//! Resolve: everything a read needs, in one indexed read, without a lock. Absence is an answer.

use berth_blobs::Sealing;
use berth_database::{Row, args};
use berth_model::{InstanceId, RepositoryId};
use berth_oci::{Digest, Problem, RepositoryName, Tag};
use bytes::Bytes;
use prometheus_client::metrics::counter::Counter;

use crate::{
    Metadata,
    error::Result,
    flight::Flights,
    repository::PUBLIC,
    staging,
    store::{self, statements as sql},
};

/// What is asked for at a path.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Wanted {
    /// Only the repository.
    Repository,
    /// The manifest that a tag points to.
    Tag(Tag),
    /// A manifest by digest.
    Manifest(Digest),
    /// A blob by digest.
    Blob(Digest),
}

/// What is at the path.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub(crate) struct Resolved {
    pub(crate) repository: Option<String>,
    pub(crate) namespace: Option<String>,
    pub(crate) public: bool,
    pub(crate) content: Option<Content>,
}

/// The content asked for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Content {
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    /// Manifests only.
    pub(crate) media_type: String,
    /// Blobs only.
    pub(crate) object: Option<Object>,
    /// Its stored bytes are damaged.
    pub(crate) quarantined: bool,
}

/// Where a blob's bytes are.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Object {
    pub(crate) store_id: String,
    pub(crate) key: String,
    pub(crate) format: i64,
    pub(crate) sealing: Option<Sealing>,
}

type Shared<T> = std::result::Result<T, Problem>;

/// The reads under way: each question is put to the database once at a time, however many ask it.
#[derive(Clone, Debug)]
pub(crate) struct Reads {
    paths: Flights<(InstanceId, RepositoryName, Wanted), Shared<Resolved>>,
    payloads: Flights<(RepositoryId, Digest), Shared<Option<Bytes>>>,
}

impl Reads {
    /// `joined` counts the answers that came from the query of another who asked the same.
    pub(crate) fn new(joined: &Counter) -> Self {
        Self { paths: Flights::new(joined.clone()), payloads: Flights::new(joined.clone()) }
    }
}

impl Metadata {
    /// What is at a path now.
    pub(crate) async fn resolve(
        &self,
        instance: InstanceId,
        path: RepositoryName,
        wanted: Wanted,
    ) -> Result<Resolved> {
        let key = (instance, path.clone(), wanted.clone());
        let query = || async {
            let since = self.warm.as_ref().map(|warm| warm.since());
            let resolved = self.query_path(instance, &path, &wanted).await?;
            if let (Some(warm), Some(since)) = (&self.warm, since) {
                warm.keep(since, (instance, &path, &wanted), &resolved);
            }
            Ok(resolved)
        };
        Ok(self.reads.paths.ask(key, query).await?)
    }

    /// The bytes of a manifest, exactly as pushed.
    pub(crate) async fn read_manifest(
        &self,
        repository: RepositoryId,
        digest: Digest,
    ) -> Result<Option<Bytes>> {
        let query = || async { Ok(self.query_payload(repository, &digest).await?) };
        Ok(self.reads.payloads.ask((repository, digest), query).await?)
    }

    async fn query_path(
        &self,
        instance: InstanceId,
        path: &RepositoryName,
        wanted: &Wanted,
    ) -> Result<Resolved> {
        let mut args = args![instance.to_string(), path.namespace(), path.as_str()];
        let statement = match wanted {
            Wanted::Repository => &sql::RESOLVE_REPOSITORY,
            Wanted::Tag(tag) => {
                args.push(tag.as_str().into());
                &sql::RESOLVE_TAG
            }
            Wanted::Manifest(digest) => {
                args.push(digest.to_bytes().into());
                &sql::RESOLVE_MANIFEST
            }
            Wanted::Blob(digest) => {
                args.push(digest.to_bytes().into());
                &sql::RESOLVE_BLOB
            }
        };
        let Some(row) = self.database.read_optional(statement, args).await? else {
            return Ok(Resolved::default());
        };
        Ok(Resolved {
            repository: row.get(0)?,
            namespace: row.get(1)?,
            public: row.get::<Option<String>>(2)?.as_deref() == Some(PUBLIC),
            content: content(&row, wanted)?,
        })
    }

    async fn query_payload(&self, repository: RepositoryId, digest: &Digest) -> Result<Option<Bytes>> {
        let args = args![repository.to_string(), digest.to_bytes()];
        let row = self.database.read_optional(&sql::READ_MANIFEST, args).await?;
        Ok(row.map(|row| row.get::<Vec<u8>>(0)).transpose()?.map(Bytes::from))
    }
}

fn content(row: &Row, wanted: &Wanted) -> Result<Option<Content>> {
    if *wanted == Wanted::Repository {
        return Ok(None);
    }
    let Some(digest) = store::optional_digest(row, 3)? else { return Ok(None) };
    let size = store::size(row, 4)?;
    if !matches!(wanted, Wanted::Blob(_)) {
        return Ok(Some(Content { digest, size, media_type: row.get(5)?, object: None, quarantined: false }));
    }
    let object = Object {
        store_id: row.get(5)?,
        key: row.get(6)?,
        format: row.get(7)?,
        sealing: staging::stored_sealing(row, 9)?,
    };
    let quarantined = row.get(8)?;
    Ok(Some(Content { digest, size, media_type: String::new(), object: Some(object), quarantined }))
}
