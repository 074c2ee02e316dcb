-- What there is: namespaces, repositories, content, upload sessions, review queues, the outbox.
-- Ids are ULIDs in text, digests are one byte for the algorithm and the raw hash, times are microseconds since 1970.

CREATE SEQUENCE event_sequence;

-- What an instance may have (NULL: no limit) and what it has. The row is locked by whoever makes or drops something counted.
CREATE TABLE instance_limits (
    instance_id      TEXT COLLATE "C" PRIMARY KEY,
    revision         BIGINT NOT NULL DEFAULT 0,
    max_namespaces   BIGINT,
    max_repositories BIGINT,
    namespaces       BIGINT NOT NULL DEFAULT 0 CHECK (namespaces >= 0),
    repositories     BIGINT NOT NULL DEFAULT 0 CHECK (repositories >= 0)
);

CREATE TABLE namespaces (
    id           TEXT COLLATE "C" PRIMARY KEY,
    instance_id  TEXT COLLATE "C" NOT NULL,
    name         TEXT COLLATE "C" NOT NULL,
    made_by_push BOOLEAN NOT NULL,
    created_at   BIGINT NOT NULL,
    UNIQUE (instance_id, name)
);

CREATE TABLE repositories (
    id            TEXT COLLATE "C" PRIMARY KEY,
    instance_id   TEXT COLLATE "C" NOT NULL,
    namespace_id  TEXT COLLATE "C" NOT NULL REFERENCES namespaces (id),
    path          TEXT COLLATE "C" NOT NULL,
    visibility    TEXT COLLATE "C" NOT NULL DEFAULT 'private' CHECK (visibility IN ('private', 'public')),
    provisional   BOOLEAN NOT NULL DEFAULT TRUE,
    keep_untagged BOOLEAN NOT NULL DEFAULT TRUE,
    generation    BIGINT NOT NULL DEFAULT 0,
    created_at    BIGINT NOT NULL,
    updated_at    BIGINT NOT NULL,
    UNIQUE (instance_id, path)
);
CREATE INDEX repositories_by_namespace ON repositories (namespace_id);
CREATE INDEX repositories_that_are_public ON repositories (instance_id, id) WHERE visibility = 'public';

-- A blob of an instance and where its bytes are. The row decides existence.
CREATE TABLE blobs (
    instance_id TEXT COLLATE "C" NOT NULL,
    digest      BYTEA NOT NULL,
    size        BIGINT NOT NULL CHECK (size >= 0),
    store_id    TEXT COLLATE "C" NOT NULL,
    object_key  TEXT COLLATE "C" NOT NULL,
    format      BIGINT NOT NULL DEFAULT 0,
    wrapped_dek BYTEA,
    kek_id      TEXT COLLATE "C",
    created_at  BIGINT NOT NULL,
    PRIMARY KEY (instance_id, digest)
);

-- A repository holds a blob by a link.
CREATE TABLE links (
    repository_id TEXT COLLATE "C" NOT NULL REFERENCES repositories (id),
    digest        BYTEA NOT NULL,
    instance_id   TEXT COLLATE "C" NOT NULL,
    linked_at     BIGINT NOT NULL,
    PRIMARY KEY (repository_id, digest),
    FOREIGN KEY (instance_id, digest) REFERENCES blobs (instance_id, digest)
);
CREATE INDEX links_by_blob ON links (instance_id, digest);

CREATE TABLE manifests (
    repository_id TEXT COLLATE "C" NOT NULL REFERENCES repositories (id),
    digest        BYTEA NOT NULL,
    size          BIGINT NOT NULL,
    media_type    TEXT COLLATE "C" NOT NULL,
    artifact_type TEXT COLLATE "C",
    subject       BYTEA,
    pushed_at     BIGINT NOT NULL,
    annotations   TEXT NOT NULL,
    payload       BYTEA NOT NULL,
    PRIMARY KEY (repository_id, digest)
);
CREATE INDEX manifests_by_subject ON manifests (repository_id, subject, digest) WHERE subject IS NOT NULL;
CREATE INDEX manifests_by_subject_and_type ON manifests (repository_id, subject, artifact_type, digest) WHERE subject IS NOT NULL;

