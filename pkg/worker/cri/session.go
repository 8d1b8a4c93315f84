package cri

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/httpstream"
	"k8s.io/apimachinery/pkg/util/httpstream/spdy"
	client "k8s.io/client-go/tools/remotecommand"
	upgrade "k8s.io/client-go/transport/spdy"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
)

// errNoStatus is the end of a session whose command has not ended, as far as anybody knows.
var errNoStatus = errors.New("the connection to containerd ended before the command did; whether the command still runs is not known")

// Exec runs a command in a container through containerd. An exit code other than 0 is an error that tells it.
func (f *forwarder) Exec(ctx context.Context, container string, cmd []string, in io.Reader, out, errs io.WriteCloser, tty bool, sizes <-chan remotecommand.TerminalSize) error {
	resp, err := f.upstream.Exec(ctx, &cri.ExecRequest{
		ContainerId: container, Cmd: cmd, Tty: tty, Stdin: in != nil, Stdout: out != nil, Stderr: errs != nil,
	})
	if err != nil {
		return err
	}
	return ends{in, out, errs, tty, sizes}.follow(ctx, resp.GetUrl())
}

// Attach joins a client to a container's first process through containerd.
func (f *forwarder) Attach(ctx context.Context, container string, in io.Reader, out, errs io.WriteCloser, tty bool, sizes <-chan remotecommand.TerminalSize) error {
	resp, err := f.upstream.Attach(ctx, &cri.AttachRequest{
		ContainerId: container, Tty: tty, Stdin: in != nil, Stdout: out != nil, Stderr: errs != nil,
	})
	if err != nil {
		return err
	}
	return ends{in, out, errs, tty, sizes}.follow(ctx, resp.GetUrl())
}

// ends are what a client has of a session; what it did not ask for is nil.
type ends struct {
	in        io.Reader
	out, errs io.WriteCloser
	tty       bool
	sizes     <-chan remotecommand.TerminalSize
}

// follow joins the client's ends to containerd's stream at address until containerd says how it ended, the client
// takes no more, or ctx ends. A stream that breaks off is an error, which client-go alone takes for an exit code of 0
// (kubernetes/kubectl issue 1726).
func (e ends) follow(ctx context.Context, address string) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	at, err := url.Parse(address)
	if err != nil {
		return fmt.Errorf("containerd's address of the stream: %w", err)
	}
	transport, err := spdy.NewRoundTripperWithConfig(spdy.RoundTripperConfig{})
	if err != nil {
		return fmt.Errorf("make transport of streams: %w", err)
	}
	executor, err := client.NewSPDYExecutorForTransports(transport, strictUpgrader{transport}, http.MethodPost, at)
	if err != nil {
		return fmt.Errorf("make client of streams: %w", err)
	}
	err = executor.StreamWithContext(ctx, client.StreamOptions{
		Stdin: e.in, Stdout: noticing(e.out, cancel), Stderr: noticing(e.errs, cancel), Tty: e.tty, TerminalSizeQueue: queue(e.sizes),
	})
	switch {
	case err == nil:
		return nil
	case errors.Is(err, errNoStatus):
		return errNoStatus
	case ctx.Err() != nil:
		return context.Cause(ctx)
	}
	return unwrapped(err)
}

// unwrapped removes what containerd's server of streams puts before each cause, because ours is about to put it there.
func unwrapped(err error) error {
	text := words(err.Error())
	for _, before := range []string{"Internal error occurred: ", "error executing command in container: ", "error attaching to container: "} {
		text = strings.TrimPrefix(text, before)
	}
	if whole := err.Error(); text == whole {
		return err // it may be an exit code, which is more than its text
	}
	return errors.New(text)
}

// noticing ends a session whose client takes no more: client-go would read on from containerd, and throw it away.
func noticing(w io.WriteCloser, gone context.CancelCauseFunc) io.Writer {
	if w == nil {
		return nil
	}
	return noticingWriter{w, gone}
}

type noticingWriter struct {
	io.Writer
	gone context.CancelCauseFunc
}

func (w noticingWriter) Write(p []byte) (int, error) {
	n, err := w.Writer.Write(p)
	if err != nil {
		w.gone(fmt.Errorf("the client takes no more: %w", err))
	}
	return n, err
}

// queue hands on the sizes of the client's terminal; nil if it has none.
func queue(sizes <-chan remotecommand.TerminalSize) client.TerminalSizeQueue {
	if sizes == nil {
		return nil
	}
	return sizeQueue(sizes)
}

type sizeQueue <-chan remotecommand.TerminalSize

// Next waits for a size; nil is the end.
func (q sizeQueue) Next() *client.TerminalSize {
	size, more := <-q
	if !more {
		return nil
	}
	return &client.TerminalSize{Width: size.Width, Height: size.Height}
}

// strictUpgrader gives connections whose stream of the status never ends well without one.
type strictUpgrader struct{ upgrade.Upgrader }

// NewConnection takes over the connection of resp.
func (u strictUpgrader) NewConnection(resp *http.Response) (httpstream.Connection, error) {
	conn, err := u.Upgrader.NewConnection(resp)
	if err != nil {
		return nil, err
	}
	return strictConnection{conn}, nil
}

type strictConnection struct{ httpstream.Connection }

// CreateStream opens a stream of the kind that the headers name.
func (c strictConnection) CreateStream(headers http.Header) (httpstream.Stream, error) {
	stream, err := c.Connection.CreateStream(headers)
	if err != nil || headers.Get(core.StreamType) != core.StreamTypeError {
		return stream, err
	}
	return &statusStream{Stream: stream}, nil
}

// statusStream carries the status: one message, which version 4 of the protocol and later always have.
type statusStream struct {
	httpstream.Stream
	told bool
}

func (s *statusStream) Read(p []byte) (int, error) {
	n, err := s.Stream.Read(p)
	s.told = s.told || n > 0
	if errors.Is(err, io.EOF) && !s.told {
		err = errNoStatus
	}
	return n, err
}
