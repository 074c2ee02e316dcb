//! Lists: tags, referrers, repositories. Pages by key, capped.

use axum::body::Body;
use berth_model::Action;
use berth_oci::{Digest, ErrorCode, MediaType, RepositoryName, Tag};
use berth_proto::{
    ReferrersPage, TagsPage,
    instance_manager::ListReadableRequest,
    metadata::{
        ListReferrersRequest, ListReferrersResponse, ListRepositoriesRequest, ListTagsRequest,
        ListTagsResponse, ReadableSet,
    },
};
use http::{HeaderName, HeaderValue, Response, StatusCode, header};
use serde::Serialize;
use serde_json::json;

use crate::{
    answer,
    authorise::authorise,
    failure::{Failure, Result},
    names::Name,
    query::Query,
    request::Request,
    resolve::{Wanted, resolve},
};

/// The largest page; also the page of a request that names no size.
const MAX_PAGE: u32 = 1000;
/// Referrers carry annotations, so their page is smaller.
const MAX_REFERRERS_PAGE: u32 = 100;
const FILTERS_APPLIED: HeaderName = HeaderName::from_static("oci-filters-applied");

/// `n` of a list, capped. Anything but a whole number is refused.
fn page_size(query: &Query<'_>, cap: u32) -> Result<u32> {
    let Some(text) = query.get("n") else { return Ok(cap) };
    if text.is_empty() || !text.bytes().all(|c| c.is_ascii_digit()) {
        return Err(Failure::new(ErrorCode::PaginationInvalid, "n has to be a whole number from 0 up"));
    }
    Ok(text.parse::<u32>().map_or(cap, |n| n.min(cap)))
}

/// `last` of a list: where it goes on; parsed like the names in it.
fn position<T>(query: &Query<'_>) -> Result<String>
where
    T: std::str::FromStr,
    T::Err: std::fmt::Display,
{
    let Some(text) = query.get("last") else { return Ok(String::new()) };
    match text.parse::<T>() {
        Ok(_) => Ok(text.to_owned()),
        Err(error) => Err(Failure::new(ErrorCode::PaginationInvalid, format!("last can't be used: {error}"))),
    }
}

fn encode(text: &str) -> String {
    form_urlencoded::byte_serialize(text.as_bytes()).collect()
}

fn link(response: &mut Response<Body>, path: &str, parameters: &[(&str, &str)]) {
    let query: Vec<_> = parameters.iter().map(|(key, text)| format!("{key}={}", encode(text))).collect();
    let text = format!("<{path}?{}>; rel=\"next\"", query.join("&"));
    response.headers_mut().insert(header::LINK, answer::value(text));
}

/// The id of the repository, to which the caller has pull.
async fn repository_id(request: &Request, name: &Name) -> Result<String> {
    let grant = authorise(request, name, Action::Pull)?;
    Ok(resolve(request, name, &grant, Wanted::RepositoryOnly(true)).await?.repository_id)
}

/// `GET /v2/<name>/tags/list`
pub(crate) async fn tags(request: &Request, name: &Name) -> Result<Response<Body>> {
    let repository_id = repository_id(request, name).await?;
    let page = tags_page(request)?;
    let listed = if page.limit == 0 {
        ListTagsResponse::default()
    } else {
        let wanted = ListTagsRequest { repository_id, limit: page.limit, last: page.last.clone() };
        request.parts.metadata.clone().list_tags(wanted).await?.into_inner()
    };
    Ok(tags_answer(name, &page, &listed))
}

/// The page of tags that is asked for.
pub(crate) fn tags_page(request: &Request) -> Result<TagsPage> {
    let query = Query::parse(request.head.uri.query());
    Ok(TagsPage { limit: page_size(&query, MAX_PAGE)?, last: position::<Tag>(&query)? })
}

#[derive(Serialize)]
struct Tags<'a> {
    name: &'a str,
    tags: &'a [String],
}

pub(crate) fn tags_answer(name: &Name, page: &TagsPage, listed: &ListTagsResponse) -> Response<Body> {
    let body = Tags { name: name.asked.as_str(), tags: &listed.tags };
    let mut response = answer::json(StatusCode::OK, &body);
    if let (true, Some(last)) = (listed.more, listed.tags.last()) {
        let path = format!("/v2/{}/tags/list", name.asked);
        link(&mut response, &path, &[("n", &page.limit.to_string()), ("last", last)]);
    }
    response
}

