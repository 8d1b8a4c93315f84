package agentmux

import (
	"context"
	"encoding/binary"
	"io"
	"net"
	"strconv"
	"sync"
	"time"
)

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
		_, _ = c.Write([]byte{forwardFailed})
		return
	}
	defer to.Close()
	if _, err := c.Write([]byte{forwardOK}); err != nil {
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
		_, _ = io.Copy(to, c)
		_ = to.CloseWrite()
	})
	_, _ = io.Copy(c, to)
	_ = c.Close()
	wg.Wait()
}
