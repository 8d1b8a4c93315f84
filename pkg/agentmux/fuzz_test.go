package agentmux

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"runtime"
	"testing"
	"time"

	"github.com/hashicorp/yamux"

	"github.com/nodeless/nodeless/pkg/contract"
)

// patience is far longer than anything here takes; a test that uses it up has found something that hangs.
const patience = 30 * time.Second

// frame is one of the multiplexer's frames.
func frame(kind byte, flags uint16, stream, length uint32, body ...byte) []byte {
	b := []byte{0, kind}
	b = binary.BigEndian.AppendUint16(b, flags)
	b = binary.BigEndian.AppendUint32(b, stream)
	b = binary.BigEndian.AppendUint32(b, length)
	return append(b, body...)
}

// Flags and types of frames that only a test needs.
const (
	flagACK     = 2
	flagFIN     = 4
	flagRST     = 8
	frameWindow = 1
	frameGoAway = 3
)

// forgetful is a multiplexer that remembers the half-closed streams of its ended sessions, with their buffers, for a
// second instead of a minute: with a thousand sessions a second that made 24 GB.
func forgetful() *yamux.Config {
	c := muxConfig()
	c.StreamCloseTimeout = time.Second
	return c
}

func escaped(p []byte) []byte {
	var b bytes.Buffer
	_, _ = (&escaper{w: &b}).Write(p) // a buffer takes all
	return b.Bytes()
}

// hostile plays a guest that sends early, acknowledges the host, sends late and hangs up. It swallows what the host sends.
func hostile(c net.Conn, early, late []byte) {
	defer c.Close()
	go func() { _, _ = c.Write(early) }()
	sc := newScanner(c)
	for {
		_, ctl, err := sc.next()
		if err != nil {
			return
		}
		if ctl != nil && ctl.Kind == contract.KindHello {
			go func() { _, _ = io.Copy(io.Discard, c) }()
			_, _ = c.Write(contract.Control{Kind: contract.KindAck, Nonce: ctl.Nonce}.Encode())
			_, _ = c.Write(late)
			return
		}
	}
}

// attack runs a session against a hostile guest and returns when it has ended: it must end, and nobody may wait for ever.
func attack(t *testing.T, early, late []byte) {
	t.Helper()
	near, far := net.Pipe()
	over := make(chan struct{})
	go func() {
		defer close(over)
		go hostile(far, early, late)
		s, err := dial(t.Context(), near, contract.Hello{}, forgetful())
		if err != nil {
			return // the guest left before it answered
		}
		defer s.Close()
		for range 2 {
			c, err := s.Open()
			if err != nil {
				break
			}
			go func() {
				_, _ = c.Write([]byte("request"))
				_, _ = io.Copy(io.Discard, c)
				_ = c.Close()
			}()
		}
		<-s.Done()
	}()
	select {
	case <-over:
	case <-time.After(patience):
		buf := make([]byte, 1<<20)
		t.Fatalf("the session does not end\n%s", buf[:runtime.Stack(buf, true)])
	}
}

// FuzzHost is a guest that has been taken over and talks to the host: no panic, no hang.
func FuzzHost(f *testing.F) {
	f.Add([]byte("noise"), []byte("noise"), false)
	f.Add(contract.Control{Kind: contract.KindAck, Nonce: 1}.Encode(), bytes.Repeat([]byte{0xFF}, 200), true)
	answer := append(frame(frameWindow, flagACK, 1, 0), frame(frameData, 0, 1, 5, []byte("hello")...)...)
	f.Add([]byte{0xFF}, append(answer, frame(frameWindow, flagFIN, 1, 0)...), false)
	f.Add([]byte{}, append(answer, frame(frameWindow, flagFIN|flagRST|flagACK, 3, 1<<31)...), false)
	f.Add([]byte{}, append(frame(frameWindow, flagSYN, 2, 0), frame(frameData, 0, 2, 4, 1, 2, 3, 4)...), false)
	f.Add([]byte{}, append(frame(framePing, flagSYN, 0, 7), frame(framePing, flagACK, 0, 7)...), false)
	f.Add([]byte{}, frame(frameData, flagACK, 1, 1<<31, 'x'), false)
	f.Add([]byte{}, append(frame(frameGoAway, 0, 0, 0), frame(frameGoAway, 0, 0, 9)...), false)
	f.Fuzz(func(t *testing.T, early, late []byte, raw bool) {
		if !raw {
			late = escaped(late)
		}
		attack(t, early, late)
	})
}

