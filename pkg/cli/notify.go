package cli

import (
	"context"
	"fmt"
	"net"
	"os"

	"github.com/nodeless/nodeless/pkg/run"
)

// supervisor is systemd, if it started us as a service of type notify. It is also the component that comes after
// everything that makes a node Ready, and says so.
type supervisor struct{ socket string }

var _ run.Component = supervisor{}

// takeSupervisor reads NOTIFY_SOCKET and removes it and its kin, so that nobody else speaks in our name: no child, and none of the parts
// that are linked here. The kubelet and the apiserver say READY=1 as soon as they run, where they find the variable.
func takeSupervisor() (supervisor, error) {
	s := supervisor{socket: os.Getenv("NOTIFY_SOCKET")}
	for _, name := range []string{"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID"} {
		if err := os.Unsetenv(name); err != nil {
			return s, fmt.Errorf("remove %s from the environment: %w", name, err)
		}
	}
	return s, nil
}

// tell sends one state, such as READY=1, if systemd listens. SdNotify of github.com/coreos/go-systemd does the same, but it takes the
// address from the environment each time: to use it, the variable would have to come back there.
func (s supervisor) tell(state string) error {
	if s.socket == "" {
		return nil
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: s.socket, Net: "unixgram"})
	if err != nil {
		return fmt.Errorf("tell systemd %q: %w", state, err)
	}
	_, err = conn.Write([]byte(state))
	if cerr := conn.Close(); err == nil {
		err = cerr
	}
	return err
}

// Name is "ready".
func (s supervisor) Name() string { return "ready" }

// Run says READY=1 and waits for the end.
func (s supervisor) Run(ctx context.Context) error {
	if err := s.tell("READY=1\nSTATUS=the node is Ready"); err != nil {
		return err
	}
	<-ctx.Done()
	return nil
}
