package agentmux

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/nodeless/nodeless/pkg/contract"
)

// forwardFrame is the most that one frame of a Forwarding carries, in bytes.
const forwardFrame = 32 << 10

// Forwarding is a connection to a TCP port of a guest, over a stream to contract.ForwardPort. What is sent goes in frames, each with
// its length in two bytes before it, and an empty one ends it: the multiplexer would let somebody who closes a stream to
// say that listen for a minute only. What is received comes as it is.
type Forwarding struct{ net.Conn }

// RequestPort names a TCP port on a new connection to contract.ForwardPort and waits until the guest is connected to it.
// ErrRefused says that nothing listens there.
func RequestPort(c net.Conn, port uint16) (Forwarding, error) {
	answer := make([]byte, 1)
	_, err := c.Write(binary.BigEndian.AppendUint16(nil, port))
	if err == nil {
		_, err = io.ReadFull(c, answer)
	}
	if err == nil && answer[0] != contract.ForwardOK {
		err = ErrRefused
	}
	if err != nil {
		return Forwarding{}, fmt.Errorf("forward to port %d: %w", port, err)
	}
	return Forwarding{c}, nil
}

// Write sends p. It is not to be called twice at a time.
func (f Forwarding) Write(p []byte) (n int, err error) {
	frame := make([]byte, 0, 2+min(len(p), forwardFrame))
	for part := range slices.Chunk(p, forwardFrame) {
		frame = append(binary.BigEndian.AppendUint16(frame[:0], uint16(len(part))), part...)
		if _, err := f.Conn.Write(frame); err != nil {
			return n, err
		}
		n += len(part)
	}
	return n, nil
}

// CloseWrite tells the other side that this was all. Reading goes on.
func (f Forwarding) CloseWrite() error {
	_, err := f.Conn.Write([]byte{0, 0})
	return err
}

// unframer reads what a Forwarding has sent.
type unframer struct {
	r    io.Reader
	left int // bytes of the frame that are still to come
}

func (u *unframer) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if u.left == 0 {
		var length [2]byte
		if _, err := io.ReadFull(u.r, length[:]); err != nil {
			return 0, err
		}
		if u.left = int(binary.BigEndian.Uint16(length[:])); u.left == 0 {
			return 0, io.EOF
		}
	}
	n, err := u.r.Read(p[:min(len(p), u.left)])
	u.left -= n
	return n, err
}

// forward joins a stream to a TCP port on the guest's loopback address, IPv4 first.
func forward(ctx context.Context, c net.Conn) {
	defer c.Close()
	var port [2]byte
	_ = c.SetReadDeadline(time.Now().Add(headerTimeout))
	if _, err := io.ReadFull(c, port[:]); err != nil {
		return
	}
	_ = c.SetReadDeadline(time.Time{})
	to, err := dialLoopback(ctx, binary.BigEndian.Uint16(port[:]))
	if err != nil {
		_, _ = c.Write([]byte{contract.ForwardFailed})
		return
	}
	defer to.Close()
	if _, err := c.Write([]byte{contract.ForwardOK}); err != nil {
		return
	}
	stop := context.AfterFunc(ctx, func() { c.Close(); to.Close() })
	defer stop()
	join(c, to)
}

func dialLoopback(ctx context.Context, port uint16) (*net.TCPConn, error) {
	var d net.Dialer
	var last error
	for _, host := range []string{"127.0.0.1", "::1"} {
		c, err := d.DialContext(ctx, "tcp", net.JoinHostPort(host, strconv.Itoa(int(port))))
		if err == nil {
			return c.(*net.TCPConn), nil
		}
		last = err
	}
	return nil, last
}

// join copies both ways until both directions have ended. A yamux stream's Close is a half-close.
func join(c net.Conn, to *net.TCPConn) {
	var wg sync.WaitGroup
	wg.Go(func() {
		_, _ = io.Copy(to, &unframer{r: c})
		_ = to.CloseWrite()
	})
	_, _ = io.Copy(c, to)
	_ = c.Close()
	wg.Wait()
}
