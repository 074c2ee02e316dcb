//! What metadata promises, checked through its gRPC server on both engines.

mod collection;
mod collectors;
mod contents;
mod crowd;
mod events;
mod limits;
mod listing;
mod managed;
mod manifests;
mod mounts;
mod once;
mod quarantine;
mod reads;
mod retag;
mod scrub;
mod sealing;
mod staging;
mod statements;
mod tasks;
mod uploads;
mod warm;

use std::sync::Arc;

use berth_database::{Arg, Database, DatabaseError, Engine, Statement, args};
use berth_events::Outbox;
use berth_model::InstanceId;
use berth_oci::{Algorithm, Digest, ErrorCode, MediaType, Problem};
use berth_proto::{
    from_status,
    metadata::{
        self as proto, access::BoundTo, metadata_server::Metadata as Server,
        repositories_server::Repositories as _,
    },
};
use berth_service::{Ids, ManualClock, Registry, SharedClock, Timestamp};
use tonic::{Request, Response, Status};

use crate::{Config, MIGRATIONS, Metadata, MetadataService, outbox::MetadataOutbox};

/// A metadata service over a fresh database, with an instance and a token for `team/app` before it exists.
#[derive(Clone)]
pub(super) struct World {
    pub(super) service: MetadataService,
    pub(super) metadata: Metadata,
    pub(super) outbox: Arc<dyn Outbox>,
    pub(super) database: Database,
    pub(super) clock: Arc<ManualClock>,
    pub(super) instance: InstanceId,
}

pub(super) const SUBSCRIBER: &str = "audit";

impl World {
    pub(super) async fn open(engine: Engine) -> Option<Self> {
        let clock = ManualClock::at(Timestamp::from_seconds(1_700_000_000));
        let database = Database::for_tests(engine, MIGRATIONS, clock.clone()).await.unwrap()?;
        Some(Self::over(database, clock))
    }

    /// Over PostgreSQL behind a transaction-mode pooler.
    pub(super) async fn open_pooled() -> Option<Self> {
        let clock = ManualClock::at(Timestamp::from_seconds(1_700_000_000));
        Some(Self::over(Database::for_tests_pooled(MIGRATIONS).await.unwrap()?, clock))
    }

    pub(super) fn over(database: Database, clock: Arc<ManualClock>) -> Self {
        let shared: SharedClock = clock.clone();
        let ids = Ids::random(shared.clone());
        let subscribers = vec![SUBSCRIBER.to_owned()];
        let mut registry = Registry::default();
        let metadata = Metadata::new(
            Config::default(),
            database.clone(),
            ids.clone(),
            shared,
            subscribers,
            &mut registry,
        );
        let service = MetadataService::new(metadata.clone(), &mut registry);
        let outbox = Arc::new(MetadataOutbox(metadata.clone()));
        Self { service, metadata, outbox, database, clock, instance: InstanceId::new(ids.ulid()) }
    }

    /// The right to a path by a token that rests on the instance alone.
    pub(super) fn access(&self, path: &str) -> Option<proto::Access> {
        self.bound(path, BoundTo::BoundInstanceId(self.instance.to_string()))
    }

    pub(super) fn bound(&self, path: &str, bound_to: BoundTo) -> Option<proto::Access> {
        Some(proto::Access {
            instance_id: self.instance.to_string(),
            path: path.to_owned(),
            bound_to: Some(bound_to),
            principal: "user:admin".to_owned(),
            credential: "password".to_owned(),
            address: "192.0.2.1".to_owned(),
            request_id: "R1".to_owned(),
            ..proto::Access::default()
        })
    }

    pub(super) async fn start(&self, path: &str) -> Result<proto::Upload, Problem> {
        self.start_for(path, "").await
    }

    pub(super) async fn start_for(&self, path: &str, algorithm: &str) -> Result<proto::Upload, Problem> {
        let request = proto::StartUploadRequest {
            access: self.access(path),
            algorithm: algorithm.to_owned(),
            ..Default::default()
        };
        answer(self.service.start_upload(Request::new(request)).await)
    }

    pub(super) async fn begin(
        &self,
        path: &str,
        upload: &str,
        offset: Option<u64>,
        digest: &str,
    ) -> Result<proto::Lease, Problem> {
        let request = proto::BeginAppendRequest {
            access: self.access(path),
            upload_id: upload.to_owned(),
            offset,
            digest: digest.to_owned(),
        };
        answer(self.service.begin_append(Request::new(request)).await)
    }

