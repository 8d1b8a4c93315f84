-- What finds rows of the ledger quickly. It holds nothing that the tables do not say, and is made where it is not there.
CREATE INDEX IF NOT EXISTS starts_by_namespace ON starts (namespace, start_wall, sandbox);
CREATE INDEX IF NOT EXISTS starts_in_order ON starts (start_wall, sandbox);

-- The lives without an end, and a row without a name once all of them have been entered.
CREATE TABLE IF NOT EXISTS running (sandbox TEXT NOT NULL PRIMARY KEY) STRICT;
CREATE TRIGGER IF NOT EXISTS starts_run AFTER INSERT ON starts BEGIN INSERT OR IGNORE INTO running VALUES (NEW.sandbox); END;
CREATE TRIGGER IF NOT EXISTS ends_stop AFTER INSERT ON ends BEGIN DELETE FROM running WHERE sandbox = NEW.sandbox; END;
INSERT OR IGNORE INTO running SELECT sandbox FROM starts
	WHERE NOT EXISTS (SELECT 1 FROM running WHERE sandbox = '') AND sandbox NOT IN (SELECT sandbox FROM ends);
INSERT OR IGNORE INTO running VALUES ('');

-- When a life without an end was last seen to run, since the boot of its host: up to there it is billed by who does not see it run.
CREATE TABLE IF NOT EXISTS seen (sandbox TEXT NOT NULL PRIMARY KEY, at_boot INTEGER NOT NULL) STRICT;
CREATE TRIGGER IF NOT EXISTS ends_forget AFTER INSERT ON ends BEGIN DELETE FROM seen WHERE sandbox = NEW.sandbox; END;
