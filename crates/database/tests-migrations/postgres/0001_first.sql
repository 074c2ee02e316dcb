CREATE SEQUENCE event_sequence;
CREATE TABLE things (name TEXT COLLATE "C" PRIMARY KEY, count BIGINT NOT NULL CHECK (count >= 0), bytes BYTEA, flag BOOLEAN NOT NULL DEFAULT FALSE);
CREATE TABLE parts (thing TEXT COLLATE "C" NOT NULL REFERENCES things);
CREATE TABLE idempotency_keys (
    scope       TEXT COLLATE "C" NOT NULL,
    key         TEXT COLLATE "C" NOT NULL,
    fingerprint BYTEA NOT NULL,
    response    BYTEA NOT NULL,
    created_at  BIGINT NOT NULL,
    PRIMARY KEY (scope, key)
);
CREATE INDEX idempotency_keys_by_time ON idempotency_keys (created_at);
