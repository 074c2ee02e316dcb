-- What a tenant may have: instances, people, grants, token keys, audit.
-- Ids are ULIDs, times microseconds since 1970.

CREATE TABLE settings (
    one INTEGER PRIMARY KEY CHECK (one),
    -- Rises with every change that gateways learn by Watch; the last statement of such a transaction.
    revision INTEGER NOT NULL,
    -- What tokens name as their issuer: this deployment.
    issuer TEXT NOT NULL
) STRICT;

CREATE TABLE instances (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    is_default INTEGER NOT NULL,
    created_at INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX instances_default ON instances (is_default) WHERE is_default;

CREATE TABLE users (
    id TEXT PRIMARY KEY,
    instance_id TEXT NOT NULL REFERENCES instances (id),
    name TEXT NOT NULL,
    -- Argon2id, as a PHC string.
    password_hash TEXT NOT NULL,
    -- Rises with every change of the user's grants; decisions are cached by it.
    grants_revision INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    UNIQUE (instance_id, name)
) STRICT;

CREATE TABLE grants (
    id TEXT PRIMARY KEY,
    user_id TEXT NOT NULL REFERENCES users (id),
    role TEXT NOT NULL,
    scope_kind TEXT NOT NULL CHECK (scope_kind IN ('instance', 'namespace', 'repository')),
    -- An id, never a name: what is made again under a name starts without grants.
    scope_id TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    UNIQUE (user_id, role, scope_kind, scope_id)
) STRICT;

CREATE TABLE token_keys (
    -- The thumbprint of the public key (RFC 7638).
    id TEXT PRIMARY KEY,
    -- PKCS #8, sealed by the root key.
    private_key BLOB NOT NULL,
    public_jwk TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    -- Signs from here on; NULL: published, so that every gateway knows it before it signs.
    activated_at INTEGER,
    -- No longer published from here on.
    retired_at INTEGER
) STRICT;

CREATE TABLE refresh_tokens (
    -- SHA-256 of the 256 random bits that only the client has.
    hash BLOB PRIMARY KEY,
    user_id TEXT NOT NULL REFERENCES users (id),
    instance_id TEXT NOT NULL REFERENCES instances (id),
    created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL
) STRICT;
CREATE INDEX refresh_tokens_user ON refresh_tokens (user_id, created_at);

-- Append-only. The event id makes it idempotent: an event that comes again changes nothing.
CREATE TABLE audit (
    event_id TEXT PRIMARY KEY,
    instance_id TEXT NOT NULL,
    type TEXT NOT NULL,
    principal TEXT NOT NULL,
    repository_id TEXT NOT NULL,
    repository TEXT NOT NULL,
    digest TEXT NOT NULL,
    tag TEXT NOT NULL,
    occurred_at INTEGER NOT NULL,
    recorded_at INTEGER NOT NULL
) STRICT;
CREATE INDEX audit_instance ON audit (instance_id, event_id);
