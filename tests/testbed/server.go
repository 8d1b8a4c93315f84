package testbed

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Server is a `nodeless server` that runs in a host.
type Server struct {
	Began time.Time // just before the exec
	Log   string    // its output on this machine; of a service there is only Tail

	host *Host
	cmd  *exec.Cmd // the nsenter around it
	done chan error
}

// StartServer starts `nodeless server` with the host's cgroup root and the flags given.
func (h *Host) StartServer(flags ...string) (*Server, error) {
	name := filepath.Join(h.Root, fmt.Sprintf("server-%d.log", time.Now().UnixNano()))
	log, err := os.OpenFile(name, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	args := append(append([]string{h.Program}, ServerArgs(h.Cgroup)...), flags...)
	s := &Server{Log: name, host: h, cmd: h.Command(context.Background(), args...), done: make(chan error, 1)}
	s.cmd.Stdout, s.cmd.Stderr = log, log
	s.Began = time.Now()
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	go func() { s.done <- s.cmd.Wait() }()
	return s, nil
}

// ServerArgs are the flags of every server in a test host. Its microVMs are emulated where there is no KVM of use, unless NODELESS_ACCEL
// says otherwise: auto demands KVM.
func ServerArgs(cgroup string) []string {
	accel := os.Getenv("NODELESS_ACCEL")
	if accel == "" {
		accel = "any"
	}
	return []string{"server", "--cgroup-root=" + cgroup, "--node-ip=" + NodeIP, "--accel=" + accel}
}

// Pid is the server itself as the machine sees it.
func (s *Server) Pid() (int, error) {
	if s.host.machine != nil {
		out, err := s.host.over("systemctl show -P MainPID nodeless")
		if err != nil {
			return 0, err
		}
		return strconv.Atoi(strings.TrimSpace(out))
	}
	kids, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", s.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	first, _, _ := strings.Cut(strings.TrimSpace(string(kids)), " ")
	return strconv.Atoi(first)
}

// Signal sends sig to the server.
func (s *Server) Signal(sig syscall.Signal) error {
	pid, err := s.Pid()
	if err != nil {
		return err
	}
	return s.host.Kill(pid, sig)
}

// Wait blocks until the server has ended and returns how. With a context that is done it tells whether it has ended.
func (s *Server) Wait(ctx context.Context) error {
	select { // one that has ended comes before a context that is done
	case err := <-s.done:
		s.done <- err
		return err
	default:
	}
	select {
	case err := <-s.done:
		s.done <- err // for the next caller
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Stop asks the server to stop and waits at most a minute.
func (s *Server) Stop() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := s.Signal(syscall.SIGTERM); err != nil {
		select {
		case err := <-s.done: // it had ended before
			s.done <- err
			return err
		default:
			return err
		}
	}
	if err := s.Wait(ctx); errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("stop server: still there after a minute\n%s", s.Tail(30)) // the log goes with the host
	} else if err != nil {
		return fmt.Errorf("stop server: %w\n%s", err, s.Tail(20))
	}
	return nil
}

// Tail gives the last n lines of the server's log.
func (s *Server) Tail(n int) string {
	if s.host.machine != nil {
		return s.host.journal(n)
	}
	b, err := os.ReadFile(s.Log)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimRight(string(b), "\n"), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

// Until polls cond until it reports true, and fails when ctx ends or the server does.
// The last error of cond is part of the failure.
func (s *Server) Until(ctx context.Context, what string, cond func(context.Context) (bool, error)) error {
	var last error
	for {
		ok, err := cond(ctx)
		if ok && err == nil {
			return nil
		}
		if err != nil {
			last = err
		}
		select {
		case err := <-s.done:
			s.done <- err
			return fmt.Errorf("wait until %s: the server ended: %w\n%s", what, err, s.Tail(30))
		case <-ctx.Done():
			return fmt.Errorf("wait until %s: %w; last: %w\n%s", what, ctx.Err(), last, s.Tail(30))
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// UntilOutput waits until a kubectl command prints exactly want (surrounding space removed).
func (s *Server) UntilOutput(ctx context.Context, want string, kubectl ...string) error {
	return s.Until(ctx, fmt.Sprintf("kubectl %s prints %q", strings.Join(kubectl, " "), want), func(ctx context.Context) (bool, error) {
		got, err := s.host.Kubectl(ctx, kubectl...)
		if err != nil {
			return false, err
		}
		if got = strings.TrimSpace(got); got != want {
			return false, fmt.Errorf("it prints %q", got)
		}
		return true, nil
	})
}

// UntilNodeReady waits until the host's Node is Ready.
func (s *Server) UntilNodeReady(ctx context.Context) error {
	return s.UntilOutput(ctx, "True", "get", "nodes", "-o", `jsonpath={.items[*].status.conditions[?(@.type=="Ready")].status}`)
}