    pub(super) async fn end(&self, lease: &proto::Lease, offset: u64) -> Result<proto::Upload, Problem> {
        let request = proto::EndAppendRequest {
            upload_id: lease.upload_id.clone(),
            epoch: lease.epoch,
            offset,
            hash_state: berth_oci::Hasher::new(lease.algorithm.parse().unwrap()).save().into(),
            change: None,
        };
        answer(self.service.end_append(Request::new(request)).await)
    }

    pub(super) async fn commit(
        &self,
        path: &str,
        lease: &proto::Lease,
        digest: &Digest,
        size: u64,
    ) -> Result<(), Problem> {
        let request = proto::CommitUploadRequest {
            access: self.access(path),
            upload_id: lease.upload_id.clone(),
            epoch: lease.epoch,
            digest: digest.to_string(),
            size,
            object_key: String::new(),
            sealing: None,
        };
        answer(self.service.commit_upload(Request::new(request)).await).map(drop)
    }

    pub(super) async fn get(&self, path: &str, upload: &str) -> Result<proto::Upload, Problem> {
        let request = proto::GetUploadRequest { access: self.access(path), upload_id: upload.to_owned() };
        answer(self.service.get_upload(Request::new(request)).await)
    }

    pub(super) async fn cancel(&self, path: &str, upload: &str) -> Result<(), Problem> {
        let request = proto::CancelUploadRequest { access: self.access(path), upload_id: upload.to_owned() };
        answer(self.service.cancel_upload(Request::new(request)).await).map(drop)
    }

    /// Uploads a blob whole: POST, PUT.
    pub(super) async fn blob(&self, path: &str, content: &str) -> Digest {
        let digest = Digest::of(Algorithm::Sha256, content.as_bytes());
        let upload = self.start(path).await.unwrap();
        let lease = self.begin(path, &upload.id, None, &digest.to_string()).await.unwrap();
        self.commit(path, &lease, &digest, content.len() as u64).await.unwrap();
        digest
    }

    pub(super) async fn put(
        &self,
        path: &str,
        manifest: &Manifest,
        tags: &[&str],
    ) -> Result<proto::PutManifestResponse, Problem> {
        self.put_as(self.access(path), manifest, tags).await
    }

    pub(super) async fn put_as(
        &self,
        access: Option<proto::Access>,
        manifest: &Manifest,
        tags: &[&str],
    ) -> Result<proto::PutManifestResponse, Problem> {
        let request = proto::PutManifestRequest {
            access,
            digest: manifest.digest().to_string(),
            media_type: manifest.media_type.to_owned(),
            payload: manifest.json.clone().into(),
            tags: tags.iter().map(ToString::to_string).collect(),
        };
        answer(self.service.put_manifest(Request::new(request)).await)
    }

    /// Pushes an image of one config blob.
    pub(super) async fn image(&self, path: &str, content: &str, tags: &[&str]) -> Manifest {
        let config = self.blob(path, content).await;
        let manifest = Manifest::image(&[config]);
        self.put(path, &manifest, tags).await.unwrap();
        manifest
    }

    pub(super) async fn delete_manifest(&self, path: &str, digest: &Digest) -> Result<(), Problem> {
        let request = proto::DeleteManifestRequest { access: self.access(path), digest: digest.to_string() };
        answer(self.service.delete_manifest(Request::new(request)).await).map(drop)
    }

    pub(super) async fn delete_tag(&self, path: &str, tag: &str) -> Result<(), Problem> {
        let request = proto::DeleteTagRequest { access: self.access(path), tag: tag.to_owned() };
        answer(self.service.delete_tag(Request::new(request)).await).map(drop)
    }

    pub(super) async fn delete_blob(&self, path: &str, digest: &Digest) -> Result<(), Problem> {
        let request = proto::DeleteBlobRequest { access: self.access(path), digest: digest.to_string() };
        answer(self.service.delete_blob(Request::new(request)).await).map(drop)
    }

    pub(super) async fn resolve(
        &self,
        path: &str,
        reference: proto::resolve_request::Reference,
    ) -> Result<proto::ResolveResponse, Problem> {
        self.compare_with_memory(path, &reference).await;
        self.ask(path, reference).await
    }

    /// The same, and nothing beside it.
    async fn ask(
        &self,
        path: &str,
        reference: proto::resolve_request::Reference,
    ) -> Result<proto::ResolveResponse, Problem> {
        let request = proto::ResolveRequest {
            instance_id: self.instance.to_string(),
            path: path.to_owned(),
            reference: Some(reference),
        };
        answer(self.service.resolve(Request::new(request)).await)
    }

    pub(super) async fn resolve_tag(&self, path: &str, tag: &str) -> proto::ResolveResponse {
        self.resolve(path, proto::resolve_request::Reference::Tag(tag.to_owned())).await.unwrap()
    }

