-- Settings of namespaces and repositories, and their removal.

ALTER TABLE namespaces ADD COLUMN description TEXT NOT NULL DEFAULT '';
-- Whether a push may make repositories here, and what they begin with.
ALTER TABLE namespaces ADD COLUMN create_on_push INTEGER NOT NULL DEFAULT 1;
ALTER TABLE namespaces ADD COLUMN default_visibility TEXT NOT NULL DEFAULT 'private'
    CHECK (default_visibility IN ('private', 'public'));
ALTER TABLE namespaces ADD COLUMN default_immutable INTEGER NOT NULL DEFAULT 0;
-- Being removed: nothing is made in it any more.
ALTER TABLE namespaces ADD COLUMN removing INTEGER NOT NULL DEFAULT 0;
ALTER TABLE namespaces ADD COLUMN version INTEGER NOT NULL DEFAULT 1;
ALTER TABLE namespaces ADD COLUMN updated_at INTEGER NOT NULL DEFAULT 0;

ALTER TABLE repositories ADD COLUMN summary TEXT NOT NULL DEFAULT '';
-- Markdown.
ALTER TABLE repositories ADD COLUMN description TEXT NOT NULL DEFAULT '';
-- Tags that are there can't be moved; latest can.
ALTER TABLE repositories ADD COLUMN immutable_tags INTEGER NOT NULL DEFAULT 0;
-- Removed: the path is another's by now, and what is left goes by and by. It is then no path but a tilde and the id.
ALTER TABLE repositories ADD COLUMN removed_at INTEGER;
ALTER TABLE repositories ADD COLUMN version INTEGER NOT NULL DEFAULT 1;

-- What is left to be removed.
CREATE TABLE removals (
    kind         TEXT NOT NULL CHECK (kind IN ('repository', 'namespace')),
    id           TEXT NOT NULL,
    due_at       INTEGER NOT NULL,
    attempts     INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (kind, id)
) STRICT, WITHOUT ROWID;
CREATE INDEX removals_by_time ON removals (due_at);
