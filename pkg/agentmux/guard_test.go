package agentmux

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"runtime"
	"testing"
	"time"

	"github.com/nodeless/nodeless/pkg/contract"
)

// header is a yamux frame's.
func header(kind byte, flags uint16, stream, length uint32) []byte {
	b := []byte{0, kind}
	b = binary.BigEndian.AppendUint16(b, flags)
	b = binary.BigEndian.AppendUint32(b, stream)
	return binary.BigEndian.AppendUint32(b, length)
}

func TestGuard(t *testing.T) {
	const window, goAway, ack, fin = 1, 3, 2, 4
	lookalike := append(header(frameData, ack, 1, frameHeader), header(framePing, flagSYN, 0, 1)...)
	tests := []struct {
		name    string
		in      []byte
		hostile bool
	}{
		{name: "data, window, end", in: append(append(append(header(frameData, ack, 1, 3), "abc"...), header(window, 0, 1, 9)...), header(frameData, fin, 1, 0)...)},
		{name: "a header inside data is data", in: lookalike},
		{name: "go away is yamux's business", in: header(goAway, 0, 0, 0)},
		{name: "ping", in: header(framePing, flagSYN, 0, 1), hostile: true},
		{name: "answer to a ping nobody sent", in: header(framePing, ack, 0, 1), hostile: true},
		{name: "new stream by data", in: append(lookalike, header(frameData, flagSYN, 2, 0)...), hostile: true},
		{name: "new stream by window", in: header(window, flagSYN|ack, 2, 0), hostile: true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for size := 1; size <= len(tt.in); size++ {
				var g guard
				var err error
				for rest := tt.in; len(rest) > 0 && err == nil; {
					n := min(size, len(rest))
					err = g.check(rest[:n])
					rest = rest[n:]
				}
				if errors.Is(err, ErrHostile) != tt.hostile {
					t.Fatalf("in pieces of %d: %v, want hostile %v", size, err, tt.hostile)
				}
			}
		})
	}
}

// hostileGuest acknowledges the preamble and then sends what it likes; it never reads again.
func hostileGuest(port net.Conn, send func(w io.Writer) error) {
	sc := newScanner(port)
	for {
		_, c, err := sc.next()
		if err != nil {
			return
		}
		if c != nil {
			if _, err := port.Write(contract.Control{Kind: contract.KindAck, Nonce: c.Nonce}.Encode()); err != nil {
				return
			}
			break
		}
	}
	for w := (&escaper{w: port}); send(w) == nil; {
	}
}

// TestHostileGuestCostsTheHostNothing: a guest that does not read and floods the host with what yamux would keep in
// memory for it loses its session.
func TestHostileGuestCostsTheHostNothing(t *testing.T) {
	stream := uint32(0)
	floods := map[string]func(io.Writer) error{
		"pings": func(w io.Writer) error {
			_, err := w.Write(header(framePing, flagSYN, 0, 7))
			return err
		},
		"streams": func(w io.Writer) error {
			stream += 2
			_, err := w.Write(append(header(frameData, flagSYN, stream, 64<<10), make([]byte, 64<<10)...))
			return err
		},
	}
	for name, send := range floods {
		t.Run(name, func(t *testing.T) {
			before := runtime.NumGoroutine()
			host, guest := net.Pipe()
			defer guest.Close()
			go hostileGuest(guest, send)
			s, err := Dial(t.Context(), host, contract.Hello{})
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			select {
			case <-s.Done():
			case <-time.After(10 * time.Second):
				t.Fatalf("the session goes on; %d goroutines more than before", runtime.NumGoroutine()-before)
			}
			if !errors.Is(s.Err(), ErrHostile) {
				t.Errorf("the session ended with %v, want ErrHostile", s.Err())
			}
		})
	}
}
