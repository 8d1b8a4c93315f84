// Package datastore is the cluster's database: kine on SQLite behind a unix socket that only root can open, speaking
// the etcd protocol to the apiserver. pkg/server runs it first.
//
// kine's own listener links every database driver (27 MB), and its defaults let concurrent writers wait 0.6 s; this
// package drives kine's server with a small connection pool and one write lock.
package datastore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/k3s-io/kine/pkg/drivers"
	"github.com/k3s-io/kine/pkg/drivers/generic"
	"github.com/k3s-io/kine/pkg/drivers/sqlite"
	"github.com/k3s-io/kine/pkg/server"
	_ "github.com/mattn/go-sqlite3" // the driver called sqlite3
	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"

	"github.com/nodeless/nodeless/pkg/hint"
	"github.com/nodeless/nodeless/pkg/run"
)

const (
	poolSize       = 4
	notifyInterval = 5 * time.Second
	// etcdVersion is what kine claims to be; from it the apiserver knows that progress notifications work.
	etcdVersion = "3.6.11"
	// idlePoll is how often kine looks for revisions that nobody told it of. There is no second writer, so this
	// is only a safety net, and one query a second would be a visible part of an idle server's load.
	idlePoll = 5 * time.Second
	// stopGrace is how long open requests may take at the end.
	stopGrace = 2 * time.Second
)

// Config says where the database and its socket are.
type Config struct {
	File   string // SQLite file; its folder exists
	Socket string // unix socket to serve on; its folder exists
}

// Validate reports everything that is missing.
func (c Config) Validate() error {
	var errs []error
	if c.File == "" {
		errs = append(errs, errors.New("datastore: no database file"))
	}
	if c.Socket == "" {
		errs = append(errs, errors.New("datastore: no socket"))
	}
	return errors.Join(errs...)
}

// Endpoint is what the apiserver connects to.
func (c Config) Endpoint() string { return "unix://" + c.Socket }

// Datastore is the component.
type Datastore struct {
	cfg Config
	log *slog.Logger
}

var (
	_ run.Component = (*Datastore)(nil)
	_ run.Readier   = (*Datastore)(nil)
)

// New gives a datastore that has not touched anything yet.
func New(cfg Config, log *slog.Logger) *Datastore { return &Datastore{cfg: cfg, log: log} }

// Name is "datastore".
func (d *Datastore) Name() string { return "datastore" }

// Run serves until ctx ends, then answers what is open, closes the database and folds its log into the file.
func (d *Datastore) Run(ctx context.Context) (err error) {
	if err := d.cfg.Validate(); err != nil {
		return err
	}
	wasteful, err := d.check(ctx)
	if err != nil {
		return err
	}
	var wg sync.WaitGroup
	backendCtx, closeBackend := context.WithCancel(context.WithoutCancel(ctx))
	defer func() {
		closeBackend()
		wg.Wait()
		err = errors.Join(err, d.checkpoint())
	}()
	backend, dialect, err := sqlite.NewVariant(backendCtx, &wg, "sqlite3", d.driverConfig(wasteful))
	if err != nil {
		return fmt.Errorf("open database %s: %w", d.cfg.File, err)
	}
	dialect.LockWrites = true
	if err := backend.Start(backendCtx); err != nil {
		return fmt.Errorf("start database %s: %w", d.cfg.File, err)
	}
	return d.serve(ctx, backend)
}

// driverConfig sets kine up. It rewrites the whole file at start, which takes long for a large one, only when that
// gives much back.
func (d *Datastore) driverConfig(vacuum bool) *drivers.Config {
	extra := "&_kine_disable_startup_vacuum"
	if vacuum {
		extra = ""
	}
	return &drivers.Config{
		DataSourceName:       dsn(d.cfg.File, extra),
		ConnectionPoolConfig: generic.ConnectionPoolConfig{MaxIdle: poolSize, MaxOpen: poolSize},
		CompactTimeout:       5 * time.Second,
		CompactMinRetain:     1000,
		CompactBatchSize:     1000,
		PollBatchSize:        500,
		PollInterval:         idlePoll,
	}
}

// dsn names file with kine's own choice of SQLite settings but one: its cache=shared has no effect as kine
// writes it, without "file:", and makes writers fail with "table is locked" where it has. The path is escaped, for a
// question mark would end it.
func dsn(file, extra string) string {
	const params = "_journal_mode=WAL&_busy_timeout=30000&_synchronous=NORMAL&_txlock=immediate&_stmt_cache_size=20"
	return "file:" + (&url.URL{Path: file}).EscapedPath() + "?" + params + extra
}

