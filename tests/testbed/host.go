package testbed

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

// Options say how to make a host.
type Options struct {
	// Program is the product to run; empty means Product().
	Program string
	// Dir is where the host's files live, on a file system that can carry an overlay; empty means the system's temporary folder.
	Dir string
	// Hostname of the host; empty means that of the machine.
	Hostname string
	// DataSize makes the data dir a file system of its own, in memory, of so many bytes; 0 means a folder on the machine's disk.
	// Its content does not outlive a PowerCut.
	DataSize int64
	// Env are variables, NAME=value, that commands in the host find besides.
	Env []string
}

// Host is a running test host.
type Host struct {
	Program string // the product's executable, absolute
	Root    string // the host's files on the machine
	Cgroup  string // the cgroup root given to the server, such as "/nodeless-test-1234"

	opts     Options
	init     *exec.Cmd
	pid      atomic.Int64 // of init, 0 when there is none; others dial while the host loses its power
	alive    io.Closer
	baseline map[string]bool // mount points of the empty host
	machine  *machine        // not nil for a host that is another machine
}

// ErrNeeds marks what a machine lacks to make hosts; tests skip with it, loudly.
var ErrNeeds = errors.New("test host needs")

// Product finds the built product: NODELESS_PROGRAM, or dist/bundle/bin/nodeless in this repository.
func Product() (string, error) {
	if p := os.Getenv("NODELESS_PROGRAM"); p != "" {
		return filepath.Abs(p)
	}
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for ; dir != "/"; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			p := filepath.Join(dir, "dist", "bundle", "bin", "nodeless")
			if _, err := os.Stat(p); err != nil {
				return "", fmt.Errorf("%w the product: run `make build` first: %w", ErrNeeds, err)
			}
			return p, nil
		}
	}
	return "", fmt.Errorf("%w the repository around the working folder", ErrNeeds)
}

// New makes a host and waits until it stands. Close ends it.
func New(opts Options) (_ *Host, err error) {
	if os.Geteuid() != 0 {
		return nil, fmt.Errorf("%w root", ErrNeeds)
	}
	if opts.Program == "" {
		if opts.Program, err = Product(); err != nil {
			return nil, err
		}
	}
	root, err := os.MkdirTemp(opts.Dir, "nodeless-host-")
	if err != nil {
		return nil, err
	}
	h := &Host{opts: opts, Program: opts.Program, Root: root, Cgroup: "/nodeless-test-" + strings.TrimPrefix(filepath.Base(root), "nodeless-host-")}
	defer func() {
		if err != nil {
			err = errors.Join(err, h.Close())
		}
	}()
	if err := os.Mkdir(filepath.Join(root, "data"), 0o700); err != nil {
		return nil, err
	}
	if err := h.startInit(); err != nil {
		return nil, err
	}
	h.baseline, err = h.mountPoints()
	return h, err
}

func (h *Host) startInit() error {
	aliveR, aliveW, err := os.Pipe()
	if err != nil {
		return err
	}
	defer aliveR.Close()
	h.alive = aliveW
	readyR, readyW, err := os.Pipe()
	if err != nil {
		return err
	}
	defer readyR.Close()

	var stderr bytes.Buffer
	h.init = &exec.Cmd{
		Path: "/proc/self/exe", Args: []string{initName, h.Root, h.opts.Hostname, strconv.FormatInt(h.opts.DataSize, 10)},
		Env: []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}, Dir: "/",
		Stderr: &stderr, ExtraFiles: []*os.File{aliveR, readyW},
		SysProcAttr: &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWUTS},
	}
	err = h.init.Start()
	readyW.Close()
	if err != nil {
		h.init = nil
		return fmt.Errorf("start test host: %w", err)
	}
	if got, err := io.ReadAll(readyR); err != nil || string(got) != "ready" {
		return fmt.Errorf("start test host: %s %w", strings.TrimSpace(stderr.String()), err)
	}
	h.pid.Store(int64(h.init.Process.Pid))
	return nil
}

// Pid is the host's init as the machine sees it, 0 while the host is down.
func (h *Host) Pid() int { return int(h.pid.Load()) }

