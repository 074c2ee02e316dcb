//! The SQL statements of the scrubber: keyset pages over everything, read without a lock, and the row of a pass.

use berth_database::statements;

statements! {
    // Rows.
    pub(crate) BLOBS = "SELECT instance_id, digest, size, store_id, object_key, format, \
        quarantined_at IS NOT NULL, kek_id, wrapped_dek FROM blobs \
        WHERE (instance_id, digest) > ($1, $2) ORDER BY instance_id, digest LIMIT $3";
    pub(crate) BLOB_IS = "SELECT 1 FROM blobs WHERE instance_id = $1 AND digest = $2 AND object_key = $3";
    // With how many of its blobs and children are not there, which the foreign keys should make impossible.
    pub(crate) MANIFESTS = "SELECT m.repository_id, m.digest, m.payload, \
        (SELECT count(*) FROM manifest_blobs b \
            WHERE b.repository_id = m.repository_id AND b.manifest_digest = m.digest \
            AND NOT EXISTS (SELECT 1 FROM links l \
                JOIN blobs o ON o.instance_id = l.instance_id AND o.digest = l.digest \
                WHERE l.repository_id = b.repository_id AND l.digest = b.blob_digest)) \
        + (SELECT count(*) FROM manifest_children c \
            WHERE c.repository_id = m.repository_id AND c.parent = m.digest \
            AND NOT EXISTS (SELECT 1 FROM manifests k \
                WHERE k.repository_id = c.repository_id AND k.digest = c.child)) \
        FROM manifests m WHERE (m.repository_id, m.digest) > ($1, $2) \
        ORDER BY m.repository_id, m.digest LIMIT $3";
    pub(crate) TAGS = "SELECT t.repository_id, t.name, t.digest, \
        EXISTS (SELECT 1 FROM manifests m WHERE m.repository_id = t.repository_id AND m.digest = t.digest) \
        FROM tags t WHERE (t.repository_id, t.name) > ($1, $2) ORDER BY t.repository_id, t.name LIMIT $3";

    // Read once a page; a scan of the rows is nothing beside the reading of their bytes.
    pub(crate) STORES = "SELECT DISTINCT store_id FROM blobs ORDER BY store_id";
    // Of the keys $2 of the stores $1, those that no row names. What an upload puts aside has names that begin with its session's, which
    // is 55 characters long. One statement and so one moment: a key goes from row to row in
    // transactions, and comes back in none.
    pub(crate) UNNAMED = sqlite "SELECT k.value FROM json_each($2) k \
        WHERE NOT EXISTS (SELECT 1 FROM blobs b WHERE b.object_key = k.value AND b.store_id IN (SELECT value FROM json_each($1))) \
        AND NOT EXISTS (SELECT 1 FROM upload_sessions s WHERE s.object_key = substr(k.value, 1, 55) AND s.store_id IN (SELECT value FROM json_each($1)) \
            AND s.state IN ('open', 'finishing')) \
        AND NOT EXISTS (SELECT 1 FROM object_deletes d WHERE d.store_id IN (SELECT value FROM json_each($1)) \
            AND d.object_key IN (k.value, substr(k.value, 1, 55)))"
        postgres "SELECT k.value FROM unnest($2::text[]) AS k (value) \
        WHERE NOT EXISTS (SELECT 1 FROM blobs b WHERE b.object_key = k.value AND b.store_id = ANY($1)) \
        AND NOT EXISTS (SELECT 1 FROM upload_sessions s WHERE s.object_key = substr(k.value, 1, 55) AND s.store_id = ANY($1) \
            AND s.state IN ('open', 'finishing')) \
        AND NOT EXISTS (SELECT 1 FROM object_deletes d WHERE d.store_id = ANY($1) \
            AND d.object_key IN (k.value, substr(k.value, 1, 55)))";

    // Passes.
    pub(crate) NEWEST_PASS = "SELECT number, paced, started_at, ended_at, phase, after_text, after_bytes, steps, \
        blobs, manifests, objects, bytes, damaged, orphans, waits_for \
        FROM scrub_passes ORDER BY number DESC LIMIT 1";
    pub(crate) BASE_PASS = "INSERT INTO scrub_passes (number, paced, started_at, ended_at, phase) \
        VALUES (0, TRUE, $1, $1, 'done') ON CONFLICT DO NOTHING";
    pub(crate) BEGIN_PASS = "INSERT INTO scrub_passes (number, paced, started_at, phase) \
        VALUES ($1, $2, $3, 'blobs') ON CONFLICT DO NOTHING";
    pub(crate) DROP_OLD_FINDINGS = "DELETE FROM scrub_findings WHERE pass < $1";
    pub(crate) DROP_OLD_PASSES = "DELETE FROM scrub_passes WHERE number < $1";
    // Compared with the steps taken: of two who work on a pass, one gets on.
    pub(crate) ADVANCE_PASS = "UPDATE scrub_passes SET phase = $3, after_text = $4, after_bytes = $5, \
        ended_at = $6, blobs = blobs + $7, manifests = manifests + $8, objects = objects + $9, bytes = bytes + $10, \
        damaged = damaged + $11, orphans = orphans + $12, steps = steps + 1, waits_for = NULL \
        WHERE number = $1 AND steps = $2 AND ended_at IS NULL";
    pub(crate) PASS_WAITS = "UPDATE scrub_passes SET waits_for = $2 WHERE number = $1 AND ended_at IS NULL";
    pub(crate) ADD_FINDING = "INSERT INTO scrub_findings (pass, number, kind, object_key, digest) \
        VALUES ($1, $2, $3, $4, $5)";
    pub(crate) FINDINGS = "SELECT number, kind, object_key, digest FROM scrub_findings \
        WHERE pass = $1 AND number > $2 ORDER BY number LIMIT $3";
    pub(crate) COUNT_FINDINGS = "SELECT kind, count(*) FROM scrub_findings WHERE pass = $1 GROUP BY kind";

    pub(crate) GIVE_UP_PASS = "UPDATE scrub_passes SET ended_at = $2 WHERE number = $1 AND ended_at IS NULL";
    // What there is to be compared; each counted to one more than a million.
    pub(crate) COUNT_CONTENT = "SELECT (SELECT count(*) FROM (SELECT 1 FROM blobs LIMIT 1000001) AS b), \
        (SELECT count(*) FROM (SELECT 1 FROM manifests LIMIT 1000001) AS m)";
    pub(crate) LOCK_PASS = "SELECT blobs + manifests + objects FROM scrub_passes \
        WHERE number = $1 AND ended_at IS NULL" for update;
}