-- A manifest holds links of its own repository: that foreign key is the authorisation.
CREATE TABLE manifest_blobs (
    repository_id   TEXT COLLATE "C" NOT NULL,
    manifest_digest BYTEA NOT NULL,
    blob_digest     BYTEA NOT NULL,
    PRIMARY KEY (repository_id, manifest_digest, blob_digest),
    FOREIGN KEY (repository_id, manifest_digest) REFERENCES manifests (repository_id, digest),
    FOREIGN KEY (repository_id, blob_digest) REFERENCES links (repository_id, digest)
);
CREATE INDEX manifest_blobs_by_blob ON manifest_blobs (repository_id, blob_digest);

CREATE TABLE manifest_children (
    repository_id TEXT COLLATE "C" NOT NULL,
    parent        BYTEA NOT NULL,
    child         BYTEA NOT NULL,
    PRIMARY KEY (repository_id, parent, child),
    FOREIGN KEY (repository_id, parent) REFERENCES manifests (repository_id, digest),
    FOREIGN KEY (repository_id, child) REFERENCES manifests (repository_id, digest)
);
CREATE INDEX manifest_children_by_child ON manifest_children (repository_id, child);

-- version is the event sequence's value at the tag's last move.
CREATE TABLE tags (
    repository_id TEXT COLLATE "C" NOT NULL,
    name          TEXT COLLATE "C" NOT NULL,
    digest        BYTEA NOT NULL,
    version       BIGINT NOT NULL,
    updated_at    BIGINT NOT NULL,
    PRIMARY KEY (repository_id, name),
    FOREIGN KEY (repository_id, digest) REFERENCES manifests (repository_id, digest)
);
CREATE INDEX tags_by_manifest ON tags (repository_id, digest);

CREATE TABLE upload_sessions (
    id            TEXT COLLATE "C" PRIMARY KEY,
    instance_id   TEXT COLLATE "C" NOT NULL,
    repository_id TEXT COLLATE "C" NOT NULL REFERENCES repositories (id),
    principal     TEXT COLLATE "C" NOT NULL,
    algorithm     TEXT COLLATE "C" NOT NULL,
    state         TEXT COLLATE "C" NOT NULL CHECK (state IN ('open', 'finishing', 'committed', 'cancelled', 'reaped')),
    size          BIGINT NOT NULL DEFAULT 0 CHECK (size >= 0),
    hash_state    BYTEA,
    epoch         BIGINT NOT NULL DEFAULT 0,
    lease_until   BIGINT NOT NULL DEFAULT 0,
    store_id      TEXT COLLATE "C" NOT NULL,
    object_key    TEXT COLLATE "C" NOT NULL,
    digest        BYTEA,
    started_at    BIGINT NOT NULL,
    updated_at    BIGINT NOT NULL,
    expires_at    BIGINT NOT NULL
);
CREATE INDEX upload_sessions_by_repository ON upload_sessions (repository_id);
CREATE INDEX upload_sessions_by_expiry ON upload_sessions (expires_at);

-- Parts of an upload to object storage; a part of an older epoch never replaces a newer one's.
CREATE TABLE upload_parts (
    upload_id  TEXT COLLATE "C" NOT NULL REFERENCES upload_sessions (id),
    number     BIGINT NOT NULL,
    epoch      BIGINT NOT NULL,
    start      BIGINT NOT NULL,
    size       BIGINT NOT NULL,
    object_key TEXT COLLATE "C",
    entity_tag TEXT COLLATE "C",
    checksum   BYTEA,
    PRIMARY KEY (upload_id, number)
);