// EnterArgs is the command line prefix that runs something inside the host from a shell on the machine.
func (h *Host) EnterArgs() []string {
	return []string{"nsenter", "-t", strconv.Itoa(h.Pid()), "-m", "-n", "-p", "-u", "--"}
}

// Command prepares a command that runs inside the host. Paths must be absolute.
func (h *Host) Command(ctx context.Context, args ...string) *exec.Cmd {
	var cmd *exec.Cmd
	if h.machine != nil {
		cmd = h.machine.command(ctx, h.Program, args)
		cmd.WaitDelay = 2 * time.Second
		return cmd
	}
	all := append(h.EnterArgs(), args...)
	cmd = exec.CommandContext(ctx, all[0], all[1:]...)
	cmd.Dir = "/"
	cmd.Env = append([]string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "TERM=xterm"}, h.opts.Env...)
	cmd.WaitDelay = 2 * time.Second
	return cmd
}

// Exec runs a command inside the host and returns what it printed on stdout; the error carries stderr.
func (h *Host) Exec(ctx context.Context, args ...string) (string, error) {
	return output(h.Command(ctx, args...))
}

// Nodeless runs a subcommand of the product inside the host.
func (h *Host) Nodeless(ctx context.Context, args ...string) (string, error) {
	return h.Exec(ctx, append([]string{h.Program}, args...)...)
}

// Kubectl runs the product's own kubectl against the host's cluster.
func (h *Host) Kubectl(ctx context.Context, args ...string) (string, error) {
	return h.Nodeless(ctx, append([]string{"kubectl"}, args...)...)
}

// Apply applies a manifest given as text.
func (h *Host) Apply(ctx context.Context, manifest string) error {
	cmd := h.Command(ctx, h.Program, "kubectl", "apply", "-f", "-")
	cmd.Stdin = strings.NewReader(manifest)
	_, err := output(cmd)
	return err
}

// CommandError is a command that ended badly inside a host.
type CommandError struct {
	Args   []string
	Code   int // exit code, -1 if it was killed or did not start
	Stdout string
	Stderr string
	Err    error
}

func (e *CommandError) Error() string {
	return fmt.Sprintf("run %q: %v\n%s%s", e.Args, e.Err, e.Stdout, e.Stderr)
}
func (e *CommandError) Unwrap() error { return e.Err }

func output(cmd *exec.Cmd) (string, error) {
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.String(), &CommandError{Args: cmd.Args, Code: cmd.ProcessState.ExitCode(), Stdout: stdout.String(), Stderr: stderr.String(), Err: err}
	}
	return stdout.String(), nil
}

// Path is where the machine sees a file of the host, such as "/run/nodeless/vmm.json".
func (h *Host) Path(inside string) string {
	return filepath.Join("/proc", strconv.Itoa(h.Pid()), "root", inside)
}

// PowerCut ends every process of the host at once and starts the host again, as after a cut of its power: what was on
// its disks is still there, what was in /run is not, and its boot has another id.
func (h *Host) PowerCut() error {
	if err := errors.Join(h.stopInit(), removeCgroups(h.Cgroup)); err != nil {
		return err
	}
	return h.startInit()
}

// stopInit kills the host's PID 1, with which the kernel ends all others.
func (h *Host) stopInit() error {
	if h.init == nil {
		return nil
	}
	h.pid.Store(0)
	var errs []error
	if h.alive != nil {
		errs = append(errs, h.alive.Close())
	}
	if err := h.init.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		errs = append(errs, err)
	}
	var exit *exec.ExitError
	if err := h.init.Wait(); err != nil && !errors.As(err, &exit) {
		errs = append(errs, err)
	}
	h.init, h.alive = nil, nil
	return errors.Join(errs...)
}

// Close ends everything in the host and removes what it left on the machine.
func (h *Host) Close() error {
	if h.machine != nil {
		return nil
	}
	return errors.Join(h.stopInit(), removeCgroups(h.Cgroup), removeAll(h.Root))
}

// removeAll waits out the moment in which a dying namespace still holds its mounts.
func removeAll(dir string) error {
	deadline := time.Now().Add(10 * time.Second)
	for {
		err := os.RemoveAll(dir)
		if err == nil || time.Now().After(deadline) {
			return err
		}
		time.Sleep(50 * time.Millisecond)
	}
}
