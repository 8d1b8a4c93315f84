package cri

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/cri-streaming/pkg/streaming"

	"github.com/nodeless/nodeless/pkg/agentmux"
)

// quiet is how long a Pod may stay silent after the client has said all it wants to say. A client that has gone
// looks the same as one that waits, so this bounds what it leaves behind.
const quiet = time.Minute

// streams is the HTTP server that the kubelet connects clients to. It listens on loopback; each address it gives
// out is good for one use and holds a secret.
type streams struct {
	server streaming.Server
	guests dialer
	http   *http.Server
	done   chan error
}

func newStreams(ctx context.Context, guests dialer, upstream cri.RuntimeServiceClient, log *slog.Logger) (*streams, error) {
	var lc net.ListenConfig
	listener, err := lc.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("open port for streams: %w", err)
	}
	config := streaming.DefaultConfig
	config.BaseURL = &url.URL{Scheme: "http", Host: listener.Addr().String(), Path: "/"}
	server, err := streaming.NewServer(config, &forwarder{guests: guests, upstream: upstream, log: log})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("make server of streams: %w", err), listener.Close())
	}
	s := &streams{server: server, guests: guests, done: make(chan error, 1)}
	s.http = &http.Server{Handler: server, ReadHeaderTimeout: 10 * time.Second}
	go func() { s.done <- s.http.Serve(listener) }()
	return s, nil
}

func (s *streams) close() error {
	err := s.http.Close()
	if served := <-s.done; !errors.Is(served, http.ErrServerClosed) {
		err = errors.Join(err, served)
	}
	return err
}

// forwarder is the runtime that the server of streams drives.
type forwarder struct {
	guests   dialer
	upstream cri.RuntimeServiceClient
	log      *slog.Logger
}

var _ streaming.Runtime = (*forwarder)(nil)

// PortForward joins a client's stream to a port of a Pod.
func (f *forwarder) PortForward(ctx context.Context, sandbox string, port int32, stream io.ReadWriteCloser) error {
	if port < 1 || port > 65535 {
		return fmt.Errorf("forward to port %d: there is no such port", port)
	}
	conn, err := f.guests.dial(ctx, sandbox, uint16(port))
	if err != nil {
		return err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	begun := time.Now()
	n, err := join(conn, stream, quiet)
	f.log.Debug("forwarding ended", "sandbox", sandbox, "port", port, "sent", n, "took", time.Since(begun), "error", err)
	return err
}

// join copies both ways until the Pod's side has ended, or has been quiet for so long after the client's has.
// It returns how many bytes the Pod sent.
func join(conn agentmux.Forwarding, stream io.ReadWriter, quiet time.Duration) (int64, error) {
	said := make(chan struct{}) // closed when the client has said everything
	go func() {
		defer close(said)
		_, _ = io.Copy(conn, stream)
		_ = conn.CloseWrite()
		_ = conn.SetReadDeadline(time.Now().Add(quiet))
	}()
	return io.Copy(stream, patientReader{conn: conn, said: said, quiet: quiet})
}

// patientReader reads without a limit as long as the client speaks, and with one for each read afterwards.
type patientReader struct {
	conn  net.Conn
	said  <-chan struct{}
	quiet time.Duration
}

func (r patientReader) Read(p []byte) (int, error) {
	select {
	case <-r.said:
		if err := r.conn.SetReadDeadline(time.Now().Add(r.quiet)); err != nil {
			return 0, err
		}
	default:
	}
	return r.conn.Read(p)
}
