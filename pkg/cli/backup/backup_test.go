package backup_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nodeless/nodeless/pkg/bill/journal"
	"github.com/nodeless/nodeless/pkg/cli/backup"
	"github.com/nodeless/nodeless/pkg/datadir"
	"github.com/nodeless/nodeless/pkg/hint"
	"github.com/nodeless/nodeless/pkg/meter"
	"github.com/nodeless/nodeless/pkg/price"
	"github.com/nodeless/nodeless/pkg/server/datastore"
)

func now() time.Time { return time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC) }

// cluster makes the files of a data folder, with rows in the database.
func cluster(t *testing.T, rows int) backup.Source {
	t.Helper()
	root := t.TempDir()
	data := datadir.Dir(filepath.Join(root, "data"))
	if err := data.Prepare(); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"server-ca.crt", "server-ca.key", "client-ca.crt", "client-ca.key", "front-proxy-ca.crt", "front-proxy-ca.key", "service-account.key", "apiserver.crt"} {
		write(t, filepath.Join(data.TLS(), name), "content of "+name)
	}
	write(t, filepath.Join(data.Cred(), "encryption.yaml"), "the key")
	write(t, data.ClusterIDFile(), "cls-00000001\n")
	write(t, filepath.Join(data.Cred(), "scheduler.kubeconfig"), "made anew")
	write(t, filepath.Join(root, "etc", "config.yaml"), "max-pods: 20\n")
	write(t, filepath.Join(root, "etc", "config.yaml.d", "10-san.yaml"), "tls-san: [a.example]\n")
	db, err := sql.Open("sqlite3", data.DBFile())
	if err != nil {
		t.Fatal(err)
	}
	for _, query := range []string{
		"CREATE TABLE kine (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT, created INTEGER, deleted INTEGER, create_revision INTEGER, prev_revision INTEGER, lease INTEGER, value BLOB, old_value BLOB)",
		fmt.Sprintf("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i < %d) INSERT INTO kine(name, created, deleted, create_revision, prev_revision, value) SELECT 'row' || i, 1, 0, 0, 0, hex(randomblob(1000)) FROM n", rows),
	} {
		if _, err := db.Exec(query); err != nil {
			t.Fatal(err)
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	return backup.Source{Data: data, ConfigFile: filepath.Join(root, "etc", "config.yaml"), Version: "v1.2.0", Host: "here", Node: "node1", Now: now}
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func target(t *testing.T) backup.Target {
	t.Helper()
	root := t.TempDir()
	data := datadir.Dir(filepath.Join(root, "data"))
	if err := data.Prepare(); err != nil { // empty folders are no cluster
		t.Fatal(err)
	}
	return backup.Target{Data: data, ConfigFile: filepath.Join(root, "etc", "config.yaml"), Version: "v1.2.0", Now: now, Unencrypted: true, WithConfig: true}
}

func archive(t *testing.T, src backup.Source) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "a.tar.zst")
	if _, err := backup.Create(t.Context(), src, file); err != nil {
		t.Fatal(err)
	}
	return file
}

// files reads everything below dir but the database.
func files(t *testing.T, dir string) map[string]string {
	t.Helper()
	found := make(map[string]string)
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() || strings.HasPrefix(d.Name(), "state.db") {
			return err
		}
		data, err := os.ReadFile(path)
		found[strings.TrimPrefix(path, dir+"/")] = string(data)
		if info, _ := d.Info(); info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v", path, info.Mode().Perm())
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func TestWhatIsBackedUpComesBack(t *testing.T) {
	for _, running := range []bool{false, true} {
		t.Run(fmt.Sprintf("running=%v", running), func(t *testing.T) {
			src := cluster(t, 100)
			src.Running = running
			file := archive(t, src)
			if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
				t.Errorf("archive: %v, %v; want mode 0600", info, err)
			}
			to := target(t)
			r, err := backup.Restore(t.Context(), to, file)
			if err != nil {
				t.Fatal(err)
			}
			if r.Manifest.Node != "node1" || r.Manifest.Revision != 100 || r.Revision <= 1_000_000_000 {
				t.Errorf("report %+v", r)
			}
			rev, err := datastore.Revision(t.Context(), to.Data.DBFile())
			if err != nil || rev != r.Revision {
				t.Errorf("restored revision %d, %v; want %d", rev, err, r.Revision)
			}
			want := map[string]string{"cred/encryption.yaml": "the key", "cluster-id": "cls-00000001\n", "restored.json": `{"node":"node1","host":"here","created":"2026-01-02T03:04:05Z"}` + "\n"}
			for _, name := range []string{"server-ca.crt", "server-ca.key", "client-ca.crt", "client-ca.key", "front-proxy-ca.crt", "front-proxy-ca.key", "service-account.key"} {
				want["tls/"+name] = "content of " + name
			}
			if diff := cmp.Diff(want, files(t, filepath.Join(string(to.Data), "server"))); diff != "" {
				t.Errorf("restored (-want +got):\n%s", diff)
			}
			want = map[string]string{"config.yaml": "max-pods: 20\n", "config.yaml.d/10-san.yaml": "tls-san: [a.example]\n"}
			if diff := cmp.Diff(want, files(t, filepath.Dir(to.ConfigFile))); diff != "" {
				t.Errorf("configuration (-want +got):\n%s", diff)
			}
		})
	}
}

