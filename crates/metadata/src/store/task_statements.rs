//! The SQL statements of tasks that are about metadata's own. What runs is found by its kind and what it is about.

use berth_database::statements;

statements! {
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
}
