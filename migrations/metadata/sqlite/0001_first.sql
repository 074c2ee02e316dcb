-- What there is: namespaces, repositories, content, upload sessions, review queues, the outbox.
-- Ids are ULIDs in text, digests are one byte for the algorithm and the raw hash, times are microseconds since 1970.

CREATE TABLE sequences (
    name  TEXT PRIMARY KEY,
    value INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO sequences (name, value) VALUES ('event', 0);

-- What an instance may have (NULL: no limit) and what it has. The row is locked by whoever makes or drops something counted.
CREATE TABLE instance_limits (
    instance_id      TEXT PRIMARY KEY,
    revision         INTEGER NOT NULL DEFAULT 0,
    max_namespaces   INTEGER,
    max_repositories INTEGER,
    namespaces       INTEGER NOT NULL DEFAULT 0 CHECK (namespaces >= 0),
    repositories     INTEGER NOT NULL DEFAULT 0 CHECK (repositories >= 0)
) STRICT, WITHOUT ROWID;

CREATE TABLE namespaces (
    id           TEXT PRIMARY KEY,
    instance_id  TEXT NOT NULL,
    name         TEXT NOT NULL,
    made_by_push INTEGER NOT NULL,
    created_at   INTEGER NOT NULL,
    UNIQUE (instance_id, name)
) STRICT;

CREATE TABLE repositories (
    id            TEXT PRIMARY KEY,
    instance_id   TEXT NOT NULL,
    namespace_id  TEXT NOT NULL REFERENCES namespaces (id),
    path          TEXT NOT NULL,
    visibility    TEXT NOT NULL DEFAULT 'private' CHECK (visibility IN ('private', 'public')),
    provisional   INTEGER NOT NULL DEFAULT 1 CHECK (provisional IN (0, 1)),
    keep_untagged INTEGER NOT NULL DEFAULT 1 CHECK (keep_untagged IN (0, 1)),
    generation    INTEGER NOT NULL DEFAULT 0,
    created_at    INTEGER NOT NULL,
    updated_at    INTEGER NOT NULL,
    UNIQUE (instance_id, path)
) STRICT;
CREATE INDEX repositories_by_namespace ON repositories (namespace_id);
CREATE INDEX repositories_that_are_public ON repositories (instance_id, id) WHERE visibility = 'public';

-- A blob of an instance and where its bytes are. The row decides existence.
CREATE TABLE blobs (
    instance_id TEXT NOT NULL,
    digest      BLOB NOT NULL,
    size        INTEGER NOT NULL CHECK (size >= 0),
    store_id    TEXT NOT NULL,
    object_key  TEXT NOT NULL,
    format      INTEGER NOT NULL DEFAULT 0,
    wrapped_dek BLOB,
    kek_id      TEXT,
    created_at  INTEGER NOT NULL,
    PRIMARY KEY (instance_id, digest)
) STRICT, WITHOUT ROWID;

-- A repository holds a blob by a link.
CREATE TABLE links (
    repository_id TEXT NOT NULL REFERENCES repositories (id),
    digest        BLOB NOT NULL,
    instance_id   TEXT NOT NULL,
    linked_at     INTEGER NOT NULL,
    PRIMARY KEY (repository_id, digest),
    FOREIGN KEY (instance_id, digest) REFERENCES blobs (instance_id, digest)
) STRICT, WITHOUT ROWID;
CREATE INDEX links_by_blob ON links (instance_id, digest);

CREATE TABLE manifests (
    repository_id TEXT NOT NULL REFERENCES repositories (id),
    digest        BLOB NOT NULL,
    size          INTEGER NOT NULL,
    media_type    TEXT NOT NULL,
    artifact_type TEXT,
    subject       BLOB,
    pushed_at     INTEGER NOT NULL,
    annotations   TEXT NOT NULL,
    payload       BLOB NOT NULL,
    PRIMARY KEY (repository_id, digest)
) STRICT;
CREATE INDEX manifests_by_subject ON manifests (repository_id, subject, digest) WHERE subject IS NOT NULL;
CREATE INDEX manifests_by_subject_and_type ON manifests (repository_id, subject, artifact_type, digest) WHERE subject IS NOT NULL;

-- A manifest holds links of its own repository: that foreign key is the authorisation.
CREATE TABLE manifest_blobs (
    repository_id   TEXT NOT NULL,
    manifest_digest BLOB NOT NULL,
    blob_digest     BLOB NOT NULL,
    PRIMARY KEY (repository_id, manifest_digest, blob_digest),
    FOREIGN KEY (repository_id, manifest_digest) REFERENCES manifests (repository_id, digest),
    FOREIGN KEY (repository_id, blob_digest) REFERENCES links (repository_id, digest)
) STRICT, WITHOUT ROWID;
CREATE INDEX manifest_blobs_by_blob ON manifest_blobs (repository_id, blob_digest);

CREATE TABLE manifest_children (
    repository_id TEXT NOT NULL,
    parent        BLOB NOT NULL,
    child         BLOB NOT NULL,
    PRIMARY KEY (repository_id, parent, child),
    FOREIGN KEY (repository_id, parent) REFERENCES manifests (repository_id, digest),
    FOREIGN KEY (repository_id, child) REFERENCES manifests (repository_id, digest)
) STRICT, WITHOUT ROWID;
CREATE INDEX manifest_children_by_child ON manifest_children (repository_id, child);

-- version is the event sequence's value at the tag's last move.
CREATE TABLE tags (
    repository_id TEXT NOT NULL,
    name          TEXT NOT NULL,
    digest        BLOB NOT NULL,
    version       INTEGER NOT NULL,
    updated_at    INTEGER NOT NULL,
    PRIMARY KEY (repository_id, name),
    FOREIGN KEY (repository_id, digest) REFERENCES manifests (repository_id, digest)
) STRICT, WITHOUT ROWID;
CREATE INDEX tags_by_manifest ON tags (repository_id, digest);

CREATE TABLE upload_sessions (
    id            TEXT PRIMARY KEY,
    instance_id   TEXT NOT NULL,
    repository_id TEXT NOT NULL REFERENCES repositories (id),
    principal     TEXT NOT NULL,
    algorithm     TEXT NOT NULL,
    state         TEXT NOT NULL CHECK (state IN ('open', 'finishing', 'committed', 'cancelled', 'reaped')),
    size          INTEGER NOT NULL DEFAULT 0 CHECK (size >= 0),
    hash_state    BLOB,
    epoch         INTEGER NOT NULL DEFAULT 0,
    lease_until   INTEGER NOT NULL DEFAULT 0,
    store_id      TEXT NOT NULL,
    object_key    TEXT NOT NULL,
    digest        BLOB,
    started_at    INTEGER NOT NULL,
    updated_at    INTEGER NOT NULL,
    expires_at    INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX upload_sessions_by_repository ON upload_sessions (repository_id);
CREATE INDEX upload_sessions_by_expiry ON upload_sessions (expires_at);

-- Parts of an upload to object storage; a part of an older epoch never replaces a newer one's.
CREATE TABLE upload_parts (
    upload_id  TEXT NOT NULL REFERENCES upload_sessions (id),
    number     INTEGER NOT NULL,
    epoch      INTEGER NOT NULL,
    start      INTEGER NOT NULL,
    size       INTEGER NOT NULL,
    object_key TEXT,
    entity_tag TEXT,
    checksum   BLOB,
    PRIMARY KEY (upload_id, number)
) STRICT, WITHOUT ROWID;

-- Review queues: what may have become unneeded, and when to look.
-- released: its holder went, so being untagged does not keep it: the index of a child, the subject of a referrer.
CREATE TABLE manifest_review_queue (
    repository_id TEXT NOT NULL,
    digest        BLOB NOT NULL,
    review_after  INTEGER NOT NULL,
    attempts      INTEGER NOT NULL DEFAULT 0,
    released      INTEGER NOT NULL DEFAULT 0 CHECK (released IN (0, 1)),
    PRIMARY KEY (repository_id, digest)
) STRICT, WITHOUT ROWID;
CREATE INDEX manifest_reviews_by_time ON manifest_review_queue (review_after);

CREATE TABLE link_review_queue (
    repository_id TEXT NOT NULL,
    digest        BLOB NOT NULL,
    review_after  INTEGER NOT NULL,
    attempts      INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (repository_id, digest)
) STRICT, WITHOUT ROWID;
CREATE INDEX link_reviews_by_time ON link_review_queue (review_after);

CREATE TABLE blob_review_queue (
    instance_id  TEXT NOT NULL,
    digest       BLOB NOT NULL,
    review_after INTEGER NOT NULL,
    attempts     INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (instance_id, digest)
) STRICT, WITHOUT ROWID;
CREATE INDEX blob_reviews_by_time ON blob_review_queue (review_after);

CREATE TABLE repository_review_queue (
    repository_id TEXT PRIMARY KEY,
    review_after  INTEGER NOT NULL,
    attempts      INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;
CREATE INDEX repository_reviews_by_time ON repository_review_queue (review_after);

-- Objects that no row needs any more, deleted after a grace.
CREATE TABLE object_deletes (
    store_id    TEXT NOT NULL,
    object_key  TEXT NOT NULL,
    size        INTEGER NOT NULL DEFAULT 0,
    not_before  INTEGER NOT NULL,
    attempts    INTEGER NOT NULL DEFAULT 0,
    lease_until INTEGER NOT NULL DEFAULT 0,
    last_error  TEXT,
    PRIMARY KEY (store_id, object_key)
) STRICT, WITHOUT ROWID;
CREATE INDEX object_deletes_by_time ON object_deletes (not_before);

-- Events, and one row for each subscriber that still waits for one.
CREATE TABLE outbox (
    id         TEXT PRIMARY KEY,
    sequence   INTEGER NOT NULL UNIQUE,
    payload    BLOB NOT NULL,
    created_at INTEGER NOT NULL
) STRICT;

CREATE TABLE outbox_deliveries (
    subscriber TEXT NOT NULL,
    sequence   INTEGER NOT NULL,
    event_id   TEXT NOT NULL REFERENCES outbox (id),
    key        TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    attempts   INTEGER NOT NULL DEFAULT 0,
    not_before INTEGER NOT NULL DEFAULT 0,
    dead_at    INTEGER,
    last_error TEXT,
    PRIMARY KEY (subscriber, sequence)
) STRICT, WITHOUT ROWID;
CREATE INDEX outbox_deliveries_by_key ON outbox_deliveries (subscriber, key, sequence);
CREATE INDEX outbox_deliveries_by_event ON outbox_deliveries (event_id);
CREATE INDEX outbox_dead_letters ON outbox_deliveries (subscriber, event_id) WHERE dead_at IS NOT NULL;

CREATE TABLE outbox_claims (
    subscriber TEXT PRIMARY KEY,
    holder     TEXT NOT NULL,
    held_until INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Which process does the work that one is enough for.
CREATE TABLE worker_leases (
    name       TEXT PRIMARY KEY,
    holder     TEXT NOT NULL,
    held_until INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
