//! Tasks, on the wire.

use berth_database::tasks::{self, Wanted, no_task};
use berth_proto::{
    metadata::tasks_server::Tasks,
    tasks::{GetTaskRequest, ListTasksRequest, ListTasksResponse, Task},
};
use tonic::{Request, Response, Status};

use super::MetadataService;

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl Tasks for MetadataService {
    async fn get_task(&self, request: Request<GetTaskRequest>) -> Answer<Task> {
        self.answer("get_task", async {
            let found = tasks::find(&self.metadata.database, request.get_ref()).await?;
            Ok(found.ok_or_else(no_task)?)
        })
        .await
    }

    async fn list_tasks(&self, request: Request<ListTasksRequest>) -> Answer<ListTasksResponse> {
        self.answer("list_tasks", async {
            let wanted = Wanted::read(request.into_inner())?;
            Ok(tasks::list(&self.metadata.database, &wanted).await?)
        })
        .await
    }
}
