-- The end of an instance, and what it uses.

-- Being removed, or removed: nothing is made in it any more. The row stays, so that nothing is ever made again.
ALTER TABLE instance_limits ADD COLUMN removing INTEGER NOT NULL DEFAULT 0;

ALTER TABLE removals RENAME TO former_removals;
DROP INDEX removals_by_time;
CREATE TABLE removals (
    kind         TEXT NOT NULL CHECK (kind IN ('repository', 'namespace', 'instance')),
    id           TEXT NOT NULL,
    due_at       INTEGER NOT NULL,
    attempts     INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (kind, id)
) STRICT, WITHOUT ROWID;
CREATE INDEX removals_by_time ON removals (due_at);
INSERT INTO removals (kind, id, due_at, attempts) SELECT kind, id, due_at, attempts FROM former_removals;
DROP TABLE former_removals;

-- What waits to be deleted of an instance: its objects' keys begin alike.
CREATE INDEX object_deletes_by_key ON object_deletes (object_key);
-- How many bytes an instance's blobs have, read from the index alone.
CREATE INDEX blobs_by_size ON blobs (instance_id, size);
