// Package datastore is the cluster's database: kine on SQLite behind a unix socket that only root can open, speaking
// the etcd protocol to the apiserver. pkg/server runs it first; pkg/cli copies a database with it for backups.
//
// It takes a verified snapshot every hour, and returns to the last good one when it finds its file damaged at start
// (docs/adr/0016). What lies beside the database: state.db.seal, which tells how the last process left it, snapshots/,
// and state.db.damaged-TIME, files that were set aside.
//
// kine's own listener links every database driver (27 MB), and its defaults let concurrent writers wait 0.6 s; this
// package drives kine's server with a small connection pool and one write lock.
package datastore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/k3s-io/kine/pkg/drivers"
	"github.com/k3s-io/kine/pkg/drivers/generic"
	"github.com/k3s-io/kine/pkg/drivers/sqlite"
	"github.com/k3s-io/kine/pkg/logstructured/sqllog"
	"github.com/k3s-io/kine/pkg/server"
	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"

	"github.com/nodeless/nodeless/pkg/run"
	"github.com/nodeless/nodeless/pkg/unixsocket"
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
	File             string        // SQLite file; its folder exists
	Socket           string        // unix socket to serve on; its folder exists
	SnapshotInterval time.Duration // DefaultSnapshotInterval when zero, no snapshots when negative
	BootIDFile       string        // names the boot of the host; the kernel's when empty
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
	cfg       Config
	log       *slog.Logger
	pace      *pace
	recovered atomic.Pointer[Recovery]
}

var (
	_ run.Component = (*Datastore)(nil)
	_ run.Readier   = (*Datastore)(nil)
)

// New gives a datastore that has not touched anything yet.
func New(cfg Config, log *slog.Logger) *Datastore {
	if cfg.SnapshotInterval == 0 {
		cfg.SnapshotInterval = DefaultSnapshotInterval
	}
	if cfg.BootIDFile == "" {
		cfg.BootIDFile = "/proc/sys/kernel/random/boot_id"
	}
	return &Datastore{cfg: cfg, log: log, pace: newPace(time.Now)}
}

// Name is "datastore".
func (d *Datastore) Name() string { return "datastore" }

// Recovered tells what was lost when Run had to return to a snapshot, nil if it had not. It is known once Ready returns.
func (d *Datastore) Recovered() *Recovery { return d.recovered.Load() }

// Room is how long a namespace has to wait until an object of it will be taken, as large as may be for what is made to be large, else as
// workloads may be. One who is refused before anything is written has nothing counted that is not there.
func (d *Datastore) Room(namespace string, large bool) time.Duration {
	if large {
		return d.pace.room(namespace, maxValue)
	}
	return d.pace.room(namespace, maxWorkload)
}

// Run serves until ctx ends, then answers what is open, closes the database, folds its log into the file and marks it as closed in order.
func (d *Datastore) Run(ctx context.Context) (err error) {
	if err := d.cfg.Validate(); err != nil {
		return err
	}
	found, err := d.admit(ctx)
	if err != nil {
		return err
	}
	wasteful := false
	if !found.fresh {
		if wasteful, err = d.wasteful(ctx); err != nil {
			return err
		}
	}
	var wg sync.WaitGroup
	backendCtx, closeBackend := context.WithCancel(context.WithoutCancel(ctx))
	defer func() {
		closeBackend()
		wg.Wait()
		if err == nil {
			err = d.close(context.WithoutCancel(ctx))
		}
	}()
	settings := d.driverConfig(wasteful)
	_, dialect, err := sqlite.NewVariant(backendCtx, &wg, "sqlite3", settings)
	if err != nil {
		return fmt.Errorf("open database %s: %w", d.cfg.File, err)
	}
	dialect.LockWrites = true
	backend := &paced{sized{newTruthful(sqllog.New(dialect, &wg, settings))}, d.pace}
	if err := backend.Start(backendCtx); err != nil {
		return fmt.Errorf("start database %s: %w", d.cfg.File, err)
	}
	if found.fresh { // not before: an empty file would then be one that has lost everything
		if err := d.markOpen(); err != nil {
			return err
		}
	}
	snapshotCtx, stopSnapshots := context.WithCancel(ctx)
	defer stopSnapshots()
	wg.Go(func() { d.takeSnapshots(snapshotCtx) })
	return d.serve(ctx, backend)
}

// driverConfig sets kine up. It rewrites the whole file at start, which takes long for a large one, only when that
// gives much back.
func (d *Datastore) driverConfig(vacuum bool) *drivers.Config {
	params := servingParams
	if !vacuum {
		params += "&_kine_disable_startup_vacuum"
	}
	return &drivers.Config{
		DataSourceName:       dsn(d.cfg.File, params),
		ConnectionPoolConfig: generic.ConnectionPoolConfig{MaxIdle: poolSize, MaxOpen: poolSize},
		CompactTimeout:       5 * time.Second,
		CompactMinRetain:     1000,
		CompactBatchSize:     1000,
		PollBatchSize:        500,
		PollInterval:         idlePoll,
	}
}

func (d *Datastore) serve(ctx context.Context, backend server.Backend) error {
	listener, err := unixsocket.Listen(ctx, d.cfg.Socket)
	if err != nil {
		return err
	}
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	watch := &faultWatch{file: d.cfg.File, log: d.log, fail: fail}
	grpcServer := grpc.NewServer(
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second}),
		grpc.MaxRecvMsgSize(2<<20),
		grpc.MaxSendMsgSize(1<<31-1),
		grpc.UnaryInterceptor(watch.intercept),
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
	if cause := context.Cause(ctx); errors.Is(cause, ErrDamaged) {
		return cause
	}
	return nil
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