func (d *Datastore) serve(ctx context.Context, backend server.Backend) error {
	listener, err := listen(ctx, d.cfg.Socket)
	if err != nil {
		return err
	}
	grpcServer := grpc.NewServer(
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second}),
		grpc.MaxRecvMsgSize(2<<20),
		grpc.MaxSendMsgSize(1<<31-1),
	)
	server.New(backend, "unix", notifyInterval, etcdVersion).Register(grpcServer)

	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(stopped)
		timer := time.AfterFunc(stopGrace, grpcServer.Stop)
		defer timer.Stop()
		grpcServer.GracefulStop()
	})
	err = grpcServer.Serve(listener)
	if stop() { // nobody asked for the end
		return fmt.Errorf("serve %s: %w", d.cfg.Socket, err)
	}
	<-stopped
	return nil
}

// listen replaces a socket that an earlier process left and lets nobody but the owner connect.
func listen(ctx context.Context, path string) (net.Listener, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("remove old socket: %w", err)
	}
	var lc net.ListenConfig
	listener, err := lc.Listen(ctx, "unix", path)
	if err != nil {
		return nil, &hint.Error{Op: "listen on", On: path, Err: err, Do: "choose another folder for sockets with --run-dir"}
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("close socket to other users: %w", err), listener.Close())
	}
	return listener, nil
}

// Ready waits until a real range request is answered.
func (d *Datastore) Ready(ctx context.Context) error {
	conn, err := grpc.NewClient("unix:"+d.cfg.Socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return fmt.Errorf("connect to %s: %w", d.cfg.Socket, err)
	}
	kv := etcdserverpb.NewKVClient(conn)
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	for {
		_, err := kv.Range(ctx, &etcdserverpb.RangeRequest{Key: []byte("/registry/health")})
		if err == nil {
			return conn.Close()
		}
		conn.ResetConnectBackoff() // else the first refused connection costs a second
		select {
		case <-ctx.Done():
			return errors.Join(ctx.Err(), err, conn.Close())
		case <-ticker.C:
		}
	}
}

// check refuses a damaged database before anything is built on it, closes its file to other users, and tells whether
// more than a quarter of it is free pages.
func (d *Datastore) check(ctx context.Context) (wasteful bool, err error) {
	f, err := os.OpenFile(d.cfg.File, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return false, &hint.Error{Op: "open database", On: d.cfg.File, Err: err, Do: "run as root on a writable file system, or choose another folder with --data-dir"}
	}
	if err := errors.Join(f.Chmod(0o600), f.Close()); err != nil {
		return false, fmt.Errorf("close database to other users: %w", err)
	}
	db, err := sql.Open("sqlite3", dsn(d.cfg.File, ""))
	if err != nil {
		return false, fmt.Errorf("open database %s: %w", d.cfg.File, err)
	}
	var verdict string
	err = db.QueryRowContext(ctx, "PRAGMA quick_check(1)").Scan(&verdict)
	if err == nil && verdict != "ok" {
		err = errors.New(strings.ReplaceAll(verdict, "\n", "; "))
	}
	if err == nil {
		err = db.QueryRowContext(ctx, "SELECT freelist_count*4 > page_count FROM pragma_freelist_count(), pragma_page_count()").Scan(&wasteful)
	}
	if err = errors.Join(err, db.Close()); err != nil {
		return false, &hint.Error{Op: "check database", On: d.cfg.File, Err: err,
			Do: "restore " + d.cfg.File + " from a backup (remove its -wal and -shm files with it); to start an empty cluster instead, move the file away"}
	}
	return wasteful, nil
}

// checkpoint folds the write-ahead log into the file, so that a copy of the file alone is a whole backup.
func (d *Datastore) checkpoint() error {
	db, err := sql.Open("sqlite3", dsn(d.cfg.File, ""))
	if err != nil {
		return fmt.Errorf("checkpoint database: %w", err)
	}
	_, err = db.Exec("PRAGMA wal_checkpoint(TRUNCATE)")
	if err = errors.Join(err, db.Close()); err != nil {
		return fmt.Errorf("checkpoint database: %w", err)
	}
	d.log.Debug("database closed", "file", d.cfg.File)
	return nil
}
