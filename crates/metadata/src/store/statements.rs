//! Every SQL statement of metadata. Each names a key or an index prefix of its tables; lists are bounded by `LIMIT` or
//! by the request. `$n` of lists are `TextList`, `BytesList`.

use berth_database::statements;

statements! {
    // Resolve: one indexed read for each kind of reference. Namespace, repository and reference are unique-key
    // look-ups, each a nested loop of one row.
    pub(crate) RESOLVE_REPOSITORY = "SELECT r.id, n.id, r.visibility \
        FROM namespaces n \
        LEFT JOIN repositories r ON r.instance_id = n.instance_id AND r.path = $3 \
        WHERE n.instance_id = $1 AND n.name = $2";
    pub(crate) RESOLVE_TAG = "SELECT r.id, n.id, r.visibility, m.digest, m.size, m.media_type \
        FROM namespaces n \
        LEFT JOIN repositories r ON r.instance_id = n.instance_id AND r.path = $3 \
        LEFT JOIN tags t ON t.repository_id = r.id AND t.name = $4 \
        LEFT JOIN manifests m ON m.repository_id = t.repository_id AND m.digest = t.digest \
        WHERE n.instance_id = $1 AND n.name = $2";
    pub(crate) RESOLVE_MANIFEST = "SELECT r.id, n.id, r.visibility, m.digest, m.size, m.media_type \
        FROM namespaces n \
        LEFT JOIN repositories r ON r.instance_id = n.instance_id AND r.path = $3 \
        LEFT JOIN manifests m ON m.repository_id = r.id AND m.digest = $4 \
        WHERE n.instance_id = $1 AND n.name = $2";
    pub(crate) RESOLVE_BLOB = "SELECT r.id, n.id, r.visibility, b.digest, b.size, b.store_id, b.object_key, b.format, \
        b.quarantined_at IS NOT NULL, b.kek_id, b.wrapped_dek \
        FROM namespaces n \
        LEFT JOIN repositories r ON r.instance_id = n.instance_id AND r.path = $3 \
        LEFT JOIN links l ON l.repository_id = r.id AND l.digest = $4 \
        LEFT JOIN blobs b ON b.instance_id = l.instance_id AND b.digest = l.digest \
        WHERE n.instance_id = $1 AND n.name = $2";
    pub(crate) READ_MANIFEST = "SELECT payload FROM manifests WHERE repository_id = $1 AND digest = $2";

    // Namespaces and repositories.
    pub(crate) REPOSITORY_AT = "SELECT id, namespace_id, provisional, immutable_tags FROM repositories \
        WHERE instance_id = $1 AND path = $2" for key share;
    pub(crate) READ_REPOSITORY = "SELECT id, namespace_id FROM repositories WHERE instance_id = $1 AND path = $2";
    pub(crate) REPOSITORIES_AT = sqlite "SELECT path, id, visibility FROM repositories \
        WHERE instance_id = $1 AND path IN (SELECT value FROM json_each($2))"
        postgres "SELECT path, id, visibility FROM repositories WHERE instance_id = $1 AND path = ANY($2)";
    pub(crate) NAMESPACES_AT = sqlite "SELECT name, id FROM namespaces \
        WHERE instance_id = $1 AND name IN (SELECT value FROM json_each($2))"
        postgres "SELECT name, id FROM namespaces WHERE instance_id = $1 AND name = ANY($2)";
    pub(crate) NAMESPACE_AT = "SELECT id, create_on_push, removing, default_visibility, default_immutable \
        FROM namespaces WHERE instance_id = $1 AND name = $2" for key share;
    pub(crate) ADD_LIMITS = "INSERT INTO instance_limits (instance_id) VALUES ($1) ON CONFLICT DO NOTHING";
    pub(crate) LOCK_LIMITS = "SELECT max_namespaces, max_repositories, namespaces, repositories, revision, max_depth, \
        removing FROM instance_limits WHERE instance_id = $1" for update;
    pub(crate) INSTANCE_LIMITS = "SELECT max_namespaces, max_repositories, namespaces, repositories, revision, max_depth, \
        removing FROM instance_limits WHERE instance_id = $1";
    pub(crate) END_INSTANCE = "UPDATE instance_limits SET removing = TRUE WHERE instance_id = $1";
    pub(crate) REMOVAL_LEFT = "SELECT 1 FROM removals WHERE kind = $1 AND id = $2";
    /// From the index on (instance_id, size) alone.
    pub(crate) BLOB_USAGE = "SELECT count(*), CAST(coalesce(sum(size), 0) AS BIGINT) FROM blobs WHERE instance_id = $1";
    /// Repositories, blobs and objects that wait for their deletion, of an instance that ends; each counted to one more than
    /// 100,000. Its objects have keys from $2 on and before $3.
    pub(crate) LEFT_OF_INSTANCE = "SELECT \
        (SELECT count(*) FROM (SELECT 1 FROM repositories WHERE instance_id = $1 LIMIT 100001) AS q), \
        (SELECT count(*) FROM (SELECT 1 FROM blobs WHERE instance_id = $1 LIMIT 100001) AS q), \
        (SELECT count(*) FROM (SELECT 1 FROM object_deletes WHERE object_key >= $2 AND object_key < $3 LIMIT 100001) AS q)";
    pub(crate) SET_LIMITS = "UPDATE instance_limits SET revision = $2, max_namespaces = $3, max_repositories = $4, \
        max_depth = $5 WHERE instance_id = $1";
    /// One with more parts after its namespace than that, if there is any; reads the instance's repositories.
    pub(crate) DEEPER_REPOSITORY = "SELECT path FROM repositories WHERE instance_id = $1 \
        AND LENGTH(path) - LENGTH(REPLACE(path, '/', '')) > $2 ORDER BY path LIMIT 1";
    pub(crate) COUNT_MADE = "UPDATE instance_limits SET namespaces = namespaces + $2, repositories = repositories + $3 \
        WHERE instance_id = $1";
    pub(crate) ADD_NAMESPACE = "INSERT INTO namespaces (id, instance_id, name, made_by_push, created_at) \
        VALUES ($1, $2, $3, TRUE, $4)";
    pub(crate) ADD_REPOSITORY = "INSERT INTO repositories \
        (id, instance_id, namespace_id, path, provisional, created_at, updated_at, visibility, immutable_tags) \
        VALUES ($1, $2, $3, $4, TRUE, $5, $5, $6, $7)";
    pub(crate) ADD_REPOSITORY_REVIEW = "INSERT INTO repository_review_queue (repository_id, review_after) \
        VALUES ($1, $2) ON CONFLICT DO NOTHING";
    pub(crate) CONFIRM_REPOSITORY = "UPDATE repositories SET provisional = FALSE, updated_at = $2 \
        WHERE id = $1 AND provisional";
    pub(crate) LIST_REPOSITORIES = sqlite "SELECT path FROM repositories \
        WHERE instance_id = $1 AND path > $2 AND NOT provisional AND removed_at IS NULL \
        AND ($3 OR visibility = 'public' OR id IN (SELECT value FROM json_each($4)) \
            OR namespace_id IN (SELECT value FROM json_each($5))) ORDER BY path LIMIT $6"
        postgres "SELECT path FROM repositories \
        WHERE instance_id = $1 AND path > $2 AND NOT provisional AND removed_at IS NULL \
        AND ($3 OR visibility = 'public' OR id = ANY($4) OR namespace_id = ANY($5)) ORDER BY path LIMIT $6";

    // By hand.
    pub(crate) ADD_NAMESPACE_BY_HAND = "INSERT INTO namespaces (id, instance_id, name, made_by_push, created_at, updated_at, \
        description, create_on_push, default_visibility, default_immutable) \
        VALUES ($1, $2, $3, FALSE, $4, $4, $5, $6, $7, $8)";
    pub(crate) NAMESPACE = "SELECT id, name, description, create_on_push, default_visibility, default_immutable, removing, \
        created_at, updated_at, version FROM namespaces WHERE instance_id = $1 AND name = $2";
    pub(crate) NAMESPACE_BY_ID = "SELECT id, name, description, create_on_push, default_visibility, default_immutable, removing, \
        created_at, updated_at, version FROM namespaces WHERE instance_id = $1 AND id = $2";
    pub(crate) LOCK_NAMESPACE = "SELECT id, name, description, create_on_push, default_visibility, default_immutable, removing, \
        created_at, updated_at, version FROM namespaces WHERE instance_id = $1 AND name = $2" for update;
    /// What somebody takes care of does not go with its last repository.
    pub(crate) CHANGE_NAMESPACE = "UPDATE namespaces SET description = $2, create_on_push = $3, default_visibility = $4, \
        default_immutable = $5, made_by_push = FALSE, version = version + 1, updated_at = $6 WHERE id = $1";
    pub(crate) REMOVE_NAMESPACE = "UPDATE namespaces SET removing = TRUE, version = version + 1, updated_at = $2 WHERE id = $1";
    pub(crate) ADD_REPOSITORY_BY_HAND = "INSERT INTO repositories (id, instance_id, namespace_id, path, provisional, created_at, \
        updated_at, visibility, immutable_tags, summary, description) \
        VALUES ($1, $2, $3, $4, FALSE, $5, $5, $6, $7, $8, $9)";
    pub(crate) REPOSITORY = "SELECT id, namespace_id, path, summary, description, visibility, immutable_tags, keep_untagged, \
        provisional, created_at, updated_at, version FROM repositories WHERE instance_id = $1 AND path = $2";
    pub(crate) REPOSITORY_BY_ID = "SELECT id, namespace_id, path, summary, description, visibility, immutable_tags, keep_untagged, \
        provisional, created_at, updated_at, version FROM repositories WHERE instance_id = $1 AND id = $2 AND removed_at IS NULL";
    pub(crate) LOCK_REPOSITORY = "SELECT id, namespace_id, path, summary, description, visibility, immutable_tags, keep_untagged, \
        provisional, created_at, updated_at, version FROM repositories WHERE instance_id = $1 AND path = $2" for update;
    pub(crate) CHANGE_REPOSITORY = "UPDATE repositories SET summary = $2, description = $3, visibility = $4, \
        immutable_tags = $5, keep_untagged = $6, generation = generation + 1, version = version + 1, updated_at = $7 WHERE id = $1";
    /// Its path is free for another.
    pub(crate) REMOVE_REPOSITORY = "UPDATE repositories SET path = '~' || id, visibility = 'private', provisional = FALSE, \
        removed_at = $2, generation = generation + 1, version = version + 1, updated_at = $2 WHERE id = $1";
    pub(crate) ADD_REMOVAL = "INSERT INTO removals (kind, id, due_at) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING";

    // Upload sessions.
    pub(crate) ADD_SESSION = "INSERT INTO upload_sessions (id, instance_id, repository_id, principal, algorithm, state, \
        store_id, object_key, started_at, updated_at, expires_at, staged) \
        VALUES ($1, $2, $3, $4, $5, 'open', $6, $7, $8, $8, $9, $10)";
    pub(crate) READ_SESSION = "SELECT r.id, r.namespace_id, s.state, s.size, s.epoch, s.algorithm, s.hash_state, \
        s.store_id, s.object_key, s.expires_at, s.digest, s.lease_until, \
        s.staged, s.multipart_key, s.multipart_id, s.reserved_parts, \
        s.kek_id, s.wrapped_dek, s.sealed_hash, s.sealed_rest, \
        EXISTS (SELECT 1 FROM links l WHERE l.repository_id = r.id AND l.digest = s.digest) \
        FROM upload_sessions s JOIN repositories r ON r.id = s.repository_id \
        WHERE s.id = $1 AND s.principal = $2 AND r.instance_id = $3 AND r.path = $4";
    // Whether the link is there is asked afterwards: this statement may wait for a commit that it then doesn't see.
    pub(crate) LOCK_SESSION = "SELECT r.id, r.namespace_id, s.state, s.size, s.epoch, s.algorithm, s.hash_state, \
        s.store_id, s.object_key, s.expires_at, s.digest, s.lease_until, \
        s.staged, s.multipart_key, s.multipart_id, s.reserved_parts, \
        s.kek_id, s.wrapped_dek, s.sealed_hash, s.sealed_rest \
        FROM upload_sessions s JOIN repositories r ON r.id = s.repository_id \
        WHERE s.id = $1 AND s.principal = $2 AND r.instance_id = $3 AND r.path = $4" for update of s;
    pub(crate) LINK = "SELECT 1 FROM links WHERE repository_id = $1 AND digest = $2";
    pub(crate) SESSION_STATE = "SELECT state, size FROM upload_sessions WHERE id = $1";
    // Part numbers that the holder may use and not record.
    pub(crate) TAKE_LEASE = "UPDATE upload_sessions SET epoch = $2, lease_until = $3, \
        reserved_parts = CASE WHEN multipart_id IS NULL THEN 0 ELSE reserved_parts + $4 END WHERE id = $1";
    // SQLite's epochs live in memory and were compared before, which $8 says; the row only follows. Where bytes are put
    // aside they are in the row.
    pub(crate) ADVANCE_SESSION = sqlite "UPDATE upload_sessions \
        SET size = $3, hash_state = $4, epoch = $2, lease_until = $5, updated_at = $6, expires_at = $7 \
        WHERE id = $1 AND CASE WHEN staged THEN epoch = $2 ELSE $8 AND epoch <= $2 END \
        AND state = 'open' AND size <= $3 RETURNING algorithm"
        postgres "UPDATE upload_sessions \
        SET size = $3, hash_state = $4, epoch = $2, lease_until = $5, updated_at = $6, expires_at = $7 \
        WHERE id = $1 AND $8 AND epoch = $2 AND state = 'open' AND size <= $3 RETURNING algorithm";
    pub(crate) FINISH_SESSION = "UPDATE upload_sessions SET state = 'finishing', digest = $3, size = $4, \
        hash_state = $5, lease_until = $6, updated_at = $7, expires_at = $8 \
        WHERE id = $1 AND staged AND epoch = $2 AND state = 'open' AND size <= $4";
    pub(crate) SET_MULTIPART = "UPDATE upload_sessions SET multipart_key = $2, multipart_id = $3 WHERE id = $1";
    pub(crate) SET_RESERVED = "UPDATE upload_sessions SET reserved_parts = $2 WHERE id = $1";
    pub(crate) SET_SEALING = "UPDATE upload_sessions SET kek_id = COALESCE($2, kek_id), \
        wrapped_dek = COALESCE($3, wrapped_dek), sealed_hash = $4, sealed_rest = $5 WHERE id = $1";
    pub(crate) PIECES = "SELECT number, epoch, start, size, part_number, object_key, entity_tag, checksum, merged \
        FROM upload_parts WHERE upload_id = $1 ORDER BY start, number";
    pub(crate) ADD_PIECE = "INSERT INTO upload_parts \
        (upload_id, number, epoch, start, size, part_number, object_key, entity_tag, checksum) \
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT DO NOTHING";
    pub(crate) MERGE_PIECES = sqlite "UPDATE upload_parts SET merged = TRUE \
        WHERE upload_id = $1 AND number IN (SELECT CAST(value AS INTEGER) FROM json_each($2))"
        postgres "UPDATE upload_parts SET merged = TRUE \
        WHERE upload_id = $1 AND number = ANY(CAST($2::text[] AS bigint[]))";
    // Merged ones count: their objects may be there still.
    pub(crate) COUNT_TAILS = "SELECT epoch, count(*) FROM upload_parts \
        WHERE upload_id = $1 AND part_number IS NULL GROUP BY epoch HAVING count(*) > 1 ORDER BY epoch";
    pub(crate) COMMIT_SESSION = "UPDATE upload_sessions SET state = 'committed', digest = $2, size = $3, \
        hash_state = NULL, kek_id = NULL, wrapped_dek = NULL, sealed_hash = NULL, sealed_rest = NULL, \
        lease_until = 0, updated_at = $4, expires_at = $5 WHERE id = $1";
    pub(crate) CANCEL_SESSION = "UPDATE upload_sessions SET state = 'cancelled', epoch = $2, hash_state = NULL, \
        kek_id = NULL, wrapped_dek = NULL, sealed_hash = NULL, sealed_rest = NULL, \
        lease_until = 0, updated_at = $3, expires_at = $4 WHERE id = $1";

    // Blobs and links.
    pub(crate) ADD_BLOB = "INSERT INTO blobs \
        (instance_id, digest, size, store_id, object_key, created_at, format, kek_id, wrapped_dek) \
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT DO NOTHING";
    pub(crate) BLOB_KEY = "SELECT object_key FROM blobs WHERE instance_id = $1 AND digest = $2" for key share;
    pub(crate) IN_QUARANTINE = "SELECT 1 FROM blobs WHERE instance_id = $1 AND digest = $2 \
        AND quarantined_at IS NOT NULL";
    pub(crate) LOCK_QUARANTINED = "SELECT store_id, object_key, size FROM blobs WHERE instance_id = $1 AND digest = $2 \
        AND quarantined_at IS NOT NULL" for update;
    pub(crate) REPLACE_OBJECT = "UPDATE blobs SET store_id = $3, object_key = $4, format = $5, kek_id = $6, \
        wrapped_dek = $7, quarantined_at = NULL \
        WHERE instance_id = $1 AND digest = $2";
    pub(crate) QUARANTINE = "UPDATE blobs SET quarantined_at = $4 WHERE instance_id = $1 AND digest = $2 \
        AND object_key = $3 AND quarantined_at IS NULL AND ($5 = '' OR kek_id = $5)";
    pub(crate) LIFT_QUARANTINE = "UPDATE blobs SET quarantined_at = NULL WHERE instance_id = $1 AND digest = $2 \
        AND object_key = $3 AND quarantined_at IS NOT NULL";
    pub(crate) ADD_LINK = "INSERT INTO links (repository_id, digest, instance_id, linked_at) VALUES ($1, $2, $3, $4) \
        ON CONFLICT (repository_id, digest) DO UPDATE SET linked_at = excluded.linked_at";
    pub(crate) LOCK_LINK = "SELECT 1 FROM links WHERE repository_id = $1 AND digest = $2" for update;
    pub(crate) DROP_LINK = "DELETE FROM links WHERE repository_id = $1 AND digest = $2";
    // Starts from what the caller may read and never from the blob's links, so that it takes as long for content that
    // is somebody else's as for content that is nowhere.
    pub(crate) FIND_READABLE_LINK = sqlite "SELECT 1 WHERE \
        ($3 AND EXISTS (SELECT 1 FROM links l CROSS JOIN repositories r \
            WHERE l.instance_id = $1 AND l.digest = $2 AND r.id = l.repository_id AND r.removed_at IS NULL)) \
        OR EXISTS (SELECT 1 FROM json_each($4) i CROSS JOIN repositories r CROSS JOIN links l \
            WHERE r.id = i.value AND +r.instance_id = $1 AND r.removed_at IS NULL \
            AND l.repository_id = r.id AND l.digest = $2) \
        OR EXISTS (SELECT 1 FROM json_each($5) n CROSS JOIN repositories r CROSS JOIN links l \
            WHERE r.namespace_id = n.value AND +r.instance_id = $1 AND r.removed_at IS NULL AND l.repository_id = r.id AND l.digest = $2) \
        OR EXISTS (SELECT 1 FROM repositories r CROSS JOIN links l \
            WHERE r.instance_id = $1 AND r.visibility = 'public' AND l.repository_id = r.id AND l.digest = $2)"
        postgres "SELECT 1 WHERE \
        ($3 AND EXISTS (SELECT 1 FROM links l JOIN repositories r ON r.id = l.repository_id \
            WHERE l.instance_id = $1 AND l.digest = $2 AND r.removed_at IS NULL)) \
        OR EXISTS (SELECT 1 FROM repositories r WHERE r.id = ANY($4) AND r.instance_id = $1 AND r.removed_at IS NULL \
            AND EXISTS (SELECT 1 FROM links l WHERE l.repository_id = r.id AND l.digest = $2 OFFSET 0)) \
        OR EXISTS (SELECT 1 FROM repositories r WHERE r.namespace_id = ANY($5) AND r.instance_id = $1 \
            AND r.removed_at IS NULL \
            AND EXISTS (SELECT 1 FROM links l WHERE l.repository_id = r.id AND l.digest = $2 OFFSET 0)) \
        OR EXISTS (SELECT 1 FROM repositories r WHERE r.instance_id = $1 AND r.visibility = 'public' \
            AND EXISTS (SELECT 1 FROM links l WHERE l.repository_id = r.id AND l.digest = $2 OFFSET 0))";
    pub(crate) BLOB_HOLDER = "SELECT manifest_digest FROM manifest_blobs \
        WHERE repository_id = $1 AND blob_digest = $2 LIMIT 1";
    pub(crate) LOCK_LINKS = sqlite "SELECT l.digest, b.size FROM links l \
        JOIN blobs b ON b.instance_id = l.instance_id AND b.digest = l.digest \
        WHERE l.repository_id = $1 AND l.digest IN (SELECT unhex(value) FROM json_each($2)) ORDER BY l.digest"
        postgres "SELECT l.digest, b.size FROM links l \
        JOIN blobs b ON b.instance_id = l.instance_id AND b.digest = l.digest \
        WHERE l.repository_id = $1 AND l.digest = ANY($2) ORDER BY l.digest FOR KEY SHARE OF l";
    pub(crate) ADD_OBJECT_DELETE = "INSERT INTO object_deletes (store_id, object_key, not_before, size) \
        VALUES ($1, $2, $3, $4) \
        ON CONFLICT DO NOTHING";
    pub(crate) ADD_REMAINS = "INSERT INTO object_deletes (store_id, object_key, not_before, size, remains) \
        VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING";

    // Review queues. A review is only ever put off, never brought forward.
    pub(crate) REVIEW_BLOB = sqlite "INSERT INTO blob_review_queue (instance_id, digest, review_after) \
        VALUES ($1, $2, $3) ON CONFLICT (instance_id, digest) \
        DO UPDATE SET review_after = max(review_after, excluded.review_after)"
        postgres "INSERT INTO blob_review_queue AS q (instance_id, digest, review_after) \
        VALUES ($1, $2, $3) ON CONFLICT (instance_id, digest) \
        DO UPDATE SET review_after = greatest(q.review_after, excluded.review_after)";
    pub(crate) REVIEW_LINKS = sqlite "INSERT INTO link_review_queue (repository_id, digest, review_after) \
        SELECT $1, unhex(value), $3 FROM json_each($2) WHERE TRUE ON CONFLICT (repository_id, digest) \
        DO UPDATE SET review_after = max(review_after, excluded.review_after)"
        postgres "INSERT INTO link_review_queue AS q (repository_id, digest, review_after) \
        SELECT $1, value, $3 FROM unnest($2::bytea[]) AS value ORDER BY value ON CONFLICT (repository_id, digest) \
        DO UPDATE SET review_after = greatest(q.review_after, excluded.review_after)";
    // $4 is the one that was pushed: no holder that went speaks against it any more.
    pub(crate) REVIEW_MANIFESTS = sqlite "INSERT INTO manifest_review_queue (repository_id, digest, review_after) \
        SELECT $1, unhex(value), $3 FROM json_each($2) WHERE TRUE ON CONFLICT (repository_id, digest) \
        DO UPDATE SET review_after = max(review_after, excluded.review_after), \
            released = released AND digest <> $4"
        postgres "INSERT INTO manifest_review_queue AS q (repository_id, digest, review_after) \
        SELECT $1, value, $3 FROM unnest($2::bytea[]) AS value ORDER BY value ON CONFLICT (repository_id, digest) \
        DO UPDATE SET review_after = greatest(q.review_after, excluded.review_after), \
            released = q.released AND q.digest <> $4";
    pub(crate) DROP_LINK_REVIEW = "DELETE FROM link_review_queue WHERE repository_id = $1 AND digest = $2";
    // Rows that are due before $3 move there; the locks come in order.
    pub(crate) LOCK_LINK_REVIEWS = sqlite "SELECT digest FROM link_review_queue \
        WHERE repository_id = $1 AND digest IN (SELECT unhex(value) FROM json_each($2)) AND review_after < $3 LIMIT 1"
        postgres "SELECT digest FROM link_review_queue \
        WHERE repository_id = $1 AND digest = ANY($2) AND review_after < $3 ORDER BY digest FOR UPDATE";
    pub(crate) HOLD_LINKS = sqlite "UPDATE link_review_queue SET review_after = $3 \
        WHERE repository_id = $1 AND digest IN (SELECT unhex(value) FROM json_each($2)) AND review_after < $3"
        postgres "UPDATE link_review_queue SET review_after = $3 \
        WHERE repository_id = $1 AND digest = ANY($2) AND review_after < $3";
    pub(crate) HOLD_BLOB = "UPDATE blob_review_queue SET review_after = $3 \
        WHERE instance_id = $1 AND digest = $2 AND review_after < $3";
    pub(crate) HOLD_LINK = "UPDATE link_review_queue SET review_after = $3 \
        WHERE repository_id = $1 AND digest = $2 AND review_after < $3";
    pub(crate) HOLD_MANIFEST = "UPDATE manifest_review_queue SET review_after = $3 \
        WHERE repository_id = $1 AND digest = $2 AND review_after < $3";
    pub(crate) BLOB_REVIEW_SOONER = "SELECT 1 FROM blob_review_queue \
        WHERE instance_id = $1 AND digest = $2 AND review_after < $3";
    pub(crate) LINK_REVIEW_SOONER = "SELECT 1 FROM link_review_queue \
        WHERE repository_id = $1 AND digest = $2 AND review_after < $3";
    pub(crate) MANIFEST_REVIEW_SOONER = "SELECT 1 FROM manifest_review_queue \
        WHERE repository_id = $1 AND digest = $2 AND review_after < $3";

    // Manifests.
    pub(crate) ADD_MANIFEST = "INSERT INTO manifests (repository_id, digest, size, media_type, artifact_type, subject, \
        pushed_at, annotations, payload, pushed_by, content_size) \
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) ON CONFLICT DO NOTHING";
    /// What is pushed again may have another media type, or hold a foreign layer that wasn't there before.
    pub(crate) UPDATE_MANIFEST = "UPDATE manifests SET media_type = $3, artifact_type = $4, content_size = $5 \
        WHERE repository_id = $1 AND digest = $2 \
        AND (media_type <> $3 OR COALESCE(content_size, -1) <> COALESCE($5, -1))";
    /// With what each holds; NULL: not known yet.
    pub(crate) LOCK_MANIFESTS = sqlite "SELECT digest, content_size FROM manifests INDEXED BY manifests_by_content \
        WHERE repository_id = $1 AND digest IN (SELECT unhex(value) FROM json_each($2)) ORDER BY digest"
        postgres "SELECT digest, content_size FROM manifests \
        WHERE repository_id = $1 AND digest = ANY($2) ORDER BY digest FOR KEY SHARE";
    pub(crate) ADD_MANIFEST_BLOBS = sqlite "INSERT INTO manifest_blobs (repository_id, manifest_digest, blob_digest) \
        SELECT $1, $2, unhex(value) FROM json_each($3) WHERE TRUE ON CONFLICT DO NOTHING"
        postgres "INSERT INTO manifest_blobs (repository_id, manifest_digest, blob_digest) \
        SELECT $1, $2, value FROM unnest($3::bytea[]) AS value ORDER BY value ON CONFLICT DO NOTHING";
    pub(crate) ADD_MANIFEST_CHILDREN = sqlite "INSERT INTO manifest_children (repository_id, parent, child) \
        SELECT $1, $2, unhex(value) FROM json_each($3) WHERE TRUE ON CONFLICT DO NOTHING"
        postgres "INSERT INTO manifest_children (repository_id, parent, child) \
        SELECT $1, $2, value FROM unnest($3::bytea[]) AS value ORDER BY value ON CONFLICT DO NOTHING";
    pub(crate) LOCK_MANIFEST = "SELECT media_type, size, artifact_type, subject FROM manifests \
        WHERE repository_id = $1 AND digest = $2" for update;
    pub(crate) MANIFEST = "SELECT 1 FROM manifests WHERE repository_id = $1 AND digest = $2";
    pub(crate) MANIFEST_PARENT = "SELECT parent FROM manifest_children \
        WHERE repository_id = $1 AND child = $2 LIMIT 1";
    // What lived with a manifest: its children, and the referrers whose subject it is.
    pub(crate) MANIFEST_DEPENDANTS = "SELECT child FROM manifest_children WHERE repository_id = $1 AND parent = $2 \
        UNION SELECT digest FROM manifests WHERE repository_id = $1 AND subject = $2";
    pub(crate) MANIFEST_BLOBS = "SELECT blob_digest FROM manifest_blobs \
        WHERE repository_id = $1 AND manifest_digest = $2";
    pub(crate) DROP_MANIFEST_BLOBS = "DELETE FROM manifest_blobs WHERE repository_id = $1 AND manifest_digest = $2";
    pub(crate) DROP_MANIFEST_CHILDREN = "DELETE FROM manifest_children WHERE repository_id = $1 AND parent = $2";
    pub(crate) DROP_MANIFEST = "DELETE FROM manifests WHERE repository_id = $1 AND digest = $2";
    // Referrers are measured before they are read: annotations may be as large as a manifest.
    pub(crate) MEASURE_REFERRERS = "SELECT digest, CAST(octet_length(annotations) AS BIGINT) FROM manifests \
        WHERE repository_id = $1 AND subject = $2 AND digest > $3 ORDER BY digest LIMIT $4";
    pub(crate) MEASURE_REFERRERS_OF_TYPE = "SELECT digest, CAST(octet_length(annotations) AS BIGINT) FROM manifests \
        WHERE repository_id = $1 AND subject = $2 AND artifact_type = $5 AND digest > $3 ORDER BY digest LIMIT $4";
    pub(crate) READ_REFERRERS = sqlite "SELECT digest, media_type, size, artifact_type, annotations FROM manifests \
        WHERE repository_id = $1 AND digest IN (SELECT unhex(value) FROM json_each($2)) ORDER BY digest"
        postgres "SELECT digest, media_type, size, artifact_type, annotations FROM manifests \
        WHERE repository_id = $1 AND digest = ANY($2) ORDER BY digest";

    // Tags.
    pub(crate) LOCK_TAGS = sqlite "SELECT name, digest FROM tags \
        WHERE repository_id = $1 AND name IN (SELECT value FROM json_each($2)) ORDER BY name"
        postgres "SELECT name, digest FROM tags WHERE repository_id = $1 AND name = ANY($2) ORDER BY name FOR UPDATE";
    pub(crate) LOCK_TAG = "SELECT digest, version FROM tags WHERE repository_id = $1 AND name = $2" for update;
    pub(crate) LOCK_TAGS_OF = "SELECT name FROM tags WHERE repository_id = $1 AND digest = $2 ORDER BY name" for update;
    pub(crate) TAGS_OF = "SELECT name FROM tags WHERE repository_id = $1 AND digest = $2";
    pub(crate) ADD_TAG = "INSERT INTO tags (repository_id, name, digest, version, updated_at, created_at) \
        VALUES ($1, $2, $3, 0, $4, $4) ON CONFLICT DO NOTHING";
    pub(crate) MOVE_TAG = "UPDATE tags SET digest = $3, version = $4, updated_at = $5, updated_by = $6 \
        WHERE repository_id = $1 AND name = $2";
    pub(crate) DROP_TAG = "DELETE FROM tags WHERE repository_id = $1 AND name = $2";
    pub(crate) LIST_TAGS = "SELECT name FROM tags WHERE repository_id = $1 AND name > $2 ORDER BY name LIMIT $3";

    // The outbox. On PostgreSQL the server's clock decides what is due; $n of the caller's clock is 0 there.
    pub(crate) ADD_EVENT = "INSERT INTO outbox (id, sequence, payload, created_at) VALUES ($1, $2, $3, $4)";
    pub(crate) ADD_DELIVERY = "INSERT INTO outbox_deliveries (subscriber, sequence, event_id, key, created_at) \
        VALUES ($1, $2, $3, $4, $5)";
    pub(crate) CLAIM_OUTBOX = "INSERT INTO outbox_claims (subscriber, holder, held_until) VALUES ($1, $2, $3) \
        ON CONFLICT (subscriber) DO UPDATE SET holder = excluded.holder, held_until = excluded.held_until \
        WHERE outbox_claims.holder = excluded.holder OR outbox_claims.held_until < $4";
    pub(crate) DUE_EVENTS = sqlite "SELECT o.payload, d.attempts FROM outbox_deliveries d \
        JOIN outbox o ON o.id = d.event_id \
        WHERE d.subscriber = $1 AND d.dead_at IS NULL AND NOT EXISTS (SELECT 1 FROM outbox_deliveries b \
            WHERE b.subscriber = d.subscriber AND b.key = d.key AND b.sequence <= d.sequence \
            AND b.dead_at IS NULL AND b.not_before > $2) \
        ORDER BY d.sequence LIMIT $3"
        postgres "SELECT o.payload, d.attempts FROM outbox_deliveries d \
        JOIN outbox o ON o.id = d.event_id \
        WHERE d.subscriber = $1 AND d.dead_at IS NULL AND NOT EXISTS (SELECT 1 FROM outbox_deliveries b \
            WHERE b.subscriber = d.subscriber AND b.key = d.key AND b.sequence <= d.sequence \
            AND b.dead_at IS NULL AND b.not_before > greatest($2, (extract(epoch FROM now()) * 1000000)::bigint)) \
        ORDER BY d.sequence LIMIT $3";
    pub(crate) DROP_DELIVERIES = sqlite "DELETE FROM outbox_deliveries \
        WHERE subscriber = $1 AND event_id IN (SELECT value FROM json_each($2))"
        postgres "DELETE FROM outbox_deliveries WHERE subscriber = $1 AND event_id = ANY($2)";
    pub(crate) LOCK_EVENTS = sqlite "SELECT id FROM outbox WHERE id IN (SELECT value FROM json_each($1)) ORDER BY id"
        postgres "SELECT id FROM outbox WHERE id = ANY($1) ORDER BY id FOR UPDATE";
    pub(crate) DROP_EVENTS = sqlite "DELETE FROM outbox WHERE id IN (SELECT value FROM json_each($1)) \
        AND NOT EXISTS (SELECT 1 FROM outbox_deliveries d WHERE d.event_id = outbox.id)"
        postgres "DELETE FROM outbox WHERE id = ANY($1) \
        AND NOT EXISTS (SELECT 1 FROM outbox_deliveries d WHERE d.event_id = outbox.id)";
    pub(crate) BACK_OFF = "UPDATE outbox_deliveries SET attempts = attempts + 1, not_before = $3, last_error = $4 \
        WHERE subscriber = $1 AND event_id = $2 AND dead_at IS NULL";
    pub(crate) BURY = "UPDATE outbox_deliveries SET attempts = attempts + 1, dead_at = $3, last_error = $4 \
        WHERE subscriber = $1 AND event_id = $2 AND dead_at IS NULL";
    pub(crate) DEAD_LETTERS = "SELECT o.payload, d.attempts, d.last_error, d.dead_at FROM outbox_deliveries d \
        JOIN outbox o ON o.id = d.event_id \
        WHERE d.subscriber = $1 AND d.dead_at IS NOT NULL AND d.event_id > $2 ORDER BY d.event_id LIMIT $3";
    pub(crate) REPLAY = "UPDATE outbox_deliveries SET attempts = 0, not_before = 0, dead_at = NULL, last_error = NULL \
        WHERE subscriber = $1 AND event_id = $2 AND dead_at IS NOT NULL";
    // Counts stop at 100,000.
    pub(crate) BACKLOG = "SELECT \
        (SELECT count(*) FROM (SELECT 1 FROM outbox_deliveries \
            WHERE subscriber = $1 AND dead_at IS NULL LIMIT 100000) AS waiting), \
        (SELECT created_at FROM outbox_deliveries \
            WHERE subscriber = $1 AND dead_at IS NULL ORDER BY sequence LIMIT 1), \
        (SELECT count(*) FROM (SELECT 1 FROM outbox_deliveries \
            WHERE subscriber = $1 AND dead_at IS NOT NULL LIMIT 100000) AS dead)";
}
