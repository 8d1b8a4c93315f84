package agentmux

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/yamux"

	"github.com/nodeless/nodeless/pkg/contract"
)

// ErrRefused says that nothing listens on the forwarded port.
var ErrRefused = errors.New("connection refused in the guest")

const (
	idleMin = 2 * time.Millisecond  // first pause when no host is attached
	idleMax = 50 * time.Millisecond // longest pause
	// headerTimeout is how long a new stream may take to name its port.
	headerTimeout = 10 * time.Second
)

// Guest is what a Listener needs of the guest it runs in.
type Guest struct {
	// Attached runs for each host that attaches, before its first connection is accepted; nil for none.
	Attached func(contract.Hello)
	// Clock is corrected by the host; nil for one that nobody corrects.
	Clock Clock
}

// Listener hands out the connections hosts open to contract.AgentPort, over all hosts that attach in turn.
type Listener struct {
	ctx   context.Context
	stop  context.CancelFunc
	port  io.ReadWriteCloser
	guest Guest
	mux   *yamux.Config
	conns chan net.Conn

	wmu sync.Mutex // guards writes to port and current
	esc escaper
	cur *guestConn // the session that may write
	wg  sync.WaitGroup
}

var _ net.Listener = (*Listener)(nil)

// Listen serves the guest's end of a port. io.EOF from the port means that no host is attached; any other
// error ends the Listener.
func Listen(ctx context.Context, rw io.ReadWriteCloser, guest Guest) (net.Listener, error) {
	return listen(ctx, rw, guest, muxConfig()), nil
}

func listen(ctx context.Context, rw io.ReadWriteCloser, guest Guest, mux *yamux.Config) *Listener {
	l := &Listener{port: rw, guest: guest, mux: mux, conns: make(chan net.Conn)}
	l.esc.w = rw
	l.ctx, l.stop = context.WithCancel(ctx)
	context.AfterFunc(l.ctx, func() { rw.Close() })
	l.wg.Go(l.pump)
	return l
}

// Accept waits for the next connection to contract.AgentPort.
func (l *Listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.ctx.Done():
		return nil, net.ErrClosed
	}
}

// Close ends the Listener, its sessions and the port.
func (l *Listener) Close() error {
	l.stop()
	l.wg.Wait()
	return nil
}

// Addr names the port.
func (l *Listener) Addr() net.Addr { return addr{} }

type addr struct{}

func (addr) Network() string { return "virtio-serial" }
func (addr) String() string  { return "agent" }

// pump reads the port for as long as the Listener lives and feeds the current session.
func (l *Listener) pump() {
	defer l.stop()
	sc := newScanner(&patient{ctx: l.ctx, r: l.port})
	var nonce uint64
	var feed *io.PipeWriter
	defer func() { closeFeed(feed) }()
	for {
		data, c, err := sc.next()
		switch {
		case err != nil:
			return
		case c == nil && feed != nil:
			if _, err := feed.Write(data); err != nil {
				closeFeed(feed)
				feed = nil // a broken session: wait for the next preamble
			}
		case c == nil || c.Kind != contract.KindHello:
		case feed != nil && c.Nonce == nonce:
			l.acknowledge(nil, nonce) // the same host, impatient
		default:
			closeFeed(feed)
			nonce = c.Nonce
			if l.guest.Attached != nil {
				l.guest.Attached(c.Hello)
			}
			var r *io.PipeReader
			r, feed = io.Pipe()
			conn := &guestConn{l: l, r: r}
			if l.acknowledge(conn, nonce) == nil {
				l.wg.Go(func() { l.serve(conn) })
			}
		}
	}
}

func closeFeed(w *io.PipeWriter) {
	if w != nil {
		w.CloseWithError(io.EOF)
	}
}

// acknowledge answers a preamble; a non-nil conn becomes the only session that may write.
func (l *Listener) acknowledge(conn *guestConn, nonce uint64) error {
	l.wmu.Lock()
	defer l.wmu.Unlock()
	if conn != nil {
		l.cur = conn
	}
	_, err := l.port.Write(contract.Control{Kind: contract.KindAck, Nonce: nonce}.Encode())
	return err
}

// serve accepts the streams of one session until it ends.
func (l *Listener) serve(conn *guestConn) {
	mux, err := yamux.Server(conn, l.mux)
	if err != nil {
		return // a wrong configuration, which muxConfig is not
	}
	defer mux.Close()
	stop := context.AfterFunc(l.ctx, func() { mux.Close() })
	defer stop()
	for {
		c, err := mux.Accept()
		if err != nil {
			return
		}
		l.wg.Go(func() { l.route(c) })
	}
}

// route reads the port a stream names and hands it to the service there.
func (l *Listener) route(c net.Conn) {
	var port [4]byte
	_ = c.SetReadDeadline(time.Now().Add(headerTimeout))
	if _, err := io.ReadFull(c, port[:]); err != nil {
		c.Close()
		return
	}
	_ = c.SetReadDeadline(time.Time{})
	switch binary.BigEndian.Uint32(port[:]) {
	case contract.AgentPort:
		select {
		case l.conns <- c:
		case <-l.ctx.Done():
			c.Close()
		}
	case contract.ForwardPort:
		forward(l.ctx, c)
	case contract.ClockPort:
		if l.guest.Clock == nil {
			c.Close()
			return
		}
		serveClock(c, l.guest.Clock)
	default:
		c.Close()
	}
}

// guestConn is the byte stream yamux sees in the guest.
type guestConn struct {
	l *Listener
	r *io.PipeReader
}

func (g *guestConn) Read(p []byte) (int, error) { return g.r.Read(p) }

func (g *guestConn) Write(p []byte) (int, error) {
	g.l.wmu.Lock()
	defer g.l.wmu.Unlock()
	if g.l.cur != g {
		return 0, io.ErrClosedPipe
	}
	return g.l.esc.Write(p)
}

// Close ends the session, never the port.
func (g *guestConn) Close() error {
	return g.r.Close()
}

// patient reads a port that answers io.EOF at once while no host is attached.
type patient struct {
	ctx context.Context
	r   io.Reader
}

func (p *patient) Read(b []byte) (int, error) {
	for pause := idleMin; ; pause = min(2*pause, idleMax) {
		n, err := p.r.Read(b)
		if n > 0 || (err != nil && !errors.Is(err, io.EOF)) {
			return n, err
		}
		t := time.NewTimer(pause)
		select {
		case <-t.C:
		case <-p.ctx.Done():
			t.Stop()
			return 0, p.ctx.Err()
		}
	}
}
