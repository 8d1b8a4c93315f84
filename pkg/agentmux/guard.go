package agentmux

import (
	"encoding/binary"
	"errors"
)

// ErrHostile says that a guest sent what no guest agent sends. Its session ends.
var ErrHostile = errors.New("guest breaks the protocol")

// The multiplexer's frames: version, type, flags, stream, length. Only frames of data have more behind them.
const (
	frameSize  = 12
	frameFlags = 2
	frameBytes = 8
	frameData  = 0
	flagSYN    = 1
)

// guard follows the frames that a guest sends and refuses those that begin something: streams, which the host never
// accepts and whose data would therefore stay in its memory, and pings, each of which costs the host a goroutine until
// its answer is sent. A guest agent sends neither; whoever sends them has taken the guest over.
type guard struct {
	header []byte // what has come of a frame's header
	body   uint32 // bytes of its data that are still to come
}

func (g *guard) check(p []byte) error {
	for len(p) > 0 {
		if g.body > 0 {
			n := min(uint64(g.body), uint64(len(p)))
			g.body -= uint32(n)
			p = p[n:]
			continue
		}
		n := min(frameSize-len(g.header), len(p))
		g.header = append(g.header, p[:n]...)
		if p = p[n:]; len(g.header) < frameSize {
			return nil
		}
		if binary.BigEndian.Uint16(g.header[frameFlags:])&flagSYN != 0 {
			return ErrHostile
		}
		if g.header[1] == frameData {
			g.body = binary.BigEndian.Uint32(g.header[frameBytes:])
		}
		g.header = g.header[:0]
	}
	return nil
}
