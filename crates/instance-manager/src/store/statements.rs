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

    /// Nothing when the name is taken.
    pub(crate) ADD_INSTANCE = "INSERT INTO instances (id, name, is_default, created_at, updated_at, state, edition, add_ons, \
        wish_edition, wish_add_ons, region, description, create_on_push, limits_revision) \
        VALUES ($1, $2, FALSE, $3, $3, 'pending', $4, $5, $4, $5, $6, $7, $8, 1) ON CONFLICT DO NOTHING";
    pub(crate) INSTANCE = "SELECT id, name, is_default, state, edition, add_ons, wish_edition, wish_add_ons, limits_revision, \
        limits_in_force, region, description, create_on_push, created_at, updated_at, version, wish_delete, blob_delivery FROM instances WHERE id = $1";
    pub(crate) LOCK_TENANT = "SELECT id, name, is_default, state, edition, add_ons, wish_edition, wish_add_ons, limits_revision, \
        limits_in_force, region, description, create_on_push, created_at, updated_at, version, wish_delete, blob_delivery FROM instances WHERE id = $1" for update;
    pub(crate) INSTANCE_NAMED = "SELECT id FROM instances WHERE name = $1";
    /// By the primary key.
    pub(crate) PAGE_INSTANCES = "SELECT id, name, is_default, state, edition, add_ons, wish_edition, wish_add_ons, limits_revision, \
        limits_in_force, region, description, create_on_push, created_at, updated_at, version, wish_delete, blob_delivery FROM instances \
        WHERE id > $1 ORDER BY id LIMIT $2";
    /// By the partial index on what waits.
    pub(crate) INSTANCES_TO_TEND = "SELECT id FROM instances WHERE id > $1 \
        AND (state IN ('pending', 'deleting') OR limits_in_force < limits_revision OR wish_delete IS NOT NULL) ORDER BY id LIMIT $2";
    pub(crate) WISH_DELETION = "UPDATE instances SET wish_delete = $2, version = version + 1, updated_at = $3 WHERE id = $1";
    pub(crate) DROP_DELETION_WISH = "UPDATE instances SET wish_delete = NULL, version = version + 1, updated_at = $2 \
        WHERE id = $1 AND wish_delete = $3";
    /// Nothing of it is served or wished for any more.
    pub(crate) BEGIN_DELETION = "UPDATE instances SET state = 'deleting', wish_delete = NULL, wish_edition = NULL, \
        wish_add_ons = NULL, limits_in_force = limits_revision, version = version + 1, updated_at = $2 \
        WHERE id = $1 AND wish_delete IS NOT NULL";
    pub(crate) LEAVE_STORE = "UPDATE instances SET store_id = NULL WHERE id = $1 AND store_id IS NOT NULL";
    pub(crate) DELETE_STORES = "DELETE FROM stores WHERE instance_id = $1";
    pub(crate) DELETE_ROLES = "DELETE FROM roles WHERE instance_id = $1";
    pub(crate) DELETE_GRANTS_IN = "DELETE FROM grants WHERE instance_id = $1";
    /// By the unique index on (instance_id, kind, name).
    pub(crate) SOME_PRINCIPALS = "SELECT id FROM principals WHERE instance_id = $1 ORDER BY kind, name LIMIT 100";
    pub(crate) COUNT_PRINCIPALS = "SELECT kind, count(*) FROM principals WHERE instance_id = $1 GROUP BY kind";
    pub(crate) CHANGE_INSTANCE = "UPDATE instances SET description = $2, create_on_push = $3, version = version + 1, \
        updated_at = $4 WHERE id = $1";
    pub(crate) WISH_EDITION = "UPDATE instances SET wish_edition = $2, wish_add_ons = $3, limits_revision = limits_revision + 1, \
        version = version + 1, updated_at = $4 WHERE id = $1";
    /// The wish has come true.
    pub(crate) GRANT_WISH = "UPDATE instances SET edition = wish_edition, add_ons = wish_add_ons, wish_edition = NULL, \
        wish_add_ons = NULL, limits_in_force = limits_revision, version = version + 1, updated_at = $3, \
        state = CASE state WHEN 'pending' THEN 'running' ELSE state END WHERE id = $1 AND limits_revision = $2 \
        AND wish_edition IS NOT NULL";
    /// It can't: everything stays as it was.
    pub(crate) DROP_WISH = "UPDATE instances SET wish_edition = NULL, wish_add_ons = NULL, limits_in_force = limits_revision, \
        version = version + 1, updated_at = $3 WHERE id = $1 AND limits_revision = $2 AND wish_edition IS NOT NULL";
    /// What is gone keeps its row, and not its name.
    pub(crate) SET_STATE = "UPDATE instances SET state = $2, name = $3, version = version + 1, updated_at = $4 WHERE id = $1";
    pub(crate) INSERT_INSTANCE = "INSERT INTO instances (id, name, is_default, created_at) VALUES ($1, $2, $3, $4) \
        ON CONFLICT DO NOTHING";
    pub(crate) DEFAULT_INSTANCE = "SELECT id FROM instances WHERE is_default";
    /// Bounded by the number of tenants of a deployment; read when the settings' revision changes.
    pub(crate) LIST_INSTANCES = "SELECT i.id, i.name, i.is_default, i.blob_delivery, i.store_id, \
        COALESCE(s.stages, FALSE), i.state, i.region, i.create_on_push, i.edition FROM instances i \
        LEFT JOIN stores s ON s.id = i.store_id WHERE i.state <> 'deleted' ORDER BY i.id";
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
    /// The signing key first, then former ones, then the next one.
    pub(crate) LIST_KEYS = "SELECT id, private_key, public_jwk, activated_at IS NOT NULL FROM token_keys \
        ORDER BY activated_at IS NULL, activated_at DESC, id LIMIT 16";
    pub(crate) SIGNING_KEY = "SELECT id, activated_at FROM token_keys WHERE activated_at IS NOT NULL AND retired_at IS NULL \
        ORDER BY activated_at DESC, id LIMIT 1";
    pub(crate) NEXT_KEY = "SELECT id, created_at FROM token_keys WHERE activated_at IS NULL ORDER BY created_at, id LIMIT 1";
    pub(crate) RETIRE_KEY = "UPDATE token_keys SET retired_at = $2 WHERE id = $1";
    pub(crate) ACTIVATE_KEY = "UPDATE token_keys SET activated_at = $2 WHERE id = $1";
    pub(crate) FORGET_KEYS = "DELETE FROM token_keys WHERE retired_at <= $1";

    /// Nothing when the name is taken.
    pub(crate) ADD_PRINCIPAL = "INSERT INTO principals (id, instance_id, kind, name, description, password_hash, email, \
        expires_at, created_at, updated_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $9) ON CONFLICT DO NOTHING";
    pub(crate) PRINCIPAL_BY_NAME = "SELECT p.id, p.instance_id, p.kind, p.name, p.description, p.disabled, p.password_hash, \
        p.email, p.expires_at, p.last_used_at, p.grants_revision + i.access_revision, p.version, p.created_at, p.updated_at \
        FROM principals p JOIN instances i ON i.id = p.instance_id \
        WHERE p.instance_id = $1 AND p.kind = $2 AND p.name = $3";
    pub(crate) PRINCIPAL_BY_ID = "SELECT p.id, p.instance_id, p.kind, p.name, p.description, p.disabled, p.password_hash, \
        p.email, p.expires_at, p.last_used_at, p.grants_revision + i.access_revision, p.version, p.created_at, p.updated_at \
        FROM principals p JOIN instances i ON i.id = p.instance_id WHERE p.instance_id = $1 AND p.id = $2";
    /// By the unique index on (instance_id, kind, name).
    pub(crate) LIST_PRINCIPALS = "SELECT p.id, p.instance_id, p.kind, p.name, p.description, p.disabled, p.password_hash, \
        p.email, p.expires_at, p.last_used_at, p.grants_revision + i.access_revision, p.version, p.created_at, p.updated_at \
        FROM principals p JOIN instances i ON i.id = p.instance_id \
        WHERE p.instance_id = $1 AND p.kind = $2 AND p.name >= $5 AND p.name < $6 AND p.name <> $3 ORDER BY p.name LIMIT $4";
    /// The lock under which a principal, its credentials and its grants change.
    pub(crate) LOCK_PRINCIPAL = "SELECT kind, version, password_hash FROM principals WHERE instance_id = $1 AND id = $2" for update;
    pub(crate) SET_PRINCIPAL = "UPDATE principals SET description = $2, email = $3, disabled = $4, expires_at = $5, \
        version = version + 1, updated_at = $6 WHERE id = $1";
    pub(crate) SET_PASSWORD = "UPDATE principals SET password_hash = $2, version = version + 1, updated_at = $3 WHERE id = $1";
    pub(crate) BUMP_GRANTS = "UPDATE principals SET grants_revision = grants_revision + 1 WHERE id = $1";
    /// Every group or role of the instance may have changed.
    pub(crate) BUMP_ACCESS = "UPDATE instances SET access_revision = access_revision + 1 WHERE id = $1";
    pub(crate) DELETE_PRINCIPAL = "DELETE FROM principals WHERE id = $1";
    /// Not more often than once a minute.
    pub(crate) TOUCH_PRINCIPAL = "UPDATE principals SET last_used_at = $2 \
        WHERE id = $1 AND COALESCE(last_used_at, 0) < $2 - 60000000";
    pub(crate) TOUCH_SECRET = "UPDATE robot_secrets SET last_used_at = $2 \
        WHERE id = $1 AND COALESCE(last_used_at, 0) < $2 - 60000000";

    pub(crate) ADD_MEMBER = "INSERT INTO group_members (group_id, principal_id, added_at) VALUES ($1, $2, $3) \
        ON CONFLICT DO NOTHING";
    pub(crate) DELETE_MEMBER = "DELETE FROM group_members WHERE group_id = $1 AND principal_id = $2";
    pub(crate) LEAVE_GROUPS = "DELETE FROM group_members WHERE group_id = $1 OR principal_id = $1";
    /// By the primary key.
    pub(crate) LIST_MEMBERS = "SELECT p.id, p.kind, p.name FROM group_members m JOIN principals p ON p.id = m.principal_id \
        WHERE m.group_id = $1 AND m.principal_id > $2 ORDER BY m.principal_id LIMIT $3";
    /// Bounded when members are added.
    pub(crate) GROUPS_OF = "SELECT g.name FROM group_members m JOIN principals g ON g.id = m.group_id \
        WHERE m.principal_id = $1 ORDER BY m.group_id LIMIT 1000";
    pub(crate) COUNT_GROUPS_OF = "SELECT COUNT(*) FROM (SELECT 1 FROM group_members WHERE principal_id = $1 LIMIT 1001) AS counted";

    pub(crate) ADD_SECRET = "INSERT INTO robot_secrets (id, principal_id, hash, created_at) VALUES ($1, $2, $3, $4)";
    /// There are two at most.
    pub(crate) LIST_SECRETS = "SELECT id, hash, created_at, last_used_at FROM robot_secrets WHERE principal_id = $1 \
        ORDER BY created_at, id LIMIT 16";
    pub(crate) DELETE_SECRET = "DELETE FROM robot_secrets WHERE principal_id = $1 AND id = $2";
    pub(crate) DELETE_SECRETS = "DELETE FROM robot_secrets WHERE principal_id = $1";
    pub(crate) DELETE_TOKENS_OF_SECRET = "DELETE FROM secret_tokens WHERE secret_id = $1";

    pub(crate) ADD_ROLE = "INSERT INTO roles (id, instance_id, name, description, scopes, permissions, created_at, updated_at) \
        VALUES ($1, $2, $3, $4, $5, $6, $7, $7) ON CONFLICT DO NOTHING";
    pub(crate) LOCK_ROLE = "SELECT version FROM roles WHERE instance_id = $1 AND id = $2" for update;
    pub(crate) SET_ROLE = "UPDATE roles SET description = $2, scopes = $3, permissions = $4, version = version + 1, \
        updated_at = $5 WHERE id = $1";
    pub(crate) DELETE_ROLE = "DELETE FROM roles WHERE id = $1";
    /// By the index on (instance_id, role).
    pub(crate) ROLE_IS_GIVEN = "SELECT 1 FROM grants WHERE instance_id = $1 AND role = $2 LIMIT 1";
    /// Bounded when roles are made.
    pub(crate) LIST_ROLES = "SELECT id, name, description, scopes, permissions, version FROM roles WHERE instance_id = $1 \
        ORDER BY name LIMIT 1001";

    pub(crate) ADD_GRANT = "INSERT INTO grants (id, instance_id, principal_id, role, scope_kind, scope_id, created_by, created_at) \
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT DO NOTHING";
    pub(crate) FIND_GRANT = "SELECT id FROM grants WHERE principal_id = $1 AND role = $2 AND scope_kind = $3 AND scope_id = $4";
    pub(crate) COUNT_GRANTS = "SELECT COUNT(*) FROM (SELECT 1 FROM grants WHERE principal_id = $1 LIMIT 10001) AS counted";
    pub(crate) GRANT = "SELECT g.id, g.principal_id, p.kind, p.name, g.role, g.scope_kind, g.scope_id, g.created_by, \
        g.created_at FROM grants g JOIN principals p ON p.id = g.principal_id WHERE g.instance_id = $1 AND g.id = $2";
    /// By the index on (instance_id, id).
    pub(crate) LIST_GRANTS = "SELECT g.id, g.principal_id, p.kind, p.name, g.role, g.scope_kind, g.scope_id, g.created_by, \
        g.created_at FROM grants g JOIN principals p ON p.id = g.principal_id \
        WHERE g.instance_id = $1 AND g.id > $2 AND ($3 = '' OR g.principal_id = $3) ORDER BY g.id LIMIT $4";
    /// Of one place.
    pub(crate) LIST_GRANTS_AT = "SELECT g.id, g.principal_id, p.kind, p.name, g.role, g.scope_kind, g.scope_id, g.created_by, \
        g.created_at FROM grants g JOIN principals p ON p.id = g.principal_id \
        WHERE g.scope_id = $5 AND g.instance_id = $1 AND g.id > $2 AND ($3 = '' OR g.principal_id = $3) ORDER BY g.id LIMIT $4";
    pub(crate) DELETE_GRANT = "DELETE FROM grants WHERE id = $1";
    pub(crate) DELETE_GRANTS = "DELETE FROM grants WHERE principal_id = $1";
    pub(crate) ANY_OPERATOR = "SELECT 1 FROM grants WHERE instance_id = $1 AND scope_kind = 'deployment' LIMIT 1";
    /// What a principal has by itself and by its groups, by the unique indexes; bounded when grants and members are added.
    pub(crate) GRANTS_OF = "SELECT id, role, scope_kind, scope_id, '' FROM grants WHERE principal_id = $1 \
        UNION ALL SELECT g.id, g.role, g.scope_kind, g.scope_id, g.principal_id FROM group_members m \
        JOIN grants g ON g.principal_id = m.group_id JOIN principals p ON p.id = m.group_id \
        WHERE m.principal_id = $1 AND NOT p.disabled ORDER BY 1 LIMIT 20000";

    pub(crate) ADD_SECRET_TOKEN = "INSERT INTO secret_tokens (hash, kind, instance_id, principal_id, secret_id, created_at, \
        expires_at, provider_id) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)";
    pub(crate) PRINCIPAL_BY_SECRET_TOKEN = "SELECT p.id, p.instance_id, p.kind, p.name, p.description, p.disabled, \
        p.password_hash, p.email, p.expires_at, p.last_used_at, p.grants_revision + i.access_revision, p.version, p.created_at, \
        p.updated_at, t.secret_id, t.expires_at, t.provider_id FROM secret_tokens t JOIN principals p ON p.id = t.principal_id \
        JOIN instances i ON i.id = p.instance_id \
        WHERE t.hash = $1 AND t.kind = $2 AND t.instance_id = $3 AND p.instance_id = $3 AND t.expires_at > $4";
    /// The old and the many; by the index on (principal_id, kind, created_at).
    pub(crate) PRUNE_SECRET_TOKENS = "DELETE FROM secret_tokens WHERE principal_id = $1 AND kind = $2 AND (expires_at <= $3 \
        OR hash NOT IN (SELECT hash FROM secret_tokens WHERE principal_id = $1 AND kind = $2 \
        ORDER BY created_at DESC, hash LIMIT 100))";
    pub(crate) INSTANCE_OF_SECRET_TOKEN = "SELECT instance_id FROM secret_tokens WHERE hash = $1";
    pub(crate) DELETE_SECRET_TOKEN = "DELETE FROM secret_tokens WHERE hash = $1 AND kind = $2";
    pub(crate) DELETE_SECRET_TOKENS = "DELETE FROM secret_tokens WHERE principal_id = $1";

    pub(crate) SET_NOT_BEFORE = "INSERT INTO not_befores (subject, instance_id, at) VALUES ($1, $2, $3) \
        ON CONFLICT (subject) DO UPDATE SET at = excluded.at";
    pub(crate) PRUNE_NOT_BEFORES = "DELETE FROM not_befores WHERE at < $1";
    /// Bounded by what happens in ten minutes; by the index on at.
    pub(crate) LIST_NOT_BEFORES = "SELECT subject, instance_id, at FROM not_befores WHERE at >= $1 ORDER BY at, subject LIMIT 100000";

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
    pub(crate) SEALED_TOKEN_KEYS = "SELECT id, private_key FROM token_keys ORDER BY id";
    pub(crate) SEALED_INSTANCE_KEYS = "SELECT id, sealed FROM instance_keys ORDER BY id";
    pub(crate) SEALED_STORES = "SELECT id, secret FROM stores WHERE secret IS NOT NULL ORDER BY id";
    pub(crate) SEALED_PROVIDERS = "SELECT id, client_secret FROM identity_providers WHERE client_secret IS NOT NULL ORDER BY id";
    pub(crate) RESEAL_TOKEN_KEY = "UPDATE token_keys SET private_key = $2 WHERE id = $1";
    pub(crate) RESEAL_INSTANCE_KEY = "UPDATE instance_keys SET sealed = $2 WHERE id = $1";
    pub(crate) RESEAL_STORE = "UPDATE stores SET secret = $2 WHERE id = $1";
    pub(crate) RESEAL_PROVIDER = "UPDATE identity_providers SET client_secret = $2 WHERE id = $1";
    pub(crate) SHRED_KEYS = "DELETE FROM instance_keys WHERE instance_id = $1";
}
