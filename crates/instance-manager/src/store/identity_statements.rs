//! The SQL statements about identity providers.

berth_database::statements! {
    pub(crate) COUNT_PROVIDERS = "SELECT COUNT(*) FROM (SELECT 1 FROM identity_providers WHERE instance_id = $1 LIMIT 101) \
        AS counted";
    /// Nothing when the name or the issuer is taken.
    pub(crate) ADD_PROVIDER = "INSERT INTO identity_providers (id, instance_id, name, issuer, client_id, client_secret, scopes, \
        audiences, username_claim, groups_claim, login, create_users, created_at, updated_at) \
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $13) ON CONFLICT DO NOTHING";
    pub(crate) PROVIDER_NAMED = "SELECT id, instance_id, name, issuer, client_id, client_secret, scopes, audiences, \
        username_claim, groups_claim, login, create_users, version, created_at, updated_at FROM identity_providers \
        WHERE instance_id = $1 AND name = $2";
    pub(crate) PROVIDER_OF_ISSUER = "SELECT id, instance_id, name, issuer, client_id, client_secret, scopes, audiences, \
        username_claim, groups_claim, login, create_users, version, created_at, updated_at FROM identity_providers \
        WHERE instance_id = $1 AND issuer = $2";
    /// Bounded when providers are made.
    pub(crate) LIST_PROVIDERS = "SELECT id, instance_id, name, issuer, client_id, client_secret, scopes, audiences, \
        username_claim, groups_claim, login, create_users, version, created_at, updated_at FROM identity_providers \
        WHERE instance_id = $1 ORDER BY name LIMIT 101";
    /// The lock under which a provider, its links and its trusts change; taken before those of principals.
    pub(crate) LOCK_PROVIDER = "SELECT version, login FROM identity_providers WHERE instance_id = $1 AND id = $2" for update;
    pub(crate) SET_PROVIDER = "UPDATE identity_providers SET client_id = $2, client_secret = $3, scopes = $4, audiences = $5, \
        username_claim = $6, groups_claim = $7, login = $8, create_users = $9, version = version + 1, updated_at = $10 \
        WHERE id = $1";
    pub(crate) PROVIDERS_OF = "SELECT id FROM identity_providers WHERE instance_id = $1";
    pub(crate) DELETE_PROVIDER = "DELETE FROM identity_providers WHERE id = $1";
    pub(crate) DELETE_TOKENS_OF_PROVIDER = "DELETE FROM secret_tokens WHERE provider_id = $1";

    /// Bounded when they are set.
    pub(crate) LIST_GROUPS = "SELECT m.value, m.group_id, p.name FROM provider_groups m JOIN principals p ON p.id = m.group_id \
        WHERE m.provider_id = $1 ORDER BY m.value LIMIT 101";
    pub(crate) ADD_GROUP = "INSERT INTO provider_groups (provider_id, value, group_id) VALUES ($1, $2, $3) \
        ON CONFLICT DO NOTHING";
    pub(crate) CLEAR_GROUPS = "DELETE FROM provider_groups WHERE provider_id = $1";
    pub(crate) FORGET_GROUP = "DELETE FROM provider_groups WHERE group_id = $1";
    pub(crate) IN_GROUP = "SELECT 1 FROM group_members WHERE group_id = $1 AND principal_id = $2";

    /// Nothing when the subject is linked, or the user is, to this provider.
    pub(crate) ADD_LINK = "INSERT INTO user_links (provider_id, subject, principal_id, created_at) VALUES ($1, $2, $3, $4) \
        ON CONFLICT DO NOTHING";
    pub(crate) LINKED = "SELECT p.id, p.instance_id, p.kind, p.name, p.description, p.disabled, p.password_hash, \
        p.email, p.expires_at, p.last_used_at, p.grants_revision + i.access_revision, p.version, p.created_at, p.updated_at \
        FROM user_links l JOIN principals p ON p.id = l.principal_id JOIN instances i ON i.id = p.instance_id \
        WHERE l.provider_id = $1 AND l.subject = $2 AND p.instance_id = $3";
    pub(crate) UNLINK = "DELETE FROM user_links WHERE provider_id = $1 AND principal_id = $2";
    pub(crate) UNLINK_ALL = "DELETE FROM user_links WHERE provider_id = $1";
    pub(crate) UNLINK_PRINCIPAL = "DELETE FROM user_links WHERE principal_id = $1";
    pub(crate) DELETE_TOKENS_BY_PROVIDER = "DELETE FROM secret_tokens WHERE principal_id = $1 AND provider_id = $2";

    pub(crate) COUNT_TRUSTS = "SELECT COUNT(*) FROM (SELECT 1 FROM trusts WHERE provider_id = $1 LIMIT 1001) AS counted";
    pub(crate) ADD_TRUST = "INSERT INTO trusts (id, instance_id, provider_id, robot_id, audience, conditions, created_by, \
        created_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)";
    /// By the index on (instance_id, id).
    pub(crate) LIST_TRUSTS = "SELECT t.id, t.provider_id, p.name, t.robot_id, r.name, t.audience, t.conditions, t.created_by, \
        t.created_at FROM trusts t JOIN identity_providers p ON p.id = t.provider_id JOIN principals r ON r.id = t.robot_id \
        WHERE t.instance_id = $1 AND t.id > $2 ORDER BY t.id LIMIT $3";
    /// By the index on (provider_id, id); bounded when trusts are made.
    pub(crate) TRUSTS_OF_PROVIDER = "SELECT t.id, t.provider_id, p.name, t.robot_id, r.name, t.audience, t.conditions, \
        t.created_by, t.created_at FROM trusts t JOIN identity_providers p ON p.id = t.provider_id \
        JOIN principals r ON r.id = t.robot_id WHERE t.provider_id = $1 ORDER BY t.id LIMIT 1001";
    /// By the index on (robot_id, id); of one trust, or of any.
    pub(crate) IS_TRUSTED = "SELECT 1 FROM trusts WHERE robot_id = $1 AND provider_id = $2 AND ($3 = '' OR id = $3) LIMIT 1";
    pub(crate) IS_LINKED = "SELECT 1 FROM user_links WHERE principal_id = $1 AND provider_id = $2";
    pub(crate) TRUST_ROBOT = "SELECT robot_id, provider_id FROM trusts WHERE instance_id = $1 AND id = $2";
    pub(crate) DELETE_TRUST = "DELETE FROM trusts WHERE id = $1";
    pub(crate) DELETE_TRUSTS = "DELETE FROM trusts WHERE provider_id = $1";
    pub(crate) DELETE_TRUSTS_OF = "DELETE FROM trusts WHERE robot_id = $1";

    /// Whether people may log in by a provider that is there. Locks it.
    pub(crate) LETS_IN = "SELECT 1 FROM identity_providers WHERE id = $1 AND login" for update;
    /// Nothing when it has come back before.
    pub(crate) FINISH_LOGIN = "INSERT INTO finished_logins (state, expires_at) VALUES ($1, $2) ON CONFLICT DO NOTHING";
    pub(crate) LOGIN_IS_FINISHED = "SELECT 1 FROM finished_logins WHERE state = $1";
    pub(crate) PRUNE_FINISHED_LOGINS = "DELETE FROM finished_logins WHERE expires_at <= $1";
}
