-- Up to which moment all that the ledger had was settled, in seconds since 1970: what a server that starts need not look at again. It is
-- no part of what was charged, and changes.
CREATE TABLE IF NOT EXISTS mark (one INTEGER NOT NULL PRIMARY KEY CHECK (one = 1), at INTEGER NOT NULL) STRICT;
