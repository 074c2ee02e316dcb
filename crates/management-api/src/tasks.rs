//! Tasks: long work, and how far it is.

use berth_model::Permission;
use berth_proto::metadata as wire;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::{
    answer::{Page, Plain},
    call::Call,
    input::{List, Nothing},
    operation::{Operation, Routes, Rule},
    problem::Result,
    values::Moment,
};

/// How a task stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum TaskState {
    Running,
    Done,
    Failed,
}

impl TaskState {
    fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Done => "done",
            Self::Failed => "failed",
        }
    }
}

/// A task. It is forgotten a week after its end.
#[derive(Debug, Serialize, ToSchema)]
struct Task {
    id: String,
    /// namespace.delete, repository.delete.
    kind: String,
    /// What it is about: namespace:<id>, repository:<id>.
    subject: String,
    /// The name or the path that it had.
    name: String,
    state: TaskState,
    progress: TaskProgress,
    /// Why it failed, or what it waits for.
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
    created_by: String,
    created_at: Moment,
    updated_at: Moment,
    #[serde(skip_serializing_if = "Option::is_none")]
    ended_at: Option<Moment>,
}

/// How far a task is: manifests of a repository, repositories of a namespace.
#[derive(Debug, Serialize, ToSchema)]
struct TaskProgress {
    done: u64,
    /// Absent: not known yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    total: Option<u64>,
}

impl From<wire::Task> for Task {
    fn from(task: wire::Task) -> Self {
        Self {
            id: task.id,
            kind: task.kind,
            subject: task.subject,
            name: task.name,
            state: match task.state.as_str() {
                "done" => TaskState::Done,
                "failed" => TaskState::Failed,
                _ => TaskState::Running,
            },
            progress: TaskProgress { done: task.steps_done, total: task.steps_total },
            message: Some(task.message).filter(|message| !message.is_empty()),
            created_by: task.created_by,
            created_at: Moment(task.created_at),
            updated_at: Moment(task.updated_at),
            ended_at: task.ended_at.map(Moment),
        }
    }
}

/// Which tasks.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
struct Filter {
    #[param(inline)]
    state: Option<TaskState>,
    /// namespace.delete, repository.delete.
    kind: Option<String>,
}

pub(crate) fn add(routes: &mut Routes) {
    let read = Rule::Needs(Permission::TaskRead);
    let all = "/instances/{instance}/tasks";
    routes.add(
        Operation::get(all, "tasks.list", "List the tasks of an instance, the newest first", read),
        list,
    );
    let one = "/instances/{instance}/tasks/{task}";
    routes.add(Operation::get(one, "tasks.get", "Show a task", read), get);
}

async fn list(call: Call, List { paging, filters }: List<Filter>) -> Result<Page<Task>> {
    let request = wire::ListTasksRequest {
        instance_id: call.instance_id().to_owned(),
        state: filters.state.map(TaskState::as_str).unwrap_or_default().to_owned(),
        kind: filters.kind.unwrap_or_default(),
        limit: paging.size,
        after: paging.after.clone(),
    };
    let found = call.parts.tasks.clone().list_tasks(request).await?.into_inner();
    let next = (!found.next.is_empty()).then(|| paging.token(&found.next));
    Ok(Page { items: found.tasks.into_iter().map(Into::into).collect(), next })
}

async fn get(call: Call, _: Nothing) -> Result<Plain<Task>> {
    let request = wire::GetTaskRequest {
        instance_id: call.instance_id().to_owned(),
        id: call.param("task").to_owned(),
    };
    let found = call.parts.tasks.clone().get_task(request).await?.into_inner();
    Ok(Plain(found.into()))
}
