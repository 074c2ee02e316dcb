-- The audit by time. Rows are added and, after the time they are kept for, deleted; nothing changes one. The key is the
-- time and the event's id, so that what comes again changes nothing and what is old lies together.
ALTER TABLE audit RENAME TO audit_before;
DROP INDEX audit_instance;
CREATE TABLE audit (
    occurred_at INTEGER NOT NULL,
    event_id TEXT NOT NULL,
    instance_id TEXT NOT NULL,
    type TEXT NOT NULL,
    principal TEXT NOT NULL,
    credential TEXT NOT NULL,
    address TEXT NOT NULL,
    request_id TEXT NOT NULL,
    -- done, or why not.
    result TEXT NOT NULL,
    subject TEXT NOT NULL,
    -- What the subject was called then.
    name TEXT NOT NULL,
    repository_id TEXT NOT NULL,
    repository TEXT NOT NULL,
    digest TEXT NOT NULL,
    tag TEXT NOT NULL,
    -- So many that are equal, from occurred_at to last_at.
    count INTEGER NOT NULL,
    last_at INTEGER NOT NULL,
    recorded_at INTEGER NOT NULL,
    PRIMARY KEY (occurred_at, event_id)
) STRICT, WITHOUT ROWID;
INSERT INTO audit (occurred_at, event_id, instance_id, type, principal, credential, address, request_id, result, subject,
        name, repository_id, repository, digest, tag, count, last_at, recorded_at)
    SELECT occurred_at, event_id, instance_id, type, principal, credential, address, request_id, result, subject,
        '', repository_id, repository, digest, tag, 1, occurred_at, recorded_at FROM audit_before;
DROP TABLE audit_before;
CREATE INDEX audit_by_time ON audit (instance_id, occurred_at, event_id);
CREATE INDEX audit_by_recording ON audit (instance_id, recorded_at, event_id);
CREATE INDEX audit_by_principal ON audit (instance_id, principal, occurred_at, event_id);
CREATE INDEX audit_by_type ON audit (instance_id, type, occurred_at, event_id);
CREATE INDEX audit_by_repository ON audit (instance_id, repository, occurred_at, event_id);
CREATE INDEX audit_by_repository_id ON audit (instance_id, repository_id, occurred_at, event_id);
CREATE INDEX audit_by_request ON audit (instance_id, request_id, occurred_at, event_id);
