-- The keys that seal what instances store, each sealed by the root key. A key that was destroyed leaves no row.
CREATE TABLE instance_keys (
    id          TEXT PRIMARY KEY,
    instance_id TEXT NOT NULL REFERENCES instances (id),
    sealed      BLOB NOT NULL,
    state       TEXT NOT NULL CHECK (state IN ('current', 'former')),
    created_at  INTEGER NOT NULL,
    -- When another became the current one.
    replaced_at INTEGER
) STRICT;
CREATE UNIQUE INDEX instance_keys_current ON instance_keys (instance_id) WHERE state = 'current';
CREATE INDEX instance_keys_by_state ON instance_keys (state, id);
