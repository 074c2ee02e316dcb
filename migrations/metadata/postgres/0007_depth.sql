-- How many parts the name of a repository may have after its namespace; NULL: no limit.
ALTER TABLE instance_limits ADD COLUMN max_depth BIGINT;
