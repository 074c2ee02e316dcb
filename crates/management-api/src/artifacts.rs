//! Artifacts: what a repository holds, and what is in it.

use berth_blobs::{ObjectRef, wire as sealing};
use berth_model::{AuditKind, Permission};
use berth_oci::{Digest, ErrorCode};
use berth_proto::metadata::{self as wire, resolve_request::Reference};
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};

use crate::{
    answer::{Done, JsonBytes, Page, Plain, Raw},
    call::Call,
    input::{List, Nothing},
    operation::{Operation, Routes, Rule},
    problem::{Refusal, Result, absent, invalid},
    values::Moment,
};

/// The largest configuration that is shown, in bytes.
const CONFIG_BYTES: u64 = 4 << 20;

/// The most platforms, layers or steps of a history that are shown.
const MOST: usize = 1_000;

/// What an image runs on.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, ToSchema)]
pub(crate) struct Platform {
    os: String,
    architecture: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    variant: Option<String>,
    /// The manifest in an index.
    #[serde(skip_serializing_if = "Option::is_none")]
    digest: Option<String>,
}

/// An artifact: a manifest and what it holds.
#[derive(Debug, Serialize, ToSchema)]
struct Artifact {
    digest: String,
    media_type: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    artifact_type: Option<String>,
    /// Of the manifest, in bytes.
    size: u64,
    /// Of the blobs that it holds, or that the manifests in it hold, in bytes.
    content_size: u64,
    /// What it refers to.
    #[serde(skip_serializing_if = "Option::is_none")]
    subject: Option<String>,
    pushed_at: Moment,
    /// user:<id>, robot:<id>; absent: not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pushed_by: Option<String>,
    /// Tags that point to it, at most 20.
    tags: Vec<String>,
    /// There are more tags.
    more_tags: bool,
}

/// An artifact with what its manifest says.
#[derive(Debug, Serialize, ToSchema)]
struct WholeArtifact {
    #[serde(flatten)]
    artifact: Artifact,
    /// Indexes that hold it, at most 100.
    holders: Vec<String>,
    platforms: Vec<Platform>,
    #[serde(skip_serializing_if = "Option::is_none")]
    config: Option<ArtifactContent>,
    /// Of an image, the base first; at most 1000.
    layers: Vec<ArtifactContent>,
    /// Of an index; at most 1000.
    manifests: Vec<ArtifactContent>,
    annotations: std::collections::BTreeMap<String, String>,
}

/// Something that a manifest names.
#[derive(Debug, Serialize, ToSchema)]
struct ArtifactContent {
    digest: String,
    media_type: String,
    size: u64,
}

/// A step by which an image was made.
#[derive(Debug, Serialize, ToSchema)]
struct HistoryStep {
    #[serde(skip_serializing_if = "Option::is_none")]
    created: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    created_by: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    comment: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    author: Option<String>,
    /// It brought no layer.
    empty_layer: bool,
    /// The layer that it brought.
    #[serde(skip_serializing_if = "Option::is_none")]
    layer: Option<String>,
}

/// An artifact that refers to another.
#[derive(Debug, Serialize, ToSchema)]
struct Referrer {
    digest: String,
    media_type: String,
    artifact_type: String,
    size: u64,
    annotations: std::collections::BTreeMap<String, String>,
}

/// Which artifacts.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
struct Filter {
    /// Of this type.
    artifact_type: Option<String>,
    /// Whose manifest has this media type.
    media_type: Option<String>,
    /// Only those with a tag, or only those without.
    tagged: Option<bool>,
}

/// Which referrers.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
struct ReferrerFilter {
    /// Of this type.
    artifact_type: Option<String>,
}

impl From<wire::ArtifactEntry> for Artifact {
    fn from(entry: wire::ArtifactEntry) -> Self {
        let some = |text: String| Some(text).filter(|text| !text.is_empty());
        Self {
            digest: entry.digest,
            media_type: entry.media_type,
            artifact_type: some(entry.artifact_type),
            size: entry.size,
            content_size: entry.content_size,
            subject: some(entry.subject),
            pushed_at: Moment(entry.pushed_at),
            pushed_by: some(entry.pushed_by),
            tags: entry.tags,
            more_tags: entry.more_tags,
        }
    }
}

