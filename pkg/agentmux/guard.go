package agentmux

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// ErrHostile says that a guest sent what no guest agent sends. The session is over.
var ErrHostile = errors.New("the guest breaks the rules of its channel")

// The header of a yamux frame: version, type, flags, stream, length.
const (
	frameHeader = 12

	frameData = 0
	framePing = 2

	flagSYN = 1
)

// guard watches the frames that come from a guest. The host opens every stream and sends no ping, so a guest has no
// reason to do either: streams that nobody accepts, and answers that wait until the guest reads them, would fill the
// memory of the host.
type guard struct {
	head [frameHeader]byte
	have int   // bytes of head that have come
	body int64 // bytes of a frame's data still to come
}

// check takes the next bytes of the stream, in pieces of any size.
func (g *guard) check(p []byte) error {
	for len(p) > 0 {
		if g.body > 0 {
			n := min(g.body, int64(len(p)))
			g.body -= n
			p = p[n:]
			continue
		}
		n := copy(g.head[g.have:], p)
		g.have += n
		p = p[n:]
		if g.have < frameHeader {
			return nil
		}
		g.have = 0
		if err := g.frame(); err != nil {
			return err
		}
	}
	return nil
}

// frame judges one header. What yamux itself refuses is left to it.
func (g *guard) frame() error {
	kind, flags := g.head[1], binary.BigEndian.Uint16(g.head[2:])
	switch {
	case kind == framePing:
		return fmt.Errorf("%w: a ping", ErrHostile)
	case flags&flagSYN != 0:
		return fmt.Errorf("%w: a stream that the host did not open", ErrHostile)
	case kind == frameData:
		g.body = int64(binary.BigEndian.Uint32(g.head[8:]))
	}
	return nil
}
