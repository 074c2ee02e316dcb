//! Repositories and their settings.

use berth_model::Permission;
use berth_proto::metadata as wire;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::{
    answer::{Accepted, Created, Entity, Page, Versioned},
    call::{At, Call},
    input::{Json, List, Nothing},
    operation::{Operation, Routes, Rule},
    problem::{Result, invalid},
    tasks::BegunTask,
    values::{Moment, given},
};

/// A repository.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Repository {
    id: String,
    /// Its namespace and its name.
    path: String,
    namespace_id: String,
    summary: String,
    /// Markdown, as it was written: whoever shows it as HTML has to clean it. Lists leave it out.
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<String>,
    /// public or private.
    visibility: Visibility,
    /// Tags that are there can't be moved; latest can.
    immutable_tags: bool,
    /// Manifests without a tag are kept.
    keep_untagged: bool,
    created_at: Moment,
    updated_at: Moment,
    version: i64,
}

/// Who may pull without a grant: everybody, or nobody.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum Visibility {
    Public,
    Private,
}

impl Versioned for Repository {
    fn version(&self) -> i64 {
        self.version
    }
}

impl Repository {
    fn new(entry: wire::RepositoryEntry, whole: bool) -> Self {
        Self {
            id: entry.id,
            path: entry.path,
            namespace_id: entry.namespace_id,
            summary: entry.summary,
            description: whole.then_some(entry.description),
            visibility: if entry.public { Visibility::Public } else { Visibility::Private },
            immutable_tags: entry.immutable_tags,
            keep_untagged: entry.keep_untagged,
            created_at: Moment(entry.created_at),
            updated_at: Moment(entry.updated_at),
            version: entry.version,
        }
    }
}

/// A repository to be made.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewRepository {
    /// In a namespace that exists: namespace/name.
    path: String,
    #[serde(default)]
    summary: String,
    /// Markdown.
    #[serde(default)]
    description: String,
    /// Absent: as the namespace says.
    visibility: Option<Visibility>,
    /// Absent: as the namespace says.
    immutable_tags: Option<bool>,
}

/// What is to be changed; what is absent stays.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct RepositoryChange {
    /// null takes it away.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<String>)]
    summary: Option<Option<String>>,
    /// null takes it away.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<String>)]
    description: Option<Option<String>>,
    visibility: Option<Visibility>,
    immutable_tags: Option<bool>,
    keep_untagged: Option<bool>,
}

/// Which repositories, in which order.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
struct Filter {
    /// Of this namespace.
    namespace: Option<String>,
    /// With what the path, or a part of it after / - . or _ begins; such a list is ordered by what was found.
    search: Option<String>,
    #[param(inline)]
    visibility: Option<Visibility>,
    /// path, or -created_at: the newest first.
    #[param(inline)]
    sort: Option<RepositorySort>,
}

#[derive(Clone, Copy, Debug, Deserialize, ToSchema)]
enum RepositorySort {
    #[serde(rename = "path")]
    Path,
    #[serde(rename = "-created_at")]
    Newest,
}

pub(crate) fn add(routes: &mut Routes) {
    use Permission as P;
    let all = "/instances/{instance}/repositories";
    let one = "/instances/{instance}/repositories/{repository}";
    routes.add(
        Operation::get(
            all,
            "repositories.list",
            "List the repositories that the caller may see",
            Rule::Known,
        ),
        list,
    );
    let make = Operation::post(
        all,
        "repositories.create",
        "Make a repository",
        Rule::NeedsWhereBodySays(P::RepositoryCreate),
    );
    routes.add(make.repeatable(), create);
    routes.add(
        Operation::get(one, "repositories.get", "Show a repository", Rule::Needs(P::RepositoryRead)),
        get,
    );
    let change =
        Operation::patch(one, "repositories.update", "Change a repository", Rule::Needs(P::RepositoryUpdate));
    routes.add(change.conditional(), update);
    let end = Operation::delete(
        one,
        "repositories.delete",
        "Delete a repository with all that is in it",
        Rule::Needs(P::RepositoryDelete),
    )
    .describe("It is gone at once; its content goes by and by. One made again at its path is another.");
    routes.add(end.conditional(), delete);
}

