//! Tags and artifacts as people see them: lists that begin anywhere, and one of each.

use berth_database::{Row, args};
use berth_model::{InstanceId, RepositoryId};
use berth_oci::{Digest, ErrorCode, Tag};
use berth_proto::metadata as proto;

use crate::{
    Metadata,
    error::{Error, Result},
    listing::{self, Order, page_size},
    store::{self, content_statements as sql},
    tag, terms,
};

/// How many rows are looked through for a page that is narrowed to some; then it ends, however few it found.
const LOOKED_THROUGH: i64 = 1000;
/// How many tags of an artifact are shown.
const SHOWN_TAGS: usize = 20;
/// After every name of a tag.
const LAST: &str = "~";

/// A page, and where the next one begins.
pub(crate) type Page<T> = (Vec<T>, Option<String>);

/// Which tags are looked for.
#[derive(Clone, Debug)]
pub(crate) struct SoughtTags {
    /// What their names begin with.
    pub(crate) search: String,
    pub(crate) order: Order,
    pub(crate) limit: u32,
    pub(crate) after: String,
}

/// Which artifacts are looked for; empty: whichever.
#[derive(Clone, Debug)]
pub(crate) struct SoughtArtifacts {
    pub(crate) artifact_type: String,
    pub(crate) media_type: String,
    pub(crate) tagged: Option<bool>,
    pub(crate) limit: u32,
    pub(crate) after: String,
}

impl SoughtArtifacts {
    fn is_narrowed(&self) -> bool {
        !self.artifact_type.is_empty() || !self.media_type.is_empty() || self.tagged.is_some()
    }
}

/// Reads a tag's row, in a repository whose tags stay or don't.
pub(crate) fn tag_entry(row: &Row, immutable_tags: bool) -> Result<proto::TagEntry> {
    let name: String = row.get(0)?;
    Ok(proto::TagEntry {
        immutable: immutable_tags && name != tag::LATEST,
        name,
        digest: store::digest(row, 1)?.to_string(),
        updated_at: row.get(2)?,
        updated_by: row.get::<Option<String>>(3)?.unwrap_or_default(),
        created_at: row.get(4)?,
        version: row.get(5)?,
        media_type: row.get(6)?,
        artifact_type: row.get::<Option<String>>(7)?.unwrap_or_default(),
        size: store::size(row, 8)?,
        content_size: row.get::<Option<i64>>(9)?.unwrap_or_default().unsigned_abs(),
    })
}

fn artifact_entry(row: &Row) -> Result<proto::ArtifactEntry> {
    let mut tags: Vec<String> = serde_json::from_str(&row.get::<String>(8)?)
        .map_err(|_| Error::new(ErrorCode::Internal, "the tags of an artifact can't be read"))?;
    let more_tags = tags.len() > SHOWN_TAGS;
    tags.truncate(SHOWN_TAGS);
    Ok(proto::ArtifactEntry {
        digest: store::digest(row, 0)?.to_string(),
        pushed_at: row.get(1)?,
        media_type: row.get(2)?,
        artifact_type: row.get::<Option<String>>(3)?.unwrap_or_default(),
        size: store::size(row, 4)?,
        subject: store::optional_digest(row, 5)?.map(|subject| subject.to_string()).unwrap_or_default(),
        content_size: row.get::<Option<i64>>(6)?.unwrap_or_default().unsigned_abs(),
        pushed_by: row.get::<Option<String>>(7)?.unwrap_or_default(),
        tags,
        more_tags,
    })
}

/// A place in a list of what is newest: when, and what of then.
fn newest(text: &str, word: &str) -> Result<(i64, String)> {
    if text.is_empty() {
        return Ok((i64::MAX, String::new()));
    }
    let place = text.strip_prefix(word).and_then(|rest| rest.strip_prefix(':')).and_then(|rest| {
        let (at, what) = rest.split_once(':')?;
        Some((at.parse().ok()?, what.to_owned()))
    });
    place.filter(|(_, what)| !what.contains('\0')).ok_or_else(listing::no_position)
}

impl Metadata {
    /// Whether the tags of this repository of this instance stay.
    async fn look_into(&self, instance: InstanceId, repository: RepositoryId) -> Result<bool> {
        let key = args![repository.to_string(), instance.to_string()];
        let row = self.database.read_optional(&sql::REPOSITORY_OF, key).await?;
        let no_repository = || Error::new(ErrorCode::NameUnknown, "there is no such repository");
        Ok(row.ok_or_else(no_repository)?.get(0)?)
    }

