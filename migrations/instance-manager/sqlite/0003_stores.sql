-- Stores of instances. A row stays when its instance turns to another, since blobs are served from where they are.
CREATE TABLE stores (
    id TEXT PRIMARY KEY,
    instance_id TEXT NOT NULL REFERENCES instances (id),
    kind TEXT NOT NULL CHECK (kind IN ('shared', 's3', 'directory')),
    -- JSON, without secrets.
    settings TEXT NOT NULL,
    -- Sealed by the root key; NULL: none.
    secret BLOB,
    -- What is written there is sealed before.
    encrypted INTEGER NOT NULL,
    -- It keeps the bytes of an upload aside until its object is whole.
    stages INTEGER NOT NULL,
    -- The same for all stores whose objects are in the same bucket or folder.
    place TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    UNIQUE (instance_id, place, encrypted)
) STRICT;

-- The store that takes new blobs; NULL: the deployment's.
ALTER TABLE instances ADD COLUMN store_id TEXT REFERENCES stores (id);
