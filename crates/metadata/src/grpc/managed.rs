//! Namespaces and repositories by hand, on the wire.

use berth_proto::{
    metadata::{self as proto, repositories_server::Repositories},
    parse,
};
use tonic::{Request, Response, Status};

use super::{MAX_PAGE, MetadataService, name};
use crate::{
    managed::{NamespaceChange, RepositoryChange},
    manager,
};

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl Repositories for MetadataService {
    async fn create_namespace(
        &self,
        request: Request<proto::CreateNamespaceRequest>,
    ) -> Answer<proto::NamespaceEntry> {
        let request = request.into_inner();
        self.answer("create_namespace", async {
            let change = NamespaceChange {
                description: Some(request.description),
                create_on_push: Some(request.create_on_push),
                default_public: Some(request.default_public),
                default_immutable: Some(request.default_immutable),
            };
            let order = manager::order(request.manager, &request.instance_id, 0, change)?;
            self.metadata.create_namespace(order, &request.name).await
        })
        .await
    }

    async fn get_namespace(
        &self,
        request: Request<proto::GetNamespaceRequest>,
    ) -> Answer<proto::NamespaceEntry> {
        let request = request.into_inner();
        self.answer("get_namespace", async {
            let instance = parse("instance_id", &request.instance_id)?;
            Ok(self.metadata.namespace(instance, &request.name).await?.into())
        })
        .await
    }

    async fn list_namespaces(
        &self,
        request: Request<proto::ListNamespacesRequest>,
    ) -> Answer<proto::ListNamespacesResponse> {
        let request = request.into_inner();
        self.answer("list_namespaces", async {
            let instance = parse("instance_id", &request.instance_id)?;
            let found =
                self.metadata.namespaces(instance, &request.after, request.limit.min(MAX_PAGE)).await?;
            Ok(proto::ListNamespacesResponse { namespaces: found.into_iter().map(Into::into).collect() })
        })
        .await
    }

    async fn update_namespace(
        &self,
        request: Request<proto::UpdateNamespaceRequest>,
    ) -> Answer<proto::NamespaceEntry> {
        let request = request.into_inner();
        self.answer("update_namespace", async {
            let change = NamespaceChange {
                description: request.description,
                create_on_push: request.create_on_push,
                default_public: request.default_public,
                default_immutable: request.default_immutable,
            };
            let order = manager::order(request.manager, &request.instance_id, request.version, change)?;
            Ok(self.metadata.update_namespace(order, &request.name).await?.into())
        })
        .await
    }

    async fn delete_namespace(
        &self,
        request: Request<proto::DeleteNamespaceRequest>,
    ) -> Answer<proto::DeleteNamespaceResponse> {
        let request = request.into_inner();
        self.answer("delete_namespace", async {
            let order = manager::order(request.manager, &request.instance_id, request.version, ())?;
            self.metadata.delete_namespace(order, &request.name).await
        })
        .await
    }

    async fn create_repository(
        &self,
        request: Request<proto::CreateRepositoryRequest>,
    ) -> Answer<proto::RepositoryEntry> {
        let request = request.into_inner();
        self.answer("create_repository", async {
            let change = RepositoryChange {
                summary: Some(request.summary),
                description: Some(request.description),
                public: request.public,
                immutable_tags: request.immutable_tags,
                keep_untagged: None,
            };
            let order = manager::order(request.manager, &request.instance_id, 0, change)?;
            self.metadata.create_repository(order, name(&request.path)?).await
        })
        .await
    }

    async fn get_repository(
        &self,
        request: Request<proto::GetRepositoryRequest>,
    ) -> Answer<proto::RepositoryEntry> {
        let request = request.into_inner();
        self.answer("get_repository", async {
            let instance = parse("instance_id", &request.instance_id)?;
            Ok(self.metadata.repository(instance, &name(&request.path)?).await?.into())
        })
        .await
    }

    async fn update_repository(
        &self,
        request: Request<proto::UpdateRepositoryRequest>,
    ) -> Answer<proto::RepositoryEntry> {
        let request = request.into_inner();
        self.answer("update_repository", async {
            let change = RepositoryChange {
                summary: request.summary,
                description: request.description,
                public: request.public,
                immutable_tags: request.immutable_tags,
                keep_untagged: request.keep_untagged,
            };
            let order = manager::order(request.manager, &request.instance_id, request.version, change)?;
            Ok(self.metadata.update_repository(order, name(&request.path)?).await?.into())
        })
        .await
    }

    async fn delete_repository(
        &self,
        request: Request<proto::DeleteRepositoryRequest>,
    ) -> Answer<proto::DeleteRepositoryResponse> {
        let request = request.into_inner();
        self.answer("delete_repository", async {
            let order = manager::order(request.manager, &request.instance_id, request.version, ())?;
            self.metadata.delete_repository(order, name(&request.path)?).await
        })
        .await
    }

    async fn list_repository_entries(
        &self,
        _request: Request<proto::ListRepositoryEntriesRequest>,
    ) -> Answer<proto::ListRepositoryEntriesResponse> {
        Err(Status::unimplemented("lists for people come with the next change"))
    }
}
