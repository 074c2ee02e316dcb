//! Every SQL statement of instance-manager.

berth_database::statements! {
    pub(crate) INSERT_SETTINGS =
        "INSERT INTO settings (one, revision, issuer) VALUES (TRUE, 1, $1) ON CONFLICT DO NOTHING";
    /// Serialises what must happen once; the bump at the end takes the same row.
    pub(crate) LOCK_SETTINGS = "SELECT revision, issuer FROM settings WHERE one" for update;
    /// The revision, and the database's time in microseconds, if it has a clock of its own.
    pub(crate) READ_REVISION =
        sqlite "SELECT revision, NULL FROM settings WHERE one"
        postgres "SELECT revision, (EXTRACT(EPOCH FROM clock_timestamp()) * 1000000)::bigint FROM settings WHERE one";
    pub(crate) READ_SETTINGS = "SELECT revision, issuer FROM settings WHERE one";
    pub(crate) BUMP_SETTINGS = "UPDATE settings SET revision = revision + 1 WHERE one";

    pub(crate) INSERT_INSTANCE = "INSERT INTO instances (id, name, is_default, created_at) VALUES ($1, $2, $3, $4) \
        ON CONFLICT DO NOTHING";
    pub(crate) DEFAULT_INSTANCE = "SELECT id FROM instances WHERE is_default";
    /// Bounded by the number of tenants of a deployment; read when the settings' revision changes.
    pub(crate) LIST_INSTANCES = "SELECT i.id, i.name, i.is_default, i.blob_delivery, i.store_id, \
        COALESCE(s.stages, FALSE) FROM instances i LEFT JOIN stores s ON s.id = i.store_id ORDER BY i.id";
    /// Nothing where it is so already.
    pub(crate) SET_BLOB_DELIVERY = "UPDATE instances SET blob_delivery = $2 WHERE id = $1 AND blob_delivery <> $2";

    /// Serialises changes of an instance's storage.
    pub(crate) LOCK_STORAGE = "SELECT store_id FROM instances WHERE id = $1" for update;
    pub(crate) SET_STORE = "UPDATE instances SET store_id = $2 WHERE id = $1";
    /// The unique key of a place makes another row of it impossible.
    pub(crate) PUT_STORE = "INSERT INTO stores (id, instance_id, kind, settings, secret, encrypted, stages, place, \
        created_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) \
        ON CONFLICT (id) DO UPDATE SET settings = excluded.settings, secret = excluded.secret, stages = excluded.stages";
    /// By the unique index on (instance_id, place, encrypted).
    pub(crate) STORE_AT = "SELECT id FROM stores WHERE instance_id = $1 AND place = $2 AND encrypted = $3";
    /// Bounded by how often an operator has changed it.
    pub(crate) STORES_OF = "SELECT s.id, s.kind, s.settings, s.encrypted, s.id = COALESCE(i.store_id, ''), s.created_at \
        FROM stores s JOIN instances i ON i.id = s.instance_id WHERE s.instance_id = $1 ORDER BY s.id LIMIT 1000";
    pub(crate) STORE_WITH_SECRET = "SELECT id, kind, settings, encrypted, FALSE, created_at, instance_id, secret \
        FROM stores WHERE id = $1";
    /// By the primary key.
    pub(crate) STORE_PLACES = "SELECT id, place FROM stores WHERE id > $1 ORDER BY id LIMIT $2";
    /// Nothing where the settings are others by now.
    pub(crate) ROTATE_STORE = "UPDATE stores SET settings = $4, secret = $5 \
        WHERE instance_id = $1 AND id = $2 AND settings = $3";

    pub(crate) INSERT_KEY = "INSERT INTO token_keys (id, private_key, public_jwk, created_at, activated_at) \
        VALUES ($1, $2, $3, $4, $5)";
    /// The signing key first; there are two.
    pub(crate) LIST_KEYS = "SELECT id, private_key, public_jwk, activated_at IS NOT NULL FROM token_keys \
        WHERE retired_at IS NULL ORDER BY activated_at IS NULL, activated_at DESC, id LIMIT 16";

    pub(crate) INSERT_USER = "INSERT INTO users (id, instance_id, name, password_hash, grants_revision, created_at) \
        VALUES ($1, $2, $3, $4, 0, $5) ON CONFLICT DO NOTHING";
    pub(crate) USER_BY_NAME =
        "SELECT id, name, password_hash, grants_revision FROM users WHERE instance_id = $1 AND name = $2";
    pub(crate) USER_BY_ID =
        "SELECT id, name, password_hash, grants_revision FROM users WHERE instance_id = $1 AND id = $2";
    pub(crate) USER_BY_REFRESH_TOKEN = "SELECT u.id, u.name, u.password_hash, u.grants_revision \
        FROM refresh_tokens r JOIN users u ON u.id = r.user_id \
        WHERE r.hash = $1 AND r.instance_id = $2 AND u.instance_id = $2 AND r.expires_at > $3";
    pub(crate) SET_PASSWORD = "UPDATE users SET password_hash = $3 WHERE id = $1 AND password_hash = $2";
    /// Also the lock under which a user's grants change.
    pub(crate) BUMP_GRANTS =
        "UPDATE users SET grants_revision = grants_revision + 1 WHERE instance_id = $1 AND name = $2 RETURNING id";

    pub(crate) INSERT_GRANT = "INSERT INTO grants (id, user_id, role, scope_kind, scope_id, created_at) \
        VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING";
    pub(crate) FIND_GRANT = "SELECT id FROM grants WHERE user_id = $1 AND role = $2 AND scope_kind = $3 \
        AND scope_id = $4";
    /// By the unique index on (user_id, …).
    pub(crate) LIST_GRANTS = "SELECT role, scope_kind, scope_id FROM grants WHERE user_id = $1 \
        ORDER BY role, scope_kind, scope_id LIMIT 10000";

    pub(crate) INSERT_REFRESH_TOKEN = "INSERT INTO refresh_tokens (hash, user_id, instance_id, created_at, expires_at) \
        VALUES ($1, $2, $3, $4, $5)";
    /// The old and the many; by the index on (user_id, created_at).
    pub(crate) PRUNE_REFRESH_TOKENS = "DELETE FROM refresh_tokens WHERE user_id = $1 AND (expires_at <= $2 \
        OR hash NOT IN (SELECT hash FROM refresh_tokens WHERE user_id = $1 ORDER BY created_at DESC, hash LIMIT 100))";
    pub(crate) DELETE_REFRESH_TOKENS = "DELETE FROM refresh_tokens WHERE user_id = $1";

    /// The lock under which an instance's current key changes.
    pub(crate) LOCK_INSTANCE = "SELECT id FROM instances WHERE id = $1" for update;
    pub(crate) LOCK_INSTANCE_NAMED = "SELECT id FROM instances WHERE name = $1" for update;
    pub(crate) CURRENT_KEY = "SELECT id, sealed FROM instance_keys WHERE instance_id = $1 AND state = 'current'";
    pub(crate) INSTANCE_KEY = "SELECT sealed FROM instance_keys WHERE id = $1 AND instance_id = $2";
    pub(crate) ADD_INSTANCE_KEY = "INSERT INTO instance_keys (id, instance_id, sealed, state, created_at) \
        VALUES ($1, $2, $3, 'current', $4)";
    pub(crate) REPLACE_INSTANCE_KEY = "UPDATE instance_keys SET state = 'former', replaced_at = $2 \
        WHERE instance_id = $1 AND state = 'current'";
    /// With the database's time in microseconds, if it has a clock of its own.
    pub(crate) FORMER_KEYS =
        sqlite "SELECT id, instance_id, replaced_at, NULL FROM instance_keys \
            WHERE state = 'former' AND id > $1 ORDER BY id LIMIT $2"
        postgres "SELECT id, instance_id, replaced_at, \
            (EXTRACT(EPOCH FROM clock_timestamp()) * 1000000)::bigint FROM instance_keys \
            WHERE state = 'former' AND id > $1 ORDER BY id LIMIT $2";
    pub(crate) DROP_FORMER_KEY = "DELETE FROM instance_keys WHERE id = $1 AND state = 'former'";
    pub(crate) SHRED_KEYS = "DELETE FROM instance_keys WHERE instance_id = $1";

    pub(crate) INSERT_AUDIT = "INSERT INTO audit (event_id, instance_id, type, principal, repository_id, repository, \
        digest, tag, occurred_at, recorded_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) ON CONFLICT DO NOTHING";
    /// By the index on (instance_id, event_id).
    pub(crate) LIST_AUDIT = "SELECT event_id, type, principal, repository, digest, tag, occurred_at FROM audit \
        WHERE instance_id = $1 AND event_id > $2 ORDER BY event_id LIMIT $3";
}