    /// A page of tags.
    pub(crate) async fn tag_entries(
        &self,
        instance: InstanceId,
        repository: RepositoryId,
        sought: SoughtTags,
    ) -> Result<Page<proto::TagEntry>> {
        let immutable = self.look_into(instance, repository).await?;
        let limit = page_size(sought.limit);
        let (first, end) = match sought.search.as_str() {
            "" => (String::new(), LAST.to_owned()),
            // What is no beginning of a tag finds nothing.
            search if !search.is_ascii() || search.contains('\0') => return Ok((Vec::new(), None)),
            search => (search.to_owned(), terms::after_all(search).unwrap_or_default()),
        };
        let id = repository.to_string();
        if sought.order != Order::Newest {
            let after = match sought.after.as_str() {
                "" => "",
                text => match text.strip_prefix("name:") {
                    Some(name) if !name.contains('\0') => name,
                    _ => return Err(listing::no_position()),
                },
            };
            let values = args![&id, first.max(after.to_owned()), end, after, i64::from(limit) + 1];
            let rows = self.database.read_all(&sql::TAGS_BY_NAME, values).await?;
            return page(&rows, limit, |row| tag_entry(row, immutable), |tag| format!("name:{}", tag.name));
        }
        let (at, after) = newest(&sought.after, "updated_at")?;
        let end_of_look = if sought.search.is_empty() {
            None
        } else {
            let values = args![&id, at, &after, LOOKED_THROUGH - 1];
            self.database.read_optional(&sql::NEWEST_TAGS_END, values).await?
        };
        let (down_to, last) = match &end_of_look {
            Some(row) => (row.get(0)?, row.get(1)?),
            None => (i64::MIN, String::new()),
        };
        let values = args![&id, at, after, down_to, &last, first, end, i64::from(limit) + 1];
        let rows = self.database.read_all(&sql::NEWEST_TAGS, values).await?;
        let position = |at: i64, name: &str| format!("updated_at:{at}:{name}");
        let (tags, next) =
            page(&rows, limit, |row| tag_entry(row, immutable), |tag| position(tag.updated_at, &tag.name))?;
        Ok((tags, next.or(end_of_look.map(|_| position(down_to, &last)))))
    }

    /// One tag.
    pub(crate) async fn tag_entry(
        &self,
        instance: InstanceId,
        repository: RepositoryId,
        name: Tag,
    ) -> Result<proto::TagEntry> {
        let immutable = self.look_into(instance, repository).await?;
        let key = args![repository.to_string(), name.as_str()];
        let row = self.database.read_optional(&sql::TAG, key).await?;
        tag_entry(&row.ok_or_else(|| tag::no_tag(&name))?, immutable)
    }

    /// A page of artifacts, newest first.
    pub(crate) async fn artifact_entries(
        &self,
        instance: InstanceId,
        repository: RepositoryId,
        sought: SoughtArtifacts,
    ) -> Result<Page<proto::ArtifactEntry>> {
        self.look_into(instance, repository).await?;
        let limit = page_size(sought.limit);
        let id = repository.to_string();
        let (at, after) = newest(&sought.after, "pushed_at")?;
        let after = match after.as_str() {
            "" => Vec::new(),
            text => text.parse::<Digest>().map_err(|_| listing::no_position())?.to_bytes(),
        };
        let end_of_look = if sought.is_narrowed() {
            let values = args![&id, at, &after, LOOKED_THROUGH - 1];
            self.database.read_optional(&sql::NEWEST_ARTIFACTS_END, values).await?
        } else {
            None
        };
        let (down_to, last) = match &end_of_look {
            Some(row) => (row.get(0)?, Some(store::digest(row, 1)?)),
            None => (i64::MIN, None),
        };
        let tagged = match sought.tagged {
            None => "",
            Some(true) => "yes",
            Some(false) => "no",
        };
        let values = args![
            &id,
            at,
            after,
            down_to,
            last.as_ref().map(Digest::to_bytes).unwrap_or_default(),
            sought.artifact_type.replace('\0', "\u{fffd}"),
            sought.media_type.replace('\0', "\u{fffd}"),
            tagged,
            i64::from(limit) + 1
        ];
        let rows = self.database.read_all(&sql::NEWEST_ARTIFACTS, values).await?;
        let position = |at: i64, digest: &str| format!("pushed_at:{at}:{digest}");
        let (artifacts, next) =
            page(&rows, limit, artifact_entry, |entry| position(entry.pushed_at, &entry.digest))?;
        Ok((artifacts, next.or(last.map(|last| position(down_to, &last.to_string())))))
    }

    /// One artifact, and the indexes that hold it.
    pub(crate) async fn artifact(
        &self,
        instance: InstanceId,
        repository: RepositoryId,
        digest: Digest,
    ) -> Result<(proto::ArtifactEntry, Vec<Digest>)> {
        self.look_into(instance, repository).await?;
        let key = || args![repository.to_string(), digest.to_bytes()];
        let row = self.database.read_optional(&sql::ARTIFACT, key()).await?;
        let no_manifest =
            || Error::new(ErrorCode::ManifestUnknown, "there is no such manifest in this repository");
        let entry = artifact_entry(&row.ok_or_else(no_manifest)?)?;
        let holders = self.database.read_all(&sql::HOLDERS, key()).await?;
        Ok((entry, holders.iter().map(|row| store::digest(row, 0)).collect::<Result<_>>()?))
    }

    /// Says of manifests from before it was kept how many bytes they hold; of how many, a bounded number.
    pub(crate) async fn fill_sizes(&self) -> Result<u64> {
        self.database
            .write("fill_sizes", |tx| {
                Box::pin(async move { Ok(tx.execute(&sql::FILL_SIZES, args![]).await?) })
            })
            .await
    }
}

/// The first `limit` of rows that were read with one more than that, and the position of the last if there was one more.
fn page<T>(
    rows: &[Row],
    limit: u32,
    read: impl Fn(&Row) -> Result<T>,
    position: impl Fn(&T) -> String,
) -> Result<Page<T>> {
    let limit = limit as usize;
    let shown = rows.iter().take(limit).map(read).collect::<Result<Vec<T>>>()?;
    let next = shown.last().filter(|_| rows.len() > limit).map(position);
    Ok((shown, next))
}
