package agentmux

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/yamux"

	"github.com/nodeless/nodeless/pkg/contract"
)

// port is a virtio-serial port: the guest keeps its end while hosts come and go, and reads io.EOF
// while none is attached.
type port struct {
	mu   sync.Mutex
	host net.Conn // guest's end of the attached host, guarded by mu
	shut bool
}

// attach replaces the host without the guest noticing.
func (p *port) attach() net.Conn {
	a, b := net.Pipe()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.host != nil {
		p.host.Close()
	}
	p.host = b
	return a
}

func (p *port) end() (net.Conn, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.shut {
		return nil, io.ErrClosedPipe
	}
	return p.host, nil
}

func (p *port) Read(b []byte) (int, error) {
	h, err := p.end()
	if err != nil {
		return 0, err
	}
	if h == nil {
		return 0, io.EOF
	}
	n, err := h.Read(b)
	if err != nil {
		return n, io.EOF
	}
	return n, nil
}

func (p *port) Write(b []byte) (int, error) {
	h, err := p.end()
	if err != nil || h == nil {
		return len(b), err
	}
	if _, err := h.Write(b); err != nil {
		return len(b), nil // bytes to a host that has gone are lost, as in the device
	}
	return len(b), nil
}

func (p *port) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.shut = true
	if p.host != nil {
		p.host.Close()
	}
	return nil
}

// startEcho listens on a port and echoes every connection; it returns the Hellos it saw.
func startEcho(t *testing.T, p *port) <-chan contract.Hello {
	t.Helper()
	return startEchoWith(t, p, muxConfig())
}

func startEchoWith(t *testing.T, p *port, mux *yamux.Config) <-chan contract.Hello {
	t.Helper()
	hellos := make(chan contract.Hello, 16)
	l := listen(t.Context(), p, Guest{Attached: func(h contract.Hello) { hellos <- h }}, mux)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				_, _ = io.Copy(c, c)
			}()
		}
	}()
	t.Cleanup(func() { l.Close() })
	return hellos
}

func echo(t *testing.T, s *Session, payload []byte) {
	t.Helper()
	c, err := s.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	go func() { _, _ = c.Write(payload) }()
	got := make([]byte, len(payload))
	if _, err := io.ReadFull(c, got); err != nil {
		t.Fatalf("read echo of %d bytes: %v", len(payload), err)
	}
	if !bytes.Equal(got, payload) {
		t.Fatalf("echo of %d bytes differs", len(payload))
	}
}

// nasty is data full of what the wire treats specially.
func nasty(n int) []byte {
	r := rand.New(rand.NewPCG(1, 2))
	b := make([]byte, n)
	for i := range b {
		b[i] = []byte{0xFF, 0xFF, 0, 'n', byte(r.Uint32())}[r.IntN(5)]
	}
	return append(b, contract.Control{Kind: contract.KindHello, Nonce: 7}.Encode()...)
}

func TestDialCarriesHelloAndData(t *testing.T) {
	p := new(port)
	hellos := startEcho(t, p)
	want := contract.Hello{Time: time.Unix(1700000000, 42), Entropy: [contract.EntropySize]byte{1, 2, 3}}
	s, err := Dial(t.Context(), p.attach(), want)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if got := <-hellos; !got.Time.Equal(want.Time) || got.Entropy != want.Entropy {
		t.Errorf("hello = %v, want %v", got, want)
	}
	echo(t, s, []byte("plain"))
	echo(t, s, nasty(1<<20))
	echo(t, s, bytes.Repeat([]byte{0xFF}, 1<<18))
}

