//! Tasks: long work, and how far it is.

use berth_model::Permission;
use berth_oci::ErrorCode;
use berth_proto::{from_status, tasks as wire};
use berth_service::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::{
    answer::{Located, Page, Plain},
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
    /// namespace.delete, repository.delete; of the deployment: instance.delete, garbage_collection.run, scrub.run.
    kind: String,
    /// What it is about: namespace:<id>, repository:<id>, instance:<id>, scrub:<number>, garbage_collection:<task>.
    subject: String,
    /// The name or the path that it had.
    name: String,
    state: TaskState,
    progress: TaskProgress,
    /// Why it failed, what it waits for or what it came to.
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
    /// Until then some of it waits, for the time in which what was just touched is kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    waits_until: Option<Moment>,
    created_by: String,
    created_at: Moment,
    updated_at: Moment,
    #[serde(skip_serializing_if = "Option::is_none")]
    ended_at: Option<Moment>,
}

/// How far a task is: manifests of a repository; repositories of a namespace; repositories, blobs and objects of an instance;
/// what collection looks at; blobs, manifests and objects that are compared.
#[derive(Debug, Serialize, ToSchema)]
struct TaskProgress {
    done: u64,
    /// Absent: not known yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    total: Option<u64>,
}

impl Task {
    fn shown(task: wire::Task, now: Timestamp) -> Self {
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
            waits_until: task.waits_until.filter(|until| *until > now.0).map(Moment),
            created_by: task.created_by,
            created_at: Moment(task.created_at),
            updated_at: Moment(task.updated_at),
            ended_at: task.ended_at.map(Moment),
        }
    }
}

/// Work that has begun.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct BegunTask {
    /// The task that says how far it is.
    pub(crate) task_id: String,
    #[serde(skip)]
    path: String,
}

impl BegunTask {
    /// A task of the instance in the path.
    pub(crate) fn here(call: &Call, task_id: String) -> Self {
        Self { path: call.below(&format!("tasks/{task_id}")), task_id }
    }

    /// A task of the deployment.
    pub(crate) fn of_deployment(task_id: String) -> Self {
        Self { path: format!("/api/v1/tasks/{task_id}"), task_id }
    }
}

impl Located for BegunTask {
    fn location(&self) -> &str {
        &self.path
    }
}

/// Which tasks.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
struct Filter {
    #[param(inline)]
    state: Option<TaskState>,
    /// namespace.delete, repository.delete, instance.delete, garbage_collection.run, scrub.run.
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
    let whose = Rule::NeedsSomewhere(Permission::TaskRead);
    let show = Operation::get(one, "tasks.get", "Show a task", whose);
    routes.add(show.describe("Whoever began it may see it, too."), get);
    let all = Operation::get(
        "/tasks",
        "deployment_tasks.list",
        "List the tasks of the deployment, the newest first",
        read,
    )
    .describe("The ends of instances, runs of garbage collection, comparisons of rows and bytes.");
    routes.add(all, list);
    let one = Operation::get("/tasks/{task}", "deployment_tasks.get", "Show a task of the deployment", whose);
    routes.add(one.describe("Whoever began it may see it, too."), get);
}

/// Services have tasks of their own; those of the deployment are of two.
async fn list(call: Call, List { paging, filters }: List<Filter>) -> Result<Page<Task>> {
    let request = wire::ListTasksRequest {
        instance_id: call.instance_id().to_owned(),
        state: filters.state.map(TaskState::as_str).unwrap_or_default().to_owned(),
        kind: filters.kind.unwrap_or_default(),
        limit: paging.size,
        after: paging.after.clone(),
    };
    let mut found = call.parts.tasks.clone().list_tasks(request.clone()).await?.into_inner();
    if request.instance_id.is_empty() {
        let ends = call.parts.ends.clone().list_tasks(request).await?.into_inner();
        found.tasks.extend(ends.tasks);
        found.tasks.sort_by(|one, other| other.id.cmp(&one.id));
        found.next.push_str(&ends.next);
    }
    let size = paging.size as usize;
    let more = found.tasks.len() > size || !found.next.is_empty();
    found.tasks.truncate(size);
    let next = found.tasks.last().filter(|_| more).map(|last| paging.token(&last.id));
    let now = call.parts.clock.now();
    Ok(Page { items: found.tasks.into_iter().map(|task| Task::shown(task, now)).collect(), next })
}

async fn get(call: Call, _: Nothing) -> Result<Plain<Task>> {
    let request = wire::GetTaskRequest {
        instance_id: call.instance_id().to_owned(),
        id: call.param("task").to_owned(),
    };
    let mut found = call.parts.tasks.clone().get_task(request.clone()).await;
    let is_absent = |status: &tonic::Status| from_status(status).code == ErrorCode::NotFound;
    if request.instance_id.is_empty() && found.as_ref().is_err_and(is_absent) {
        found = call.parts.ends.clone().get_task(request).await;
    }
    // Who may see none does not learn which there are.
    if found.is_err() {
        call.allow_here(Permission::TaskRead).await?;
    }
    let found = found?;
    let found = found.into_inner();
    if found.created_by == call.caller().principal {
        call.allow_oneself();
    } else {
        call.allow_here(Permission::TaskRead).await?;
    }
    Ok(Plain(Task::shown(found, call.parts.clock.now())))
}
