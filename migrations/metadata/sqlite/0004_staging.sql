-- Uploads to stores that keep bytes aside until an object is whole.

-- staged: the store keeps bytes aside, every epoch counts from 1 and is in this row, and so is the lease.
ALTER TABLE upload_sessions ADD COLUMN staged INTEGER NOT NULL DEFAULT 0 CHECK (staged IN (0, 1));
ALTER TABLE upload_sessions ADD COLUMN multipart_key TEXT;
ALTER TABLE upload_sessions ADD COLUMN multipart_id TEXT;
-- The highest part number that any epoch may have used.
ALTER TABLE upload_sessions ADD COLUMN reserved_parts INTEGER NOT NULL DEFAULT 0;

-- number counts pieces; part_number is a part's, and NULL for a tail. merged: its bytes are in a later piece.
ALTER TABLE upload_parts ADD COLUMN part_number INTEGER;
ALTER TABLE upload_parts ADD COLUMN merged INTEGER NOT NULL DEFAULT 0 CHECK (merged IN (0, 1));

-- Not NULL: what an upload left under names below the key, as the message Abandoned of blob-store.
ALTER TABLE object_deletes ADD COLUMN remains BLOB;
