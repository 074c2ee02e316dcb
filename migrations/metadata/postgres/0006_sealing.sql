-- Sealed uploads and blobs: format 1, whose data key is in the row, sealed by a key of the instance.

-- What a sealed upload stands at. Nothing of it outlives the upload: without its key its bytes are lost, and are to be.
ALTER TABLE upload_sessions ADD COLUMN kek_id TEXT COLLATE "C";
ALTER TABLE upload_sessions ADD COLUMN wrapped_dek BYTEA;
-- The hash of the bytes as they are stored, and those behind the last whole segment: at most 64 KiB.
ALTER TABLE upload_sessions ADD COLUMN sealed_hash BYTEA;
ALTER TABLE upload_sessions ADD COLUMN sealed_rest BYTEA;

-- For whoever seals again what a former key has sealed.
CREATE INDEX upload_sessions_by_key ON upload_sessions (kek_id, id) WHERE kek_id IS NOT NULL;
CREATE INDEX blobs_by_key ON blobs (kek_id, instance_id, digest) WHERE kek_id IS NOT NULL;

-- Keys of instances that rows name or named. Whoever names one for the first time locks it here, and so does whoever
-- gives one up, so that none goes while something is about to name it. What was given up stays as a warning.
CREATE TABLE sealing_keys (
    key_id   TEXT COLLATE "C" PRIMARY KEY,
    given_up BOOLEAN NOT NULL DEFAULT FALSE
);