pub(crate) fn add(routes: &mut Routes) {
    use Permission as P;
    let all = "/instances/{instance}/repositories/{repository}/artifacts";
    let read = Rule::Needs(P::RepositoryRead);
    let pull = Rule::Needs(P::ArtifactPull);
    routes.add(
        Operation::get(all, "artifacts.list", "List the artifacts of a repository, the newest first", read),
        list,
    );
    let one = "/instances/{instance}/repositories/{repository}/artifacts/{reference}";
    routes.add(Operation::get(one, "artifacts.get", "Show an artifact: platforms, layers, tags", read), get);
    let end = Operation::delete(
        one,
        "artifacts.delete",
        "Delete an artifact and its tags",
        Rule::Needs(P::ArtifactDelete),
    )
    .describe("By its digest; a tag is deleted by tags.delete. Refused while an index holds it.");
    routes.add(end, delete);
    let of = "/instances/{instance}/repositories/{repository}/artifacts/{reference}/manifest";
    routes
        .add(Operation::get(of, "artifacts.get_manifest", "Read a manifest, byte for byte", pull), manifest);
    let of = "/instances/{instance}/repositories/{repository}/artifacts/{reference}/config";
    routes.add(
        Operation::get(of, "artifacts.get_config", "Read the configuration of an image, byte for byte", pull),
        config,
    );
    let of = "/instances/{instance}/repositories/{repository}/artifacts/{reference}/history";
    routes.add(
        Operation::get(of, "artifacts.list_history", "List the steps by which an image was made", pull),
        history,
    );
    let of = "/instances/{instance}/repositories/{repository}/artifacts/{reference}/referrers";
    routes.add(
        Operation::get(
            of,
            "artifacts.list_referrers",
            "List what refers to an artifact: signatures, SBOMs",
            read,
        ),
        referrers,
    );
}

async fn list(call: Call, List { paging, filters }: List<Filter>) -> Result<Page<Artifact>> {
    let request = wire::ListArtifactsRequest {
        instance_id: call.instance_id().to_owned(),
        repository_id: call.repository()?.id.clone(),
        artifact_type: filters.artifact_type.unwrap_or_default(),
        media_type: filters.media_type.unwrap_or_default(),
        tagged: match filters.tagged {
            Some(true) => "yes".to_owned(),
            Some(false) => "no".to_owned(),
            None => String::new(),
        },
        limit: paging.size,
        after: paging.after.clone(),
    };
    let found = call.parts.contents.clone().list_artifacts(request).await?.into_inner();
    let next = (!found.next.is_empty()).then(|| paging.token(&found.next));
    Ok(Page { items: found.artifacts.into_iter().map(Into::into).collect(), next })
}

/// What a reference of the repository in the path means.
async fn resolve(call: &Call, reference: Reference, what: &str) -> Result<wire::Content> {
    let request = wire::ResolveRequest {
        instance_id: call.instance_id().to_owned(),
        path: call.repository()?.path.clone(),
        reference: Some(reference),
    };
    let found = call.parts.metadata.clone().resolve(request).await?.into_inner();
    found.content.ok_or_else(|| absent("artifact", what))
}

/// The digest of what the path names.
async fn digest(call: &Call) -> Result<String> {
    let named = call.param("reference");
    let reference = if named.contains(':') {
        let digest: Digest = named.parse().map_err(|_| invalid("the digest can't be read"))?;
        Reference::ManifestDigest(digest.to_string())
    } else {
        Reference::Tag(named.to_owned())
    };
    Ok(resolve(call, reference, named).await?.digest)
}

async fn payload(call: &Call, digest: &str) -> Result<Bytes> {
    let request =
        wire::ReadManifestRequest { repository_id: call.repository()?.id.clone(), digest: digest.to_owned() };
    let found = call.parts.metadata.clone().read_manifest(request).await?.into_inner();
    found.payload.ok_or_else(|| absent("artifact", digest))
}

