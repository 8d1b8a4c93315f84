package agentmux

import (
	"bufio"
	"bytes"
	"io"

	"github.com/nodeless/nodeless/pkg/contract"
)

// escaper writes data with a zero byte behind each marker byte.
type escaper struct {
	w   io.Writer
	buf []byte
}

func (e *escaper) Write(p []byte) (int, error) {
	out := p
	if bytes.IndexByte(p, contract.Marker) >= 0 {
		e.buf = e.buf[:0]
		for _, b := range p {
			e.buf = append(e.buf, b)
			if b == contract.Marker {
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
func (s *scanner) next() (data []byte, c *contract.Control, err error) {
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
			if chunk[used] == contract.Marker {
				return used, true // pending stays set: the same answer on the next call
			}
			s.out = append(s.out, contract.Marker)
			s.pending = false
			used++ // the escape byte
			continue
		}
		rest := chunk[used:]
		i := bytes.IndexByte(rest, contract.Marker)
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
func (s *scanner) control() (*contract.Control, error) {
	s.pending = false
	for {
		b, err := s.r.Peek(1)
		if err != nil {
			return nil, err
		}
		if b[0] != contract.Marker {
			break
		}
		if _, err := s.r.Discard(1); err != nil {
			return nil, err
		}
	}
	raw, err := s.r.Peek(contract.ControlSize)
	if err != nil {
		return nil, err
	}
	c, err := contract.DecodeControl(raw)
	if err != nil {
		return nil, nil //nolint:nilerr // a damaged frame is repeated by its sender
	}
	_, err = s.r.Discard(contract.ControlSize)
	return &c, err
}
