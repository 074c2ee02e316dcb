-- Repositories for people to look through: those that are listed, which are neither provisional nor removed.

CREATE INDEX repositories_listed_by_path ON repositories (instance_id, visibility, path)
    WHERE NOT provisional AND removed_at IS NULL;
CREATE INDEX repositories_listed_by_id ON repositories (instance_id, visibility, id)
    WHERE NOT provisional AND removed_at IS NULL;
CREATE INDEX repositories_of_namespace_by_path ON repositories (namespace_id, visibility, path)
    WHERE NOT provisional AND removed_at IS NULL;
CREATE INDEX repositories_of_namespace_by_id ON repositories (namespace_id, visibility, id)
    WHERE NOT provisional AND removed_at IS NULL;

-- What a listed repository is found by: its path, and what is left of that after each / - . and _. Where it is and whether
-- it is public are said again, so that a search meets only what may be shown.
CREATE TABLE repository_terms (
    repository_id TEXT NOT NULL REFERENCES repositories (id),
    term          TEXT NOT NULL,
    instance_id   TEXT NOT NULL,
    namespace_id  TEXT NOT NULL,
    visibility    TEXT NOT NULL CHECK (visibility IN ('private', 'public')),
    PRIMARY KEY (repository_id, term)
) STRICT, WITHOUT ROWID;
CREATE INDEX repository_terms_by_instance ON repository_terms (instance_id, visibility, term, repository_id);
CREATE INDEX repository_terms_by_namespace ON repository_terms (namespace_id, visibility, term, repository_id);

WITH RECURSIVE rests (id, rest, marks) AS (
    SELECT id, path, replace(replace(replace(path, '-', '/'), '.', '/'), '_', '/') FROM repositories
    WHERE NOT provisional AND removed_at IS NULL
    UNION ALL
    SELECT id, substr(rest, instr(marks, '/') + 1), substr(marks, instr(marks, '/') + 1) FROM rests
    WHERE instr(marks, '/') > 0
)
INSERT INTO repository_terms (repository_id, term, instance_id, namespace_id, visibility)
SELECT r.id, t.rest, r.instance_id, r.namespace_id, r.visibility FROM rests t JOIN repositories r ON r.id = t.id
WHERE t.rest <> '' AND substr(t.marks, 1, 1) <> '/';
