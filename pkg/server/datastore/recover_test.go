package datastore_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/nodeless/nodeless/pkg/hint"
	"github.com/nodeless/nodeless/pkg/server/datastore"
)

// leap is the least by which a new history is ahead of an old one.
const leap = 1_000_000_000

// list gives the values below /registry/ and the store's revision.
func list(t *testing.T, kv etcdserverpb.KVClient, at int64) (map[string]string, int64, error) {
	t.Helper()
	resp, err := kv.Range(t.Context(), &etcdserverpb.RangeRequest{Key: []byte("/registry/"), RangeEnd: []byte("/registry0"), Revision: at})
	if err != nil {
		return nil, 0, err
	}
	found := make(map[string]string)
	for _, pair := range resp.Kvs {
		if string(pair.Key) == "/registry/health" {
			continue // kine's own
		}
		found[string(pair.Key)] = string(pair.Value)
	}
	return found, resp.Header.Revision, nil
}

func snapshots(t *testing.T, cfg datastore.Config) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(filepath.Dir(cfg.File), "snapshots", "state-*.db"))
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// fill writes the value "kept" under ten keys, waits for a snapshot, writes "lost" under ten more, and stops in order.
// It gives the last revision that a client saw.
func fill(t *testing.T, cfg datastore.Config) int64 {
	t.Helper()
	cfg.SnapshotInterval = 20 * time.Millisecond
	stop := start(t, cfg)
	kv := client(t, cfg)
	for i := range 10 {
		create(t, kv, fmt.Sprintf("/registry/kept/%d", i), strings.Repeat("kept", 1000))
	}
	_, rev, err := list(t, kv, 0)
	if err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(10 * time.Second)
	for want := fmt.Sprintf("-r%d-", rev); !strings.Contains(strings.Join(snapshots(t, cfg), " "), want); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("no snapshot of revision %d: %q", rev, snapshots(t, cfg))
		}
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	cfg.SnapshotInterval = -1
	stop = start(t, cfg)
	kv = client(t, cfg)
	for i := range 10 {
		create(t, kv, fmt.Sprintf("/registry/lost/%d", i), strings.Repeat("lost", 1000))
	}
	if _, rev, err = list(t, kv, 0); err != nil {
		t.Fatal(err)
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	return rev
}

func TestDamagedDatabaseReturnsToTheLastGoodSnapshot(t *testing.T) {
	tests := []struct {
		name   string
		damage func(file string) error
	}{
		{name: "truncated", damage: func(f string) error { return os.Truncate(f, 3*4096) }},
		{name: "truncated inside a page", damage: func(f string) error { return os.Truncate(f, 4096+700) }},
		{name: "empty", damage: func(f string) error { return os.Truncate(f, 0) }},
		{name: "gone", damage: os.Remove},
		{name: "no database", damage: func(f string) error { return os.WriteFile(f, bytes.Repeat([]byte("x"), 8192), 0o600) }},
		{name: "a page of zeroes", damage: func(f string) error { return overwrite(f, 4096, make([]byte, 4096)) }},
		{name: "one bit inside a value", damage: func(f string) error {
			data, err := os.ReadFile(f)
			if err != nil {
				return err
			}
			at := bytes.Index(data, []byte("lostlost"))
			return overwrite(f, int64(at), []byte{data[at] ^ 4})
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cfg := newConfig(t)
			seen := fill(t, cfg)
			if err := tt.damage(cfg.File); err != nil {
				t.Fatal(err)
			}
			var log bytes.Buffer
			d := datastore.New(cfg, slog.New(slog.NewTextHandler(&log, nil)))
			stop := run(t, d)
			kv := client(t, cfg)
			found, rev, err := list(t, kv, 0)
			if err != nil {
				t.Fatal(err)
			}
			if len(found) != 10 || found["/registry/kept/3"] != strings.Repeat("kept", 1000) {
				t.Errorf("%d keys, want the ten of the snapshot", len(found))
			}
			if rev < seen+leap/2 {
				t.Errorf("revision %d after clients have seen %d, want a leap", rev, seen)
			}
			if _, _, err := list(t, kv, seen); err == nil || !strings.Contains(err.Error(), "compacted") {
				t.Errorf("list at the lost revision %d: %v, want that it is compacted", seen, err)
			}
			create(t, kv, "/registry/kept/new", "new")
			if err := stop(); err != nil {
				t.Fatal(err)
			}
			checkAccount(t, d, log.String(), cfg)
			if err := start(t, cfg)(); err != nil {
				t.Errorf("the next start: %v", err)
			}
		})
	}
}

