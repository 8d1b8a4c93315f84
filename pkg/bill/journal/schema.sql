-- The journal of pkg/bill/journal. Rows are only ever added. Moments are seconds since 1970, amounts billionths of a currency's unit.
CREATE TABLE reservations (
	id TEXT NOT NULL PRIMARY KEY,
	namespace TEXT NOT NULL, name TEXT NOT NULL, -- an empty namespace is the whole cluster
	spec TEXT NOT NULL, spec_type TEXT NOT NULL, node TEXT NOT NULL, months INTEGER NOT NULL,
	valid_from INTEGER NOT NULL, valid_until INTEGER NOT NULL CHECK (valid_until > valid_from),
	paid INTEGER NOT NULL CHECK (paid >= 0), list INTEGER NOT NULL, currency TEXT NOT NULL, digits INTEGER NOT NULL,
	hold INTEGER NOT NULL CHECK (hold IN (0, 1))
) STRICT;

CREATE TABLE refunds (
	id TEXT NOT NULL PRIMARY KEY REFERENCES reservations,
	at INTEGER NOT NULL, amount INTEGER NOT NULL CHECK (amount >= 0),
	no_reason INTEGER NOT NULL CHECK (no_reason IN (0, 1))
) STRICT;
CREATE UNIQUE INDEX refunds_without_reason ON refunds (no_reason) WHERE no_reason = 1; -- there is one

-- Tables of prices, in the form of pkg/price/prices.yaml, each once.
CREATE TABLE prices (
	id INTEGER NOT NULL PRIMARY KEY,
	content TEXT NOT NULL UNIQUE
) STRICT;

CREATE TABLE cycles (
	cycle INTEGER NOT NULL PRIMARY KEY CHECK (cycle % 3600 = 0),
	settled INTEGER NOT NULL, prices INTEGER NOT NULL REFERENCES prices, content TEXT NOT NULL -- the digest of the charges
) STRICT;

CREATE TABLE charges (
	cycle INTEGER NOT NULL REFERENCES cycles, line INTEGER NOT NULL,
	billed INTEGER NOT NULL, -- the hour under which it is on a bill: later than cycle when it is a correction of a bill that is closed
	usage TEXT NOT NULL, namespace TEXT NOT NULL, pod TEXT NOT NULL, workload TEXT NOT NULL,
	spec TEXT NOT NULL, spec_type TEXT NOT NULL, charge TEXT NOT NULL, coupon TEXT NOT NULL,
	seconds INTEGER NOT NULL, amount INTEGER NOT NULL, currency TEXT NOT NULL, digits INTEGER NOT NULL, why TEXT NOT NULL,
	cluster TEXT NOT NULL DEFAULT '', -- its id; empty in what was written before clusters had one
	PRIMARY KEY (cycle, line)
) STRICT;
CREATE INDEX charges_by_usage ON charges (usage, seconds);
CREATE INDEX charges_by_bill ON charges (billed);
CREATE INDEX charges_by_namespace ON charges (namespace, billed);

-- Nobody changes a row, whatever program opens the file. INSERT OR REPLACE would delete, which recursive triggers see; where they
-- are off the triggers called _once ignore it.
CREATE TRIGGER reservations_stay BEFORE UPDATE ON reservations BEGIN SELECT RAISE(ABORT, 'the journal is append-only'); END;
CREATE TRIGGER reservations_keep BEFORE DELETE ON reservations BEGIN SELECT RAISE(ABORT, 'the journal is append-only'); END;
CREATE TRIGGER reservations_once BEFORE INSERT ON reservations WHEN EXISTS (SELECT 1 FROM reservations WHERE id = NEW.id)
	BEGIN SELECT RAISE(ABORT, 'the journal is append-only'); END;
CREATE TRIGGER refunds_stay BEFORE UPDATE ON refunds BEGIN SELECT RAISE(ABORT, 'the journal is append-only'); END;
CREATE TRIGGER refunds_keep BEFORE DELETE ON refunds BEGIN SELECT RAISE(ABORT, 'the journal is append-only'); END;
CREATE TRIGGER refunds_once BEFORE INSERT ON refunds WHEN EXISTS (SELECT 1 FROM refunds WHERE id = NEW.id OR no_reason = 1 AND NEW.no_reason = 1)
	BEGIN SELECT RAISE(ABORT, 'the journal is append-only'); END;
CREATE TRIGGER prices_stay BEFORE UPDATE ON prices BEGIN SELECT RAISE(ABORT, 'the journal is append-only'); END;
CREATE TRIGGER prices_keep BEFORE DELETE ON prices BEGIN SELECT RAISE(ABORT, 'the journal is append-only'); END;
CREATE TRIGGER prices_once BEFORE INSERT ON prices WHEN EXISTS (SELECT 1 FROM prices WHERE id = NEW.id OR content = NEW.content)
	BEGIN SELECT RAISE(ABORT, 'the journal is append-only'); END;
CREATE TRIGGER cycles_stay BEFORE UPDATE ON cycles BEGIN SELECT RAISE(ABORT, 'the journal is append-only'); END;
CREATE TRIGGER cycles_keep BEFORE DELETE ON cycles BEGIN SELECT RAISE(ABORT, 'the journal is append-only'); END;
CREATE TRIGGER cycles_once BEFORE INSERT ON cycles WHEN EXISTS (SELECT 1 FROM cycles WHERE cycle = NEW.cycle)
	BEGIN SELECT RAISE(ABORT, 'the journal is append-only'); END;
CREATE TRIGGER charges_stay BEFORE UPDATE ON charges BEGIN SELECT RAISE(ABORT, 'the journal is append-only'); END;
CREATE TRIGGER charges_keep BEFORE DELETE ON charges BEGIN SELECT RAISE(ABORT, 'the journal is append-only'); END;
CREATE TRIGGER charges_once BEFORE INSERT ON charges WHEN EXISTS (SELECT 1 FROM charges WHERE cycle = NEW.cycle AND line = NEW.line)
	BEGIN SELECT RAISE(ABORT, 'the journal is append-only'); END;