    pub(super) async fn resolve_blob(&self, path: &str, digest: &Digest) -> proto::ResolveResponse {
        self.resolve(path, proto::resolve_request::Reference::BlobDigest(digest.to_string())).await.unwrap()
    }

    pub(super) async fn resolve_manifest(&self, path: &str, digest: &Digest) -> proto::ResolveResponse {
        self.resolve(path, proto::resolve_request::Reference::ManifestDigest(digest.to_string()))
            .await
            .unwrap()
    }

    pub(super) async fn publish(&self, path: &str) {
        let request = proto::UpdateRepositoryRequest {
            instance_id: self.instance.to_string(),
            path: path.to_owned(),
            public: Some(true),
            ..proto::UpdateRepositoryRequest::default()
        };
        answer(self.service.update_repository(Request::new(request)).await).unwrap();
    }

    /// Runs statements past the service, to set a scene.
    pub(super) async fn stage(&self, statements: &[Statement], args: Vec<Arg>) {
        let statements = statements.to_vec();
        self.database
            .write("stage", move |tx| {
                let (statements, args) = (statements.clone(), args.clone());
                Box::pin(async move {
                    for statement in &statements {
                        tx.execute(statement, args.clone()).await?;
                    }
                    Ok::<_, DatabaseError>(())
                })
            })
            .await
            .unwrap();
    }

    pub(super) async fn count(&self, statement: &Statement) -> i64 {
        self.database.read_optional(statement, args![]).await.unwrap().unwrap().get(0).unwrap()
    }
}

pub(super) const fn both(text: &'static str) -> Statement {
    Statement { sqlite: text, postgres: text }
}

pub(super) fn answer<T>(response: Result<Response<T>, Status>) -> Result<T, Problem> {
    response.map(Response::into_inner).map_err(|status| from_status(&status))
}

/// The code of a refusal.
pub(super) fn refusal<T: std::fmt::Debug>(outcome: Result<T, Problem>) -> ErrorCode {
    outcome.unwrap_err().code
}

/// Manifest bytes for tests.
pub(super) struct Manifest {
    pub(super) media_type: &'static str,
    pub(super) json: String,
}

impl Manifest {
    fn descriptor(digest: &Digest, media_type: &str) -> serde_json::Value {
        serde_json::json!({ "mediaType": media_type, "digest": digest, "size": 3 })
    }

    /// An image whose config is the first blob.
    pub(super) fn image(blobs: &[Digest]) -> Self {
        Self::with(blobs, &serde_json::json!({}))
    }

    /// The same with more fields.
    pub(super) fn with(blobs: &[Digest], more: &serde_json::Value) -> Self {
        let layers: Vec<_> =
            blobs[1..].iter().map(|blob| Self::descriptor(blob, "application/layer")).collect();
        let mut json = serde_json::json!({
            "schemaVersion": 2,
            "mediaType": MediaType::OCI_MANIFEST,
            "config": Self::descriptor(&blobs[0], "application/config"),
            "layers": layers,
        });
        json.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        Self { media_type: MediaType::OCI_MANIFEST, json: json.to_string() }
    }

    /// An index of manifests.
    pub(super) fn index(children: &[Digest]) -> Self {
        let manifests: Vec<_> =
            children.iter().map(|child| Self::descriptor(child, MediaType::OCI_MANIFEST)).collect();
        let json = serde_json::json!({ "schemaVersion": 2, "manifests": manifests });
        Self { media_type: MediaType::OCI_INDEX, json: json.to_string() }
    }

    /// An artifact about `subject`.
    pub(super) fn about(subject: &Digest, config: &Digest, kind: &str) -> Self {
        let more = serde_json::json!({
            "artifactType": kind,
            "subject": Self::descriptor(subject, MediaType::OCI_MANIFEST),
            "annotations": { "made.by": "a test" },
        });
        Self::with(&[*config], &more)
    }

    pub(super) fn digest(&self) -> Digest {
        Digest::of(Algorithm::Sha256, self.json.as_bytes())
    }
}

/// Runs each case on both engines, and on PostgreSQL behind a transaction-mode pooler.
macro_rules! on_both_engines {
    ($($case:ident),* $(,)?) => {
        mod sqlite {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $case() {
                let engine = berth_database::Engine::Sqlite;
                super::$case(crate::store::suite::World::open(engine).await.unwrap()).await;
            })*
        }
        mod postgres {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $case() {
                let engine = berth_database::Engine::Postgres;
                if let Some(world) = crate::store::suite::World::open(engine).await {
                    super::$case(world).await;
                }
            })*
        }
        mod pooled {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $case() {
                if let Some(world) = crate::store::suite::World::open_pooled().await {
                    super::$case(world).await;
                }
            })*
        }
    };
}
use on_both_engines;
