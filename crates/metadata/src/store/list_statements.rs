//! The SQL statements behind lists for people. In each place that it looks at, a statement reads no more rows than it
//! answers: its cost follows from the page and from how much somebody is granted, never from how much there is.
//!
//! A page of repositories has up to five places: the instance's public and private ones ($4, $5: its id, or nothing), the
//! public and the private ones of namespaces ($6, $7: their ids), and single private ones ($8: their ids, of the namespace
//! $9 unless that is empty). $3 is how many, $2 what they come after.

use berth_database::statements;

statements! {
    /// By path.
    pub(crate) REPOSITORIES_BY_PATH = sqlite "WITH found (id, path) AS MATERIALIZED (SELECT r.id, r.path \
            FROM json_each($4) p CROSS JOIN json_each((SELECT json_group_array(id) FROM (SELECT s.id FROM repositories s \
            WHERE s.instance_id = p.value AND s.visibility = 'public' AND NOT s.provisional AND s.removed_at IS NULL \
            AND s.path > $2 ORDER BY s.path LIMIT $3))) f CROSS JOIN repositories r WHERE r.id = f.value \
        UNION SELECT r.id, r.path FROM json_each($5) p CROSS JOIN json_each((SELECT json_group_array(id) FROM \
            (SELECT s.id FROM repositories s WHERE s.instance_id = p.value AND s.visibility = 'private' \
            AND NOT s.provisional AND s.removed_at IS NULL AND s.path > $2 ORDER BY s.path LIMIT $3))) f \
            CROSS JOIN repositories r WHERE r.id = f.value \
        UNION SELECT r.id, r.path FROM json_each($6) p CROSS JOIN json_each((SELECT json_group_array(id) FROM \
            (SELECT s.id FROM repositories s WHERE s.namespace_id = p.value AND s.visibility = 'public' \
            AND NOT s.provisional AND s.removed_at IS NULL AND s.path > $2 ORDER BY s.path LIMIT $3))) f \
            CROSS JOIN repositories r WHERE r.id = f.value \
        UNION SELECT r.id, r.path FROM json_each($7) p CROSS JOIN json_each((SELECT json_group_array(id) FROM \
            (SELECT s.id FROM repositories s WHERE s.namespace_id = p.value AND s.visibility = 'private' \
            AND NOT s.provisional AND s.removed_at IS NULL AND s.path > $2 ORDER BY s.path LIMIT $3))) f \
            CROSS JOIN repositories r WHERE r.id = f.value \
        UNION SELECT r.id, r.path FROM json_each($8) i CROSS JOIN repositories r WHERE r.id = i.value \
            AND r.visibility = 'private' AND NOT r.provisional AND r.removed_at IS NULL AND +r.path > $2 AND ($9 = '' \
            OR +r.namespace_id = $9) ) \
            SELECT r.id, r.namespace_id, r.path, r.summary, '', r.visibility, r.immutable_tags, r.keep_untagged, \
            r.provisional, r.created_at, r.updated_at, r.version FROM (SELECT id, path FROM found \
            ORDER BY path LIMIT $3) f CROSS JOIN repositories r WHERE r.id = f.id AND +r.instance_id = $1 \
            ORDER BY f.path"
        postgres "WITH found (id, path) AS MATERIALIZED ((SELECT f.id, f.path FROM unnest($4::text[]) AS p \
            CROSS JOIN LATERAL (SELECT s.id, s.path FROM repositories s WHERE s.instance_id = p \
            AND s.visibility = 'public' AND NOT s.provisional AND s.removed_at IS NULL AND s.path > $2 \
            ORDER BY s.path LIMIT $3) f) \
        UNION (SELECT f.id, f.path FROM unnest($5::text[]) AS p CROSS JOIN LATERAL (SELECT s.id, s.path \
            FROM repositories s WHERE s.instance_id = p AND s.visibility = 'private' AND NOT s.provisional \
            AND s.removed_at IS NULL AND s.path > $2 ORDER BY s.path LIMIT $3) f) \
        UNION (SELECT f.id, f.path FROM unnest($6::text[]) AS p CROSS JOIN LATERAL (SELECT s.id, s.path \
            FROM repositories s WHERE s.namespace_id = p AND s.visibility = 'public' AND NOT s.provisional \
            AND s.removed_at IS NULL AND s.path > $2 ORDER BY s.path LIMIT $3) f) \
        UNION (SELECT f.id, f.path FROM unnest($7::text[]) AS p CROSS JOIN LATERAL (SELECT s.id, s.path \
            FROM repositories s WHERE s.namespace_id = p AND s.visibility = 'private' AND NOT s.provisional \
            AND s.removed_at IS NULL AND s.path > $2 ORDER BY s.path LIMIT $3) f) \
        UNION (SELECT r.id, r.path FROM repositories r WHERE r.id = ANY($8) AND r.visibility = 'private' \
            AND NOT r.provisional AND r.removed_at IS NULL AND r.path > $2 AND ($9 = '' OR r.namespace_id = $9) \
            ORDER BY r.path LIMIT $3) ) \
            SELECT r.id, r.namespace_id, r.path, r.summary, '', r.visibility, r.immutable_tags, r.keep_untagged, \
            r.provisional, r.created_at, r.updated_at, r.version FROM (SELECT id, path FROM found \
            ORDER BY path LIMIT $3) f CROSS JOIN LATERAL (SELECT * FROM repositories x WHERE x.id = f.id \
            AND x.instance_id = $1 OFFSET 0) r ORDER BY f.path";
    /// Newest first.
    pub(crate) NEWEST_REPOSITORIES = sqlite "WITH found (id, path) AS MATERIALIZED (SELECT r.id, r.path \
            FROM json_each($4) p CROSS JOIN json_each((SELECT json_group_array(id) FROM (SELECT s.id FROM repositories s \
            WHERE s.instance_id = p.value AND s.visibility = 'public' AND NOT s.provisional AND s.removed_at IS NULL \
            AND s.id < $2 ORDER BY s.id DESC LIMIT $3))) f CROSS JOIN repositories r WHERE r.id = f.value \
        UNION SELECT r.id, r.path FROM json_each($5) p CROSS JOIN json_each((SELECT json_group_array(id) FROM \
            (SELECT s.id FROM repositories s WHERE s.instance_id = p.value AND s.visibility = 'private' \
            AND NOT s.provisional AND s.removed_at IS NULL AND s.id < $2 ORDER BY s.id DESC LIMIT $3))) f \
            CROSS JOIN repositories r WHERE r.id = f.value \
        UNION SELECT r.id, r.path FROM json_each($6) p CROSS JOIN json_each((SELECT json_group_array(id) FROM \
            (SELECT s.id FROM repositories s WHERE s.namespace_id = p.value AND s.visibility = 'public' \
            AND NOT s.provisional AND s.removed_at IS NULL AND s.id < $2 ORDER BY s.id DESC LIMIT $3))) f \
            CROSS JOIN repositories r WHERE r.id = f.value \
        UNION SELECT r.id, r.path FROM json_each($7) p CROSS JOIN json_each((SELECT json_group_array(id) FROM \
            (SELECT s.id FROM repositories s WHERE s.namespace_id = p.value AND s.visibility = 'private' \
            AND NOT s.provisional AND s.removed_at IS NULL AND s.id < $2 ORDER BY s.id DESC LIMIT $3))) f \
            CROSS JOIN repositories r WHERE r.id = f.value \
        UNION SELECT r.id, r.path FROM json_each($8) i CROSS JOIN repositories r WHERE r.id = i.value \
            AND r.visibility = 'private' AND NOT r.provisional AND r.removed_at IS NULL AND +r.id < $2 AND ($9 = '' \
            OR +r.namespace_id = $9) ) \
            SELECT r.id, r.namespace_id, r.path, r.summary, '', r.visibility, r.immutable_tags, r.keep_untagged, \
            r.provisional, r.created_at, r.updated_at, r.version FROM (SELECT id, path FROM found \
            ORDER BY id DESC LIMIT $3) f CROSS JOIN repositories r WHERE r.id = f.id AND +r.instance_id = $1 \
            ORDER BY f.id DESC"
        postgres "WITH found (id, path) AS MATERIALIZED ((SELECT f.id, f.path FROM unnest($4::text[]) AS p \
            CROSS JOIN LATERAL (SELECT s.id, s.path FROM repositories s WHERE s.instance_id = p \
            AND s.visibility = 'public' AND NOT s.provisional AND s.removed_at IS NULL AND s.id < $2 \
            ORDER BY s.id DESC LIMIT $3) f) \
        UNION (SELECT f.id, f.path FROM unnest($5::text[]) AS p CROSS JOIN LATERAL (SELECT s.id, s.path \
            FROM repositories s WHERE s.instance_id = p AND s.visibility = 'private' AND NOT s.provisional \
            AND s.removed_at IS NULL AND s.id < $2 ORDER BY s.id DESC LIMIT $3) f) \
        UNION (SELECT f.id, f.path FROM unnest($6::text[]) AS p CROSS JOIN LATERAL (SELECT s.id, s.path \
            FROM repositories s WHERE s.namespace_id = p AND s.visibility = 'public' AND NOT s.provisional \
            AND s.removed_at IS NULL AND s.id < $2 ORDER BY s.id DESC LIMIT $3) f) \
        UNION (SELECT f.id, f.path FROM unnest($7::text[]) AS p CROSS JOIN LATERAL (SELECT s.id, s.path \
            FROM repositories s WHERE s.namespace_id = p AND s.visibility = 'private' AND NOT s.provisional \
            AND s.removed_at IS NULL AND s.id < $2 ORDER BY s.id DESC LIMIT $3) f) \
        UNION (SELECT r.id, r.path FROM repositories r WHERE r.id = ANY($8) AND r.visibility = 'private' \
            AND NOT r.provisional AND r.removed_at IS NULL AND r.id < $2 AND ($9 = '' OR r.namespace_id = $9) \
            ORDER BY r.id DESC LIMIT $3) ) \
            SELECT r.id, r.namespace_id, r.path, r.summary, '', r.visibility, r.immutable_tags, r.keep_untagged, \
            r.provisional, r.created_at, r.updated_at, r.version FROM (SELECT id, path FROM found \
            ORDER BY id DESC LIMIT $3) f CROSS JOIN LATERAL (SELECT * FROM repositories x WHERE x.id = f.id \
            AND x.instance_id = $1 OFFSET 0) r ORDER BY f.id DESC";
    /// By what is found: the first term of a repository from $11 on and before $12. They come after the term $2 of $10.
    pub(crate) FOUND_REPOSITORIES = sqlite "WITH found (id, term) AS MATERIALIZED (SELECT f.value, (SELECT min(m.term) \
            FROM repository_terms m WHERE m.repository_id = f.value AND m.term >= $11) FROM json_each($4) p CROSS JOIN \
            json_each((SELECT json_group_array(repository_id) FROM (SELECT t.repository_id FROM repository_terms t \
            WHERE t.instance_id = p.value AND t.visibility = 'public' AND (t.term, t.repository_id) > ($2, $10) \
            AND t.term < $12 AND NOT EXISTS (SELECT 1 FROM repository_terms o WHERE o.repository_id = t.repository_id \
            AND o.term >= $11 AND o.term < t.term) ORDER BY t.term, t.repository_id LIMIT $3))) f \
        UNION SELECT f.value, (SELECT min(m.term) FROM repository_terms m WHERE m.repository_id = f.value \
            AND m.term >= $11) FROM json_each($5) p CROSS JOIN json_each((SELECT json_group_array(repository_id) FROM \
            (SELECT t.repository_id FROM repository_terms t WHERE t.instance_id = p.value AND t.visibility = 'private' \
            AND (t.term, t.repository_id) > ($2, $10) AND t.term < $12 AND NOT EXISTS (SELECT 1 FROM repository_terms o \
            WHERE o.repository_id = t.repository_id AND o.term >= $11 AND o.term < t.term) \
            ORDER BY t.term, t.repository_id LIMIT $3))) f \
        UNION SELECT f.value, (SELECT min(m.term) FROM repository_terms m WHERE m.repository_id = f.value \
            AND m.term >= $11) FROM json_each($6) p CROSS JOIN json_each((SELECT json_group_array(repository_id) FROM \
            (SELECT t.repository_id FROM repository_terms t WHERE t.namespace_id = p.value AND t.visibility = 'public' \
            AND (t.term, t.repository_id) > ($2, $10) AND t.term < $12 AND NOT EXISTS (SELECT 1 FROM repository_terms o \
            WHERE o.repository_id = t.repository_id AND o.term >= $11 AND o.term < t.term) \
            ORDER BY t.term, t.repository_id LIMIT $3))) f \
        UNION SELECT f.value, (SELECT min(m.term) FROM repository_terms m WHERE m.repository_id = f.value \
            AND m.term >= $11) FROM json_each($7) p CROSS JOIN json_each((SELECT json_group_array(repository_id) FROM \
            (SELECT t.repository_id FROM repository_terms t WHERE t.namespace_id = p.value AND t.visibility = 'private' \
            AND (t.term, t.repository_id) > ($2, $10) AND t.term < $12 AND NOT EXISTS (SELECT 1 FROM repository_terms o \
            WHERE o.repository_id = t.repository_id AND o.term >= $11 AND o.term < t.term) \
            ORDER BY t.term, t.repository_id LIMIT $3))) f \
        UNION SELECT t.repository_id, t.term FROM json_each($8) i CROSS JOIN repository_terms t \
            WHERE t.repository_id = i.value AND t.visibility = 'private' AND t.term >= $11 \
            AND (+t.term, +t.repository_id) > ($2, $10) AND t.term < $12 AND NOT EXISTS (SELECT 1 \
            FROM repository_terms o WHERE o.repository_id = t.repository_id AND o.term >= $11 AND o.term < t.term) \
            AND ($9 = '' OR +t.namespace_id = $9) ) \
            SELECT r.id, r.namespace_id, r.path, r.summary, '', r.visibility, r.immutable_tags, r.keep_untagged, \
            r.provisional, r.created_at, r.updated_at, r.version, f.term FROM (SELECT id, term FROM found \
            ORDER BY term, id LIMIT $3) f CROSS JOIN repositories r WHERE r.id = f.id AND +r.instance_id = $1 \
            ORDER BY f.term, f.id"
        postgres "WITH found (id, term) AS MATERIALIZED ((SELECT f.repository_id, f.term FROM unnest($4::text[]) AS p \
            CROSS JOIN LATERAL (SELECT t.repository_id, t.term FROM repository_terms t WHERE t.instance_id = p \
            AND t.visibility = 'public' AND (t.term, t.repository_id) > ($2, $10) AND t.term < $12 AND NOT EXISTS \
            (SELECT 1 FROM repository_terms o WHERE o.repository_id = t.repository_id AND o.term >= $11 \
            AND o.term < t.term) ORDER BY t.term, t.repository_id LIMIT $3) f) \
        UNION (SELECT f.repository_id, f.term FROM unnest($5::text[]) AS p \
            CROSS JOIN LATERAL (SELECT t.repository_id, t.term FROM repository_terms t WHERE t.instance_id = p \
            AND t.visibility = 'private' AND (t.term, t.repository_id) > ($2, $10) AND t.term < $12 AND NOT EXISTS \
            (SELECT 1 FROM repository_terms o WHERE o.repository_id = t.repository_id AND o.term >= $11 \
            AND o.term < t.term) ORDER BY t.term, t.repository_id LIMIT $3) f) \
        UNION (SELECT f.repository_id, f.term FROM unnest($6::text[]) AS p \
            CROSS JOIN LATERAL (SELECT t.repository_id, t.term FROM repository_terms t WHERE t.namespace_id = p \
            AND t.visibility = 'public' AND (t.term, t.repository_id) > ($2, $10) AND t.term < $12 AND NOT EXISTS \
            (SELECT 1 FROM repository_terms o WHERE o.repository_id = t.repository_id AND o.term >= $11 \
            AND o.term < t.term) ORDER BY t.term, t.repository_id LIMIT $3) f) \
        UNION (SELECT f.repository_id, f.term FROM unnest($7::text[]) AS p \
            CROSS JOIN LATERAL (SELECT t.repository_id, t.term FROM repository_terms t WHERE t.namespace_id = p \
            AND t.visibility = 'private' AND (t.term, t.repository_id) > ($2, $10) AND t.term < $12 AND NOT EXISTS \
            (SELECT 1 FROM repository_terms o WHERE o.repository_id = t.repository_id AND o.term >= $11 \
            AND o.term < t.term) ORDER BY t.term, t.repository_id LIMIT $3) f) \
        UNION (SELECT t.repository_id, t.term FROM repository_terms t WHERE t.repository_id = ANY($8) \
            AND t.visibility = 'private' AND t.term >= $11 AND (t.term, t.repository_id) > ($2, $10) AND t.term < $12 \
            AND NOT EXISTS (SELECT 1 FROM repository_terms o WHERE o.repository_id = t.repository_id AND o.term >= $11 \
            AND o.term < t.term) AND ($9 = '' OR t.namespace_id = $9) ORDER BY t.term, t.repository_id LIMIT $3) ) \
            SELECT r.id, r.namespace_id, r.path, r.summary, '', r.visibility, r.immutable_tags, r.keep_untagged, \
            r.provisional, r.created_at, r.updated_at, r.version, f.term FROM (SELECT id, term FROM found \
            ORDER BY term, id LIMIT $3) f CROSS JOIN LATERAL (SELECT * FROM repositories x WHERE x.id = f.id \
            AND x.instance_id = $1 OFFSET 0) r ORDER BY f.term, f.id";
    /// Names from $2 on and before $3, without $4. By the unique index on (instance_id, name).
    pub(crate) NAMESPACES = "SELECT id, name, description, create_on_push, default_visibility, default_immutable, removing, \
            created_at, updated_at, version FROM namespaces WHERE instance_id = $1 AND name >= $2 AND name < $3 \
            AND name <> $4 ORDER BY name LIMIT $5";
    /// The same of those that are granted ($6), and of those of repositories that are ($7).
    pub(crate) GRANTED_NAMESPACES = sqlite "WITH mine AS MATERIALIZED (SELECT n.* FROM (SELECT value AS id \
            FROM json_each($6) \
        UNION SELECT r.namespace_id FROM json_each($7) i CROSS JOIN repositories r WHERE r.id = i.value \
            AND r.removed_at IS NULL) g CROSS JOIN namespaces n WHERE n.id = g.id ) \
            SELECT id, name, description, create_on_push, default_visibility, default_immutable, removing, created_at, \
            updated_at, version FROM mine WHERE instance_id = $1 AND name >= $2 AND name < $3 AND name <> $4 \
            ORDER BY name LIMIT $5"
        postgres "WITH mine AS MATERIALIZED (SELECT n.* FROM namespaces n WHERE n.id = \
            ANY(ARRAY(SELECT unnest($6::text[]) \
        UNION SELECT r.namespace_id FROM repositories r WHERE r.id = ANY($7) AND r.removed_at IS NULL)) ) \
            SELECT id, name, description, create_on_push, default_visibility, default_immutable, removing, created_at, \
            updated_at, version FROM mine WHERE instance_id = $1 AND name >= $2 AND name < $3 AND name <> $4 \
            ORDER BY name LIMIT $5";

    /// What a repository is found by, once it is listed.
    pub(crate) ADD_TERMS = sqlite "INSERT INTO repository_terms (repository_id, term, instance_id, namespace_id, visibility) \
            SELECT r.id, t.value, r.instance_id, r.namespace_id, r.visibility FROM json_each($2) t \
            CROSS JOIN repositories r WHERE r.id = $1"
        postgres "INSERT INTO repository_terms (repository_id, term, instance_id, namespace_id, visibility) \
            SELECT r.id, t.term, r.instance_id, r.namespace_id, r.visibility FROM repositories r \
            CROSS JOIN unnest($2::text[]) AS t (term) WHERE r.id = $1";
    pub(crate) SHOW_TERMS = "UPDATE repository_terms SET visibility = $2 WHERE repository_id = $1 AND visibility <> $2";
    pub(crate) DROP_TERMS = "DELETE FROM repository_terms WHERE repository_id = $1";
}