// TestAccountsComeBack backs up the ledger and the bills while a server has them open.
func TestAccountsComeBack(t *testing.T) {
	src := cluster(t, 10)
	src.Running = true
	hour := now().Truncate(time.Hour)
	ledger, err := meter.Open(t.Context(), src.Data.Ledger())
	if err != nil {
		t.Fatal(err)
	}
	defer ledger.Close()
	bills, err := journal.Open(t.Context(), src.Data.Bills())
	if err != nil {
		t.Fatal(err)
	}
	defer bills.Close()
	prices, err := price.DefaultTables()
	if err != nil {
		t.Fatal(err)
	}
	if err := bills.Settle(t.Context(), journal.Cycle{Hour: hour, Prices: prices["CNY"], Now: now()}, nil); err != nil {
		t.Fatal(err)
	}
	to := target(t)
	if _, err := backup.Restore(t.Context(), to, archive(t, src)); err != nil {
		t.Fatal(err)
	}
	restored, err := journal.Open(t.Context(), to.Data.Bills())
	if err != nil {
		t.Fatal(err)
	}
	defer restored.Close()
	settled, err := restored.Settled(t.Context(), time.Time{}, time.Time{})
	if diff := cmp.Diff([]time.Time{hour}, settled); err != nil || diff != "" {
		t.Errorf("settled: %v (-want +got):\n%s", err, diff)
	}
	for _, file := range []string{to.Data.Bills(), to.Data.Ledger()} {
		if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v; want mode 0600", file, info, err)
		}
	}
}

func TestRefusals(t *testing.T) {
	newer := cluster(t, 10)
	newer.Version = "v1.3.0"
	good, later := archive(t, cluster(t, 10)), archive(t, newer)
	whole, err := os.ReadFile(good)
	if err != nil {
		t.Fatal(err)
	}
	flipped := append([]byte(nil), whole...)
	flipped[len(flipped)/2] ^= 8
	tests := []struct {
		name string
		file func(t *testing.T) string
		used bool
		want error
	}{
		{name: "newer version", file: func(*testing.T) string { return later }, want: backup.ErrNewer},
		{name: "cut short", file: contents(whole[:len(whole)-100]), want: backup.ErrCorrupt},
		{name: "one bit", file: contents(flipped), want: backup.ErrCorrupt},
		{name: "something else", file: contents([]byte("not an archive")), want: backup.ErrCorrupt},
		{name: "empty", file: contents(nil), want: backup.ErrCorrupt},
		{name: "no such file", file: func(t *testing.T) string { return filepath.Join(t.TempDir(), "none") }, want: os.ErrNotExist},
		{name: "cluster in use", file: func(*testing.T) string { return good }, used: true, want: backup.ErrInUse},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			to := target(t)
			if tt.used {
				write(t, to.Data.DBFile(), "another cluster")
			}
			_, err := backup.Restore(t.Context(), to, tt.file(t))
			if !errors.Is(err, tt.want) || len(hint.Of(err)) == 0 {
				t.Errorf("Restore: %v, want %v with a hint", err, tt.want)
			}
			left := files(t, string(to.Data))
			delete(left, "server/db/state.db")
			if len(left) > 0 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}

func contents(data []byte) func(*testing.T) string {
	return func(t *testing.T) string {
		file := filepath.Join(t.TempDir(), "a")
		write(t, file, string(data))
		return file
	}
}

func TestForceSetsTheOldClusterAside(t *testing.T) {
	to := target(t)
	write(t, to.Data.DBFile(), "another cluster")
	write(t, to.ConfigFile, "max-pods: 5\n")
	to.Force = true
	r, err := backup.Restore(context.Background(), to, archive(t, cluster(t, 10)))
	if err != nil {
		t.Fatal(err)
	}
	if old, err := os.ReadFile(filepath.Join(r.Aside, "db", "state.db")); err != nil || string(old) != "another cluster" {
		t.Errorf("the old cluster is %q, %v", old, err)
	}
	if mine, err := os.ReadFile(to.ConfigFile); err != nil || string(mine) != "max-pods: 5\n" {
		t.Errorf("the host's own configuration became %q, %v", mine, err)
	}
	if len(r.Kept) != 1 {
		t.Errorf("kept %q", r.Kept)
	}
}

func TestBackupIsNeverOverwritten(t *testing.T) {
	src := cluster(t, 10)
	file := archive(t, src)
	if _, err := backup.Create(t.Context(), src, file); !errors.Is(err, os.ErrExist) || len(hint.Of(err)) == 0 {
		t.Errorf("Create: %v, want that it exists, with a hint", err)
	}
	if _, err := backup.Create(t.Context(), src, filepath.Join(t.TempDir(), "no", "such", "dir")); len(hint.Of(err)) == 0 {
		t.Errorf("Create: %v, want a hint", err)
	}
}
