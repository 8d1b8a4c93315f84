package datastore_test

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/nodeless/nodeless/pkg/hint"
	"github.com/nodeless/nodeless/pkg/server/datastore"
)

func newConfig(t testing.TB) datastore.Config {
	t.Helper()
	dir := t.TempDir()
	return datastore.Config{File: filepath.Join(dir, "state? 1.db"), Socket: filepath.Join(dir, "kine.sock")}
}

// start runs a datastore until the returned function is called, which gives what Run returned.
func start(t testing.TB, cfg datastore.Config) (stop func() error) {
	t.Helper()
	return run(t, datastore.New(cfg, slog.New(slog.DiscardHandler)))
}

func run(t testing.TB, d *datastore.Datastore) (stop func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- d.Run(ctx) }()
	readyCtx, cancelReady := context.WithTimeout(ctx, 30*time.Second)
	defer cancelReady()
	if err := d.Ready(readyCtx); err != nil {
		cancel()
		t.Fatalf("Ready: %v, Run: %v", err, <-done)
	}
	return func() error { cancel(); return <-done }
}

func client(t testing.TB, cfg datastore.Config) etcdserverpb.KVClient {
	t.Helper()
	conn, err := grpc.NewClient(cfg.Endpoint(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return etcdserverpb.NewKVClient(conn)
}

// create is the transaction by which the apiserver creates an object.
func create(t testing.TB, kv etcdserverpb.KVClient, key, value string) {
	t.Helper()
	resp, err := kv.Txn(t.Context(), &etcdserverpb.TxnRequest{
		Compare: []*etcdserverpb.Compare{{Target: etcdserverpb.Compare_MOD, Key: []byte(key), TargetUnion: &etcdserverpb.Compare_ModRevision{}}},
		Success: []*etcdserverpb.RequestOp{{Request: &etcdserverpb.RequestOp_RequestPut{RequestPut: &etcdserverpb.PutRequest{Key: []byte(key), Value: []byte(value)}}}},
	})
	if err != nil || !resp.Succeeded {
		t.Fatalf("create %s: %v, %v", key, resp, err)
	}
}

func TestDataOutlivesARestart(t *testing.T) {
	cfg := newConfig(t)
	stop := start(t, cfg)
	create(t, client(t, cfg), "/registry/configmaps/default/a", "hello")
	for _, path := range []string{cfg.File, cfg.Socket} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v; want mode 0600", path, info, err)
		}
	}
	if err := stop(); err != nil {
		t.Fatalf("Run: %v", err)
	}
	if info, err := os.Stat(cfg.File + "-wal"); err == nil && info.Size() > 0 {
		t.Errorf("a log of %d bytes is left: the file alone is no backup", info.Size())
	}

	stop = start(t, cfg)
	resp, err := client(t, cfg).Range(t.Context(), &etcdserverpb.RangeRequest{Key: []byte("/registry/configmaps/default/a")})
	if err != nil || len(resp.Kvs) != 1 || string(resp.Kvs[0].Value) != "hello" {
		t.Errorf("after a restart: %v, %v; want the value", resp, err)
	}
	if err := stop(); err != nil {
		t.Errorf("Run: %v", err)
	}
}

func TestBadFilesHaveAHint(t *testing.T) {
	tests := []struct {
		name    string
		prepare func(file string) error
	}{
		{name: "file is no database", prepare: func(f string) error {
			return os.WriteFile(f, make([]byte, 8192), 0o600)
		}},
		{name: "file is damaged", prepare: func(f string) error { return os.WriteFile(f, []byte("SQLite format 3\x00 and nonsense"), 0o600) }},
		{name: "file is a folder", prepare: func(f string) error { return os.Mkdir(f, 0o700) }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cfg := newConfig(t)
			if err := tt.prepare(cfg.File); err != nil {
				t.Fatal(err)
			}
			if err := datastore.New(cfg, slog.New(slog.DiscardHandler)).Run(t.Context()); len(hint.Of(err)) == 0 {
				t.Errorf("Run: %v, want an error with a hint", err)
			}
		})
	}
}

func TestSocketOfACrashedProcessIsReplaced(t *testing.T) {
	cfg := newConfig(t)
	if err := os.WriteFile(cfg.Socket, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := start(t, cfg)(); err != nil {
		t.Errorf("Run: %v", err)
	}
}
