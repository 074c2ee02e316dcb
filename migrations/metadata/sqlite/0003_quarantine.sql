-- A blob whose stored bytes were found not to be those of its digest: not served until it is pushed again, or found whole
-- after all.
ALTER TABLE blobs ADD COLUMN quarantined_at INTEGER;
