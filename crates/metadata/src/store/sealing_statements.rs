//! The SQL statements about keys of instances: which are named, and sealing again what a former one has sealed.

use berth_database::statements;

statements! {
    // Locked by whoever is about to name the key, so that it is not given up meanwhile.
    pub(crate) LOCK_KEY = "SELECT given_up FROM sealing_keys WHERE key_id = $1" for key share;
    pub(crate) ADD_KEY = "INSERT INTO sealing_keys (key_id) VALUES ($1) ON CONFLICT DO NOTHING";
    // The statements after it see whatever was named before.
    pub(crate) LOCK_KEY_ALONE = "SELECT given_up FROM sealing_keys WHERE key_id = $1" for update;
    pub(crate) KEY_IS_NAMED = "SELECT 1 WHERE EXISTS (SELECT 1 FROM blobs WHERE kek_id = $1) \
        OR EXISTS (SELECT 1 FROM upload_sessions WHERE kek_id = $1)";
    pub(crate) GIVE_UP_KEY = "UPDATE sealing_keys SET given_up = TRUE WHERE key_id = $1";

    pub(crate) BLOBS_OF_KEY = "SELECT instance_id, digest, object_key, wrapped_dek FROM blobs \
        WHERE kek_id = $1 AND (instance_id, digest) > ($2, $3) ORDER BY instance_id, digest LIMIT $4";
    // The object may be another by now, and so may its key.
    pub(crate) RESEAL_BLOB = "UPDATE blobs SET kek_id = $5, wrapped_dek = $6 \
        WHERE instance_id = $1 AND digest = $2 AND object_key = $3 AND kek_id = $4";
    pub(crate) SESSIONS_OF_KEY = "SELECT id, instance_id, object_key, wrapped_dek FROM upload_sessions \
        WHERE kek_id = $1 AND id > $2 ORDER BY id LIMIT $3";
    pub(crate) RESEAL_SESSION = "UPDATE upload_sessions SET kek_id = $3, wrapped_dek = $4 \
        WHERE id = $1 AND kek_id = $2";
}
