//! What instances may have, what they have, and their end, on the wire.

use berth_oci::ErrorCode;
use berth_proto::{
    metadata::{self as proto, limits_server::Limits},
    parse,
};
use tonic::{Request, Response, Status};

use super::MetadataService;
use crate::{error::Error, limits::Wish};

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl Limits for MetadataService {
    async fn set_limits(
        &self,
        request: Request<proto::SetLimitsRequest>,
    ) -> Answer<proto::SetLimitsResponse> {
        let request = request.into_inner();
        self.answer("set_limits", async {
            if request.revision < 1 {
                return Err(Error::new(ErrorCode::RequestInvalid, "revision has to be at least 1"));
            }
            let wish = Wish {
                instance: parse("instance_id", &request.instance_id)?,
                revision: request.revision,
                max_namespaces: request.max_namespaces,
                max_repositories: request.max_repositories,
                max_depth: request.max_depth,
            };
            let in_force = self.metadata.set_limits(wish).await?;
            Ok(proto::SetLimitsResponse {
                revision: in_force.revision,
                namespaces: in_force.namespaces,
                repositories: in_force.repositories,
            })
        })
        .await
    }

    async fn get_usage(&self, request: Request<proto::GetUsageRequest>) -> Answer<proto::GetUsageResponse> {
        let request = request.into_inner();
        self.answer("get_usage", async {
            let usage = self.metadata.usage(parse("instance_id", &request.instance_id)?).await?;
            Ok(proto::GetUsageResponse {
                namespaces: usage.namespaces,
                repositories: usage.repositories,
                blobs: usage.blobs,
                blob_bytes: usage.blob_bytes,
                max_namespaces: usage.max_namespaces,
                max_repositories: usage.max_repositories,
                max_depth: usage.max_depth,
            })
        })
        .await
    }

    async fn remove_instance(
        &self,
        request: Request<proto::RemoveInstanceRequest>,
    ) -> Answer<proto::RemoveInstanceResponse> {
        let request = request.into_inner();
        self.answer("remove_instance", async {
            let instance = parse("instance_id", &request.instance_id)?;
            let done = self.metadata.remove_instance(instance, request.force).await?;
            let left = if done { Some(0) } else { self.metadata.left_of_instance(instance).await };
            Ok(proto::RemoveInstanceResponse { done, left })
        })
        .await
    }
}
