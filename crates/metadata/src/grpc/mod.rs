//! The tonic server: reads the request into types, calls the domain, maps the error. Nothing else.

mod contents;
mod limits;
mod managed;
mod tasks;
mod values;

use std::{collections::BTreeSet, future::Future, time::Instant};

use berth_blobs::wire;
use berth_oci::{ErrorCode, MediaType, Problem, RepositoryName};
use berth_proto::{
    ReferrersPage, TagsPage, metadata as proto, metadata::metadata_server::Metadata as Server, optional,
    parse, require, to_status,
};
use berth_service::Registry;
use prometheus_client::{encoding::EncodeLabelSet, metrics::family::Family, metrics::histogram::Histogram};
use tonic::{Request, Response, Status};

pub(crate) use self::values::content;
use self::values::{
    change, digest, granted, lease, name, position, readable, some_algorithm, some_digest, tag, upload,
    upload_id,
};
use crate::{
    Metadata,
    access::Access,
    error::Error,
    manager::errand,
    resolve::Wanted,
    scrub::{Counts, FINDINGS_PAGE, Pace},
    upload::{Append, Progress, Target, Whole},
};

/// The most rows of one page; a larger `limit` gets as many.
const MAX_PAGE: u32 = 10_000;

/// The gRPC server of metadata.
#[derive(Clone, Debug)]
pub struct MetadataService {
    metadata: Metadata,
    calls: Family<Call, Histogram, fn() -> Histogram>,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct Call {
    method: &'static str,
    outcome: &'static str,
}

fn histogram() -> Histogram {
    Histogram::new([0.000_1, 0.000_3, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0])
}

type Answer<T> = Result<Response<T>, Status>;

impl MetadataService {
    pub(crate) fn new(metadata: Metadata, registry: &mut Registry) -> Self {
        let calls = Family::new_with_constructor(histogram as fn() -> Histogram);
        registry.register(
            "berth_metadata_call_seconds",
            "Time to answer a metadata call, by method and outcome",
            calls.clone(),
        );
        Self { metadata, calls }
    }

    /// Times a call and turns its error into a status.
    async fn answer<T>(
        &self,
        method: &'static str,
        call: impl Future<Output = Result<T, Error>> + Send,
    ) -> Answer<T> {
        let started = Instant::now();
        let result = call.await.map_err(Problem::from);
        let outcome = match &result {
            Ok(_) => "ok",
            Err(problem) if problem.code.http_status() < 500 => "refused",
            Err(_) => "failed",
        };
        self.calls.get_or_create(&Call { method, outcome }).observe(started.elapsed().as_secs_f64());
        result.map(Response::new).map_err(to_status)
    }
}

#[tonic::async_trait]
impl Server for MetadataService {
    async fn resolve(&self, request: Request<proto::ResolveRequest>) -> Answer<proto::ResolveResponse> {
        use proto::resolve_request::Reference;
        let request = request.into_inner();
        self.answer("resolve", async {
            let wanted = match require("reference", request.reference)? {
                Reference::Tag(text) => Wanted::Tag(tag(&text)?),
                Reference::ManifestDigest(text) => Wanted::Manifest(digest(&text)?),
                Reference::BlobDigest(text) => Wanted::Blob(digest(&text)?),
                Reference::RepositoryOnly(_) => Wanted::Repository,
            };
            let instance = parse("instance_id", &request.instance_id)?;
            let resolved = self.metadata.resolve(instance, name(&request.path)?, wanted).await?;
            Ok(proto::ResolveResponse {
                repository_id: resolved.repository.unwrap_or_default(),
                namespace_id: resolved.namespace.unwrap_or_default(),
                public: resolved.public,
                content: resolved.content.map(content),
            })
        })
        .await
    }

    async fn read_manifest(
        &self,
        request: Request<proto::ReadManifestRequest>,
    ) -> Answer<proto::ReadManifestResponse> {
        let request = request.into_inner();
        self.answer("read_manifest", async {
            let repository = parse("repository_id", &request.repository_id)?;
            let payload = self.metadata.read_manifest(repository, digest(&request.digest)?).await?;
            Ok(proto::ReadManifestResponse { payload })
        })
        .await
    }

