//! Tags and artifacts for people, on the wire.

use berth_model::RepositoryId;
use berth_oci::{Digest, ErrorCode};
use berth_proto::{
    metadata::{self as proto, contents_server::Contents},
    optional, parse,
};
use tonic::{Request, Response, Status};

use super::{MetadataService, digest, name, tag};
use crate::{
    access::Access,
    contents::{SoughtArtifacts, SoughtTags},
    error::Error,
    listing::Order,
    manager,
    retag::Retag,
};

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl Contents for MetadataService {
    async fn list_tag_entries(
        &self,
        request: Request<proto::ListTagEntriesRequest>,
    ) -> Answer<proto::ListTagEntriesResponse> {
        let request = request.into_inner();
        self.answer("list_tag_entries", async {
            let instance = parse("instance_id", &request.instance_id)?;
            let repository = parse("repository_id", &request.repository_id)?;
            let sought = SoughtTags {
                search: request.search,
                order: Order::read(&request.order, "-updated_at")?,
                limit: request.limit,
                after: request.after,
            };
            let (tags, next) = self.metadata.tag_entries(instance, repository, sought).await?;
            Ok(proto::ListTagEntriesResponse { tags, next: next.unwrap_or_default() })
        })
        .await
    }

    async fn get_tag(&self, request: Request<proto::GetTagRequest>) -> Answer<proto::TagEntry> {
        let request = request.into_inner();
        self.answer("get_tag", async {
            let instance = parse("instance_id", &request.instance_id)?;
            let repository = parse("repository_id", &request.repository_id)?;
            self.metadata.tag_entry(instance, repository, tag(&request.tag)?).await
        })
        .await
    }

    async fn put_tag(&self, request: Request<proto::PutTagRequest>) -> Answer<proto::TagEntry> {
        let request = request.into_inner();
        self.answer("put_tag", async {
            let change = Retag { tag: tag(&request.tag)?, digest: digest(&request.digest)? };
            let order = manager::order(request.manager, &request.instance_id, request.version, change)?;
            let repository = optional::<RepositoryId>("repository_id", &request.repository_id)?;
            let mut access = Access::by_hand(&order, name(&request.path)?, repository);
            access.keeps_tags = request.keeps_tags;
            self.metadata.put_tag(access, order).await
        })
        .await
    }

    async fn delete_tag_by_manager(
        &self,
        request: Request<proto::DeleteTagByManagerRequest>,
    ) -> Answer<proto::DeleteTagByManagerResponse> {
        let request = request.into_inner();
        self.answer("delete_tag_by_manager", async {
            let order = manager::order(request.manager, &request.instance_id, request.version, ())?;
            let repository = optional::<RepositoryId>("repository_id", &request.repository_id)?;
            let access = Access::by_hand(&order, name(&request.path)?, repository);
            self.metadata.delete_tag(access, tag(&request.tag)?, Some(order)).await?;
            Ok(proto::DeleteTagByManagerResponse {})
        })
        .await
    }

    async fn delete_manifest_by_manager(
        &self,
        request: Request<proto::DeleteManifestByManagerRequest>,
    ) -> Answer<proto::DeleteManifestByManagerResponse> {
        let request = request.into_inner();
        self.answer("delete_manifest_by_manager", async {
            let order = manager::order(request.manager, &request.instance_id, 0, ())?;
            let repository = optional::<RepositoryId>("repository_id", &request.repository_id)?;
            let access = Access::by_hand(&order, name(&request.path)?, repository);
            self.metadata.delete_manifest(access, digest(&request.digest)?).await?;
            Ok(proto::DeleteManifestByManagerResponse {})
        })
        .await
    }

    async fn list_artifacts(
        &self,
        request: Request<proto::ListArtifactsRequest>,
    ) -> Answer<proto::ListArtifactsResponse> {
        let request = request.into_inner();
        self.answer("list_artifacts", async {
            let instance = parse("instance_id", &request.instance_id)?;
            let repository = parse("repository_id", &request.repository_id)?;
            let tagged = match request.tagged.as_str() {
                "" => None,
                "yes" => Some(true),
                "no" => Some(false),
                _ => return Err(Error::new(ErrorCode::RequestInvalid, "tagged is yes or no")),
            };
            let sought = SoughtArtifacts {
                artifact_type: request.artifact_type,
                media_type: request.media_type,
                tagged,
                limit: request.limit,
                after: request.after,
            };
            let (artifacts, next) = self.metadata.artifact_entries(instance, repository, sought).await?;
            Ok(proto::ListArtifactsResponse { artifacts, next: next.unwrap_or_default() })
        })
        .await
    }

    async fn get_artifact(
        &self,
        request: Request<proto::GetArtifactRequest>,
    ) -> Answer<proto::GetArtifactResponse> {
        let request = request.into_inner();
        self.answer("get_artifact", async {
            let instance = parse("instance_id", &request.instance_id)?;
            let repository = parse("repository_id", &request.repository_id)?;
            let (artifact, holders) =
                self.metadata.artifact(instance, repository, digest(&request.digest)?).await?;
            let holders = holders.iter().map(Digest::to_string).collect();
            Ok(proto::GetArtifactResponse { artifact: Some(artifact), holders })
        })
        .await
    }
}
