-- Uploads to stores that keep bytes aside until an object is whole.

-- staged: the store keeps bytes aside, every epoch counts from 1 and is in this row, and so is the lease.
ALTER TABLE upload_sessions ADD COLUMN staged BOOLEAN NOT NULL DEFAULT FALSE;
ALTER TABLE upload_sessions ADD COLUMN multipart_key TEXT COLLATE "C";
ALTER TABLE upload_sessions ADD COLUMN multipart_id TEXT COLLATE "C";
-- The highest part number that any epoch may have used.
ALTER TABLE upload_sessions ADD COLUMN reserved_parts BIGINT NOT NULL DEFAULT 0;

-- number counts pieces; part_number is a part's, and NULL for a tail. merged: its bytes are in a later piece.
ALTER TABLE upload_parts ADD COLUMN part_number BIGINT;
ALTER TABLE upload_parts ADD COLUMN merged BOOLEAN NOT NULL DEFAULT FALSE;

-- Not NULL: what an upload left under names below the key, as the message Abandoned of blob-store.
ALTER TABLE object_deletes ADD COLUMN remains BYTEA;
