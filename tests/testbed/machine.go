package testbed

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// MachineEnv names the folder of a running machine, as scripts/machine.sh makes one.
const MachineEnv = "NODELESS_MACHINE"

// Where install.sh puts the product, and where the product lays out its parts.
const (
	installed = "/usr/local/bin/nodeless"
	unpacked  = "/var/lib/nodeless/bundle/current/"
)

// machine is a whole machine with a kernel and a systemd of its own, on which the product is installed. It is reached by ssh, and its
// apiserver by a forwarded port.
type machine struct {
	dir  string // has ssh_config, kubeconfig and slow
	slow int    // how many seconds of the world are one of the machine's
}

// Attach gives the machine that NODELESS_MACHINE names as a host, or nil where none is named. It is not ours: Close leaves it as it is.
func Attach() (*Host, error) {
	dir := os.Getenv(MachineEnv)
	if dir == "" {
		return nil, nil
	}
	raw, err := os.ReadFile(filepath.Join(dir, "slow"))
	if err != nil {
		return nil, fmt.Errorf("%s is no folder of a machine: %w", MachineEnv, err)
	}
	slow, err := strconv.Atoi(strings.TrimSpace(string(raw)))
	if err != nil || slow < 1 {
		return nil, fmt.Errorf("read how slow the machine's clock is: %q", raw)
	}
	program, err := Product()
	if err != nil {
		return nil, err
	}
	return &Host{Program: program, Cgroup: "/nodeless", machine: &machine{dir: dir, slow: slow}}, nil
}

// IsMachine tells whether the host is a machine that somebody else has made. Its files and processes are not those of this machine: Path,
// Root, Pid and Link mean nothing there.
func (h *Host) IsMachine() bool { return h.machine != nil }

// Patience is how long to wait here for what takes d by the host's own clock.
func (h *Host) Patience(d time.Duration) time.Duration {
	if h.machine == nil {
		return d
	}
	return d * time.Duration(h.machine.slow)
}

// command runs kubectl here, as a user of the cluster does, and everything else over there: the product, its parts, other programs.
func (m *machine) command(ctx context.Context, program string, args []string) *exec.Cmd {
	if args[0] == program && len(args) > 1 && args[1] == "kubectl" {
		cmd := exec.CommandContext(ctx, program, args[1:]...)
		cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + m.dir, "TERM=xterm", "KUBECONFIG=" + m.kubeconfig()}
		return cmd
	}
	bundle := filepath.Join(filepath.Dir(program), "..") + "/"
	var words []string
	for i, word := range args {
		switch {
		case i == 0 && word == program:
			word = installed
		case i == 0:
			if part, ok := strings.CutPrefix(filepath.Clean(word), bundle); ok {
				word = unpacked + part
			}
		}
		words = append(words, quote(word))
	}
	return m.ssh(ctx, "machine", strings.Join(words, " "))
}

func (m *machine) ssh(ctx context.Context, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, "ssh", append([]string{"-F", filepath.Join(m.dir, "ssh_config")}, args...)...)
}

func (m *machine) kubeconfig() string { return filepath.Join(m.dir, "kubeconfig") }

// quote makes a word that the shell at the other end leaves alone.
func quote(word string) string { return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'" }

// dial connects from the machine, through ssh.
func (m *machine) dial(addr string) (net.Conn, error) {
	pair, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("connect to %s of the machine: %w", addr, err)
	}
	ours, theirs := os.NewFile(uintptr(pair[0]), "ours"), os.NewFile(uintptr(pair[1]), "theirs")
	defer ours.Close()
	defer theirs.Close()
	conn, err := net.FileConn(ours)
	if err != nil {
		return nil, fmt.Errorf("connect to %s of the machine: %w", addr, err)
	}
	cmd := m.ssh(context.Background(), "-W", addr, "machine") // ends with the connection
	cmd.Stdin, cmd.Stdout = theirs, theirs
	if err := cmd.Start(); err != nil {
		return nil, errors.Join(fmt.Errorf("connect to %s of the machine: %w", addr, err), conn.Close())
	}
	go cmd.Wait() //nolint:errcheck // the connection tells
	return conn, nil
}

// Service is the product's server on a machine, which systemd runs.
func (h *Host) Service() *Server {
	return &Server{host: h, done: make(chan error, 1)}
}

// journal gives the last n lines of the service's log.
func (h *Host) journal(n int) string {
	ctx, cancel := context.WithTimeout(context.Background(), h.Patience(20*time.Second))
	defer cancel()
	out, err := h.Exec(ctx, "journalctl", "--no-pager", "-o", "cat", "-u", "nodeless", "-n", strconv.Itoa(n))
	if err != nil {
		return err.Error()
	}
	return strings.TrimSpace(out)
}