    async fn hold_content(
        &self,
        request: Request<proto::HoldContentRequest>,
    ) -> Answer<proto::HoldContentResponse> {
        let request = request.into_inner();
        self.answer("hold_content", async {
            let instance = parse("instance_id", &request.instance_id)?;
            let repository = parse("repository_id", &request.repository_id)?;
            let digest = digest(&request.digest)?;
            self.metadata.hold_content(instance, repository, digest, request.manifest).await?;
            Ok(proto::HoldContentResponse {})
        })
        .await
    }

    async fn lookup_repositories(
        &self,
        request: Request<proto::LookupRepositoriesRequest>,
    ) -> Answer<proto::LookupRepositoriesResponse> {
        let request = request.into_inner();
        self.answer("lookup_repositories", async {
            let instance = parse("instance_id", &request.instance_id)?;
            let paths = request.paths.iter().map(|path| name(path)).collect::<Result<_, _>>()?;
            let identities = self.metadata.lookup_repositories(instance, paths).await?;
            let repositories = identities.into_iter().map(|identity| proto::RepositoryIdentity {
                path: identity.path,
                repository_id: identity.repository.unwrap_or_default(),
                namespace_id: identity.namespace.unwrap_or_default(),
                public: identity.public,
            });
            Ok(proto::LookupRepositoriesResponse { repositories: repositories.collect() })
        })
        .await
    }

    async fn list_repositories(
        &self,
        request: Request<proto::ListRepositoriesRequest>,
    ) -> Answer<proto::ListRepositoriesResponse> {
        let request = request.into_inner();
        self.answer("list_repositories", async {
            let instance = parse("instance_id", &request.instance_id)?;
            let readable = readable(request.readable)?;
            let limit = request.limit.min(MAX_PAGE);
            let (paths, more) =
                self.metadata.list_repositories(instance, readable, position(&request.last), limit).await?;
            Ok(proto::ListRepositoriesResponse { paths, more })
        })
        .await
    }

    async fn start_upload(&self, request: Request<proto::StartUploadRequest>) -> Answer<proto::Upload> {
        let request = request.into_inner();
        self.answer("start_upload", async {
            let access = Access::read(request.access)?;
            let own = Target { store_id: request.store_id, stages: request.store_stages };
            let target = if own.store_id.is_empty() { None } else { Some(own) };
            let started = self.metadata.start_upload(access, some_algorithm(&request.algorithm)?, target);
            Ok(upload(&started.await?))
        })
        .await
    }

    async fn get_upload(&self, request: Request<proto::GetUploadRequest>) -> Answer<proto::Upload> {
        let request = request.into_inner();
        self.answer("get_upload", async {
            let access = Access::read(request.access)?;
            Ok(upload(&self.metadata.get_upload(access, upload_id(&request.upload_id)?).await?))
        })
        .await
    }

    async fn begin_append(&self, request: Request<proto::BeginAppendRequest>) -> Answer<proto::Lease> {
        let request = request.into_inner();
        self.answer("begin_append", async {
            let append = Append {
                access: Access::read(request.access)?,
                upload: upload_id(&request.upload_id)?,
                offset: request.offset,
                digest: some_digest(&request.digest)?,
            };
            Ok(lease(self.metadata.begin_append(append).await?))
        })
        .await
    }

    async fn checkpoint(
        &self,
        request: Request<proto::CheckpointRequest>,
    ) -> Answer<proto::CheckpointResponse> {
        let request = request.into_inner();
        self.answer("checkpoint", async {
            let progress = Progress {
                upload: upload_id(&request.upload_id)?,
                epoch: request.epoch,
                offset: request.offset,
                hash_state: request.hash_state.into(),
                change: change(request.change)?,
            };
            Ok(proto::CheckpointResponse { expires_at: self.metadata.checkpoint(progress).await?.0 })
        })
        .await
    }

    async fn end_append(&self, request: Request<proto::EndAppendRequest>) -> Answer<proto::Upload> {
        let request = request.into_inner();
        self.answer("end_append", async {
            let progress = Progress {
                upload: upload_id(&request.upload_id)?,
                epoch: request.epoch,
                offset: request.offset,
                hash_state: request.hash_state.into(),
                change: change(request.change)?,
            };
            Ok(upload(&self.metadata.end_append(progress).await?))
        })
        .await
    }

