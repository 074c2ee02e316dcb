-- How the bytes of an instance's blobs reach clients: through Berth, or by URLs of the store.
ALTER TABLE instances ADD COLUMN blob_delivery TEXT COLLATE "C" NOT NULL DEFAULT 'stream'
    CHECK (blob_delivery IN ('stream', 'redirect'));
