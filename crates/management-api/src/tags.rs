//! Tags of a repository: looked at, moved, deleted.

use berth_model::Permission;
use berth_proto::metadata as wire;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::{
    answer::{Done, Entity, Page, Versioned},
    artifacts::{Platform, platforms},
    call::{At, Call},
    input::{Json, List, Nothing},
    operation::{Operation, Routes, Rule},
    problem::Result,
    values::Moment,
};

/// A tag.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Tag {
    name: String,
    /// What it points to.
    digest: String,
    media_type: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    artifact_type: Option<String>,
    /// Of the manifest, in bytes.
    size: u64,
    /// Of the blobs that it holds, or that the manifests in it hold, in bytes.
    content_size: u64,
    /// What it runs on; lists leave it out.
    #[serde(skip_serializing_if = "Option::is_none")]
    platforms: Option<Vec<Platform>>,
    /// When it last moved.
    updated_at: Moment,
    /// Who moved it: user:<id>, robot:<id>; absent: not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    updated_by: Option<String>,
    /// When it was made; absent: not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    created_at: Option<Moment>,
    /// It can't be moved.
    immutable: bool,
    version: i64,
}

impl Versioned for Tag {
    fn version(&self) -> i64 {
        self.version
    }
}

impl Tag {
    fn new(entry: wire::TagEntry, platforms: Option<Vec<Platform>>) -> Self {
        let some = |text: String| Some(text).filter(|text| !text.is_empty());
        Self {
            name: entry.name,
            digest: entry.digest,
            media_type: entry.media_type,
            artifact_type: some(entry.artifact_type),
            size: entry.size,
            content_size: entry.content_size,
            platforms,
            updated_at: Moment(entry.updated_at),
            updated_by: some(entry.updated_by),
            created_at: entry.created_at.map(Moment),
            immutable: entry.immutable,
            version: entry.version,
        }
    }
}

/// Which tags, in which order.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
struct Filter {
    /// With what the name begins.
    search: Option<String>,
    /// name, or -updated_at: what moved last first.
    #[param(inline)]
    sort: Option<TagSort>,
}

#[derive(Clone, Copy, Debug, Deserialize, ToSchema)]
enum TagSort {
    #[serde(rename = "name")]
    Name,
    #[serde(rename = "-updated_at")]
    Newest,
}

/// Where a tag is to point.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct TagTarget {
    /// The digest of a manifest of the same repository.
    digest: String,
}

pub(crate) fn add(routes: &mut Routes) {
    use Permission as P;
    let all = "/instances/{instance}/repositories/{repository}/tags";
    let one = "/instances/{instance}/repositories/{repository}/tags/{tag}";
    routes.add(
        Operation::get(all, "tags.list", "List the tags of a repository", Rule::Needs(P::RepositoryRead)),
        list,
    );
    routes.add(Operation::get(one, "tags.get", "Show a tag", Rule::Needs(P::RepositoryRead)), get);
    let put = Operation::put(one, "tags.put", "Make a tag, or move it", Rule::Needs(P::ArtifactPush))
        .describe("To a manifest that is there. Moving one needs the permission artifact:overwrite as well.");
    routes.add(put.conditional(), put_tag);
    let end = Operation::delete(one, "tags.delete", "Delete a tag", Rule::Needs(P::ArtifactDelete))
        .describe("What it pointed to stays, as long as the repository keeps what has no tag.");
    routes.add(end.conditional(), delete);
}

async fn list(call: Call, List { paging, filters }: List<Filter>) -> Result<Page<Tag>> {
    let request = wire::ListTagEntriesRequest {
        instance_id: call.instance_id().to_owned(),
        repository_id: call.repository()?.id.clone(),
        search: filters.search.unwrap_or_default(),
        limit: paging.size,
        after: paging.after.clone(),
        order: match filters.sort {
            Some(TagSort::Newest) => "-updated_at".to_owned(),
            Some(TagSort::Name) | None => String::new(),
        },
    };
    let found = call.parts.contents.clone().list_tag_entries(request).await?.into_inner();
    let next = (!found.next.is_empty()).then(|| paging.token(&found.next));
    Ok(Page { items: found.tags.into_iter().map(|tag| Tag::new(tag, None)).collect(), next })
}

async fn shown(call: &Call, tag: wire::TagEntry) -> Result<Entity<Tag>> {
    let platforms = platforms(call, &tag.digest).await?;
    Ok(Entity(Tag::new(tag, Some(platforms))))
}

async fn get(call: Call, _: Nothing) -> Result<Entity<Tag>> {
    let request = wire::GetTagRequest {
        instance_id: call.instance_id().to_owned(),
        repository_id: call.repository()?.id.clone(),
        tag: call.param("tag").to_owned(),
    };
    let found = call.parts.contents.clone().get_tag(request).await?.into_inner();
    shown(&call, found).await
}

async fn put_tag(call: Call, Json(target): Json<TagTarget>) -> Result<Entity<Tag>> {
    let repository = call.repository()?;
    let keeps_tags = !call.may(Permission::ArtifactOverwrite, At::Repository(&repository.path)).await?;
    let request = wire::PutTagRequest {
        manager: call.on_behalf(),
        instance_id: call.instance_id().to_owned(),
        path: repository.path.clone(),
        repository_id: repository.id.clone(),
        tag: call.param("tag").to_owned(),
        digest: target.digest,
        keeps_tags,
        version: call.version()?,
    };
    let moved = call.checked(call.parts.contents.clone().put_tag(request).await)?;
    shown(&call, moved).await
}

async fn delete(call: Call, _: Nothing) -> Result<Done> {
    let repository = call.repository()?;
    let request = wire::DeleteTagByManagerRequest {
        manager: call.on_behalf(),
        instance_id: call.instance_id().to_owned(),
        path: repository.path.clone(),
        repository_id: repository.id.clone(),
        tag: call.param("tag").to_owned(),
        version: call.version()?,
    };
    call.checked(call.parts.contents.clone().delete_tag_by_manager(request).await)?;
    Ok(Done)
}