    async fn finish_upload(
        &self,
        request: Request<proto::FinishUploadRequest>,
    ) -> Answer<proto::FinishUploadResponse> {
        let request = request.into_inner();
        self.answer("finish_upload", async {
            let progress = Progress {
                upload: upload_id(&request.upload_id)?,
                epoch: request.epoch,
                offset: request.size,
                hash_state: request.hash_state.into(),
                change: change(request.change)?,
            };
            let digest = digest(&request.digest)?;
            let expires_at = self.metadata.finish_upload(progress, digest).await?.0;
            Ok(proto::FinishUploadResponse { expires_at })
        })
        .await
    }

    async fn commit_upload(
        &self,
        request: Request<proto::CommitUploadRequest>,
    ) -> Answer<proto::CommitUploadResponse> {
        let request = request.into_inner();
        self.answer("commit_upload", async {
            let access = Access::read(request.access)?;
            let upload = upload_id(&request.upload_id)?;
            let digest = digest(&request.digest)?;
            let whole = Whole {
                digest,
                size: request.size,
                object_key: request.object_key,
                sealing: request.sealing.map(wire::sealing_from),
            };
            self.metadata.commit_upload(access, upload, request.epoch, whole).await?;
            Ok(proto::CommitUploadResponse {})
        })
        .await
    }

    async fn cancel_upload(
        &self,
        request: Request<proto::CancelUploadRequest>,
    ) -> Answer<proto::CancelUploadResponse> {
        let request = request.into_inner();
        self.answer("cancel_upload", async {
            let access = Access::read(request.access)?;
            self.metadata.cancel_upload(access, upload_id(&request.upload_id)?).await?;
            Ok(proto::CancelUploadResponse {})
        })
        .await
    }

    async fn mount_blob(
        &self,
        request: Request<proto::MountBlobRequest>,
    ) -> Answer<proto::MountBlobResponse> {
        let request = request.into_inner();
        self.answer("mount_blob", async {
            let access = Access::read(request.access)?;
            // Where the client saw the blob adds nothing to what it may read: the search covers that repository.
            optional::<RepositoryName>("from", &request.from)?;
            let readable = readable(request.readable)?;
            let mounted = self.metadata.mount_blob(access, digest(&request.digest)?, readable).await?;
            Ok(proto::MountBlobResponse { mounted })
        })
        .await
    }

    async fn delete_blob(
        &self,
        request: Request<proto::DeleteBlobRequest>,
    ) -> Answer<proto::DeleteBlobResponse> {
        let request = request.into_inner();
        self.answer("delete_blob", async {
            let access = Access::read(request.access)?;
            self.metadata.delete_blob(access, digest(&request.digest)?).await?;
            Ok(proto::DeleteBlobResponse {})
        })
        .await
    }

    async fn quarantine_blob(
        &self,
        request: Request<proto::QuarantineBlobRequest>,
    ) -> Answer<proto::QuarantineBlobResponse> {
        let request = request.into_inner();
        self.answer("quarantine_blob", async {
            let instance = parse("instance_id", &request.instance_id)?;
            let digest = digest(&request.digest)?;
            let proto::QuarantineBlobRequest { object_key, damage, key_id, .. } = request;
            let quarantined = self.metadata.quarantine(instance, digest, object_key, damage, key_id).await?;
            Ok(proto::QuarantineBlobResponse { quarantined })
        })
        .await
    }

    async fn put_manifest(
        &self,
        request: Request<proto::PutManifestRequest>,
    ) -> Answer<proto::PutManifestResponse> {
        let request = request.into_inner();
        self.answer("put_manifest", async {
            let access = Access::read(request.access)?;
            let digest = digest(&request.digest)?;
            let media_type: MediaType =
                request.media_type.parse().map_err(|error: <MediaType as std::str::FromStr>::Err| {
                    Problem::new(ErrorCode::ManifestInvalid, error.to_string())
                })?;
            let tags = request.tags.iter().map(|text| tag(text)).collect::<Result<BTreeSet<_>, _>>()?;
            let pushed =
                self.metadata.put_manifest(access, digest, &media_type, request.payload, tags).await?;
            Ok(proto::PutManifestResponse {
                subject: pushed.subject.map(|subject| subject.to_string()).unwrap_or_default(),
                tags: pushed.tags,
            })
        })
        .await
    }

    async fn delete_manifest(
        &self,
        request: Request<proto::DeleteManifestRequest>,
    ) -> Answer<proto::DeleteManifestResponse> {
        let request = request.into_inner();
        self.answer("delete_manifest", async {
            let access = Access::read(request.access)?;
            self.metadata.delete_manifest(access, digest(&request.digest)?).await?;
            Ok(proto::DeleteManifestResponse {})
        })
        .await
    }

