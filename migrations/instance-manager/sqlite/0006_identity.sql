-- Who else may say who somebody is: identity providers, the people they know, the groups they speak of, and the robots that
-- their workloads are.

CREATE TABLE identity_providers (
    id TEXT PRIMARY KEY,
    instance_id TEXT NOT NULL REFERENCES instances (id),
    name TEXT NOT NULL,
    -- Exactly as its tokens name it. It never changes: what rests on a provider rests on its issuer.
    issuer TEXT NOT NULL,
    client_id TEXT NOT NULL,
    -- Sealed by the root key; NULL: a public client.
    client_secret BLOB,
    -- JSON lists.
    scopes TEXT NOT NULL,
    audiences TEXT NOT NULL,
    username_claim TEXT NOT NULL,
    -- Empty: nothing is said of groups.
    groups_claim TEXT NOT NULL,
    -- Whether people may log in by it, and whether those who are not known are made.
    login INTEGER NOT NULL,
    create_users INTEGER NOT NULL,
    version INTEGER NOT NULL DEFAULT 1,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    UNIQUE (instance_id, name),
    UNIQUE (instance_id, issuer)
) STRICT;

-- Who a person is at a provider: by its subject alone, never by a name or an e-mail address.
CREATE TABLE user_links (
    provider_id TEXT NOT NULL REFERENCES identity_providers (id),
    subject TEXT NOT NULL,
    principal_id TEXT NOT NULL REFERENCES principals (id),
    created_at INTEGER NOT NULL,
    PRIMARY KEY (provider_id, subject)
) STRICT;
CREATE UNIQUE INDEX user_links_by_principal ON user_links (principal_id, provider_id);

-- Which value of the groups claim means which group. Other groups are never touched by a login.
CREATE TABLE provider_groups (
    provider_id TEXT NOT NULL REFERENCES identity_providers (id),
    value TEXT NOT NULL,
    group_id TEXT NOT NULL REFERENCES principals (id),
    PRIMARY KEY (provider_id, value)
) STRICT;
CREATE INDEX provider_groups_by_group ON provider_groups (group_id);

-- Which workloads of a provider are which robot.
CREATE TABLE trusts (
    id TEXT PRIMARY KEY,
    instance_id TEXT NOT NULL REFERENCES instances (id),
    provider_id TEXT NOT NULL REFERENCES identity_providers (id),
    robot_id TEXT NOT NULL REFERENCES principals (id),
    audience TEXT NOT NULL,
    -- A JSON object: the claim, and the text or pattern that it has to be.
    conditions TEXT NOT NULL,
    created_by TEXT NOT NULL,
    created_at INTEGER NOT NULL
) STRICT;
CREATE INDEX trusts_by_instance ON trusts (instance_id, id);
CREATE INDEX trusts_by_provider ON trusts (provider_id, id);
CREATE INDEX trusts_by_robot ON trusts (robot_id, id);

-- Logins that have come back, by the hash of their state: each once. Of no use once the state has expired by itself.
CREATE TABLE finished_logins (
    state BLOB PRIMARY KEY,
    expires_at INTEGER NOT NULL
) STRICT;
CREATE INDEX finished_logins_by_time ON finished_logins (expires_at);

-- The provider by which it was got, and with which it ends.
ALTER TABLE secret_tokens ADD COLUMN provider_id TEXT REFERENCES identity_providers (id);
CREATE INDEX secret_tokens_by_provider ON secret_tokens (provider_id) WHERE provider_id IS NOT NULL;
