-- Comparing rows and bytes: who an object belongs to, and how far the passes over everything are.

CREATE INDEX blobs_by_object ON blobs (object_key);
CREATE INDEX upload_sessions_by_object ON upload_sessions (object_key);

-- The newest pass is the one that runs, or the last that did. It goes on after (after_text, after_bytes) of its phase.
CREATE TABLE scrub_passes (
    number      INTEGER PRIMARY KEY,
    paced       INTEGER NOT NULL CHECK (paced IN (0, 1)),
    started_at  INTEGER NOT NULL,
    ended_at    INTEGER,
    phase       TEXT NOT NULL,
    after_text  TEXT NOT NULL DEFAULT '',
    after_bytes BLOB NOT NULL DEFAULT x'',
    steps       INTEGER NOT NULL DEFAULT 0,
    blobs       INTEGER NOT NULL DEFAULT 0,
    manifests   INTEGER NOT NULL DEFAULT 0,
    objects     INTEGER NOT NULL DEFAULT 0,
    bytes       INTEGER NOT NULL DEFAULT 0,
    damaged     INTEGER NOT NULL DEFAULT 0,
    orphans     INTEGER NOT NULL DEFAULT 0,
    waits_for   TEXT
) STRICT;

CREATE TABLE scrub_findings (
    pass       INTEGER NOT NULL REFERENCES scrub_passes (number),
    number     INTEGER NOT NULL,
    kind       TEXT NOT NULL,
    object_key TEXT,
    digest     BLOB,
    PRIMARY KEY (pass, number)
) STRICT, WITHOUT ROWID;