func TestZeroHelloIsFilledIn(t *testing.T) {
	p := new(port)
	hellos := startEcho(t, p)
	s, err := Dial(t.Context(), p.attach(), contract.Hello{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	h := <-hellos
	if time.Since(h.Time) > time.Minute || h.Entropy == ([contract.EntropySize]byte{}) {
		t.Errorf("hello = %v, want the current time and entropy", h)
	}
}

func TestHostsReplaceEachOther(t *testing.T) {
	p := new(port)
	hellos := startEcho(t, p)
	for range 5 {
		s, err := Dial(t.Context(), p.attach(), contract.Hello{})
		if err != nil {
			t.Fatal(err)
		}
		<-hellos
		echo(t, s, nasty(4096))
		c, err := s.Open() // left open: the next host must not suffer from it
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Write([]byte("left over")); err != nil {
			t.Fatal(err)
		}
	}
}

func TestHalfAFrameBeforeThePreambleIsDropped(t *testing.T) {
	for name, garbage := range map[string][]byte{
		"yamux header":    {0, 0, 0, 1, 0, 0, 0, 1, 0, 0},
		"single marker":   {0xFF},
		"half a preamble": contract.Control{Kind: contract.KindHello, Nonce: 3}.Encode()[:20],
		"wrong checksum":  append(contract.Control{Kind: contract.KindHello, Nonce: 3}.Encode()[:contract.MarkerRun+contract.ControlSize-1], 0x55),
		"noise":           nasty(10000)[:10000],
	} {
		t.Run(name, func(t *testing.T) {
			p := new(port)
			startEcho(t, p)
			h := p.attach()
			if _, err := h.Write(garbage); err != nil {
				t.Fatal(err)
			}
			s, err := Dial(t.Context(), h, contract.Hello{})
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			echo(t, s, nasty(1000))
		})
	}
}

func TestDialGivesUpWithItsContext(t *testing.T) {
	a, b := net.Pipe()
	go func() { _, _ = io.Copy(io.Discard, b) }() // a guest that never answers
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := Dial(ctx, a, contract.Hello{}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Dial = %v, want the context's error", err)
	}
}

func TestManyStreamsAtOnce(t *testing.T) {
	p := new(port)
	startEcho(t, p)
	s, err := Dial(t.Context(), p.attach(), contract.Hello{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	var wg sync.WaitGroup
	for i := range 32 {
		wg.Go(func() { echo(t, s, nasty(i*1000)) })
	}
	wg.Wait()
}

// serveOne serves one connection to a port of the loopback address.
func serveOne(t *testing.T, serve func(net.Conn)) (net.Listener, uint16) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		serve(c)
	}()
	return l, uint16(l.Addr().(*net.TCPAddr).Port)
}

func TestForward(t *testing.T) {
	p := new(port)
	startEcho(t, p)
	s, err := Dial(t.Context(), p.attach(), contract.Hello{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	l, port := serveOne(t, func(c net.Conn) { _, _ = c.Write([]byte("from the guest")) })
	c, err := s.Forward(port)
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(c)
	if err != nil || string(got) != "from the guest" {
		t.Errorf("read = %q, %v", got, err)
	}
	l.Close()
	if _, err := s.Forward(port); !errors.Is(err, ErrRefused) {
		t.Errorf("forward to a closed port = %v, want ErrRefused", err)
	}
}

// Who has said everything may listen as long as there is something to hear: the multiplexer forgets a stream soon after one
// end has closed it.
func TestForwardGoesOnAfterTheLastWord(t *testing.T) {
	brief := muxConfig()
	brief.StreamCloseTimeout = 20 * time.Millisecond
	p := new(port)
	startEchoWith(t, p, brief)
	s, err := dial(t.Context(), p.attach(), contract.Hello{}, brief)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	said := make(chan []byte, 1)
	_, port := serveOne(t, func(c net.Conn) {
		b, _ := io.ReadAll(c) // what was said is compared
		said <- b
		for range 10 {
			time.Sleep(brief.StreamCloseTimeout)
			_, _ = c.Write([]byte("more "))
		}
	})
	c, err := s.Forward(port)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	all := nasty(3 * forwardFrame)
	if n, err := c.Write(all); n != len(all) || err != nil {
		t.Fatalf("Write = %d, %v; want %d", n, err, len(all))
	}
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if got := <-said; !bytes.Equal(got, all) {
		t.Errorf("the guest heard %d bytes, want the %d that were sent", len(got), len(all))
	}
	if got, err := io.ReadAll(c); err != nil || string(got) != strings.Repeat("more ", 10) {
		t.Errorf("heard %q, %v; want ten times more", got, err)
	}
}
