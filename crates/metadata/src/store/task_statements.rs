//! The SQL statements of tasks. What runs is found by its kind and what it is about.

use berth_database::statements;

statements! {
    pub(crate) ADD_TASK = "INSERT INTO tasks \
        (id, instance_id, kind, subject, name, state, created_by, created_at, updated_at) \
        VALUES ($1, $2, $3, $4, $5, 'running', $6, $7, $7) ON CONFLICT DO NOTHING";
    pub(crate) RUNNING_TASK = "SELECT id FROM tasks WHERE kind = $1 AND subject = $2 AND state = 'running'";
    /// By the name that it had; the newest.
    pub(crate) RUNNING_TASK_NAMED = "SELECT id FROM tasks WHERE instance_id = $1 AND kind = $2 AND name = $3 \
        AND state = 'running' ORDER BY id DESC LIMIT 1";
    /// How much there is to be done of a repository, once.
    pub(crate) MEASURE_REPOSITORY = "UPDATE tasks SET updated_at = $4, \
        steps_total = steps_done + (SELECT count(*) FROM manifests m WHERE m.repository_id = $3) \
        WHERE kind = $1 AND subject = $2 AND state = 'running' AND steps_total IS NULL";
    pub(crate) MEASURE_NAMESPACE = "UPDATE tasks SET updated_at = $4, \
        steps_total = steps_done + (SELECT count(*) FROM repositories r WHERE r.namespace_id = $3) \
        WHERE kind = $1 AND subject = $2 AND state = 'running' AND steps_total IS NULL";
    pub(crate) STEP_TASK = "UPDATE tasks SET steps_done = steps_done + $3, updated_at = $4 \
        WHERE kind = $1 AND subject = $2 AND state = 'running'";
    pub(crate) END_TASK = "UPDATE tasks SET state = 'done', steps_done = COALESCE(steps_total, steps_done), \
        message = '', updated_at = $3, ended_at = $3 WHERE kind = $1 AND subject = $2 AND state = 'running'";
    pub(crate) TASK = "SELECT id, instance_id, kind, subject, name, state, steps_done, steps_total, message, created_by, \
        created_at, updated_at, ended_at FROM tasks WHERE id = $1 AND instance_id = $2";
    // Newest first, before $2.
    pub(crate) LIST_TASKS = "SELECT id, instance_id, kind, subject, name, state, steps_done, steps_total, message, \
        created_by, created_at, updated_at, ended_at FROM tasks \
        WHERE instance_id = $1 AND id < $2 ORDER BY id DESC LIMIT $3";
    pub(crate) LIST_TASKS_IN = "SELECT id, instance_id, kind, subject, name, state, steps_done, steps_total, message, \
        created_by, created_at, updated_at, ended_at FROM tasks \
        WHERE instance_id = $1 AND id < $2 AND state = $4 ORDER BY id DESC LIMIT $3";
    pub(crate) LIST_TASKS_OF = "SELECT id, instance_id, kind, subject, name, state, steps_done, steps_total, message, \
        created_by, created_at, updated_at, ended_at FROM tasks \
        WHERE instance_id = $1 AND id < $2 AND kind = $4 ORDER BY id DESC LIMIT $3";
    pub(crate) LIST_TASKS_OF_IN = "SELECT id, instance_id, kind, subject, name, state, steps_done, steps_total, message, \
        created_by, created_at, updated_at, ended_at FROM tasks \
        WHERE instance_id = $1 AND id < $2 AND kind = $4 AND state = $5 ORDER BY id DESC LIMIT $3";
    pub(crate) FORGET_TASKS = "DELETE FROM tasks WHERE id IN \
        (SELECT t.id FROM tasks t WHERE t.ended_at < $1 ORDER BY t.ended_at LIMIT 500)";
}
