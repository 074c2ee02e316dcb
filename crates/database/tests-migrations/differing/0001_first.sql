CREATE TABLE sequences (name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT;
INSERT INTO sequences VALUES ('event', 0);
CREATE TABLE things (name TEXT PRIMARY KEY, count INTEGER CHECK (count >= 0), bytes TEXT, flag INTEGER NOT NULL DEFAULT 0) STRICT;
CREATE TABLE parts (thing TEXT NOT NULL REFERENCES things, more TEXT) STRICT;
CREATE INDEX parts_by_thing ON parts (thing);