fn parsed(bytes: &[u8]) -> Value {
    // Metadata took it in as a manifest, so it is JSON.
    serde_json::from_slice(bytes).unwrap_or_default()
}

fn text(value: &Value, name: &str) -> Option<String> {
    value[name].as_str().filter(|text| !text.is_empty()).map(str::to_owned)
}

fn content(value: &Value) -> Option<ArtifactContent> {
    Some(ArtifactContent {
        digest: text(value, "digest")?,
        media_type: text(value, "mediaType").unwrap_or_default(),
        size: value["size"].as_u64()?,
    })
}

fn contents(value: &Value) -> Vec<ArtifactContent> {
    value.as_array().into_iter().flatten().filter_map(content).take(MOST).collect()
}

fn platform(value: &Value, digest: Option<String>) -> Option<Platform> {
    Some(Platform {
        os: text(value, "os")?,
        architecture: text(value, "architecture")?,
        variant: text(value, "variant"),
        digest,
    })
}

/// What an artifact runs on: as an index says, or as the configuration of an image does.
async fn platforms_of(call: &Call, manifest: &Value) -> Result<Vec<Platform>> {
    if let Some(manifests) = manifest["manifests"].as_array() {
        let each = |entry: &Value| platform(&entry["platform"], text(entry, "digest"));
        return Ok(manifests.iter().filter_map(each).take(MOST).collect());
    }
    let is_image = manifest["config"]["mediaType"].as_str().is_some_and(|media| {
        ["application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json"]
            .contains(&media)
    });
    if !is_image {
        return Ok(Vec::new());
    }
    // One whose configuration can't be had has its other sides still.
    let Ok(bytes) = config_bytes(call, manifest).await else { return Ok(Vec::new()) };
    Ok(platform(&parsed(&bytes), None).into_iter().collect())
}

/// What the artifact with a digest runs on. ArtifactContent does not change, so it is remembered by its digest.
pub(crate) async fn platforms(call: &Call, digest: &str) -> Result<Vec<Platform>> {
    if let Some(known) = call.parts.platforms.get(digest).await {
        return Ok(known.as_ref().clone());
    }
    let manifest = parsed(&payload(call, digest).await?);
    let found = platforms_of(call, &manifest).await?;
    if !found.is_empty() {
        call.parts.platforms.insert(digest.to_owned(), std::sync::Arc::new(found.clone())).await;
    }
    Ok(found)
}

async fn get(call: Call, _: Nothing) -> Result<Plain<WholeArtifact>> {
    let digest = digest(&call).await?;
    let request = wire::GetArtifactRequest {
        instance_id: call.instance_id().to_owned(),
        repository_id: call.repository()?.id.clone(),
        digest: digest.clone(),
    };
    let found = call.parts.contents.clone().get_artifact(request).await?.into_inner();
    let manifest = parsed(&payload(&call, &digest).await?);
    let annotations = manifest["annotations"].as_object().into_iter().flatten();
    let annotations =
        annotations.filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned())));
    Ok(Plain(WholeArtifact {
        artifact: found.artifact.unwrap_or_default().into(),
        holders: found.holders,
        platforms: platforms(&call, &digest).await?,
        config: content(&manifest["config"]),
        layers: contents(&manifest["layers"]),
        manifests: contents(&manifest["manifests"]),
        annotations: annotations.collect(),
    }))
}

async fn delete(call: Call, _: Nothing) -> Result<Done> {
    let named = call.param("reference");
    if !named.contains(':') {
        return Err(invalid("an artifact is deleted by its digest; a tag has a path of its own"));
    }
    let repository = call.repository()?;
    let request = wire::DeleteManifestByManagerRequest {
        manager: call.on_behalf(),
        instance_id: call.instance_id().to_owned(),
        path: repository.path.clone(),
        repository_id: repository.id.clone(),
        digest: named.to_owned(),
    };
    call.parts.contents.clone().delete_manifest_by_manager(request).await?;
    Ok(Done)
}

async fn manifest(call: Call, _: Nothing) -> Result<Raw<JsonBytes>> {
    let digest = digest(&call).await?;
    let bytes = payload(&call, &digest).await?;
    call.pulled(AuditKind::ArtifactPulled, &digest);
    Ok(Raw::new(bytes))
}

