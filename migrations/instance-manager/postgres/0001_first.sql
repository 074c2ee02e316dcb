-- What a tenant may have: instances, people, grants, token keys, audit.
-- Ids are ULIDs under COLLATE "C", times microseconds since 1970.

CREATE TABLE settings (
    one BOOLEAN PRIMARY KEY CHECK (one),
    -- Rises with every change that gateways learn by Watch; the last statement of such a transaction.
    revision BIGINT NOT NULL,
    -- What tokens name as their issuer: this deployment.
    issuer TEXT NOT NULL
);

CREATE TABLE instances (
    id TEXT COLLATE "C" PRIMARY KEY,
    name TEXT COLLATE "C" NOT NULL UNIQUE,
    is_default BOOLEAN NOT NULL,
    created_at BIGINT NOT NULL
);
CREATE UNIQUE INDEX instances_default ON instances (is_default) WHERE is_default;

CREATE TABLE users (
    id TEXT COLLATE "C" PRIMARY KEY,
    instance_id TEXT COLLATE "C" NOT NULL REFERENCES instances (id),
    name TEXT COLLATE "C" NOT NULL,
    -- Argon2id, as a PHC string.
    password_hash TEXT NOT NULL,
    -- Rises with every change of the user's grants; decisions are cached by it.
    grants_revision BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    UNIQUE (instance_id, name)
);

CREATE TABLE grants (
    id TEXT COLLATE "C" PRIMARY KEY,
    user_id TEXT COLLATE "C" NOT NULL REFERENCES users (id),
    role TEXT COLLATE "C" NOT NULL,
    scope_kind TEXT COLLATE "C" NOT NULL CHECK (scope_kind IN ('instance', 'namespace', 'repository')),
    -- An id, never a name: what is made again under a name starts without grants.
    scope_id TEXT COLLATE "C" NOT NULL,
    created_at BIGINT NOT NULL,
    UNIQUE (user_id, role, scope_kind, scope_id)
);

CREATE TABLE token_keys (
    -- The thumbprint of the public key (RFC 7638).
    id TEXT COLLATE "C" PRIMARY KEY,
    -- PKCS #8, sealed by the root key.
    private_key BYTEA NOT NULL,
    public_jwk TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    -- Signs from here on; NULL: published, so that every gateway knows it before it signs.
    activated_at BIGINT,
    -- No longer published from here on.
    retired_at BIGINT
);

CREATE TABLE refresh_tokens (
    -- SHA-256 of the 256 random bits that only the client has.
    hash BYTEA PRIMARY KEY,
    user_id TEXT COLLATE "C" NOT NULL REFERENCES users (id),
    instance_id TEXT COLLATE "C" NOT NULL REFERENCES instances (id),
    created_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL
);
CREATE INDEX refresh_tokens_user ON refresh_tokens (user_id, created_at);

-- Append-only. The event id makes it idempotent: an event that comes again changes nothing.
CREATE TABLE audit (
    event_id TEXT COLLATE "C" PRIMARY KEY,
    instance_id TEXT COLLATE "C" NOT NULL,
    type TEXT COLLATE "C" NOT NULL,
    principal TEXT NOT NULL,
    repository_id TEXT COLLATE "C" NOT NULL,
    repository TEXT NOT NULL,
    digest TEXT NOT NULL,
    tag TEXT NOT NULL,
    occurred_at BIGINT NOT NULL,
    recorded_at BIGINT NOT NULL
);
CREATE INDEX audit_instance ON audit (instance_id, event_id);
