// Package sqlfile opens SQLite files that must not be lost or mistaken for others: mode 0600, signed with an application id and
// the version of their tables, and written so that what is committed survives a power cut. pkg/meter keeps the ledger in one,
// pkg/bill/journal the bills.
package sqlfile

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"

	_ "github.com/mattn/go-sqlite3" // the driver called sqlite3

	"github.com/nodeless/nodeless/pkg/atomicfile"
	"github.com/nodeless/nodeless/pkg/hint"
)

const (
	// params: what is committed survives a power cut, and readers do not wait for the writer.
	params = "_journal_mode=WAL&_synchronous=FULL&_busy_timeout=30000&_txlock=immediate&_foreign_keys=1&_recursive_triggers=1"
	// mostConns is the writer and a few readers.
	mostConns = 4
)

// Errors of Open.
var (
	ErrNewer   = errors.New("the file was written by a newer nodeless")
	ErrForeign = errors.New("the file is another program's")
)

// Kind is what a file is.
type Kind struct {
	Name          string // for people: "ledger"
	ApplicationID uint32 // what SQLite's header has; no other kind has it, and it is not 0
	Schema        string // statements that make the tables in an empty file
	Indexes       string // statements that make indexes where there are none, also in a file of an older program

	// Upgrades are the statements that bring a file of an older program to Schema: the first from version 1 to 2, and so on.
	Upgrades []string
}

// version is Schema's, from 1.
func (k Kind) version() int { return len(k.Upgrades) + 1 }

// Open opens a file of a kind and makes it, mode 0600, where there is none. Several processes may have it open. The error is
// ErrNewer or ErrForeign when this program must not touch the file; it is left as it is then.
func Open(ctx context.Context, file string, kind Kind) (*sql.DB, error) {
	if err := prepare(file); err != nil {
		return nil, fmt.Errorf("open %s: %w", kind.Name, err)
	}
	db, err := sql.Open("sqlite3", address(file)+"?"+params)
	if err != nil {
		return nil, fmt.Errorf("open %s %s: %w", kind.Name, file, err)
	}
	db.SetMaxOpenConns(mostConns)
	if err := kind.setUp(ctx, db); err != nil {
		return nil, errors.Join(&hint.Error{Op: "open " + kind.Name, On: file, Err: err, Do: kind.remedy(err, file)}, db.Close())
	}
	return db, nil
}

// Copy writes what is in a SQLite file, as it is at one moment, to a file that must not exist yet, mode 0600. Others may write meanwhile.
func Copy(ctx context.Context, from, to string) (err error) {
	if _, err := os.Stat(from); err != nil {
		return fmt.Errorf("copy %s: %w", from, err)
	}
	db, err := sql.Open("sqlite3", address(from)+"?mode=rw&_busy_timeout=30000")
	if err != nil {
		return fmt.Errorf("copy %s: %w", from, err)
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	empty, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600) // VACUUM INTO takes an empty file, and the mode is ours then
	if err != nil {
		return fmt.Errorf("copy %s: %w", from, err)
	}
	if err := empty.Close(); err != nil {
		return fmt.Errorf("copy %s: %w", from, err)
	}
	if _, err := db.ExecContext(ctx, "VACUUM INTO ?", to); err != nil {
		return errors.Join(fmt.Errorf("copy %s: %w", from, err), os.Remove(to))
	}
	return nil
}

// address is a file's name as SQLite reads it, whatever characters it has.
func address(file string) string { return "file:" + (&url.URL{Path: file}).EscapedPath() }

// remedy is what an operator does about a file that does not open.
func (k Kind) remedy(err error, file string) string {
	switch {
	case errors.Is(err, ErrNewer):
		return "install the version of nodeless that ran here last, or a newer one"
	case errors.Is(err, ErrForeign):
		return "move " + file + " away; a new " + k.Name + " is made in its place"
	}
	return "see that there is room on the disk; a damaged file is moved away, and what is in it read with `sqlite3 " + file + " .recover`"
}

// prepare makes an empty file, which SQLite takes: the mode is ours then, and of the files that it puts beside.
func prepare(file string) error {
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(file, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	return errors.Join(f.Chmod(0o600), f.Close(), atomicfile.SyncDir(filepath.Dir(file)))
}

// setUp makes the tables in an empty file, and refuses a file that is not of this kind and version.
func (k Kind) setUp(ctx context.Context, db *sql.DB) error {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback() //nolint:errcheck // after a commit there is nothing to roll back
	var app, version, tables int
	for query, into := range map[string]*int{"PRAGMA application_id": &app, "PRAGMA user_version": &version, "SELECT count(*) FROM sqlite_schema": &tables} {
		if err := tx.QueryRowContext(ctx, query).Scan(into); err != nil {
			return err
		}
	}
	switch {
	case app == int(k.ApplicationID) && version > k.version():
		return fmt.Errorf("%w: the version of the %s is %d, this program knows up to %d", ErrNewer, k.Name, version, k.version())
	case app == int(k.ApplicationID) && version > 0:
		return k.upgrade(ctx, tx, version)
	case app != 0 || version != 0 || tables != 0:
		return fmt.Errorf("%w, not a %s: application %#x, version %d, %d tables", ErrForeign, k.Name, app, version, tables)
	}
	if _, err := tx.ExecContext(ctx, fmt.Sprintf("%s; %s; PRAGMA application_id = %d; PRAGMA user_version = %d", k.Schema, k.Indexes, k.ApplicationID, k.version())); err != nil {
		return err
	}
	return tx.Commit()
}

// upgrade brings a file of a version to that of this program.
func (k Kind) upgrade(ctx context.Context, tx *sql.Tx, version int) error {
	for ; version < k.version(); version++ {
		if _, err := tx.ExecContext(ctx, fmt.Sprintf("%s; PRAGMA user_version = %d", k.Upgrades[version-1], version+1)); err != nil {
			return fmt.Errorf("bring the %s from version %d to %d: %w", k.Name, version, version+1, err)
		}
	}
	if _, err := tx.ExecContext(ctx, k.Indexes); err != nil {
		return err
	}
	return tx.Commit()
}