/// The bytes of the configuration that a manifest names, whole and with its digest.
async fn config_bytes(call: &Call, manifest: &Value) -> Result<Bytes> {
    let config = content(&manifest["config"]).ok_or_else(|| absent("configuration", "of this artifact"))?;
    let large = || Refusal::new(ErrorCode::TooLarge, "the configuration is too large to be shown; pull it");
    if config.size > CONFIG_BYTES {
        return Err(large());
    }
    let found = resolve(call, Reference::BlobDigest(config.digest.clone()), &config.digest).await?;
    let damaged = || Refusal::new(ErrorCode::Internal, "the configuration can't be read; tell the operator");
    let object = found.object.filter(|_| !found.quarantined).ok_or_else(damaged)?;
    if object.size > CONFIG_BYTES {
        return Err(large());
    }
    let object = ObjectRef {
        store_id: object.store_id,
        key: object.key.parse().map_err(|_| damaged())?,
        size: object.size,
        format: object.format,
        sealing: object.sealing.map(sealing::sealing_from),
    };
    let unread = |error: berth_blobs::BlobsError| {
        tracing::error!(%error, "a configuration can't be read");
        damaged()
    };
    let reader = call.parts.blobs.open(&object, None).await.map_err(unread)?;
    let (mut steps, mut bytes) = (reader.into_stream(), BytesMut::new());
    while let Some(step) = steps.next().await {
        bytes.extend_from_slice(&step.map_err(unread)?);
    }
    let expected: Digest = config.digest.parse().map_err(|_| damaged())?;
    if Digest::of(expected.algorithm(), &bytes) != expected {
        return Err(damaged());
    }
    Ok(bytes.freeze())
}

async fn config(call: Call, _: Nothing) -> Result<Raw<JsonBytes>> {
    let digest = digest(&call).await?;
    let manifest = parsed(&payload(&call, &digest).await?);
    let bytes = config_bytes(&call, &manifest).await?;
    // Others write what they like; only JSON is shown as such.
    if serde_json::from_slice::<serde::de::IgnoredAny>(&bytes).is_err() {
        return Err(absent("configuration in JSON", "of this artifact"));
    }
    call.pulled(AuditKind::BlobPulled, &text(&manifest["config"], "digest").unwrap_or_default());
    Ok(Raw::new(bytes))
}

async fn history(call: Call, _: Nothing) -> Result<Page<HistoryStep>> {
    let digest = digest(&call).await?;
    let manifest = parsed(&payload(&call, &digest).await?);
    let config = parsed(&config_bytes(&call, &manifest).await?);
    let mut layers = contents(&manifest["layers"]).into_iter();
    let steps = config["history"].as_array().into_iter().flatten().take(MOST).map(|step| {
        let empty_layer = step["empty_layer"].as_bool().unwrap_or(false);
        HistoryStep {
            created: text(step, "created"),
            created_by: text(step, "created_by"),
            comment: text(step, "comment"),
            author: text(step, "author"),
            empty_layer,
            layer: if empty_layer { None } else { layers.next().map(|layer| layer.digest) },
        }
    });
    Ok(Page { items: steps.collect(), next: None })
}

async fn referrers(call: Call, List { paging, filters }: List<ReferrerFilter>) -> Result<Page<Referrer>> {
    let request = wire::ListReferrersRequest {
        repository_id: call.repository()?.id.clone(),
        subject: digest(&call).await?,
        artifact_type: filters.artifact_type.unwrap_or_default(),
        limit: paging.size,
        last_digest: paging.after.clone(),
    };
    let found = call.parts.metadata.clone().list_referrers(request).await?.into_inner();
    let next = found.referrers.last().filter(|_| found.more).map(|last| paging.token(&last.digest));
    let referrer = |found: wire::Referrer| Referrer {
        digest: found.digest,
        media_type: found.media_type,
        artifact_type: found.artifact_type,
        size: found.size,
        annotations: found.annotations.into_iter().collect(),
    };
    Ok(Page { items: found.referrers.into_iter().map(referrer).collect(), next })
}
