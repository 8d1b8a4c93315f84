package containerd

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodeless/nodeless/pkg/atomicfile"
	"github.com/nodeless/nodeless/pkg/contract"
	"github.com/nodeless/nodeless/pkg/hint"
	"github.com/nodeless/nodeless/pkg/memcg"
	"github.com/nodeless/nodeless/pkg/proc"
	"github.com/nodeless/nodeless/pkg/run"
)

const (
	stopTimeout  = 8 * time.Second
	pollInterval = 20 * time.Millisecond
	// memoryEnv tells Go how much memory to aim at.
	memoryEnv = "GOMEMLIMIT"
)

// Containerd is the component.
type Containerd struct {
	cfg   Config
	log   *slog.Logger
	ready chan struct{} // closed when CRI answers and the images of the bundle are there
}

var (
	_ run.Component = (*Containerd)(nil)
	_ run.Readier   = (*Containerd)(nil)
)

// New gives a component that has not touched the host yet.
func New(cfg Config, log *slog.Logger) *Containerd {
	return &Containerd{cfg: cfg, log: log, ready: make(chan struct{})}
}

// Name is "containerd".
func (c *Containerd) Name() string { return "containerd" }

// Run runs containerd until ctx ends. Pods outlive it: their shims are daemons of their own.
func (c *Containerd) Run(ctx context.Context) error {
	if err := c.prepare(); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- c.child().Run(ctx) }()
	filled := make(chan error, 1)
	go func() { filled <- c.fill(ctx) }()

	select {
	case err := <-ended:
		cancel()
		<-filled
		return err
	case err := <-filled:
		if err != nil && ctx.Err() == nil {
			cancel()
			return errors.Join(err, <-ended)
		}
	}
	return <-ended
}

// Ready waits until Pods can be started.
func (c *Containerd) Ready(ctx context.Context) error {
	select {
	case <-c.ready:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// prepare writes the settings and clears what an earlier run left in the way.
func (c *Containerd) prepare() error {
	if err := c.cfg.Validate(); err != nil {
		return err
	}
	settings, err := ContainerdTOML(c.cfg)
	if err != nil {
		return err
	}
	kata, err := KataTOML(c.cfg)
	if err != nil {
		return err
	}
	for path, text := range map[string][]byte{c.cfg.ConfigFile: settings, c.cfg.KataFile: kata} {
		if err := atomicfile.Write(path, text, 0o600); err != nil {
			return err
		}
	}
	for _, dir := range []string{c.cfg.Certs, c.cfg.CNIConf, filepath.Dir(c.cfg.Socket)} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("make folder of containerd: %w", err)
		}
	}
	// A stale socket would let others dial a containerd that is not there.
	for _, socket := range []string{c.cfg.Socket, c.cfg.Socket + ".ttrpc"} {
		if err := os.Remove(socket); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove stale socket: %w", err)
		}
	}
	return nil
}

// child is the process: this program again, as containerd.
func (c *Containerd) child() proc.Child {
	return proc.Child{
		Name:        "containerd",
		Path:        c.cfg.Program,
		Args:        []string{"containerd", "--config", c.cfg.ConfigFile},
		Env:         environment(os.Environ(), c.cfg),
		Dir:         "/",
		Log:         &logLines{log: c.log},
		StopTimeout: stopTimeout,
		Started:     c.bound,
	}
}

// bound gives the child the cgroup in which its memory is bounded. Pods are not in it: each has its own.
func (c *Containerd) bound(pid int) {
	m := c.cfg.Memory
	if m.Cgroup == "" {
		return
	}
	group, err := memcg.Make("/proc/self/mountinfo", m.Cgroup, m.Bound)
	if err == nil {
		err = group.Join(pid)
	}
	if err != nil {
		c.log.Warn("containerd's memory is not bounded by the kernel", "error", err)
	}
}

// environment is what containerd, and through it shims and nodeless-vmm, get.
func environment(host []string, cfg Config) []string {
	path := "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	var env []string
	for _, pair := range host {
		name, value, _ := strings.Cut(pair, "=")
		switch {
		case name == "PATH" && value != "":
			path = value
		case name == "PATH" || name == contract.ConfigEnv || name == "NOTIFY_SOCKET" || name == memoryEnv || strings.HasPrefix(name, "CONTAINERD_"):
		default:
			env = append(env, pair)
		}
	}
	if cfg.Memory.Aim > 0 {
		env = append(env, memoryEnv+"="+strconv.FormatInt(cfg.Memory.Aim, 10))
	}
	return append(env, "PATH="+cfg.AuxDir+":"+path, contract.ConfigEnv+"="+cfg.VMMConfig)
}

// fill waits for containerd, imports the bundle's images, says so, and goes on with the operator's.
func (c *Containerd) fill(ctx context.Context) error {
	if err := waitForCRI(ctx, c.cfg.Socket); err != nil {
		return err
	}
	for _, socket := range []string{c.cfg.Socket, c.cfg.Socket + ".ttrpc"} {
		if err := os.Chmod(socket, 0o600); err != nil {
			return fmt.Errorf("close socket to others: %w", err)
		}
	}
	im, err := newImporter(c.cfg, c.log)
	if err != nil {
		return err
	}
	defer im.close()
	if errs := im.importAll(ctx, c.cfg.BundleImages); len(errs) > 0 {
		return errors.Join(errs...)
	}
	if err := im.present(ctx, PauseImage); err != nil {
		return fmt.Errorf("find image of the bundle: %w", err)
	}
	close(c.ready)
	for _, err := range im.importAll(ctx, c.cfg.Images) {
		if ctx.Err() != nil {
			break
		}
		c.log.Error("image archive not imported", "error", err, "do", hint.Of(err)) // the product runs without it
	}
	return nil
}

// waitForCRI blocks until the runtime service answers.
func waitForCRI(ctx context.Context, socket string) error {
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return fmt.Errorf("make client of %s: %w", socket, err)
	}
	defer conn.Close()
	client := cri.NewRuntimeServiceClient(conn)
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for {
		if _, err := os.Stat(socket); err == nil {
			conn.ResetConnectBackoff()
			if _, err := client.Status(ctx, &cri.StatusRequest{}); err == nil {
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}