// checkAccount: what happened is told, and the damaged file is still there.
func checkAccount(t *testing.T, d *datastore.Datastore, log string, cfg datastore.Config) {
	t.Helper()
	r := d.Recovered()
	if r == nil {
		t.Fatal("Recovered: nil")
	}
	if _, err := os.Stat(r.Aside); err != nil {
		t.Errorf("damaged file: %v", err)
	}
	if len(snapshots(t, cfg)) == 0 {
		t.Error("the snapshot is gone")
	}
	for _, want := range []string{"level=ERROR", "DATABASE DAMAGED", filepath.Base(r.Snapshot), "age="} {
		if !strings.Contains(log, want) {
			t.Errorf("the log lacks %q:\n%s", want, log)
		}
	}
}

func overwrite(file string, at int64, data []byte) error {
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(data, at)
	return errors.Join(err, f.Close())
}

func TestDamagedSnapshotIsPassedOver(t *testing.T) {
	cfg := newConfig(t)
	fill(t, cfg)
	all := snapshots(t, cfg)
	newest := all[len(all)-1]
	later := strings.Replace(newest, "-r", "-r9", 1) // claims a later revision
	data, err := os.ReadFile(newest)
	if err != nil {
		t.Fatal(err)
	}
	data[len(data)-10] ^= 1
	if err := errors.Join(os.WriteFile(later, data, 0o600), os.Truncate(cfg.File, 5000)); err != nil {
		t.Fatal(err)
	}
	d := datastore.New(cfg, slog.New(slog.DiscardHandler))
	if err := run(t, d)(); err != nil {
		t.Fatal(err)
	}
	if r := d.Recovered(); r == nil || r.Snapshot == later {
		t.Errorf("Recovered: %v, want an older snapshot than %s", r, later)
	}
}

func TestDamagedDatabaseWithoutSnapshotIsRefused(t *testing.T) {
	cfg := newConfig(t)
	cfg.SnapshotInterval = -1
	stop := start(t, cfg)
	create(t, client(t, cfg), "/registry/a", "a")
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	for _, size := range []int64{5000, 0} {
		if err := os.Truncate(cfg.File, size); err != nil {
			t.Fatal(err)
		}
		err := datastore.New(cfg, slog.New(slog.DiscardHandler)).Run(t.Context())
		if !errors.Is(err, datastore.ErrDamaged) || len(hint.Of(err)) == 0 {
			t.Errorf("%d bytes: %v, want ErrDamaged with a hint", size, err)
		}
		if info, err := os.Stat(cfg.File); err != nil || info.Size() != size {
			t.Errorf("the damaged file was touched: %v, %v", info, err)
		}
	}
}

// TestAnotherDatabaseInItsPlace: an operator who puts back a copy is not overruled by the clean-shutdown marker.
func TestAnotherDatabaseInItsPlace(t *testing.T) {
	cfg := newConfig(t)
	fill(t, cfg)
	copied := filepath.Join(t.TempDir(), "copy.db")
	if _, err := datastore.Copy(t.Context(), snapshots(t, cfg)[0], copied); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(copied, cfg.File); err != nil {
		t.Fatal(err)
	}
	d := datastore.New(cfg, slog.New(slog.DiscardHandler))
	if err := run(t, d)(); err != nil || d.Recovered() != nil {
		t.Errorf("Run: %v, recovered: %v", err, d.Recovered())
	}
}