// A guest that opens streams or sends pings without end must not fill the host's memory with them.
func TestAGuestCannotFloodItsHost(t *testing.T) {
	flood := func(one []byte) []byte { return bytes.Repeat(one, 100_000) }
	opening := append(frame(frameWindow, flagSYN, 2, 0), frame(frameData, 0, 2, 0)...)
	for name, late := range map[string][]byte{
		"pings":   flood(frame(framePing, flagSYN, 0, 1)),
		"streams": flood(opening),
		"both after a fair beginning": append(append(frame(frameWindow, flagACK, 1, 0), frame(frameData, 0, 1, 300, make([]byte, 300)...)...),
			flood(append(frame(framePing, flagSYN, 0, 1), opening...))...),
	} {
		t.Run(name, func(t *testing.T) {
			near, far := net.Pipe()
			go func() { // it answers and never reads again
				sc := newScanner(far)
				_, ctl, err := sc.next()
				if err != nil || ctl == nil {
					return
				}
				_, _ = far.Write(contract.Control{Kind: contract.KindAck, Nonce: ctl.Nonce}.Encode())
				_, _ = far.Write(late)
			}()
			before := runtime.NumGoroutine()
			s, err := Dial(t.Context(), near, contract.Hello{})
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			select {
			case <-s.Done():
			case <-time.After(patience):
				t.Error("the session goes on")
			}
			if n := runtime.NumGoroutine() - before; n > 50 {
				t.Errorf("%d goroutines more than before", n)
			}
		})
	}
}

func TestASilentGuestDoesNotHoldAForward(t *testing.T) {
	near, far := net.Pipe()
	go func() { // it answers the preamble and then nothing
		sc := newScanner(far)
		for {
			_, ctl, err := sc.next()
			if err != nil {
				return
			}
			if ctl != nil {
				_, _ = far.Write(contract.Control{Kind: contract.KindAck, Nonce: ctl.Nonce}.Encode())
			}
		}
	}()
	s, err := Dial(t.Context(), near, contract.Hello{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	s.patience = time.Millisecond
	if _, err := s.Forward(80); !errors.Is(err, yamux.ErrTimeout) {
		t.Errorf("Forward = %v, want %v", err, yamux.ErrTimeout)
	}
}

func TestGuardSeesFramesHoweverTheyAreCut(t *testing.T) {
	fair := append(frame(frameData, flagACK, 1, 13, make([]byte, 13)...), frame(frameWindow, flagACK, 1, 7)...)
	fair = append(fair, frame(frameWindow, flagFIN, 1, 99)...)
	for size := 1; size <= len(fair); size++ {
		var g guard
		for rest := fair; len(rest) > 0; rest = rest[min(size, len(rest)):] {
			if err := g.check(rest[:min(size, len(rest))]); err != nil {
				t.Fatalf("fair frames in pieces of %d bytes: %v", size, err)
			}
		}
		if err := g.check(frame(frameData, flagSYN, 2, 0)); !errors.Is(err, ErrHostile) {
			t.Fatalf("a stream opened by the guest after pieces of %d bytes: %v", size, err)
		}
	}
}

// FuzzResync leaves anything at all on the port: the next host must be heard, and what it says must arrive whole.
func FuzzResync(f *testing.F) {
	f.Add([]byte{0xFF}, []byte("payload"))
	f.Add(contract.Control{Kind: contract.KindHello, Nonce: 3}.Encode(), []byte{0xFF, 0xFF, 0})
	f.Add(contract.Control{Kind: contract.KindHello, Nonce: 3}.Encode()[:20], nasty(100))
	f.Add(append(contract.Control{Kind: contract.KindHello, Nonce: 3}.Encode(), frame(frameWindow, flagSYN, 1, 0)...), nasty(100))
	f.Add(append(contract.Control{Kind: contract.KindHello, Nonce: 3}.Encode(), frame(frameData, flagSYN, 1, 1<<30)...), []byte("x"))
	f.Fuzz(func(t *testing.T, garbage, payload []byte) {
		p := new(port)
		startEchoWith(t, p, forgetful())
		h := p.attach()
		go func() { _, _ = io.Copy(io.Discard, h) }() // a host that does not listen
		_ = h.SetDeadline(time.Now().Add(patience))
		if _, err := h.Write(garbage); err != nil {
			t.Fatalf("the port stopped: %v", err)
		}
		s, err := dial(t.Context(), p.attach(), contract.Hello{}, forgetful())
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		echo(t, s, payload)
	})
}