/// `GET /v2/<name>/referrers/<digest>`: an absent repository or subject has an empty list.
pub(crate) async fn referrers(request: &Request, name: &Name, subject: Digest) -> Result<Response<Body>> {
    let page = referrers_page(request, subject)?;
    let repository_id = match repository_id(request, name).await {
        Err(failure) if failure.problem.code == ErrorCode::NameUnknown => String::new(),
        outcome => outcome?,
    };
    let listed = if page.limit == 0 || repository_id.is_empty() {
        ListReferrersResponse::default()
    } else {
        let wanted = ListReferrersRequest {
            repository_id,
            subject: subject.to_string(),
            artifact_type: page.artifact_type.clone(),
            limit: page.limit,
            last_digest: page.last.map(|last| last.to_string()).unwrap_or_default(),
        };
        request.parts.metadata.clone().list_referrers(wanted).await?.into_inner()
    };
    Ok(referrers_answer(name, &page, &listed))
}

/// The page of referrers that is asked for.
pub(crate) fn referrers_page(request: &Request, subject: Digest) -> Result<ReferrersPage> {
    let query = Query::parse(request.head.uri.query());
    Ok(ReferrersPage {
        subject,
        artifact_type: query.get("artifactType").unwrap_or_default().to_owned(),
        limit: page_size(&query, MAX_REFERRERS_PAGE)?,
        last: position::<Digest>(&query)?.parse().ok(),
    })
}

pub(crate) fn referrers_answer(
    name: &Name,
    page: &ReferrersPage,
    listed: &ListReferrersResponse,
) -> Response<Body> {
    let manifests: Vec<_> = listed.referrers.iter().map(descriptor).collect();
    let body = json!({ "schemaVersion": 2, "mediaType": MediaType::OCI_INDEX, "manifests": manifests });
    let content_type = HeaderValue::from_static(MediaType::OCI_INDEX);
    let mut response = answer::with_body(StatusCode::OK, content_type, body.to_string());
    let ReferrersPage { subject, artifact_type, limit, .. } = page;
    if !artifact_type.is_empty() {
        response.headers_mut().insert(FILTERS_APPLIED, HeaderValue::from_static("artifactType"));
    }
    if let (true, Some(last)) = (listed.more, listed.referrers.last()) {
        let path = format!("/v2/{}/referrers/{subject}", name.asked);
        let size = limit.to_string();
        let mut parameters = vec![("n", size.as_str()), ("last", last.digest.as_str())];
        if !artifact_type.is_empty() {
            parameters.push(("artifactType", artifact_type));
        }
        link(&mut response, &path, &parameters);
    }
    response
}

fn descriptor(referrer: &berth_proto::metadata::Referrer) -> serde_json::Value {
    let mut descriptor = json!({
        "mediaType": referrer.media_type,
        "digest": referrer.digest,
        "size": referrer.size,
    });
    if !referrer.artifact_type.is_empty() {
        descriptor["artifactType"] = referrer.artifact_type.as_str().into();
    }
    if !referrer.annotations.is_empty() {
        descriptor["annotations"] = json!(referrer.annotations);
    }
    descriptor
}

/// What the caller may read, for lists and mounts.
pub(crate) async fn readable(request: &Request, principal: &str) -> Result<ReadableSet> {
    let wanted = ListReadableRequest {
        instance_id: request.instance.id.to_string(),
        principal: principal.to_owned(),
        ..ListReadableRequest::default()
    };
    let readable = request.parts.instance_manager.clone().list_readable(wanted).await?.into_inner();
    Ok(ReadableSet {
        everything: readable.everything,
        namespace_ids: readable.namespace_ids,
        repository_ids: readable.repository_ids,
    })
}

/// `GET /v2/_catalog`: what the caller may read.
pub(crate) async fn catalog(request: &Request) -> Result<Response<Body>> {
    let token = crate::authorise::catalog(request)?;
    let query = Query::parse(request.head.uri.query());
    let limit = page_size(&query, MAX_PAGE)?;
    let last = position::<RepositoryName>(&query)?;
    let page = if limit == 0 {
        berth_proto::metadata::ListRepositoriesResponse::default()
    } else {
        let wanted = ListRepositoriesRequest {
            instance_id: request.instance.id.to_string(),
            readable: Some(readable(request, &token.principal).await?),
            limit,
            last,
        };
        request.parts.metadata.clone().list_repositories(wanted).await?.into_inner()
    };
    let mut response = answer::json(StatusCode::OK, &json!({ "repositories": page.paths }));
    if let (true, Some(last)) = (page.more, page.paths.last()) {
        link(&mut response, "/v2/_catalog", &[("n", &limit.to_string()), ("last", last)]);
    }
    Ok(response)
}