-- Review queues: what may have become unneeded, and when to look.
-- released: its holder went, so being untagged does not keep it: the index of a child, the subject of a referrer.
CREATE TABLE manifest_review_queue (
    repository_id TEXT COLLATE "C" NOT NULL,
    digest        BYTEA NOT NULL,
    review_after  BIGINT NOT NULL,
    attempts      BIGINT NOT NULL DEFAULT 0,
    released      BOOLEAN NOT NULL DEFAULT FALSE,
    PRIMARY KEY (repository_id, digest)
);
CREATE INDEX manifest_reviews_by_time ON manifest_review_queue (review_after);

CREATE TABLE link_review_queue (
    repository_id TEXT COLLATE "C" NOT NULL,
    digest        BYTEA NOT NULL,
    review_after  BIGINT NOT NULL,
    attempts      BIGINT NOT NULL DEFAULT 0,
    PRIMARY KEY (repository_id, digest)
);
CREATE INDEX link_reviews_by_time ON link_review_queue (review_after);

CREATE TABLE blob_review_queue (
    instance_id  TEXT COLLATE "C" NOT NULL,
    digest       BYTEA NOT NULL,
    review_after BIGINT NOT NULL,
    attempts     BIGINT NOT NULL DEFAULT 0,
    PRIMARY KEY (instance_id, digest)
);
CREATE INDEX blob_reviews_by_time ON blob_review_queue (review_after);

CREATE TABLE repository_review_queue (
    repository_id TEXT COLLATE "C" PRIMARY KEY,
    review_after  BIGINT NOT NULL,
    attempts      BIGINT NOT NULL DEFAULT 0
);
CREATE INDEX repository_reviews_by_time ON repository_review_queue (review_after);

-- Objects that no row needs any more, deleted after a grace.
CREATE TABLE object_deletes (
    store_id    TEXT COLLATE "C" NOT NULL,
    object_key  TEXT COLLATE "C" NOT NULL,
    size        BIGINT NOT NULL DEFAULT 0,
    not_before  BIGINT NOT NULL,
    attempts    BIGINT NOT NULL DEFAULT 0,
    lease_until BIGINT NOT NULL DEFAULT 0,
    last_error  TEXT COLLATE "C",
    PRIMARY KEY (store_id, object_key)
);
CREATE INDEX object_deletes_by_time ON object_deletes (not_before);

-- Events, and one row for each subscriber that still waits for one.
CREATE TABLE outbox (
    id         TEXT COLLATE "C" PRIMARY KEY,
    sequence   BIGINT NOT NULL UNIQUE,
    payload    BYTEA NOT NULL,
    created_at BIGINT NOT NULL
);

CREATE TABLE outbox_deliveries (
    subscriber TEXT COLLATE "C" NOT NULL,
    sequence   BIGINT NOT NULL,
    event_id   TEXT COLLATE "C" NOT NULL REFERENCES outbox (id),
    key        TEXT COLLATE "C" NOT NULL,
    created_at BIGINT NOT NULL,
    attempts   BIGINT NOT NULL DEFAULT 0,
    not_before BIGINT NOT NULL DEFAULT 0,
    dead_at    BIGINT,
    last_error TEXT COLLATE "C",
    PRIMARY KEY (subscriber, sequence)
);
CREATE INDEX outbox_deliveries_by_key ON outbox_deliveries (subscriber, key, sequence);
CREATE INDEX outbox_deliveries_by_event ON outbox_deliveries (event_id);
CREATE INDEX outbox_dead_letters ON outbox_deliveries (subscriber, event_id) WHERE dead_at IS NOT NULL;

CREATE TABLE outbox_claims (
    subscriber TEXT COLLATE "C" PRIMARY KEY,
    holder     TEXT COLLATE "C" NOT NULL,
    held_until BIGINT NOT NULL
);

-- Which process does the work that one is enough for.
CREATE TABLE worker_leases (
    name       TEXT COLLATE "C" PRIMARY KEY,
    holder     TEXT COLLATE "C" NOT NULL,
    held_until BIGINT NOT NULL
);
