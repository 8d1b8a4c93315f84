-- The ledger of pkg/meter. Rows are only ever added: a life is a start, then resizes, then an end.
-- Moments are nanoseconds: *_boot since the boot of the host, *_wall since 1970.
CREATE TABLE starts (
	sandbox TEXT NOT NULL PRIMARY KEY,
	namespace TEXT NOT NULL, pod TEXT NOT NULL, pod_uid TEXT NOT NULL, workload TEXT NOT NULL, node TEXT NOT NULL,
	spec TEXT NOT NULL, spec_type TEXT NOT NULL, charge TEXT NOT NULL, tags TEXT NOT NULL,
	boot_id TEXT NOT NULL, qemu_pid INTEGER NOT NULL, qemu_ticks INTEGER NOT NULL, vmm_pid INTEGER NOT NULL, vmm_ticks INTEGER NOT NULL,
	start_wall INTEGER NOT NULL, start_boot INTEGER NOT NULL,
	cluster TEXT NOT NULL DEFAULT '' -- its id; empty in what was written before clusters had one
) STRICT;
CREATE INDEX starts_by_time ON starts (start_wall);

CREATE TABLE resizes (
	sandbox TEXT NOT NULL REFERENCES starts, at_boot INTEGER NOT NULL,
	spec TEXT NOT NULL, spec_type TEXT NOT NULL,
	PRIMARY KEY (sandbox, at_boot)
) STRICT;

CREATE TABLE ends (
	sandbox TEXT NOT NULL PRIMARY KEY REFERENCES starts,
	end_boot INTEGER NOT NULL, end_wall INTEGER NOT NULL,
	estimated INTEGER NOT NULL CHECK (estimated IN (0, 1))
) STRICT;
CREATE INDEX ends_by_time ON ends (end_wall);

-- Nobody changes a row, whatever program opens the file. INSERT OR REPLACE would delete without the trigger for it.
CREATE TRIGGER starts_stay BEFORE UPDATE ON starts BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
CREATE TRIGGER starts_keep BEFORE DELETE ON starts BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
CREATE TRIGGER starts_once BEFORE INSERT ON starts WHEN EXISTS (SELECT 1 FROM starts WHERE sandbox = NEW.sandbox)
	BEGIN SELECT RAISE(IGNORE); END;
CREATE TRIGGER resizes_stay BEFORE UPDATE ON resizes BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
CREATE TRIGGER resizes_keep BEFORE DELETE ON resizes BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
CREATE TRIGGER resizes_once BEFORE INSERT ON resizes WHEN EXISTS (SELECT 1 FROM resizes WHERE sandbox = NEW.sandbox AND at_boot = NEW.at_boot)
	BEGIN SELECT RAISE(IGNORE); END;
CREATE TRIGGER ends_stay BEFORE UPDATE ON ends BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
CREATE TRIGGER ends_keep BEFORE DELETE ON ends BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
CREATE TRIGGER ends_once BEFORE INSERT ON ends WHEN EXISTS (SELECT 1 FROM ends WHERE sandbox = NEW.sandbox)
	BEGIN SELECT RAISE(IGNORE); END;