async fn list(call: Call, List { paging, filters }: List<Filter>) -> Result<Page<Repository>> {
    if filters.search.is_some() && filters.sort.is_some() {
        return Err(invalid("a search has its own order: leave sort out"));
    }
    let readable = call.readable(Permission::RepositoryRead).await?;
    let request = wire::ListRepositoryEntriesRequest {
        instance_id: call.instance_id().to_owned(),
        readable: Some(wire::ReadableSet {
            everything: readable.everything,
            namespace_ids: readable.namespace_ids,
            repository_ids: readable.repository_ids,
        }),
        namespace: filters.namespace.unwrap_or_default(),
        search: filters.search.unwrap_or_default(),
        visibility: match filters.visibility {
            Some(Visibility::Public) => "public".to_owned(),
            Some(Visibility::Private) => "private".to_owned(),
            None => String::new(),
        },
        order: match filters.sort {
            Some(RepositorySort::Newest) => "-created_at".to_owned(),
            Some(RepositorySort::Path) | None => String::new(),
        },
        limit: paging.size,
        after: paging.after.clone(),
    };
    let found = call.parts.repositories.clone().list_repository_entries(request).await?.into_inner();
    let next = (!found.next.is_empty()).then(|| paging.token(&found.next));
    let items = found.repositories.into_iter().map(|entry| Repository::new(entry, false)).collect();
    Ok(Page { items, next })
}

async fn create(call: Call, Json(new): Json<NewRepository>) -> Result<Created<Repository>> {
    let (namespace, _) =
        new.path.split_once('/').ok_or_else(|| invalid("a path is a namespace, a slash and a name"))?;
    call.allow(Permission::RepositoryCreate, At::Namespace(namespace)).await?;
    let request = wire::CreateRepositoryRequest {
        manager: call.on_behalf(),
        instance_id: call.instance_id().to_owned(),
        path: new.path,
        summary: new.summary,
        description: new.description,
        public: new.visibility.map(|visibility| visibility == Visibility::Public),
        immutable_tags: new.immutable_tags,
    };
    let made = call.parts.repositories.clone().create_repository(request).await?.into_inner();
    Ok(Created {
        location: call.below(&format!("repositories/{}", made.id)),
        made: Repository::new(made, true),
    })
}

async fn get(call: Call, _: Nothing) -> Result<Entity<Repository>> {
    Ok(Entity(Repository::new(call.repository()?.clone(), true)))
}

async fn update(call: Call, Json(change): Json<RepositoryChange>) -> Result<Entity<Repository>> {
    let request = wire::UpdateRepositoryRequest {
        manager: call.on_behalf(),
        instance_id: call.instance_id().to_owned(),
        path: call.repository()?.path.clone(),
        version: call.version()?,
        summary: change.summary.map(Option::unwrap_or_default),
        description: change.description.map(Option::unwrap_or_default),
        public: change.visibility.map(|visibility| visibility == Visibility::Public),
        immutable_tags: change.immutable_tags,
        keep_untagged: change.keep_untagged,
    };
    let changed = call.checked(call.parts.repositories.clone().update_repository(request).await)?;
    Ok(Entity(Repository::new(changed, true)))
}

async fn delete(call: Call, _: Nothing) -> Result<Accepted<BegunTask>> {
    let request = wire::DeleteRepositoryRequest {
        manager: call.on_behalf(),
        instance_id: call.instance_id().to_owned(),
        path: call.repository()?.path.clone(),
        version: call.version()?,
    };
    let begun = call.checked(call.parts.repositories.clone().delete_repository(request).await)?;
    Ok(Accepted(BegunTask::here(&call, begun.task_id)))
}
