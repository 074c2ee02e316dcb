//! Tasks, on the wire.

use berth_proto::{
    metadata::{self as proto, tasks_server::Tasks},
    parse,
};
use tonic::{Request, Response, Status};

use super::MetadataService;

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl Tasks for MetadataService {
    async fn get_task(&self, request: Request<proto::GetTaskRequest>) -> Answer<proto::Task> {
        let request = request.into_inner();
        self.answer("get_task", async {
            let instance = parse("instance_id", &request.instance_id)?;
            self.metadata.task(instance, &request.id).await
        })
        .await
    }

    async fn list_tasks(
        &self,
        request: Request<proto::ListTasksRequest>,
    ) -> Answer<proto::ListTasksResponse> {
        let request = request.into_inner();
        self.answer("list_tasks", async {
            let instance = parse("instance_id", &request.instance_id)?;
            let wanted = (request.state.as_str(), request.kind.as_str());
            let (tasks, next) = self.metadata.tasks(instance, wanted, request.limit, &request.after).await?;
            Ok(proto::ListTasksResponse { tasks, next: next.unwrap_or_default() })
        })
        .await
    }
}
