-- Settings of namespaces and repositories, and their removal.

ALTER TABLE namespaces ADD COLUMN description TEXT NOT NULL DEFAULT '';
-- Whether a push may make repositories here, and what they begin with.
ALTER TABLE namespaces ADD COLUMN create_on_push BOOLEAN NOT NULL DEFAULT TRUE;
ALTER TABLE namespaces ADD COLUMN default_visibility TEXT NOT NULL DEFAULT 'private'
    CHECK (default_visibility IN ('private', 'public'));
ALTER TABLE namespaces ADD COLUMN default_immutable BOOLEAN NOT NULL DEFAULT FALSE;
-- Being removed: nothing is made in it any more.
ALTER TABLE namespaces ADD COLUMN removing BOOLEAN NOT NULL DEFAULT FALSE;
ALTER TABLE namespaces ADD COLUMN version BIGINT NOT NULL DEFAULT 1;
ALTER TABLE namespaces ADD COLUMN updated_at BIGINT NOT NULL DEFAULT 0;

ALTER TABLE repositories ADD COLUMN summary TEXT NOT NULL DEFAULT '';
-- Markdown.
ALTER TABLE repositories ADD COLUMN description TEXT NOT NULL DEFAULT '';
-- Tags that are there can't be moved; latest can.
ALTER TABLE repositories ADD COLUMN immutable_tags BOOLEAN NOT NULL DEFAULT FALSE;
-- Removed: the path is another's by now, and what is left goes by and by. It is then no path but a tilde and the id.
ALTER TABLE repositories ADD COLUMN removed_at BIGINT;
ALTER TABLE repositories ADD COLUMN version BIGINT NOT NULL DEFAULT 1;

-- What is left to be removed.
CREATE TABLE removals (
    kind         TEXT NOT NULL CHECK (kind IN ('repository', 'namespace')),
    id           TEXT COLLATE "C" NOT NULL,
    due_at       BIGINT NOT NULL,
    attempts     BIGINT NOT NULL DEFAULT 0,
    PRIMARY KEY (kind, id)
);
CREATE INDEX removals_by_time ON removals (due_at);
