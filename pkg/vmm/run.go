package vmm

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// createTimeout ends a VMM that nobody gives a microVM to.
	createTimeout = time.Minute
	// failedBootLinger keeps the API up after a failed boot, so that Kata learns of it: it redials a
	// socket that has gone, without pause, until its own time-out.
	failedBootLinger = 15 * time.Second

	logLimit = 256 << 10
	// keptLogs is how many log files stay on a host; two belong to each running microVM.
	keptLogs = 512
)

var (
	errParentGone = errors.New("the shim that started this process has ended")
	errShutdown   = errors.New("asked to shut down")
	errNoVM       = errors.New("no microVM was asked for")
)

// Options are what differs from one VMM process to the next.
type Options struct {
	APISocket string
	Parent    int // the process whose end ends this one; 0 for none
	Verbose   bool
	// Sandbox is the folder of the sandbox's OCI configuration, config.json, which says whose Pod it is; the working
	// directory when empty: the shim's, and thus the one of what it starts.
	Sandbox string
	// Errors receives what went wrong before there is a log file.
	Errors io.Writer
}

// Run serves Kata's calls on the API socket for one microVM until it ends, and leaves nothing of it behind.
// It returns nil when the end was asked for. What it has no use for it takes from its process, for good.
func Run(ctx context.Context, cfg HostConfig, opts Options) error {
	if !filepath.IsAbs(opts.APISocket) {
		return fmt.Errorf("open API socket: %q is not an absolute path", opts.APISocket)
	}
	if err := errors.Join(noDumps(), confine()); err != nil {
		return err
	}
	id := filepath.Base(filepath.Dir(opts.APISocket)) // Kata: <VM store>/<sandbox id>/<contract.APISocket>
	log, file := openLog(cfg, id, opts)
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: opts.APISocket, Net: "unix"})
	if err != nil {
		return errors.Join(fmt.Errorf("open API socket: %w", err), file.drop(true))
	}
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	if opts.Parent > 0 {
		if err := watchParent(ctx, opts.Parent, stop); err != nil {
			return errors.Join(err, listener.Close(), file.drop(true))
		}
	}
	v := newVM(id, cfg, log)
	v.settle = settle
	v.sandbox, v.disk.dir = opts.Sandbox, filepath.Dir(opts.APISocket)
	err = serve(ctx, listener, v, stop)
	clean := err == nil
	if clean {
		log.Info("microVM ended as asked")
	} else {
		log.Error("microVM ended", "err", err)
	}
	return errors.Join(err, v.cleanup(!clean || cfg.Debug), file.drop(!clean || cfg.Debug))
}

// serve answers calls until there is a reason to end.
func serve(ctx context.Context, l *net.UnixListener, v *vm, stop context.CancelCauseFunc) error {
	a := &api{vm: v, stop: func() { stop(errShutdown) }}
	// Connections outlive ctx by the reply that is being sent.
	connCtx, closeConns := context.WithCancel(context.WithoutCancel(ctx))
	callCtx, cancelCalls := context.WithCancel(ctx)
	defer cancelCalls()
	var conns sync.WaitGroup
	go func() {
		for {
			c, err := l.AcceptUnix()
			if err != nil {
				return // closed
			}
			conns.Go(func() {
				serveConn(connCtx, c, func(_ context.Context, r request) (any, error) {
					v.log.Debug("call", "method", r.method, "path", r.path, "body", string(r.body))
					reply, err := a.handle(callCtx, r)
					if err != nil {
						v.log.Warn("call failed", "path", r.path, "err", err)
					}
					return reply, err
				})
			})
		}
	}()
	err := await(ctx, v)
	v.shutdown()
	_ = l.Close() // removes the socket
	closeConns()
	conns.Wait()
	return err
}

// await returns when the process has to end; nil when that was asked for.
func await(ctx context.Context, v *vm) error {
	unused := make(chan struct{})
	timer := time.AfterFunc(createTimeout, func() {
		if v.currentState() == stateNone {
			close(unused)
		}
	})
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return askedFor(ctx)
	case <-unused:
		return errNoVM
	case <-v.ended:
	}
	select {
	case <-v.agent.ready:
		return v.reason // it ran, and now Kata sees the process end
	default:
	}
	linger := time.NewTimer(failedBootLinger)
	defer linger.Stop()
	select {
	case <-ctx.Done():
	case <-linger.C:
	}
	return v.reason
}

func askedFor(ctx context.Context) error {
	cause := context.Cause(ctx)
	if errors.Is(cause, errParentGone) {
		return cause
	}
	return nil // vmm.shutdown, or a signal
}

// watchParent ends ctx when the process pid, our parent, has ended.
func watchParent(ctx context.Context, pid int, stop context.CancelCauseFunc) error {
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if errors.Is(err, unix.ESRCH) || (err == nil && os.Getppid() != pid) {
		stop(errParentGone)
		return nil
	}
	if err != nil {
		return fmt.Errorf("watch parent process %d: %w", pid, err)
	}
	go func() {
		defer unix.Close(fd)
		for ctx.Err() == nil {
			n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, -1)
			if n > 0 || (err != nil && !errors.Is(err, unix.EINTR)) {
				stop(errParentGone)
				return
			}
		}
	}()
	return nil
}

// openLog writes to a file of bounded size beside the console log; Kata sends our output nowhere.
func openLog(cfg HostConfig, id string, opts Options) (*slog.Logger, *boundedLog) {
	level := slog.LevelInfo
	if cfg.Debug || opts.Verbose {
		level = slog.LevelDebug
	}
	if err := os.MkdirAll(cfg.LogDir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		fmt.Fprintln(opts.Errors, "make log folder:", err)
	}
	pruneLogs(cfg.LogDir, keptLogs)
	file, err := newBoundedLog(filepath.Join(cfg.LogDir, id+".log"), logLimit)
	if err != nil {
		fmt.Fprintln(opts.Errors, err)
		file = &boundedLog{} // keeps the tail only
	}
	return slog.New(slog.NewTextHandler(file, &slog.HandlerOptions{Level: level})), file
}

// pruneLogs deletes the oldest log files beyond keep. Those of running microVMs are written to and thus
// young, or of a Pod that has had nothing to say for long; QEMU and the VMM go on without them.
func pruneLogs(dir string, keep int) {
	type logFile struct {
		path string
		age  time.Duration
	}
	var files []logFile
	for _, pattern := range []string{"*.log", "*.log.old"} {
		found, _ := filepath.Glob(filepath.Join(dir, pattern)) // the patterns are well formed
		for _, path := range found {
			if st, err := os.Stat(path); err == nil {
				files = append(files, logFile{path, time.Since(st.ModTime())})
			}
		}
	}
	slices.SortFunc(files, func(a, b logFile) int { return cmp.Compare(a.age, b.age) })
	for _, f := range files[min(keep, len(files)):] {
		_ = os.Remove(f.path) // another VMM may have been faster
	}
}
