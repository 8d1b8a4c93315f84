package agentmux

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"time"
)

// EntropySize is how many random bytes a Hello carries.
const EntropySize = 32

// Hello is what a host tells a guest when it attaches.
type Hello struct {
	Time    time.Time         // the host's wall clock
	Entropy [EntropySize]byte // fresh random bytes for the guest's pool
}

const (
	marker    = 0xFF
	markerRun = 8 // length of the marker before a control frame; two would do

	kindHello = 'H' // host to guest: nonce, time, entropy
	kindAck   = 'A' // guest to host: nonce

	magic       = "nodeless-agent/1"
	controlSize = len(magic) + 1 + 8 + 8 + EntropySize + 4
)

// control is a frame outside the data stream.
type control struct {
	kind  byte
	nonce uint64
	hello Hello
}

// encode returns the frame with its marker in front.
func (c control) encode() []byte {
	b := make([]byte, 0, markerRun+controlSize)
	for range markerRun {
		b = append(b, marker)
	}
	b = append(b, magic...)
	b = append(b, c.kind)
	b = binary.BigEndian.AppendUint64(b, c.nonce)
	b = binary.BigEndian.AppendUint64(b, uint64(c.hello.Time.UnixNano()))
	b = append(b, c.hello.Entropy[:]...)
	return binary.BigEndian.AppendUint32(b, crc32.ChecksumIEEE(b[markerRun:]))
}

// decodeControl parses a frame without its marker.
func decodeControl(b []byte) (control, error) {
	if len(b) != controlSize || string(b[:len(magic)]) != magic {
		return control{}, fmt.Errorf("parse control frame: unknown magic %q", b[:min(len(b), len(magic))])
	}
	body, sum := b[:controlSize-4], binary.BigEndian.Uint32(b[controlSize-4:])
	if crc32.ChecksumIEEE(body) != sum {
		return control{}, fmt.Errorf("parse control frame: checksum differs")
	}
	b = b[len(magic):]
	c := control{kind: b[0], nonce: binary.BigEndian.Uint64(b[1:])}
	c.hello.Time = time.Unix(0, int64(binary.BigEndian.Uint64(b[9:])))
	copy(c.hello.Entropy[:], b[17:])
	return c, nil
}

// escaper writes data with a zero byte behind each marker byte.
type escaper struct {
	w   io.Writer
	buf []byte
}

func (e *escaper) Write(p []byte) (int, error) {
	out := p
	if bytes.IndexByte(p, marker) >= 0 {
		e.buf = e.buf[:0]
		for _, b := range p {
			e.buf = append(e.buf, b)
			if b == marker {
				e.buf = append(e.buf, 0)
			}
		}
		out = e.buf
	}
	if _, err := e.w.Write(out); err != nil {
		return 0, err
	}
	return len(p), nil
}

// scanner takes a raw stream apart into data and control frames.
type scanner struct {
	r       *bufio.Reader
	pending bool   // the last byte was a marker byte whose meaning the next one tells
	out     []byte // data of the current chunk
}

const scanBuffer = 64 << 10

func newScanner(r io.Reader) *scanner {
	return &scanner{r: bufio.NewReaderSize(r, scanBuffer), out: make([]byte, 0, scanBuffer)}
}

// next returns either data (valid until the next call) or a control frame. A damaged frame is skipped:
// its sender repeats it.
func (s *scanner) next() (data []byte, c *control, err error) {
	for {
		if s.r.Buffered() == 0 {
			if _, err := s.r.Peek(1); err != nil {
				return nil, nil, err
			}
		}
		chunk, _ := s.r.Peek(s.r.Buffered())
		used, sync := s.unescape(chunk)
		if _, err := s.r.Discard(used); err != nil {
			return nil, nil, err
		}
		if len(s.out) > 0 {
			return s.out, nil, nil
		}
		if sync {
			if c, err := s.control(); err != nil || c != nil {
				return nil, c, err
			}
		}
	}
}

// unescape moves data from chunk to s.out until the chunk or the data ends. sync says that a marker
// begins there; the caller comes back for it when data was found before it.
func (s *scanner) unescape(chunk []byte) (used int, sync bool) {
	s.out = s.out[:0]
	for used < len(chunk) {
		if s.pending {
			if chunk[used] == marker {
				return used, true // pending stays set: the same answer on the next call
			}
			s.out = append(s.out, marker)
			s.pending = false
			used++ // the escape byte
			continue
		}
		rest := chunk[used:]
		i := bytes.IndexByte(rest, marker)
		if i < 0 {
			s.out = append(s.out, rest...)
			return len(chunk), false
		}
		s.out = append(s.out, rest[:i]...)
		s.pending = true
		used += i + 1
	}
	return used, false
}

// control reads the frame behind a marker; nil without error means it was damaged.
func (s *scanner) control() (*control, error) {
	s.pending = false
	for {
		b, err := s.r.Peek(1)
		if err != nil {
			return nil, err
		}
		if b[0] != marker {
			break
		}
		if _, err := s.r.Discard(1); err != nil {
			return nil, err
		}
	}
	raw, err := s.r.Peek(controlSize)
	if err != nil {
		return nil, err
	}
	c, err := decodeControl(raw)
	if err != nil {
		return nil, nil //nolint:nilerr // a damaged frame is repeated by its sender
	}
	_, err = s.r.Discard(controlSize)
	return &c, err
}
