-- The keys that seal what instances store, each sealed by the root key. A key that was destroyed leaves no row.
CREATE TABLE instance_keys (
    id          TEXT COLLATE "C" PRIMARY KEY,
    instance_id TEXT COLLATE "C" NOT NULL REFERENCES instances (id),
    sealed      BYTEA NOT NULL,
    state       TEXT COLLATE "C" NOT NULL CHECK (state IN ('current', 'former')),
    created_at  BIGINT NOT NULL,
    -- When another became the current one.
    replaced_at BIGINT
);
CREATE UNIQUE INDEX instance_keys_current ON instance_keys (instance_id) WHERE state = 'current';
CREATE INDEX instance_keys_by_state ON instance_keys (state, id);
