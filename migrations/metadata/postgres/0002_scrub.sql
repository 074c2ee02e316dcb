-- Comparing rows and bytes: who an object belongs to, and how far the passes over everything are.

CREATE INDEX blobs_by_object ON blobs (object_key);
CREATE INDEX upload_sessions_by_object ON upload_sessions (object_key);

-- The newest pass is the one that runs, or the last that did. It goes on after (after_text, after_bytes) of its phase.
CREATE TABLE scrub_passes (
    number      BIGINT PRIMARY KEY,
    paced       BOOLEAN NOT NULL,
    started_at  BIGINT NOT NULL,
    ended_at    BIGINT,
    phase       TEXT COLLATE "C" NOT NULL,
    after_text  TEXT COLLATE "C" NOT NULL DEFAULT '',
    after_bytes BYTEA NOT NULL DEFAULT '',
    steps       BIGINT NOT NULL DEFAULT 0,
    blobs       BIGINT NOT NULL DEFAULT 0,
    manifests   BIGINT NOT NULL DEFAULT 0,
    objects     BIGINT NOT NULL DEFAULT 0,
    bytes       BIGINT NOT NULL DEFAULT 0,
    damaged     BIGINT NOT NULL DEFAULT 0,
    orphans     BIGINT NOT NULL DEFAULT 0,
    waits_for   TEXT COLLATE "C"
);

CREATE TABLE scrub_findings (
    pass       BIGINT NOT NULL REFERENCES scrub_passes (number),
    number     BIGINT NOT NULL,
    kind       TEXT COLLATE "C" NOT NULL,
    object_key TEXT COLLATE "C",
    digest     BYTEA,
    PRIMARY KEY (pass, number)
);
