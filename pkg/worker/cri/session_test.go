package cri

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/util/httpstream/spdy"
	client "k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/util/exec"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/cri-streaming/pkg/streaming"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
)

// behind is containerd's side of a session: commands that the tests need, and a way to lose its connections.
type behind struct {
	streaming.Runtime // Exec and Attach are all that is asked for
	begun, ended      chan error
	mu                sync.Mutex
	conns             []net.Conn
}

func (r *behind) Exec(_ context.Context, _ string, cmd []string, in io.Reader, out, errs io.WriteCloser, _ bool, sizes <-chan remotecommand.TerminalSize) error {
	switch cmd[0] {
	case "cat":
		_, err := io.Copy(out, in)
		return err
	case "false":
		fmt.Fprint(errs, "no")
		return exec.CodeExitError{Err: errors.New("exit status 3"), Code: 3}
	case "stty":
		fmt.Fprint(out, <-sizes)
		return nil
	case "yes":
		for {
			if _, err := fmt.Fprintln(out, "y"); err != nil {
				r.ended <- err
				return err
			}
		}
	case "sleep":
		r.begun <- nil
		_, err := io.Copy(io.Discard, in) // until the connection goes
		return err
	}
	if cmd[0] == "rant" {
		return errors.New(tirade(8 << 10))
	}
	return errors.New("no such file")
}

func (r *behind) Attach(_ context.Context, container string, _ io.Reader, out, _ io.WriteCloser, _ bool, _ <-chan remotecommand.TerminalSize) error {
	_, err := fmt.Fprintf(out, "this is %s", container)
	return err
}

func (r *behind) breakOff() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range r.conns {
		c.Close()
	}
}

// sessions puts a server of streams behind the upstream, and gives it.
func (u *upstream) sessions(t *testing.T) *behind {
	t.Helper()
	r := &behind{begun: make(chan error, 1), ended: make(chan error, 1)}
	server := httptest.NewUnstartedServer(nil)
	server.Config.ConnState = func(c net.Conn, _ http.ConnState) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.conns = append(r.conns, c)
	}
	config := streaming.DefaultConfig
	config.BaseURL = &url.URL{Scheme: "http", Host: server.Listener.Addr().String(), Path: "/"}
	handler, err := streaming.NewServer(config, r)
	if err != nil {
		t.Fatal(err)
	}
	server.Config.Handler = handler
	server.Start()
	t.Cleanup(func() { r.breakOff(); server.Close() })
	u.streams = handler
	return r
}

func (u *upstream) Exec(_ context.Context, req *cri.ExecRequest) (*cri.ExecResponse, error) {
	return u.streams.GetExec(req)
}

func (u *upstream) Attach(_ context.Context, req *cri.AttachRequest) (*cri.AttachResponse, error) {
	return u.streams.GetAttach(req)
}

// do runs cmd as a client of the runtime service would.
func do(ctx context.Context, t *testing.T, c cri.RuntimeServiceClient, ends client.StreamOptions, cmd ...string) error {
	t.Helper()
	resp, err := c.Exec(t.Context(), &cri.ExecRequest{
		ContainerId: "box", Cmd: cmd, Tty: ends.Tty, Stdin: ends.Stdin != nil, Stdout: ends.Stdout != nil, Stderr: ends.Stderr != nil,
	})
	if err != nil {
		t.Fatal(err)
	}
	return at(ctx, t, resp.GetUrl(), ends)
}

func at(ctx context.Context, t *testing.T, address string, ends client.StreamOptions) error {
	t.Helper()
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	transport, err := spdy.NewRoundTripperWithConfig(spdy.RoundTripperConfig{})
	if err != nil {
		t.Fatal(err)
	}
	executor, err := client.NewSPDYExecutorForTransports(transport, transport, http.MethodPost, u)
	if err != nil {
		t.Fatal(err)
	}
	return executor.StreamWithContext(ctx, ends)
}

func TestExec(t *testing.T) {
	c, up, _ := start(t)
	up.sessions(t)
	sent := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	var out, errs bytes.Buffer
	if err := do(t.Context(), t, c, client.StreamOptions{Stdin: bytes.NewReader(sent), Stdout: &out}, "cat"); err != nil || !bytes.Equal(out.Bytes(), sent) {
		t.Errorf("cat of %d bytes = %v and %d bytes, want the same", len(sent), err, out.Len())
	}
	var code exec.CodeExitError
	if err := do(t.Context(), t, c, client.StreamOptions{Stderr: &errs}, "false"); !errors.As(err, &code) || code.Code != 3 || errs.String() != "no" {
		t.Errorf("false = %v, standard error %q; want exit code 3 and %q", err, errs.String(), "no")
	}
	out.Reset()
	size := sizeOnce(make(chan client.TerminalSize, 1))
	size <- client.TerminalSize{Width: 80, Height: 24}
	close(size)
	if err := do(t.Context(), t, c, client.StreamOptions{Stdout: &out, Tty: true, TerminalSizeQueue: size}, "stty"); err != nil || out.String() != "{80 24}" {
		t.Errorf("stty = %v, %q; want the size of the client's terminal", err, out.String())
	}
	err := do(t.Context(), t, c, client.StreamOptions{Stdout: &out}, "nothing")
	if want := "Internal error occurred: error executing command in container: no such file"; err == nil || err.Error() != want {
		t.Errorf("an unknown command = %v, want %q", err, want)
	}
}

type sizeOnce chan client.TerminalSize

func (s sizeOnce) Next() *client.TerminalSize {
	if size, more := <-s; more {
		return &size
	}
	return nil
}

func TestAttach(t *testing.T) {
	c, up, _ := start(t)
	up.sessions(t)
	resp, err := c.Attach(t.Context(), &cri.AttachRequest{ContainerId: "box", Stdout: true})
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := at(t.Context(), t, resp.GetUrl(), client.StreamOptions{Stdout: &out}); err != nil || out.String() != "this is box" {
		t.Errorf("attach = %v, %q; want what the container says", err, out.String())
	}
}

func TestBrokenSessionIsNoSuccess(t *testing.T) {
	c, up, _ := start(t)
	r := up.sessions(t)
	in, hold := io.Pipe()
	defer hold.Close()
	go func() {
		<-r.begun
		r.breakOff()
	}()
	err := do(t.Context(), t, c, client.StreamOptions{Stdin: in}, "sleep")
	if err == nil || !strings.Contains(err.Error(), errNoStatus.Error()) {
		t.Errorf("exec without an end = %v, want %v", err, errNoStatus)
	}
}

func TestSessionEndsWithItsClient(t *testing.T) {
	c, up, _ := start(t)
	r := up.sessions(t)
	ctx, leave := context.WithCancel(t.Context())
	defer leave()
	_ = do(ctx, t, c, client.StreamOptions{Stdout: leaver(leave)}, "yes")
	select {
	case <-r.ended:
	case <-time.After(20 * time.Second):
		t.Error("the command still writes, to nobody")
	}
}

// leaver is a client that goes at the first byte.
type leaver func()

func (l leaver) Write(p []byte) (int, error) {
	l()
	return len(p), nil
}
