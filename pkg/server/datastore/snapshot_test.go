package datastore

import (
	"database/sql"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestSnapshotsAreFewAndClosedToOthers(t *testing.T) {
	cfg := Config{File: filepath.Join(t.TempDir(), "state? 1.db")}
	write := func(query string) {
		t.Helper()
		if err := withDB(cfg.File, func(db *sql.DB) error { _, err := db.Exec(query); return err }); err != nil {
			t.Fatal(err)
		}
	}
	write("CREATE TABLE kine (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT)")
	clock := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	take := func() snapshot {
		t.Helper()
		clock = clock.Add(-time.Hour) // a clock that is set back does not mix up the order
		s, err := takeSnapshot(t.Context(), cfg, func() time.Time { return clock })
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	if err := os.MkdirAll(cfg.snapshotDir(), 0o700); err != nil {
		t.Fatal(err)
	}
	left := filepath.Join(cfg.snapshotDir(), unfinished+"1")
	if err := os.WriteFile(left, []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	for range keepSnapshots + 3 {
		write("INSERT INTO kine(name) VALUES('x')")
		take()
	}
	if s := take(); s.File != "" {
		t.Errorf("nothing has changed, and still %s was taken", s.File)
	}
	all, err := cfg.snapshots()
	if err != nil || len(all) != keepSnapshots || all[0].Revision != keepSnapshots+3 {
		t.Fatalf("%d snapshots, the newest %+v, %v; want %d, the newest of revision %d", len(all), all[0], err, keepSnapshots, keepSnapshots+3)
	}
	for _, s := range all {
		if info, err := os.Stat(s.File); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v; want mode 0600", s.File, info, err)
		}
		if err := s.check(); err != nil {
			t.Errorf("%s: %v", s.File, err)
		}
	}
	if entries, err := os.ReadDir(cfg.snapshotDir()); err != nil || len(entries) != keepSnapshots {
		t.Errorf("%d files beside the snapshots, %v", len(entries)-keepSnapshots, err)
	}
}
