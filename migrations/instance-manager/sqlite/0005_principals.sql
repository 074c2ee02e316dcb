-- Principals: people, robots and groups in one table; roles of instances; grants to any principal; credentials of each kind;
-- what takes rights away before tokens end; editions and the life of instances.

CREATE TABLE principals (
    id TEXT PRIMARY KEY,
    instance_id TEXT NOT NULL REFERENCES instances (id),
    kind TEXT NOT NULL CHECK (kind IN ('user', 'robot', 'group')),
    name TEXT NOT NULL,
    description TEXT NOT NULL DEFAULT '',
    disabled INTEGER NOT NULL DEFAULT 0,
    -- Users: Argon2id, as a PHC string; NULL: no password opens it.
    password_hash TEXT,
    email TEXT NOT NULL DEFAULT '',
    -- Robots: not valid from here on; NULL: no end.
    expires_at INTEGER,
    -- Robots and users, to the minute.
    last_used_at INTEGER,
    -- Rises with every change of its own grants; decisions are cached by it and the instance's access_revision.
    grants_revision INTEGER NOT NULL DEFAULT 0,
    -- Rises with every change; an ETag.
    version INTEGER NOT NULL DEFAULT 1,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    UNIQUE (instance_id, kind, name)
) STRICT;
INSERT INTO principals (id, instance_id, kind, name, password_hash, grants_revision, created_at, updated_at)
    SELECT id, instance_id, 'user', name, password_hash, grants_revision, created_at, created_at FROM users;

