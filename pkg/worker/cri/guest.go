package cri

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"time"

	"github.com/nodeless/nodeless/pkg/agentmux"
	"github.com/nodeless/nodeless/pkg/contract"
)

const dialTimeout = 30 * time.Second

// validID is what containerd gives as a sandbox's id; anything else never becomes part of a path.
var validID = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,127}$`)

// dialer reaches the loopback address of guests.
type dialer struct{ dir string }

func (d dialer) socket(sandbox string) string {
	return filepath.Join(d.dir, sandbox, contract.AgentSocket)
}

// has tells whether the sandbox is a microVM.
func (d dialer) has(sandbox string) bool {
	if !validID.MatchString(sandbox) {
		return false
	}
	_, err := os.Lstat(d.socket(sandbox))
	return err == nil
}

// dial connects to a TCP port on the loopback address of a sandbox's guest.
func (d dialer) dial(ctx context.Context, sandbox string, port uint16) (_ agentmux.Forwarding, err error) {
	if !d.has(sandbox) {
		return agentmux.Forwarding{}, fmt.Errorf("sandbox %q has no running microVM", sandbox)
	}
	var nd net.Dialer
	conn, err := nd.DialContext(ctx, "unix", d.socket(sandbox))
	if err != nil {
		return agentmux.Forwarding{}, fmt.Errorf("reach guest: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, conn.Close())
		}
	}()
	if err := conn.SetDeadline(time.Now().Add(dialTimeout)); err != nil {
		return agentmux.Forwarding{}, err
	}
	f, err := openPort(conn, port)
	if err != nil {
		return f, err
	}
	return f, f.SetDeadline(time.Time{})
}

// openPort asks for the guest's forwarding service, as one asks a hybrid vsock, and then for the port.
func openPort(conn net.Conn, port uint16) (agentmux.Forwarding, error) {
	if _, err := io.WriteString(conn, contract.Connect(contract.ForwardPort)); err != nil {
		return agentmux.Forwarding{}, fmt.Errorf("reach guest: %w", err)
	}
	want := contract.Connected(contract.ForwardPort)
	answer := make([]byte, len(want))
	if _, err := io.ReadFull(conn, answer); err != nil {
		return agentmux.Forwarding{}, fmt.Errorf("reach guest: %w", err)
	}
	if string(answer) != want {
		return agentmux.Forwarding{}, fmt.Errorf("reach guest: it answered %q", answer)
	}
	return agentmux.RequestPort(conn, port)
}
