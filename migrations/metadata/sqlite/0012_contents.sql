-- Tags and artifacts for people to look through. What older rows don't say stays NULL.

-- Who moved it last, and when it was made.
ALTER TABLE tags ADD COLUMN updated_by TEXT;
ALTER TABLE tags ADD COLUMN created_at INTEGER;
CREATE INDEX tags_by_update ON tags (repository_id, updated_at, name);
DROP INDEX tags_by_manifest;
CREATE INDEX tags_by_manifest ON tags (repository_id, digest, name);

-- Who pushed it first, and the bytes of the blobs that it, or the manifests in it, hold.
ALTER TABLE manifests ADD COLUMN pushed_by TEXT;
ALTER TABLE manifests ADD COLUMN content_size INTEGER CHECK (content_size >= 0);
CREATE INDEX manifests_without_size ON manifests (repository_id, digest) WHERE content_size IS NULL;
CREATE INDEX manifests_by_push ON manifests (repository_id, pushed_at, digest);
-- Both are read from here: behind a payload of 4 MiB they would be far away.
CREATE INDEX manifests_by_content ON manifests (repository_id, digest, content_size, pushed_by);