CREATE TABLE group_members (
    group_id TEXT NOT NULL REFERENCES principals (id),
    principal_id TEXT NOT NULL REFERENCES principals (id),
    added_at INTEGER NOT NULL,
    PRIMARY KEY (group_id, principal_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX group_members_by_principal ON group_members (principal_id, group_id);

CREATE TABLE robot_secrets (
    id TEXT PRIMARY KEY,
    principal_id TEXT NOT NULL REFERENCES principals (id),
    -- SHA-256 of the secret, which has 256 random bits.
    hash BLOB NOT NULL,
    created_at INTEGER NOT NULL,
    last_used_at INTEGER
) STRICT;
CREATE INDEX robot_secrets_by_principal ON robot_secrets (principal_id, created_at);

-- Beside the built-in ones.
CREATE TABLE roles (
    id TEXT PRIMARY KEY,
    instance_id TEXT NOT NULL REFERENCES instances (id),
    name TEXT NOT NULL,
    description TEXT NOT NULL,
    -- JSON lists.
    scopes TEXT NOT NULL,
    permissions TEXT NOT NULL,
    version INTEGER NOT NULL DEFAULT 1,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    UNIQUE (instance_id, name)
) STRICT;

CREATE TABLE principal_grants (
    id TEXT PRIMARY KEY,
    instance_id TEXT NOT NULL REFERENCES instances (id),
    principal_id TEXT NOT NULL REFERENCES principals (id),
    -- The name of a built-in role, or the id of one of the instance.
    role TEXT NOT NULL,
    scope_kind TEXT NOT NULL CHECK (scope_kind IN ('deployment', 'instance', 'namespace', 'repository')),
    -- An id, never a name: what is made again under a name starts without grants.
    scope_id TEXT NOT NULL,
    created_by TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    UNIQUE (principal_id, role, scope_kind, scope_id)
) STRICT;
CREATE INDEX grants_by_instance ON principal_grants (instance_id, id);
CREATE INDEX grants_by_role ON principal_grants (instance_id, role);
INSERT INTO principal_grants (id, instance_id, principal_id, role, scope_kind, scope_id, created_by, created_at)
    SELECT g.id, u.instance_id, g.user_id, g.role, g.scope_kind, g.scope_id, 'system:admin', g.created_at
    FROM grants g JOIN users u ON u.id = g.user_id;

-- Random secrets under their SHA-256: temporary tokens, which have their principal's rights for an hour, and refresh tokens.
CREATE TABLE secret_tokens (
    hash BLOB PRIMARY KEY,
    kind TEXT NOT NULL CHECK (kind IN ('temporary', 'refresh')),
    instance_id TEXT NOT NULL REFERENCES instances (id),
    principal_id TEXT NOT NULL REFERENCES principals (id),
    -- The robot's secret it came from, and ends with.
    secret_id TEXT REFERENCES robot_secrets (id),
    created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL
) STRICT;
CREATE INDEX secret_tokens_by_principal ON secret_tokens (principal_id, kind, created_at);
CREATE INDEX secret_tokens_by_secret ON secret_tokens (secret_id) WHERE secret_id IS NOT NULL;
INSERT INTO secret_tokens (hash, kind, instance_id, principal_id, created_at, expires_at)
    SELECT hash, 'refresh', instance_id, user_id, created_at, expires_at FROM refresh_tokens;

DROP TABLE refresh_tokens;
DROP TABLE grants;
DROP TABLE users;
ALTER TABLE principal_grants RENAME TO grants;

-- Access tokens from before such a moment are refused: a right was taken away. Gone once every such token has ended.
CREATE TABLE not_befores (
    -- user:<id>, robot:<id>, or instance:<id>, which is everybody in it.
    subject TEXT PRIMARY KEY,
    instance_id TEXT NOT NULL,
    at INTEGER NOT NULL
) STRICT;
CREATE INDEX not_befores_by_time ON not_befores (at);

-- Rises with every change of a role or a group of the instance.
ALTER TABLE instances ADD COLUMN access_revision INTEGER NOT NULL DEFAULT 0;
ALTER TABLE instances ADD COLUMN edition TEXT NOT NULL DEFAULT 'unlimited';
-- JSON.
ALTER TABLE instances ADD COLUMN add_ons TEXT NOT NULL DEFAULT '{}';
ALTER TABLE instances ADD COLUMN region TEXT NOT NULL DEFAULT '';
ALTER TABLE instances ADD COLUMN description TEXT NOT NULL DEFAULT '';
ALTER TABLE instances ADD COLUMN state TEXT NOT NULL DEFAULT 'running'
    CHECK (state IN ('pending', 'running', 'stopped', 'deleting', 'deleted'));
-- Whether a push may make namespaces.
ALTER TABLE instances ADD COLUMN create_on_push INTEGER NOT NULL DEFAULT 1;
-- The edition and add-ons that are wished for, until metadata has confirmed their limits; NULL: none.
ALTER TABLE instances ADD COLUMN wish_edition TEXT;
ALTER TABLE instances ADD COLUMN wish_add_ons TEXT;
-- The wish for limits, and what metadata has confirmed.
ALTER TABLE instances ADD COLUMN limits_revision INTEGER NOT NULL DEFAULT 0;
ALTER TABLE instances ADD COLUMN limits_in_force INTEGER NOT NULL DEFAULT 0;
ALTER TABLE instances ADD COLUMN version INTEGER NOT NULL DEFAULT 1;
ALTER TABLE instances ADD COLUMN updated_at INTEGER NOT NULL DEFAULT 0;
CREATE INDEX instances_to_tend ON instances (id)
    WHERE state IN ('pending', 'deleting') OR limits_in_force < limits_revision;

-- Who did it, by what, from where, with which result, in which request; and to what, where that is no artifact.
ALTER TABLE audit ADD COLUMN credential TEXT NOT NULL DEFAULT '';
ALTER TABLE audit ADD COLUMN address TEXT NOT NULL DEFAULT '';
ALTER TABLE audit ADD COLUMN request_id TEXT NOT NULL DEFAULT '';
ALTER TABLE audit ADD COLUMN result TEXT NOT NULL DEFAULT 'done';
ALTER TABLE audit ADD COLUMN subject TEXT NOT NULL DEFAULT '';
