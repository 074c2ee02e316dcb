-- Long work that somebody asked for, and how far it is. steps_total is NULL until it is known. Work that runs is found by
-- what it is about; a task is forgotten a week after its end. instance_id is empty where it is the deployment's. waits_until:
-- until when work has to wait, for the time that is given to whoever may still need what it is about.
CREATE TABLE tasks (
    id          TEXT PRIMARY KEY,
    instance_id TEXT NOT NULL,
    kind        TEXT NOT NULL,
    subject     TEXT NOT NULL,
    name        TEXT NOT NULL,
    state       TEXT NOT NULL CHECK (state IN ('running', 'done', 'failed')),
    steps_done  INTEGER NOT NULL DEFAULT 0,
    steps_total INTEGER,
    message     TEXT NOT NULL DEFAULT '',
    created_by  TEXT NOT NULL,
    created_at  INTEGER NOT NULL,
    updated_at  INTEGER NOT NULL,
    ended_at    INTEGER,
    waits_until INTEGER
) STRICT, WITHOUT ROWID;
CREATE INDEX tasks_by_instance ON tasks (instance_id, id);
CREATE INDEX tasks_by_state ON tasks (instance_id, state, id);
CREATE INDEX tasks_by_kind ON tasks (instance_id, kind, id);
CREATE INDEX tasks_by_kind_and_state ON tasks (instance_id, kind, state, id);
CREATE UNIQUE INDEX tasks_that_run ON tasks (kind, subject) WHERE state = 'running';
CREATE INDEX tasks_that_ended ON tasks (ended_at) WHERE ended_at IS NOT NULL;
