package agentmux

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/yamux"

	"github.com/nodeless/nodeless/pkg/contract"
)

// helloInterval is how often the host repeats its preamble until the guest answers.
const helloInterval = 150 * time.Millisecond

// Session is the host's end of an attached port. It lives as long as the port.
type Session struct {
	mux  *yamux.Session
	conn *hostConn
	// patience is how long the guest may take to say whether a forwarded port answers.
	patience time.Duration
}

// Dial attaches to the guest behind rw: it sends the preamble until the guest acknowledges it or ctx
// ends. The Session owns rw afterwards; on error rw is closed. A zero Hello is filled in with the
// current time and fresh entropy.
func Dial(ctx context.Context, rw io.ReadWriteCloser, hello contract.Hello) (*Session, error) {
	return dial(ctx, rw, hello, muxConfig())
}

func dial(ctx context.Context, rw io.ReadWriteCloser, hello contract.Hello, mux *yamux.Config) (_ *Session, err error) {
	stop := context.AfterFunc(ctx, func() { rw.Close() })
	defer func() {
		if !stop() && err == nil {
			err = ctx.Err()
		}
		if err != nil {
			rw.Close()
		}
	}()
	nonce, err := fillHello(&hello)
	if err != nil {
		return nil, err
	}
	sc := newScanner(rw)
	done := make(chan struct{})
	var hellos sync.WaitGroup
	hellos.Go(func() { repeatHello(rw, contract.Control{Kind: contract.KindHello, Nonce: nonce, Hello: hello}, done) })
	err = awaitAck(sc, nonce)
	close(done)
	hellos.Wait()
	if err != nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return nil, fmt.Errorf("await guest agent: %w", err)
	}
	s := &Session{conn: &hostConn{sc: sc, w: &escaper{w: rw}, c: rw}, patience: headerTimeout}
	if s.mux, err = yamux.Client(s.conn, mux); err != nil {
		return nil, fmt.Errorf("start mux: %w", err)
	}
	return s, nil
}

func fillHello(h *contract.Hello) (nonce uint64, err error) {
	var b [8]byte
	if _, err := rand.Read(b[:]); err != nil {
		return 0, fmt.Errorf("read random nonce: %w", err)
	}
	if h.Entropy == ([contract.EntropySize]byte{}) {
		if _, err := rand.Read(h.Entropy[:]); err != nil {
			return 0, fmt.Errorf("read entropy: %w", err)
		}
	}
	return binary.BigEndian.Uint64(b[:]), nil
}

// repeatHello sends the preamble at once and then at intervals until done is closed. Each carries the
// time of its sending unless the caller fixed one.
func repeatHello(w io.Writer, c contract.Control, done <-chan struct{}) {
	now := c.Hello.Time.IsZero()
	tick := time.NewTicker(helloInterval)
	defer tick.Stop()
	for {
		if now {
			c.Hello.Time = time.Now()
		}
		if _, err := w.Write(c.Encode()); err != nil {
			return // the reader sees the same fault
		}
		select {
		case <-done:
			return
		case <-tick.C:
		}
	}
}

// awaitAck drops everything up to the acknowledgement of nonce.
func awaitAck(sc *scanner, nonce uint64) error {
	for {
		_, c, err := sc.next()
		if err != nil {
			return err
		}
		if c != nil && c.Kind == contract.KindAck && c.Nonce == nonce {
			return nil
		}
	}
}

// Open starts a new connection to the guest agent.
func (s *Session) Open() (net.Conn, error) { return s.OpenPort(contract.AgentPort) }

// OpenPort starts a new connection to one of the guest's services.
func (s *Session) OpenPort(port uint32) (net.Conn, error) {
	c, err := s.mux.Open()
	if err != nil {
		return nil, fmt.Errorf("open stream: %w", err)
	}
	if _, err := c.Write(binary.BigEndian.AppendUint32(nil, port)); err != nil {
		return nil, errors.Join(fmt.Errorf("name port %d: %w", port, err), c.Close())
	}
	return c, nil
}

// Forward opens a connection to a TCP port on the guest's loopback address.
func (s *Session) Forward(port uint16) (Forwarding, error) {
	c, err := s.OpenPort(contract.ForwardPort)
	if err != nil {
		return Forwarding{}, err
	}
	_ = c.SetDeadline(time.Now().Add(s.patience)) // a stream takes any
	f, err := RequestPort(c, port)
	if err != nil {
		return f, errors.Join(err, c.Close())
	}
	_ = c.SetDeadline(time.Time{})
	return f, nil
}

// Done is closed when the session has ended.
func (s *Session) Done() <-chan struct{} { return s.mux.CloseChan() }

// Err says why reading from the guest has ended, nil while it goes on. ErrHostile is a kind of it.
func (s *Session) Err() error {
	s.conn.mu.Lock()
	defer s.conn.mu.Unlock()
	return s.conn.err
}

// Close ends the session and closes the port.
func (s *Session) Close() error {
	return errors.Join(s.conn.Close(), s.mux.Close())
}

// hostConn is the byte stream yamux sees on the host.
type hostConn struct {
	sc    *scanner
	guard guard
	w     io.Writer
	c     io.Closer
	rest  []byte

	mu  sync.Mutex
	err error // why reading ended, guarded by mu
}

func (h *hostConn) Read(p []byte) (int, error) {
	for len(h.rest) == 0 {
		data, _, err := h.sc.next() // repeated acknowledgements are dropped
		if err == nil {
			err = h.guard.check(data)
		}
		if err != nil {
			h.mu.Lock()
			h.err = err
			h.mu.Unlock()
			return 0, err
		}
		h.rest = data
	}
	n := copy(p, h.rest)
	h.rest = h.rest[n:]
	return n, nil
}

func (h *hostConn) Write(p []byte) (int, error) { return h.w.Write(p) }
func (h *hostConn) Close() error                { return h.c.Close() }

// muxConfig is yamux without its keepalive (a paused VM is not a dead one) and without its log.
func muxConfig() *yamux.Config {
	c := yamux.DefaultConfig()
	c.EnableKeepAlive = false
	c.ConnectionWriteTimeout = time.Minute
	c.StreamOpenTimeout = 0
	c.StreamCloseTimeout = time.Minute
	c.LogOutput = io.Discard
	return c
}
