-- The end of an instance, and what it uses.

-- Being removed, or removed: nothing is made in it any more. The row stays, so that nothing is ever made again.
ALTER TABLE instance_limits ADD COLUMN removing BOOLEAN NOT NULL DEFAULT FALSE;

ALTER TABLE removals DROP CONSTRAINT removals_kind_check;
ALTER TABLE removals ADD CONSTRAINT removals_kind_check CHECK (kind IN ('repository', 'namespace', 'instance'));

-- What waits to be deleted of an instance: its objects' keys begin alike.
CREATE INDEX object_deletes_by_key ON object_deletes (object_key);
-- How many bytes an instance's blobs have, read from the index alone.
CREATE INDEX blobs_by_size ON blobs (instance_id, size);
