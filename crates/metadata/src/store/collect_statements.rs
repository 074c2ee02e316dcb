//! The SQL statements of collection. A queue row is taken with SKIP LOCKED, and so is the row that it speaks of: a
//! collector waits for nobody who works on content. `TRY_LOCK_…` without an answer means that somebody holds the row, or
//! that it is gone.

use berth_database::statements;

statements! {
    // Manifests.
    pub(crate) NEXT_MANIFEST = "SELECT repository_id, digest, attempts, released FROM manifest_review_queue \
        WHERE review_after <= $1 ORDER BY review_after LIMIT 1" for update skip locked;
    pub(crate) MANIFEST_FACTS = "SELECT r.instance_id, r.path, r.keep_untagged, m.pushed_at, \
        EXISTS (SELECT 1 FROM tags t WHERE t.repository_id = m.repository_id AND t.digest = m.digest), \
        EXISTS (SELECT 1 FROM manifest_children c WHERE c.repository_id = m.repository_id AND c.child = m.digest), \
        m.subject IS NOT NULL, \
        EXISTS (SELECT 1 FROM manifests s WHERE s.repository_id = m.repository_id AND s.digest = m.subject) \
        FROM manifests m JOIN repositories r ON r.id = m.repository_id \
        WHERE m.repository_id = $1 AND m.digest = $2";
    pub(crate) TRY_LOCK_MANIFEST = "SELECT media_type, size, artifact_type, subject FROM manifests \
        WHERE repository_id = $1 AND digest = $2" for update skip locked;
    // Reviews that are asked for because the holder went. Like every review, only ever put off.
    pub(crate) RELEASE_MANIFESTS = sqlite "INSERT INTO manifest_review_queue \
        (repository_id, digest, review_after, released) \
        SELECT $1, unhex(value), $3, TRUE FROM json_each($2) WHERE TRUE ON CONFLICT (repository_id, digest) \
        DO UPDATE SET review_after = max(review_after, excluded.review_after), released = TRUE"
        postgres "INSERT INTO manifest_review_queue AS q (repository_id, digest, review_after, released) \
        SELECT $1, value, $3, TRUE FROM unnest($2::bytea[]) AS value ORDER BY value \
        ON CONFLICT (repository_id, digest) \
        DO UPDATE SET review_after = greatest(q.review_after, excluded.review_after), released = TRUE";
    pub(crate) QUEUED_MANIFESTS = sqlite "SELECT digest FROM manifest_review_queue \
        WHERE repository_id = $1 AND digest IN (SELECT unhex(value) FROM json_each($2))"
        postgres "SELECT digest FROM manifest_review_queue WHERE repository_id = $1 AND digest = ANY($2)";
    pub(crate) TRY_LOCK_QUEUED_MANIFESTS = sqlite "SELECT digest FROM manifest_review_queue \
        WHERE repository_id = $1 AND digest IN (SELECT unhex(value) FROM json_each($2))"
        postgres "SELECT digest FROM manifest_review_queue WHERE repository_id = $1 AND digest = ANY($2) \
        ORDER BY digest FOR UPDATE SKIP LOCKED";
    pub(crate) DROP_MANIFEST_REVIEW = "DELETE FROM manifest_review_queue WHERE repository_id = $1 AND digest = $2";
    pub(crate) PUT_OFF_MANIFEST = "UPDATE manifest_review_queue SET review_after = $3 \
        WHERE repository_id = $1 AND digest = $2";
    pub(crate) BACK_OFF_MANIFEST = "UPDATE manifest_review_queue SET attempts = attempts + 1, review_after = $3 \
        WHERE repository_id = $1 AND digest = $2 AND review_after < $3";

    // Links.
    pub(crate) NEXT_LINK = "SELECT repository_id, digest, attempts FROM link_review_queue \
        WHERE review_after <= $1 ORDER BY review_after LIMIT 1" for update skip locked;
    pub(crate) LINK_FACTS = "SELECT l.instance_id, EXISTS (SELECT 1 FROM manifest_blobs b \
            WHERE b.repository_id = l.repository_id AND b.blob_digest = l.digest) \
        FROM links l WHERE l.repository_id = $1 AND l.digest = $2";
    pub(crate) TRY_LOCK_LINK = "SELECT 1 FROM links WHERE repository_id = $1 AND digest = $2" for update skip locked;
    pub(crate) PUT_OFF_LINK = "UPDATE link_review_queue SET review_after = $3 \
        WHERE repository_id = $1 AND digest = $2";
    pub(crate) BACK_OFF_LINK = "UPDATE link_review_queue SET attempts = attempts + 1, review_after = $3 \
        WHERE repository_id = $1 AND digest = $2 AND review_after < $3";

    // Blobs.
    pub(crate) NEXT_BLOB = "SELECT instance_id, digest, attempts FROM blob_review_queue \
        WHERE review_after <= $1 ORDER BY review_after LIMIT 1" for update skip locked;
    pub(crate) BLOB_FACTS = "SELECT b.size, b.store_id, b.object_key, EXISTS (SELECT 1 FROM links l \
            WHERE l.instance_id = b.instance_id AND l.digest = b.digest) \
        FROM blobs b WHERE b.instance_id = $1 AND b.digest = $2";
    pub(crate) TRY_LOCK_BLOB = "SELECT 1 FROM blobs WHERE instance_id = $1 AND digest = $2" for update skip locked;
    pub(crate) DROP_BLOB = "DELETE FROM blobs WHERE instance_id = $1 AND digest = $2";
    pub(crate) DROP_BLOB_REVIEW = "DELETE FROM blob_review_queue WHERE instance_id = $1 AND digest = $2";
    pub(crate) PUT_OFF_BLOB = "UPDATE blob_review_queue SET review_after = $3 \
        WHERE instance_id = $1 AND digest = $2";
    pub(crate) BACK_OFF_BLOB = "UPDATE blob_review_queue SET attempts = attempts + 1, review_after = $3 \
        WHERE instance_id = $1 AND digest = $2 AND review_after < $3";

    // Provisional repositories. $2 is always empty: their reviews have no digest.
    pub(crate) NEXT_REPOSITORY = "SELECT repository_id, attempts FROM repository_review_queue \
        WHERE review_after <= $1 ORDER BY review_after LIMIT 1" for update skip locked;
    pub(crate) REPOSITORY_FACTS = "SELECT r.instance_id, r.namespace_id, r.provisional, \
        EXISTS (SELECT 1 FROM upload_sessions s WHERE s.repository_id = r.id) \
            OR EXISTS (SELECT 1 FROM links l WHERE l.repository_id = r.id) \
            OR EXISTS (SELECT 1 FROM manifests m WHERE m.repository_id = r.id) \
        FROM repositories r WHERE r.id = $1";
    pub(crate) TRY_LOCK_REPOSITORY = "SELECT 1 FROM repositories WHERE id = $1" for update skip locked;
    pub(crate) DROP_REPOSITORY = "DELETE FROM repositories WHERE id = $1";
    pub(crate) DROP_EMPTY_NAMESPACE = "DELETE FROM namespaces WHERE id = $1 AND made_by_push \
        AND NOT EXISTS (SELECT 1 FROM repositories r WHERE r.namespace_id = namespaces.id)";
    pub(crate) DROP_REPOSITORY_REVIEW = "DELETE FROM repository_review_queue WHERE repository_id = $1";
    pub(crate) PUT_OFF_REPOSITORY = "UPDATE repository_review_queue SET review_after = $2 WHERE repository_id = $1";
    pub(crate) BACK_OFF_REPOSITORY = "UPDATE repository_review_queue SET attempts = attempts + 1, review_after = $2 \
        WHERE repository_id = $1 AND review_after < $2";

    // Removals. Each step is bounded, and found by a prefix of a primary key.
    pub(crate) NEXT_REMOVAL = "SELECT kind, id, attempts FROM removals WHERE due_at <= $1 ORDER BY due_at LIMIT 1"
        for update skip locked;
    pub(crate) PUT_OFF_REMOVAL = "UPDATE removals SET due_at = $3, attempts = 0 WHERE kind = $1 AND id = $2";
    pub(crate) BACK_OFF_REMOVAL = "UPDATE removals SET attempts = attempts + 1, due_at = $3 \
        WHERE kind = $1 AND id = $2 AND due_at < $3";
    pub(crate) DROP_REMOVAL = "DELETE FROM removals WHERE kind = $1 AND id = $2";
    pub(crate) REMOVE_MANIFEST_REVIEWS = "DELETE FROM manifest_review_queue WHERE repository_id = $1 AND digest IN \
        (SELECT q.digest FROM manifest_review_queue q WHERE q.repository_id = $1 ORDER BY q.digest LIMIT 500)";
    pub(crate) REMOVE_LINK_REVIEWS = "DELETE FROM link_review_queue WHERE repository_id = $1 AND digest IN \
        (SELECT q.digest FROM link_review_queue q WHERE q.repository_id = $1 ORDER BY q.digest LIMIT 500)";
    pub(crate) REMOVE_TAGS = "DELETE FROM tags WHERE repository_id = $1 AND name IN \
        (SELECT t.name FROM tags t WHERE t.repository_id = $1 ORDER BY t.name LIMIT 500)";
    pub(crate) REMOVE_MANIFEST_CHILDREN = "DELETE FROM manifest_children WHERE repository_id = $1 AND (parent, child) IN \
        (SELECT c.parent, c.child FROM manifest_children c WHERE c.repository_id = $1 ORDER BY c.parent, c.child LIMIT 500)";
    pub(crate) REMOVE_MANIFEST_BLOBS = "DELETE FROM manifest_blobs WHERE repository_id = $1 \
        AND (manifest_digest, blob_digest) IN (SELECT b.manifest_digest, b.blob_digest FROM manifest_blobs b \
        WHERE b.repository_id = $1 ORDER BY b.manifest_digest, b.blob_digest LIMIT 500)";
    pub(crate) REMOVE_MANIFESTS = "DELETE FROM manifests WHERE repository_id = $1 AND digest IN \
        (SELECT m.digest FROM manifests m WHERE m.repository_id = $1 ORDER BY m.digest LIMIT 200)";
    pub(crate) END_SESSIONS = "UPDATE upload_sessions SET expires_at = $2 WHERE id IN \
        (SELECT s.id FROM upload_sessions s WHERE s.repository_id = $1 AND s.expires_at > $2 ORDER BY s.id LIMIT 200)";
    pub(crate) ANY_SESSION = "SELECT 1 FROM upload_sessions WHERE repository_id = $1 LIMIT 1";
    pub(crate) LINKS_TO_REMOVE = "SELECT instance_id, digest FROM links WHERE repository_id = $1 ORDER BY digest LIMIT 200";
    pub(crate) DROP_REMOVED = "DELETE FROM repositories WHERE id = $1 RETURNING namespace_id";
    pub(crate) NAMESPACE_TO_REMOVE = "SELECT instance_id FROM namespaces WHERE id = $1 AND removing";
    pub(crate) REPOSITORIES_TO_REMOVE = "SELECT id FROM repositories WHERE namespace_id = $1 AND removed_at IS NULL \
        ORDER BY id LIMIT 50" for update;
    pub(crate) ANY_REPOSITORY = "SELECT 1 FROM repositories WHERE namespace_id = $1 LIMIT 1";
    pub(crate) DROP_NAMESPACE = "DELETE FROM namespaces WHERE id = $1";
    pub(crate) NAMESPACES_TO_REMOVE = "SELECT id FROM namespaces WHERE instance_id = $1 AND NOT removing \
        ORDER BY id LIMIT 50" for update;
    pub(crate) ANY_NAMESPACE = "SELECT 1 FROM namespaces WHERE instance_id = $1 LIMIT 1";
    pub(crate) ANY_BLOB = "SELECT 1 FROM blobs WHERE instance_id = $1 LIMIT 1";
    // Keys from $1 on and before $2.
    pub(crate) ANY_OBJECT_DELETE = "SELECT 1 FROM object_deletes WHERE object_key >= $1 AND object_key < $2 LIMIT 1";

    // Upload sessions.
    pub(crate) NEXT_SESSION = "SELECT id, store_id, object_key, size, epoch, \
        staged, multipart_key, multipart_id, reserved_parts, kek_id, wrapped_dek, sealed_hash, sealed_rest \
        FROM upload_sessions \
        WHERE expires_at <= $1 AND lease_until <= $1 AND state IN ('open', 'finishing') \
        ORDER BY expires_at LIMIT 1" for update skip locked;
    pub(crate) REAP_SESSION = "UPDATE upload_sessions SET state = 'reaped', epoch = epoch + 1, hash_state = NULL, \
        kek_id = NULL, wrapped_dek = NULL, sealed_hash = NULL, sealed_rest = NULL, \
        lease_until = 0, updated_at = $2, expires_at = $3 WHERE id = $1 AND state IN ('open', 'finishing')";
    pub(crate) PUT_OFF_SESSION = "UPDATE upload_sessions SET expires_at = $2 WHERE id = $1";
    pub(crate) CLOSED_SESSIONS = "SELECT id FROM upload_sessions \
        WHERE expires_at <= $1 AND state IN ('committed', 'cancelled', 'reaped') \
        ORDER BY expires_at LIMIT 100" for update skip locked;
    pub(crate) DROP_PARTS = sqlite "DELETE FROM upload_parts \
        WHERE upload_id IN (SELECT value FROM json_each($1))"
        postgres "DELETE FROM upload_parts WHERE upload_id = ANY($1)";
    pub(crate) DROP_SESSIONS = sqlite "DELETE FROM upload_sessions WHERE id IN (SELECT value FROM json_each($1))"
        postgres "DELETE FROM upload_sessions WHERE id = ANY($1)";

    // Objects. Claimed in one transaction, deleted in none, finished in another; the lease's end tells claims apart.
    pub(crate) NEXT_OBJECT = "SELECT store_id, object_key, size, attempts, remains FROM object_deletes \
        WHERE not_before <= $1 AND lease_until <= $1 ORDER BY not_before LIMIT 1" for update skip locked;
    pub(crate) CLAIM_OBJECT = "UPDATE object_deletes SET lease_until = $3, attempts = attempts + 1 \
        WHERE store_id = $1 AND object_key = $2";
    pub(crate) FINISH_OBJECT = "DELETE FROM object_deletes \
        WHERE store_id = $1 AND object_key = $2 AND lease_until = $3";
    pub(crate) FAIL_OBJECT = "UPDATE object_deletes SET lease_until = 0, not_before = $4, last_error = $5 \
        WHERE store_id = $1 AND object_key = $2 AND lease_until = $3";

    // The worker: what is due first in each queue, by the clock that decides what is due.
    pub(crate) FIRST_DUE = sqlite "SELECT $1, (SELECT min(review_after) FROM manifest_review_queue), \
        (SELECT min(review_after) FROM link_review_queue), (SELECT min(review_after) FROM blob_review_queue), \
        (SELECT min(review_after) FROM repository_review_queue), (SELECT min(expires_at) FROM upload_sessions), \
        (SELECT min(not_before) FROM object_deletes), (SELECT min(due_at) FROM removals)"
        postgres "SELECT greatest($1, (extract(epoch FROM now()) * 1000000)::bigint), \
        (SELECT min(review_after) FROM manifest_review_queue), \
        (SELECT min(review_after) FROM link_review_queue), (SELECT min(review_after) FROM blob_review_queue), \
        (SELECT min(review_after) FROM repository_review_queue), (SELECT min(expires_at) FROM upload_sessions), \
        (SELECT min(not_before) FROM object_deletes), (SELECT min(due_at) FROM removals)";
    // Counts stop at 100,000.
    pub(crate) DEPTHS = "SELECT \
        (SELECT count(*) FROM (SELECT 1 FROM manifest_review_queue LIMIT 100000) AS q), \
        (SELECT count(*) FROM (SELECT 1 FROM link_review_queue LIMIT 100000) AS q), \
        (SELECT count(*) FROM (SELECT 1 FROM blob_review_queue LIMIT 100000) AS q), \
        (SELECT count(*) FROM (SELECT 1 FROM repository_review_queue LIMIT 100000) AS q), \
        (SELECT count(*) FROM (SELECT 1 FROM upload_sessions LIMIT 100000) AS q), \
        (SELECT count(*) FROM (SELECT 1 FROM object_deletes LIMIT 100000) AS q), \
        (SELECT count(*) FROM (SELECT 1 FROM removals LIMIT 100000) AS q)";
    // The bytes of objects that no row names, and of blobs that no repository holds, and when the last of them may go.
    pub(crate) RECLAIMABLE_OBJECTS = "SELECT CAST(coalesce(sum(o.size), 0) AS BIGINT), max(o.not_before) \
        FROM (SELECT size, not_before FROM object_deletes ORDER BY not_before LIMIT 100000) AS o";
    pub(crate) RECLAIMABLE_BLOBS = "SELECT CAST(coalesce(sum(b.size), 0) AS BIGINT), max(q.review_after) \
        FROM (SELECT instance_id, digest, review_after FROM blob_review_queue \
            ORDER BY review_after LIMIT 100000) AS q \
        JOIN blobs b ON b.instance_id = q.instance_id AND b.digest = q.digest \
        WHERE NOT EXISTS (SELECT 1 FROM links l WHERE l.instance_id = b.instance_id AND l.digest = b.digest)";
    pub(crate) CLAIM_WORK = "INSERT INTO worker_leases (name, holder, held_until) VALUES ($1, $2, $3) \
        ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, held_until = excluded.held_until \
        WHERE worker_leases.holder = excluded.holder OR worker_leases.held_until < $4";

    // Asked for now. $1 is the floor's end on SQLite and the floor itself on PostgreSQL, which reads its clock while it
    // holds the row: what was touched meanwhile keeps its whole floor.
    pub(crate) MANIFESTS_NOW = sqlite "UPDATE manifest_review_queue SET review_after = $1 \
        WHERE (repository_id, digest) IN (SELECT s.repository_id, s.digest FROM manifest_review_queue s \
            WHERE s.review_after > $1 LIMIT 1000)"
        postgres "UPDATE manifest_review_queue AS q \
        SET review_after = least(q.review_after, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint + $1) \
        WHERE (q.repository_id, q.digest) IN (SELECT s.repository_id, s.digest FROM manifest_review_queue s \
            WHERE s.review_after > (extract(epoch FROM clock_timestamp()) * 1000000)::bigint + $1 \
            LIMIT 1000 FOR UPDATE SKIP LOCKED)";
    pub(crate) LINKS_NOW = sqlite "UPDATE link_review_queue SET review_after = $1 \
        WHERE (repository_id, digest) IN (SELECT s.repository_id, s.digest FROM link_review_queue s \
            WHERE s.review_after > $1 LIMIT 1000)"
        postgres "UPDATE link_review_queue AS q \
        SET review_after = least(q.review_after, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint + $1) \
        WHERE (q.repository_id, q.digest) IN (SELECT s.repository_id, s.digest FROM link_review_queue s \
            WHERE s.review_after > (extract(epoch FROM clock_timestamp()) * 1000000)::bigint + $1 \
            LIMIT 1000 FOR UPDATE SKIP LOCKED)";
    pub(crate) BLOBS_NOW = sqlite "UPDATE blob_review_queue SET review_after = $1 \
        WHERE (instance_id, digest) IN (SELECT s.instance_id, s.digest FROM blob_review_queue s \
            WHERE s.review_after > $1 LIMIT 1000)"
        postgres "UPDATE blob_review_queue AS q \
        SET review_after = least(q.review_after, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint + $1) \
        WHERE (q.instance_id, q.digest) IN (SELECT s.instance_id, s.digest FROM blob_review_queue s \
            WHERE s.review_after > (extract(epoch FROM clock_timestamp()) * 1000000)::bigint + $1 \
            LIMIT 1000 FOR UPDATE SKIP LOCKED)";
    pub(crate) REPOSITORIES_NOW = sqlite "UPDATE repository_review_queue SET review_after = $1 \
        WHERE repository_id IN (SELECT s.repository_id FROM repository_review_queue s \
            WHERE s.review_after > $1 LIMIT 1000)"
        postgres "UPDATE repository_review_queue AS q \
        SET review_after = least(q.review_after, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint + $1) \
        WHERE q.repository_id IN (SELECT s.repository_id FROM repository_review_queue s \
            WHERE s.review_after > (extract(epoch FROM clock_timestamp()) * 1000000)::bigint + $1 \
            LIMIT 1000 FOR UPDATE SKIP LOCKED)";
    // Objects keep their grace; those that failed are tried again.
    pub(crate) OBJECTS_NOW = "UPDATE object_deletes SET not_before = $1 \
        WHERE attempts > 0 AND not_before > $1 AND lease_until <= $1";

    // Collection that was asked for. Its reviews are due by waits_until; until that is known they are to be brought forward.
    pub(crate) RUNS = "SELECT subject, waits_until FROM tasks WHERE kind = $1 AND state = 'running' ORDER BY subject";
    pub(crate) COUNT_RUNS = "SELECT count(*) FROM tasks WHERE kind = $1 AND state = 'running'";
    pub(crate) RUN_WAITS = "UPDATE tasks SET waits_until = $3 WHERE kind = $1 AND subject = $2 AND state = 'running'";
    /// What has to be looked at by $1, of objects only where $2; each counted to 20,000.
    pub(crate) DUE_BY = "SELECT \
        (SELECT count(*) FROM (SELECT 1 FROM manifest_review_queue WHERE review_after <= $1 LIMIT 20000) AS q), \
        (SELECT count(*) FROM (SELECT 1 FROM link_review_queue WHERE review_after <= $1 LIMIT 20000) AS q), \
        (SELECT count(*) FROM (SELECT 1 FROM blob_review_queue WHERE review_after <= $1 LIMIT 20000) AS q), \
        (SELECT count(*) FROM (SELECT 1 FROM repository_review_queue WHERE review_after <= $1 LIMIT 20000) AS q), \
        (SELECT count(*) FROM (SELECT 1 FROM object_deletes WHERE not_before <= $1 AND $2 LIMIT 20000) AS q)";
}
