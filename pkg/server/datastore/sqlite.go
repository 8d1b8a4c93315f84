package datastore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"

	"github.com/mattn/go-sqlite3" // and the driver called sqlite3
)

// ErrDamaged marks a database that cannot be used as it is.
var ErrDamaged = errors.New("database is damaged")

// leap is how far the revision jumps when writes that clients have seen may be gone. It is more than were ever written
// between two snapshots, and leaves room for nine billion leaps.
const leap = 1_000_000_000

// servingParams are kine's own choice of SQLite settings but one: its cache=shared has no effect as kine writes it,
// without "file:", and makes writers fail with "table is locked" where it has.
const servingParams = "_journal_mode=WAL&_busy_timeout=30000&_synchronous=NORMAL&_txlock=immediate&_stmt_cache_size=20"

// dsn names file with settings. The path is escaped, for a question mark would end it.
func dsn(file, params string) string {
	return "file:" + (&url.URL{Path: file}).EscapedPath() + "?" + params
}

// withDB opens file for the time of use, in the journal mode that it has.
func withDB(file string, use func(*sql.DB) error) error {
	db, err := sql.Open("sqlite3", dsn(file, "_busy_timeout=30000&_txlock=immediate"))
	if err != nil {
		return fmt.Errorf("open database %s: %w", file, err)
	}
	db.SetMaxOpenConns(1)
	return errors.Join(use(db), db.Close())
}

// damages tells whether SQLite says by err that the file is not sound.
func damages(err error) bool {
	var fault sqlite3.Error
	return errors.As(err, &fault) && (fault.Code == sqlite3.ErrCorrupt || fault.Code == sqlite3.ErrNotADB)
}

// verify reads every page of file. how is quick_check, which looks at the structure, or integrity_check, which also
// compares the indexes with the rows. The error is ErrDamaged if the file is to blame, and not a full disk, say.
func verify(ctx context.Context, file, how string) error {
	return withDB(file, func(db *sql.DB) error {
		var verdict string
		err := db.QueryRowContext(ctx, "PRAGMA "+how+"(1)").Scan(&verdict)
		switch {
		case err == nil && verdict != "ok":
			return fmt.Errorf("%w: %s", ErrDamaged, strings.ReplaceAll(verdict, "\n", "; "))
		case damages(err):
			return fmt.Errorf("%w: %w", ErrDamaged, err)
		}
		return err
	})
}

// hasTable tells whether kine has ever set the database up.
func hasTable(ctx context.Context, db *sql.DB) (yes bool, err error) {
	err = db.QueryRowContext(ctx, "SELECT count(*) > 0 FROM sqlite_schema WHERE name = 'kine'").Scan(&yes)
	return yes, err
}

// revision is the last one in the database, 0 if nothing was ever written.
func revision(ctx context.Context, db *sql.DB) (rev int64, err error) {
	if ok, err := hasTable(ctx, db); err != nil || !ok {
		return 0, err
	}
	err = db.QueryRowContext(ctx, "SELECT COALESCE(MAX(id), 0) FROM kine").Scan(&rev)
	return rev, err
}

// Revision is the last revision in the database file.
func Revision(ctx context.Context, file string) (rev int64, err error) {
	err = withDB(file, func(db *sql.DB) (err error) { rev, err = revision(ctx, db); return err })
	if err != nil {
		return 0, fmt.Errorf("read revision of database %s: %w", file, err)
	}
	return rev, nil
}

// Copy writes a consistent copy of the database to a new file, mode 0600, and verifies it. A server may be running on
// the original. It gives the last revision in the copy.
func Copy(ctx context.Context, from, to string) (rev int64, err error) {
	f, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600) // SQLite takes an empty file, and the mode is ours
	if err != nil {
		return 0, fmt.Errorf("copy database: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("copy database: %w", err), os.Remove(to))
		}
	}()
	defer func() { err = errors.Join(err, f.Sync(), f.Close()) }()
	err = withDB(from, func(db *sql.DB) error {
		_, err := db.ExecContext(ctx, "VACUUM INTO ?", to)
		return err
	})
	if err != nil {
		return 0, err
	}
	if err := verify(ctx, to, "quick_check"); err != nil {
		return 0, err
	}
	err = withDB(to, func(db *sql.DB) (err error) {
		if rev, err = revision(ctx, db); err == nil {
			_, err = db.ExecContext(ctx, "PRAGMA journal_mode=DELETE") // one file, no log beside it
		}
		return err
	})
	return rev, err
}

// Rebase makes file the start of a new history. Its revision leaps over all that clients of the old history may have seen, and everything
// before counts as compacted. So a watch or a list from an old revision is refused as expired. The client lists again, and is not served
// what it believes to know already.
func Rebase(ctx context.Context, file string) (rev int64, err error) {
	err = withDB(file, func(db *sql.DB) error {
		if ok, err := hasTable(ctx, db); err != nil || !ok {
			return err
		}
		old, err := revision(ctx, db)
		if err != nil {
			return err
		}
		rev = old + leap
		tx, err := db.BeginTx(ctx, nil)
		if err != nil {
			return err
		}
		defer tx.Rollback() //nolint:errcheck // after a commit there is nothing to roll back
		for _, step := range []struct {
			sql  string
			args []any
		}{
			// kine compacts from the last compacted revision on, so what is skipped here would stay for ever.
			{"DELETE FROM kine WHERE name != 'compact_rev_key' AND (deleted != 0 OR id IN (SELECT prev_revision FROM kine WHERE name != 'compact_rev_key' AND prev_revision != 0))", nil},
			{"UPDATE kine SET prev_revision = ? WHERE name = 'compact_rev_key'", []any{rev}},
			{"INSERT INTO kine(name, created, deleted, create_revision, prev_revision, lease) SELECT 'compact_rev_key', 1, 0, 0, ?, 0 WHERE NOT EXISTS (SELECT 1 FROM kine WHERE name = 'compact_rev_key')", []any{rev}},
			// The row that kine itself fills a gap with.
			{"INSERT INTO kine(id, name, created, deleted, create_revision, prev_revision, lease) VALUES(?, 'gap-' || ?, 0, 1, 0, 0, 0)", []any{rev, rev}},
		} {
			if _, err := tx.ExecContext(ctx, step.sql, step.args...); err != nil {
				return err
			}
		}
		if err := tx.Commit(); err != nil {
			return err
		}
		_, err = db.ExecContext(ctx, "PRAGMA wal_checkpoint(TRUNCATE)")
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("begin a new history in %s: %w", file, err)
	}
	return rev, nil
}