    async fn delete_tag(
        &self,
        request: Request<proto::DeleteTagRequest>,
    ) -> Answer<proto::DeleteTagResponse> {
        let request = request.into_inner();
        self.answer("delete_tag", async {
            let access = Access::read(request.access)?;
            self.metadata.delete_tag(access, tag(&request.tag)?, None).await?;
            Ok(proto::DeleteTagResponse {})
        })
        .await
    }

    async fn list_tags(&self, request: Request<proto::ListTagsRequest>) -> Answer<proto::ListTagsResponse> {
        let request = request.into_inner();
        self.answer("list_tags", async {
            let repository = parse("repository_id", &request.repository_id)?;
            let last = position(&request.last).to_owned();
            let page = TagsPage { last, limit: request.limit.min(MAX_PAGE) };
            self.metadata.list_tags(repository, page).await
        })
        .await
    }

    async fn list_referrers(
        &self,
        request: Request<proto::ListReferrersRequest>,
    ) -> Answer<proto::ListReferrersResponse> {
        let request = request.into_inner();
        self.answer("list_referrers", async {
            let repository = parse("repository_id", &request.repository_id)?;
            let page = ReferrersPage {
                subject: digest(&request.subject)?,
                artifact_type: request.artifact_type.replace('\0', "\u{fffd}"),
                last: some_digest(&request.last_digest)?,
                limit: request.limit.min(MAX_PAGE),
            };
            self.metadata.list_referrers(repository, page).await
        })
        .await
    }

    async fn collection_status(
        &self,
        _request: Request<proto::CollectionStatusRequest>,
    ) -> Answer<proto::CollectionStatusResponse> {
        self.answer("collection_status", async {
            let status = self.metadata.collection_status().await?;
            let queues = status.queues.into_iter().map(|standing| proto::CollectionQueue {
                name: standing.queue.name().to_owned(),
                depth: standing.depth,
                first_due: standing.first_due.map(|at| at.0),
            });
            Ok(proto::CollectionStatusResponse {
                queues: queues.collect(),
                reclaimable_bytes: status.reclaimable_bytes,
                reclaimable_at: status.reclaimable_at.map(|at| at.0),
            })
        })
        .await
    }

    async fn collect_now(
        &self,
        request: Request<proto::CollectNowRequest>,
    ) -> Answer<proto::CollectNowResponse> {
        let request = request.into_inner();
        self.answer("collect_now", async {
            self.metadata.collect_now(errand(request.manager, &request.instance_id, ())?).await
        })
        .await
    }

    async fn scrub_status(
        &self,
        request: Request<proto::ScrubStatusRequest>,
    ) -> Answer<proto::ScrubStatusResponse> {
        let after = request.into_inner().findings_after;
        self.answer("scrub_status", async {
            let newest = self.metadata.newest_pass().await?.filter(|pass| pass.number > 0);
            let Some(pass) = newest else { return Ok(proto::ScrubStatusResponse::default()) };
            let findings = self.metadata.findings(pass.number, after).await?;
            let more = findings.len() == FINDINGS_PAGE;
            let findings = findings.into_iter().map(|(number, finding)| proto::ScrubFinding {
                number,
                kind: finding.kind.name().to_owned(),
                object_key: finding.object.unwrap_or_default(),
                digest: finding.digest.map(|digest| digest.to_string()).unwrap_or_default(),
            });
            let Counts { blobs, manifests, objects, bytes, damaged, orphans } = pass.counts;
            let pass = proto::ScrubPass {
                number: pass.number.unsigned_abs(),
                paced: pass.paced,
                started_at: pass.started_at.0,
                ended_at: pass.ended_at.map(|at| at.0),
                phase: pass.position.phase.name().to_owned(),
                blobs,
                manifests,
                objects,
                bytes,
                damaged,
                orphans,
                waits_for: pass.waits_for,
            };
            Ok(proto::ScrubStatusResponse { pass: Some(pass), findings: findings.collect(), more })
        })
        .await
    }

    async fn scrub_now(&self, request: Request<proto::ScrubNowRequest>) -> Answer<proto::ScrubNowResponse> {
        let request = request.into_inner();
        self.answer("scrub_now", async {
            let pace = if request.unpaced { Pace::Unpaced } else { Pace::Usual };
            self.metadata.scrub_now(errand(request.manager, &request.instance_id, pace)?).await
        })
        .await
    }
}
