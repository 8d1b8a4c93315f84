package vmm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"sync"
	"time"

	"github.com/nodeless/nodeless/pkg/agentmux"
	"github.com/nodeless/nodeless/pkg/contract"
)

// clockInterval is how often the guest's clock is compared with the host's. Emulated and paused guests
// lose time; one that is right costs three small messages.
const clockInterval = 15 * time.Second

// connectTimeout is how long a client may take to name its port. Kata gives up on us after the same time.
const connectTimeout = 10 * time.Second

// agentChannel offers the guest agent as Firecracker's and Cloud Hypervisor's hybrid vsock: a unix socket on
// which a client says "CONNECT 1024", is told "OK 1024" and talks to the agent from there on. Each such
// connection is one stream of the session on the virtio-serial port.
//
// A client that comes before the guest is up waits. Kata hangs up after ten seconds and dials again, so
// clients that have gone are found by the failing "OK" and never reach the guest.
type agentChannel struct {
	log   *slog.Logger
	ready chan struct{} // closed when the guest has answered
	over  chan struct{} // closed when QEMU has ended
	once  sync.Once     // closes over

	session *agentmux.Session // set before ready is closed

	mu       sync.Mutex
	listener *net.UnixListener // guarded by mu
	path     string            // guarded by mu
}

func newAgentChannel(log *slog.Logger) *agentChannel {
	return &agentChannel{log: log, ready: make(chan struct{}), over: make(chan struct{})}
}

// listen opens the socket and begins to serve.
func (a *agentChannel) listen(path string) error {
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return fmt.Errorf("open agent socket: %w", err)
	}
	l.SetUnlinkOnClose(false) // close does it, once
	a.mu.Lock()
	a.listener, a.path = l, path
	a.mu.Unlock()
	go func() {
		for {
			c, err := l.AcceptUnix()
			if err != nil {
				return // closed
			}
			go a.serve(c)
		}
	}()
	return nil
}

// attach waits for the guest on the port and returns when the session has ended.
func (a *agentChannel) attach(port io.ReadWriteCloser) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		select {
		case <-a.over:
			cancel()
		case <-ctx.Done():
		}
	}()
	session, err := agentmux.Dial(ctx, port, contract.Hello{})
	if err != nil {
		if ctx.Err() == nil {
			a.log.Error("agent channel did not open", "err", err)
		}
		return
	}
	a.session = session
	close(a.ready)
	go a.keepClock(ctx)
	select {
	case <-session.Done():
		if err := session.Err(); errors.Is(err, agentmux.ErrHostile) {
			a.log.Error("agent channel closed", "err", err)
		}
	case <-a.over:
	}
	_ = session.Close() // the port has gone with QEMU
}

// keepClock keeps the guest's clock right until ctx ends. The preamble's time is as old as the guest's boot was long, so the
// first comparison comes at once.
func (a *agentChannel) keepClock(ctx context.Context) {
	tick := time.NewTicker(clockInterval)
	defer tick.Stop()
	for {
		by, err := a.session.SyncClock(ctx)
		switch {
		case err != nil:
			a.log.Debug("guest clock was not compared", "err", err)
		case by.Abs() >= time.Second:
			a.log.Info("guest clock was off and is set", "by", by.Round(time.Millisecond).String())
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// end lets waiting clients go.
func (a *agentChannel) end() { a.once.Do(func() { close(a.over) }) }

// close removes the socket.
func (a *agentChannel) close() error {
	a.end()
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.listener == nil {
		return nil
	}
	err := a.listener.Close()
	if rerr := os.Remove(a.path); rerr != nil && !errors.Is(rerr, fs.ErrNotExist) {
		err = errors.Join(err, rerr)
	}
	a.listener = nil
	return err
}

// serve handles one client.
func (a *agentChannel) serve(c *net.UnixConn) {
	defer c.Close()
	port, err := readConnect(c)
	if err != nil {
		a.log.Debug("agent client sent no CONNECT", "err", err)
		return
	}
	select {
	case <-a.ready:
	case <-a.over:
		// Kata redials a refused connection without pause; one that is accepted and closed makes it fail.
		_, _ = io.WriteString(c, contract.Connected(port))
		return
	}
	if _, err := io.WriteString(c, contract.Connected(port)); err != nil {
		return // it has hung up
	}
	stream, err := a.session.OpenPort(port)
	if err != nil {
		a.log.Debug("agent stream did not open", "err", err)
		return
	}
	join(c, stream)
}

// readConnect reads "CONNECT <port>\n" and not a byte more.
func readConnect(c *net.UnixConn) (uint32, error) {
	if err := c.SetReadDeadline(time.Now().Add(connectTimeout)); err != nil {
		return 0, err
	}
	var line []byte
	for b := make([]byte, 1); ; {
		if _, err := io.ReadFull(c, b); err != nil {
			return 0, err
		}
		if b[0] == '\n' {
			break
		}
		if line = append(line, b[0]); len(line) > 32 {
			return 0, fmt.Errorf("parse request %q: too long", line)
		}
	}
	port, err := contract.ParseConnect(string(line))
	return port, errors.Join(err, c.SetReadDeadline(time.Time{}))
}

// join copies both ways until both directions have ended. A stream's Close ends only its own direction.
func join(c *net.UnixConn, stream net.Conn) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = io.Copy(stream, c)
		_ = stream.Close()
	}()
	_, _ = io.Copy(c, stream)
	_ = c.CloseWrite()
	<-done
}
