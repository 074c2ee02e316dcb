//! Namespaces and repositories by hand, on the wire.

use berth_model::NamespaceId;
use berth_oci::ErrorCode;
use berth_proto::{
    metadata::{self as proto, repositories_server::Repositories},
    optional, parse,
};
use tonic::{Request, Response, Status};

use super::{MAX_PAGE, MetadataService, granted, name, position};
use crate::{
    error::Error,
    listing::{Order, Sought},
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
            let found = match optional::<NamespaceId>("id", &request.id)? {
                Some(id) => self.metadata.namespace_by_id(instance, id).await,
                None => self.metadata.namespace(instance, &request.name).await,
            };
            Ok(found?.into())
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
            let readable = request.readable.map(granted).transpose()?;
            let (search, after) = (position(&request.search), position(&request.after));
            let limit = request.limit.min(MAX_PAGE);
            let found = self.metadata.namespaces(instance, readable, search, after, limit).await?;
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
            if !request.id.is_empty() {
                return Ok(self.metadata.repository_by_id(instance, parse("id", &request.id)?).await?.into());
            }
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
        request: Request<proto::ListRepositoryEntriesRequest>,
    ) -> Answer<proto::ListRepositoryEntriesResponse> {
        let request = request.into_inner();
        self.answer("list_repository_entries", async {
            let instance = parse("instance_id", &request.instance_id)?;
            let public = match request.visibility.as_str() {
                "" => None,
                "public" => Some(true),
                "private" => Some(false),
                _ => {
                    let message = "visibility is public or private";
                    return Err(Error::new(ErrorCode::RequestInvalid, message));
                }
            };
            let sought = Sought {
                readable: request.readable.map(granted).transpose()?,
                namespace: request.namespace,
                search: request.search,
                public,
                order: Order::read(&request.order, "-created_at")?,
                limit: request.limit,
                after: request.after,
            };
            let (found, next) = self.metadata.repository_entries(instance, sought).await?;
            Ok(proto::ListRepositoryEntriesResponse {
                repositories: found.into_iter().map(Into::into).collect(),
                next: next.unwrap_or_default(),
            })
        })
        .await
    }
}
