//! Tasks, on the wire.

use berth_database::tasks::{Wanted, no_task};
use berth_proto::{
    instance_manager::tasks_server::Tasks,
    tasks::{GetTaskRequest, ListTasksRequest, ListTasksResponse, Task},
    to_status,
};
use tonic::{Request, Response, Status};

use super::status;
use crate::store::Store;

/// The service behind [`TasksServer`](berth_proto::instance_manager::tasks_server::TasksServer).
#[derive(Clone, Debug)]
pub struct TasksApi {
    pub(crate) store: Store,
}

#[tonic::async_trait]
impl Tasks for TasksApi {
    async fn get_task(&self, request: Request<GetTaskRequest>) -> Result<Response<Task>, Status> {
        let found = self.store.task(request.get_ref()).await.map_err(status)?;
        found.map(Response::new).ok_or_else(|| to_status(no_task()))
    }

    async fn list_tasks(
        &self,
        request: Request<ListTasksRequest>,
    ) -> Result<Response<ListTasksResponse>, Status> {
        let wanted = Wanted::read(request.into_inner()).map_err(to_status)?;
        Ok(Response::new(self.store.tasks(&wanted).await.map_err(status)?))
    }
}
