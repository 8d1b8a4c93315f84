package sqlfile

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/nodeless/nodeless/pkg/hint"
)

func notes() Kind {
	return Kind{Name: "notes", ApplicationID: 0x6e6c7478, Schema: "CREATE TABLE notes (text TEXT NOT NULL, who TEXT NOT NULL DEFAULT '') STRICT",
		Upgrades: []string{"ALTER TABLE notes ADD COLUMN who TEXT NOT NULL DEFAULT ''"}}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func count(t *testing.T, file string) int {
	t.Helper()
	db, err := Open(t.Context(), file, notes())
	must(t, err)
	defer db.Close()
	var n int
	must(t, db.QueryRowContext(t.Context(), "SELECT count(*) FROM notes").Scan(&n))
	return n
}

func TestOpen(t *testing.T) {
	file := filepath.Join(t.TempDir(), "new", "notes ?#%.db")
	for i := range 3 {
		if n := count(t, file); n != i {
			t.Fatalf("opened for the %d. time it has %d rows", i+1, n)
		}
		db, err := Open(t.Context(), file, notes())
		must(t, err)
		_, err = db.ExecContext(t.Context(), "INSERT INTO notes (text) VALUES ('x')")
		must(t, err)
		for _, suffix := range []string{"", "-wal", "-shm"} {
			if info, err := os.Stat(file + suffix); err != nil || info.Mode().Perm() != 0o600 {
				t.Errorf("%s: %v, %v; want mode 0600", file+suffix, info, err)
			}
		}
		must(t, db.Close())
	}
}

func TestOpenRefusesOtherFiles(t *testing.T) {
	for _, tt := range []struct {
		name, statement string
		want            error
	}{
		{"of a newer program", "PRAGMA user_version = 3", ErrNewer},
		{"of no version", "PRAGMA user_version = 0", ErrForeign},
		{"of another kind", "PRAGMA application_id = 1", ErrForeign},
		{"that nobody signed", "PRAGMA application_id = 0; PRAGMA user_version = 0", ErrForeign},
	} {
		t.Run(tt.name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "notes.db")
			db, err := Open(t.Context(), file, notes())
			must(t, err)
			_, err = db.ExecContext(t.Context(), tt.statement)
			must(t, errors.Join(err, db.Close()))
			before, err := os.ReadFile(file)
			must(t, err)
			if _, err := Open(t.Context(), file, notes()); !errors.Is(err, tt.want) || len(hint.Of(err)) == 0 {
				t.Errorf("Open = %v, want %v and what to do", err, tt.want)
			}
			if after, err := os.ReadFile(file); err != nil || string(after) != string(before) {
				t.Errorf("the file is changed: %v", err)
			}
		})
	}
}

// TestUpgrade: what an older program wrote is kept, and an older program does not touch the file from then on.
func TestUpgrade(t *testing.T) {
	file := filepath.Join(t.TempDir(), "notes.db")
	older := notes()
	older.Schema, older.Upgrades = "CREATE TABLE notes (text TEXT NOT NULL) STRICT", nil
	db, err := Open(t.Context(), file, older)
	must(t, err)
	_, err = db.ExecContext(t.Context(), "INSERT INTO notes VALUES ('kept')")
	must(t, errors.Join(err, db.Close()))
	for range 2 {
		db, err = Open(t.Context(), file, notes())
		must(t, err)
		var text, who string
		must(t, errors.Join(db.QueryRowContext(t.Context(), "SELECT text, who FROM notes").Scan(&text, &who), db.Close()))
		if text != "kept" || who != "" {
			t.Errorf("after the upgrade there is %q by %q", text, who)
		}
	}
	if _, err := Open(t.Context(), file, older); !errors.Is(err, ErrNewer) {
		t.Errorf("an older program: %v, want %v", err, ErrNewer)
	}
}

func TestCopy(t *testing.T) {
	dir := t.TempDir()
	file, copied := filepath.Join(dir, "notes ?.db"), filepath.Join(dir, "copy ?.db")
	db, err := Open(t.Context(), file, notes())
	must(t, err)
	defer db.Close()
	_, err = db.ExecContext(t.Context(), "INSERT INTO notes (text) VALUES ('x'), ('y')")
	must(t, err)
	tx, err := db.BeginTx(t.Context(), nil) // somebody is writing
	must(t, err)
	_, err = tx.ExecContext(t.Context(), "INSERT INTO notes (text) VALUES ('z')")
	must(t, err)
	must(t, Copy(t.Context(), file, copied))
	must(t, tx.Commit())
	if n := count(t, copied); n != 2 {
		t.Errorf("%d rows in the copy, want the 2 that were committed", n)
	}
	if info, err := os.Stat(copied); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("copy: %v, %v; want mode 0600", info, err)
	}
	if err := Copy(t.Context(), file, copied); !errors.Is(err, os.ErrExist) {
		t.Errorf("onto a file that is there: %v", err)
	}
	if err := Copy(t.Context(), filepath.Join(dir, "none"), filepath.Join(dir, "new")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("of no file: %v", err)
	}
}
