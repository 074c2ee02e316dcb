-- Until when work has to wait, for the time that is given to whoever may still need what it is about. NULL: it need not.
ALTER TABLE tasks ADD COLUMN waits_until BIGINT;
