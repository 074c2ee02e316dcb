-- Who has what in a namespace or a repository.
CREATE INDEX grants_by_place ON grants (scope_id, id);
