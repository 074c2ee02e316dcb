//! The SQL statements behind lists of tags and artifacts, of the repository $1. A page is read from an index; what it is
//! narrowed to besides is judged on the way, over a bounded number of rows. What SQLite
//! would find behind a manifest's payload is read from an index.

use berth_database::statements;

statements! {
    /// A repository of an instance, and whether its tags stay.
    pub(crate) REPOSITORY_OF = "SELECT immutable_tags FROM repositories WHERE id = $1 AND instance_id = $2 \
            AND removed_at IS NULL";
    /// By name, from $2 on and before $3, without $4.
    pub(crate) TAGS_BY_NAME = sqlite "SELECT t.name, t.digest, t.updated_at, t.updated_by, t.created_at, t.version, \
            m.media_type, m.artifact_type, m.size, c.content_size FROM \
            (SELECT name, digest, updated_at, updated_by, created_at, version FROM tags WHERE repository_id = $1 \
            AND name >= $2 AND name < $3 AND name <> $4 ORDER BY name LIMIT $5) t CROSS JOIN manifests m \
            CROSS JOIN manifests c INDEXED BY manifests_by_content WHERE m.repository_id = $1 AND m.digest = t.digest \
            AND c.repository_id = $1 AND c.digest = t.digest ORDER BY t.name"
        postgres "SELECT t.name, t.digest, t.updated_at, t.updated_by, t.created_at, t.version, m.media_type, \
            m.artifact_type, m.size, m.content_size FROM \
            (SELECT name, digest, updated_at, updated_by, created_at, version FROM tags WHERE repository_id = $1 \
            AND name >= $2 AND name < $3 AND name <> $4 ORDER BY name LIMIT $5) t JOIN manifests m \
            ON m.repository_id = $1 AND m.digest = t.digest ORDER BY t.name";
    /// Those that moved last first, before $3 at $2 and down to $5 at $4: names from $6 on and before $7.
    pub(crate) NEWEST_TAGS = sqlite "SELECT t.name, t.digest, t.updated_at, t.updated_by, t.created_at, t.version, \
            m.media_type, m.artifact_type, m.size, c.content_size FROM \
            (SELECT name, digest, updated_at, updated_by, created_at, version FROM tags WHERE repository_id = $1 \
            AND (updated_at, name) < ($2, $3) AND (updated_at, name) >= ($4, $5) AND name >= $6 AND name < $7 \
            ORDER BY updated_at DESC, name DESC LIMIT $8) t CROSS JOIN manifests m \
            CROSS JOIN manifests c INDEXED BY manifests_by_content WHERE m.repository_id = $1 AND m.digest = t.digest \
            AND c.repository_id = $1 AND c.digest = t.digest ORDER BY t.updated_at DESC, t.name DESC"
        postgres "SELECT t.name, t.digest, t.updated_at, t.updated_by, t.created_at, t.version, m.media_type, \
            m.artifact_type, m.size, m.content_size FROM \
            (SELECT name, digest, updated_at, updated_by, created_at, version FROM tags WHERE repository_id = $1 \
            AND (updated_at, name) < ($2, $3) AND (updated_at, name) >= ($4, $5) AND name >= $6 AND name < $7 \
            ORDER BY updated_at DESC, name DESC LIMIT $8) t JOIN manifests m ON m.repository_id = $1 \
            AND m.digest = t.digest ORDER BY t.updated_at DESC, t.name DESC";
    /// What comes after the next $4.
    pub(crate) NEWEST_TAGS_END = "SELECT updated_at, name FROM tags WHERE repository_id = $1 \
            AND (updated_at, name) < ($2, $3) ORDER BY updated_at DESC, name DESC LIMIT 1 OFFSET $4";
    /// The tag $2.
    pub(crate) TAG = sqlite "SELECT t.name, t.digest, t.updated_at, t.updated_by, t.created_at, t.version, m.media_type, \
            m.artifact_type, m.size, c.content_size FROM \
            (SELECT name, digest, updated_at, updated_by, created_at, version FROM tags WHERE repository_id = $1 \
            AND name = $2) t CROSS JOIN manifests m CROSS JOIN manifests c INDEXED BY manifests_by_content \
            WHERE m.repository_id = $1 AND m.digest = t.digest AND c.repository_id = $1 AND c.digest = t.digest"
        postgres "SELECT t.name, t.digest, t.updated_at, t.updated_by, t.created_at, t.version, m.media_type, \
            m.artifact_type, m.size, m.content_size FROM \
            (SELECT name, digest, updated_at, updated_by, created_at, version FROM tags WHERE repository_id = $1 \
            AND name = $2) t JOIN manifests m ON m.repository_id = $1 AND m.digest = t.digest";
    /// Newest first, before $3 at $2 and down to $5 at $4: of the type $6, of the media type $7, with tags or without ($8).
    /// `OFFSET 0` keeps PostgreSQL from gathering all tags first.
    pub(crate) NEWEST_ARTIFACTS = sqlite "SELECT p.digest, p.pushed_at, m.media_type, m.artifact_type, m.size, m.subject, \
            c.content_size, c.pushed_by, (SELECT json_group_array(name) FROM (SELECT t.name FROM tags t \
            WHERE t.repository_id = $1 AND t.digest = p.digest ORDER BY t.name LIMIT 21)) FROM \
            (SELECT s.digest, s.pushed_at FROM manifests s WHERE s.repository_id = $1 \
            AND (s.pushed_at, s.digest) < ($2, $3) AND (s.pushed_at, s.digest) >= ($4, $5) AND ($6 = '' \
            OR s.artifact_type = $6) AND ($7 = '' OR s.media_type = $7) AND ($8 = '' OR ($8 = 'yes') = EXISTS (SELECT 1 \
            FROM tags t WHERE t.repository_id = $1 AND t.digest = s.digest)) \
            ORDER BY s.pushed_at DESC, s.digest DESC LIMIT $9) p CROSS JOIN manifests m \
            CROSS JOIN manifests c INDEXED BY manifests_by_content WHERE m.repository_id = $1 AND m.digest = p.digest \
            AND c.repository_id = $1 AND c.digest = p.digest ORDER BY p.pushed_at DESC, p.digest DESC"
        postgres "SELECT p.digest, p.pushed_at, m.media_type, m.artifact_type, m.size, m.subject, m.content_size, \
            m.pushed_by, COALESCE((SELECT json_agg(n.name ORDER BY n.name)::text FROM (SELECT t.name FROM tags t \
            WHERE t.repository_id = $1 AND t.digest = p.digest ORDER BY t.name LIMIT 21) n), '[]') FROM \
            (SELECT s.digest, s.pushed_at FROM manifests s WHERE s.repository_id = $1 \
            AND (s.pushed_at, s.digest) < ($2, $3) AND (s.pushed_at, s.digest) >= ($4, $5) AND ($6 = '' \
            OR s.artifact_type = $6) AND ($7 = '' OR s.media_type = $7) AND ($8 = '' OR ($8 = 'yes') = EXISTS (SELECT 1 \
            FROM tags t WHERE t.repository_id = $1 AND t.digest = s.digest OFFSET 0)) \
            ORDER BY s.pushed_at DESC, s.digest DESC LIMIT $9) p JOIN manifests m ON m.repository_id = $1 \
            AND m.digest = p.digest ORDER BY p.pushed_at DESC, p.digest DESC";
    /// What comes after the next $4.
    pub(crate) NEWEST_ARTIFACTS_END = "SELECT pushed_at, digest FROM manifests WHERE repository_id = $1 \
            AND (pushed_at, digest) < ($2, $3) ORDER BY pushed_at DESC, digest DESC LIMIT 1 OFFSET $4";
    /// The manifest $2.
    pub(crate) ARTIFACT = sqlite "SELECT p.digest, p.pushed_at, m.media_type, m.artifact_type, m.size, m.subject, \
            c.content_size, c.pushed_by, (SELECT json_group_array(name) FROM (SELECT t.name FROM tags t \
            WHERE t.repository_id = $1 AND t.digest = p.digest ORDER BY t.name LIMIT 21)) FROM (SELECT digest, pushed_at \
            FROM manifests WHERE repository_id = $1 AND digest = $2) p CROSS JOIN manifests m \
            CROSS JOIN manifests c INDEXED BY manifests_by_content WHERE m.repository_id = $1 AND m.digest = p.digest \
            AND c.repository_id = $1 AND c.digest = p.digest"
        postgres "SELECT p.digest, p.pushed_at, m.media_type, m.artifact_type, m.size, m.subject, m.content_size, \
            m.pushed_by, COALESCE((SELECT json_agg(n.name ORDER BY n.name)::text FROM (SELECT t.name FROM tags t \
            WHERE t.repository_id = $1 AND t.digest = p.digest ORDER BY t.name LIMIT 21) n), '[]') FROM \
            (SELECT digest, pushed_at FROM manifests WHERE repository_id = $1 AND digest = $2) p JOIN manifests m \
            ON m.repository_id = $1 AND m.digest = p.digest";
    pub(crate) HOLDERS = "SELECT parent FROM manifest_children WHERE repository_id = $1 AND child = $2 \
            ORDER BY parent LIMIT 100";
    /// What is about to get a tag.
    pub(crate) MANIFEST_TO_TAG = "SELECT media_type, size, artifact_type, subject FROM manifests WHERE repository_id = $1 \
            AND digest = $2" for key share;
    /// Sizes of older rows, once those of what is in them are known.
    pub(crate) FILL_SIZES = sqlite "UPDATE manifests SET content_size = CAST(COALESCE((SELECT sum(b.size) \
            FROM manifest_blobs h JOIN links l ON l.repository_id = h.repository_id AND l.digest = h.blob_digest \
            JOIN blobs b ON b.instance_id = l.instance_id AND b.digest = l.digest \
            WHERE h.repository_id = manifests.repository_id \
            AND h.manifest_digest = manifests.digest), 0) + COALESCE((SELECT sum(k.content_size) \
            FROM manifest_children c CROSS JOIN manifests k INDEXED BY manifests_by_content \
            ON k.repository_id = c.repository_id AND k.digest = c.child WHERE c.repository_id = manifests.repository_id \
            AND c.parent = manifests.digest), 0) AS BIGINT) WHERE (repository_id, digest) IN \
            (SELECT q.repository_id, q.digest FROM manifests q INDEXED BY manifests_without_size \
            WHERE q.content_size IS NULL AND NOT EXISTS (SELECT 1 FROM manifest_children c \
            CROSS JOIN manifests k INDEXED BY manifests_by_content ON k.repository_id = c.repository_id \
            AND k.digest = c.child WHERE c.repository_id = q.repository_id AND c.parent = q.digest \
            AND k.content_size IS NULL) ORDER BY q.repository_id, q.digest LIMIT 200)"
        postgres "UPDATE manifests SET content_size = CAST(COALESCE((SELECT sum(b.size) FROM manifest_blobs h \
            JOIN links l ON l.repository_id = h.repository_id AND l.digest = h.blob_digest JOIN blobs b \
            ON b.instance_id = l.instance_id AND b.digest = l.digest WHERE h.repository_id = manifests.repository_id \
            AND h.manifest_digest = manifests.digest), 0) + COALESCE((SELECT sum(k.content_size) \
            FROM manifest_children c JOIN manifests k ON k.repository_id = c.repository_id AND k.digest = c.child \
            WHERE c.repository_id = manifests.repository_id AND c.parent = manifests.digest), 0) AS BIGINT) \
            WHERE (repository_id, digest) IN (SELECT q.repository_id, q.digest FROM manifests q \
            WHERE q.content_size IS NULL AND NOT EXISTS (SELECT 1 FROM manifest_children c JOIN manifests k \
            ON k.repository_id = c.repository_id AND k.digest = c.child WHERE c.repository_id = q.repository_id \
            AND c.parent = q.digest AND k.content_size IS NULL) \
            ORDER BY q.repository_id, q.digest LIMIT 200 FOR NO KEY UPDATE SKIP LOCKED)";
}
