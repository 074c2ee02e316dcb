-- Stores of instances. A row stays when its instance turns to another, since blobs are served from where they are.
CREATE TABLE stores (
    id TEXT COLLATE "C" PRIMARY KEY,
    instance_id TEXT COLLATE "C" NOT NULL REFERENCES instances (id),
    kind TEXT NOT NULL CHECK (kind IN ('shared', 's3', 'directory')),
    -- JSON, without secrets.
    settings TEXT NOT NULL,
    -- Sealed by the root key; NULL: none.
    secret BYTEA,
    -- What is written there is sealed before.
    encrypted BOOLEAN NOT NULL,
    -- It keeps the bytes of an upload aside until its object is whole.
    stages BOOLEAN NOT NULL,
    -- The same for all stores whose objects are in the same bucket or folder.
    place TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    UNIQUE (instance_id, place, encrypted)
);

-- The store that takes new blobs; NULL: the deployment's.
ALTER TABLE instances ADD COLUMN store_id TEXT COLLATE "C" REFERENCES stores (id);