// crashImage copies the files of a running datastore, as a kill would leave them.
func crashImage(t *testing.T, cfg datastore.Config) datastore.Config {
	t.Helper()
	image := newConfig(t)
	image.BootIDFile, image.SnapshotInterval = cfg.BootIDFile, -1
	for _, suffix := range []string{"", "-wal", ".seal"} {
		data, err := os.ReadFile(cfg.File + suffix)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(image.File+suffix, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return image
}

func TestTornLogLosesOnlyWhatIsTorn(t *testing.T) {
	const keys = 40
	cfg := newConfig(t)
	cfg.SnapshotInterval = -1
	stop := start(t, cfg)
	kv := client(t, cfg)
	sizes := make([]int64, keys) // of the log after each acknowledged write
	for i := range keys {
		create(t, kv, fmt.Sprintf("/registry/k/%02d", i), strings.Repeat("v", 3000))
		info, err := os.Stat(cfg.File + "-wal")
		if err != nil {
			t.Fatal(err)
		}
		sizes[i] = info.Size()
	}
	_, seen, err := list(t, kv, 0)
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name  string
		tear  func(log string) error
		kept  int
		leaps bool
	}{
		{name: "whole", tear: func(string) error { return nil }, kept: keys},
		{name: "cut inside a page", tear: func(l string) error { return os.Truncate(l, sizes[29]+2000) }, kept: 30, leaps: true},
		{name: "garbage behind it", tear: func(l string) error { return overwrite(l, sizes[keys-1], bytes.Repeat([]byte{0xa5}, 9000)) }, kept: keys},
		{name: "last pages are garbage", tear: func(l string) error { return overwrite(l, sizes[34]+100, bytes.Repeat([]byte{7}, 8000)) }, kept: 35, leaps: true},
		{name: "one bit in the middle", tear: func(l string) error { return overwrite(l, sizes[19]+1000, []byte{0xff}) }, kept: 20, leaps: true},
		{name: "the header is garbage", tear: func(l string) error { return overwrite(l, 8, []byte{1, 2, 3}) }, kept: -1, leaps: true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			image := crashImage(t, cfg)
			if err := tt.tear(image.File + "-wal"); err != nil {
				t.Fatal(err)
			}
			d := datastore.New(image, slog.New(slog.DiscardHandler))
			stop := run(t, d)
			found, rev, err := list(t, client(t, image), 0)
			if err != nil {
				t.Fatal(err)
			}
			if d.Recovered() != nil {
				t.Errorf("a torn log returned to a snapshot: %v", d.Recovered())
			}
			if tt.kept >= 0 && len(found) != tt.kept {
				t.Errorf("%d keys are left, want the %d that were whole", len(found), tt.kept)
			}
			if got := rev > seen; got != tt.leaps {
				t.Errorf("revision %d, clients saw %d; want a leap: %v", rev, seen, tt.leaps)
			}
			if err := stop(); err != nil {
				t.Error(err)
			}
		})
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
}

func TestPowerCutBeginsANewHistory(t *testing.T) {
	cfg := newConfig(t)
	cfg.BootIDFile = filepath.Join(t.TempDir(), "boot_id")
	if err := os.WriteFile(cfg.BootIDFile, []byte("one\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	stop := start(t, cfg)
	create(t, client(t, cfg), "/registry/a", "a")
	_, seen, err := list(t, client(t, cfg), 0)
	if err != nil {
		t.Fatal(err)
	}
	image := crashImage(t, cfg)
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	for _, boot := range []struct {
		id    string
		leaps bool
	}{{"one\n", false}, {"two\n", true}} {
		again := crashImage(t, image)
		if err := os.WriteFile(cfg.BootIDFile, []byte(boot.id), 0o600); err != nil {
			t.Fatal(err)
		}
		stop := start(t, again)
		found, rev, err := list(t, client(t, again), 0)
		if err != nil || len(found) != 1 || rev > seen != boot.leaps {
			t.Errorf("boot %q: %d keys, revision %d after %d, %v; want a leap: %v", boot.id, len(found), rev, seen, err, boot.leaps)
		}
		if err := stop(); err != nil {
			t.Error(err)
		}
	}
}

// TestDamageWhileServing: a file that breaks under a running server ends it, is not marked as good, and the next start
// returns to the snapshot.
func TestDamageWhileServing(t *testing.T) {
	cfg := newConfig(t)
	fill(t, cfg)
	cfg.SnapshotInterval = -1
	d := datastore.New(cfg, slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- d.Run(ctx) }()
	if err := d.Ready(ctx); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(cfg.File)
	if err != nil {
		t.Fatal(err)
	}
	if err := overwrite(cfg.File, 4096, bytes.Repeat([]byte{0xee}, int(info.Size())-4096)); err != nil {
		t.Fatal(err)
	}
	kv := client(t, cfg)
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline) && len(done) == 0; {
		list(t, kv, 0) //nolint:errcheck // it fails, which is the point
	}
	cancel()
	if err := <-done; !errors.Is(err, datastore.ErrDamaged) {
		t.Fatalf("Run: %v, want ErrDamaged", err)
	}
	again := datastore.New(cfg, slog.New(slog.DiscardHandler))
	stop := run(t, again)
	if found, _, err := list(t, client(t, cfg), 0); err != nil || len(found) != 10 || again.Recovered() == nil {
		t.Errorf("after the next start: %d keys, %v, recovered %v", len(found), err, again.Recovered())
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
}
