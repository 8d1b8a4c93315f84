// Package qmptest plays QEMU's side of the machine protocol over a real unix socket, for the tests of
// pkg/vmm and pkg/vmm/qmp.
package qmptest

import (
	"bufio"
	"encoding/json"
	"net"
	"os"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/nodeless/nodeless/pkg/vmm/qmp"
)

// Call is a command the peer has received. File is set when a descriptor came with it.
type Call struct {
	Name string          `json:"execute"`
	Args json.RawMessage `json:"arguments"`
	ID   json.RawMessage `json:"id"`
	File bool            `json:"-"`
}

// Peer is a QEMU that answers as Handle says.
type Peer struct {
	conn *net.UnixConn

	mu    sync.Mutex
	calls []Call // guarded by mu
}

// Pair is two connected ends, closed when the test ends.
func Pair(t *testing.T) (near, far *net.UnixConn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var ends [2]*net.UnixConn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "qmp")
		c, err := net.FileConn(f)
		if err != nil {
			t.Fatal(err)
		}
		f.Close()
		ends[i] = c.(*net.UnixConn)
		t.Cleanup(func() { c.Close() })
	}
	return ends[0], ends[1]
}

// Start returns a peer and the connection to it. handle is called for each command in turn and returns its
// answer; it may send events first. It does not see qmp_capabilities.
func Start(t *testing.T, handle func(*Peer, Call) (any, *qmp.Error)) (*Peer, *net.UnixConn) {
	t.Helper()
	near, far := Pair(t)
	p := &Peer{conn: far}
	go p.serve(handle)
	return p, near
}

// Event sends an event.
func (p *Peer) Event(name string, data any) {
	p.send(map[string]any{"event": name, "data": data, "timestamp": map[string]int{"seconds": 1, "microseconds": 2}})
}

// Hangup ends the connection, as QEMU does when it dies.
func (p *Peer) Hangup() { p.conn.Close() }

// Calls returns the names of the commands received so far.
func (p *Peer) Calls() []Call {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]Call(nil), p.calls...)
}

func (p *Peer) serve(handle func(*Peer, Call) (any, *qmp.Error)) {
	defer p.conn.Close()
	p.send(map[string]any{"QMP": map[string]any{"version": map[string]any{}, "capabilities": []string{"oob"}}})
	r := &fdCounter{conn: p.conn}
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		var c Call
		if json.Unmarshal(lines.Bytes(), &c) != nil {
			p.send(map[string]any{"error": qmp.Error{Class: "GenericError", Desc: "JSON parse error"}})
			continue
		}
		c.File, r.seen = r.seen, false
		p.mu.Lock()
		p.calls = append(p.calls, c)
		p.mu.Unlock()
		var result any
		var refused *qmp.Error
		if c.Name != "qmp_capabilities" {
			result, refused = handle(p, c)
		}
		switch {
		case refused != nil:
			p.send(map[string]any{"error": refused, "id": c.ID})
		case result != nil:
			p.send(map[string]any{"return": result, "id": c.ID})
		default:
			p.send(map[string]any{"return": struct{}{}, "id": c.ID})
		}
	}
}

func (p *Peer) send(message any) {
	raw, err := json.Marshal(message)
	if err != nil {
		return
	}
	_, _ = p.conn.Write(append(raw, '\r', '\n')) // the test sees the silence
}

// fdCounter reads a connection and notes whether a descriptor came along.
type fdCounter struct {
	conn *net.UnixConn
	seen bool
}

func (r *fdCounter) Read(p []byte) (int, error) {
	oob := make([]byte, unix.CmsgSpace(4*8))
	n, oobn, _, _, err := r.conn.ReadMsgUnix(p, oob)
	if oobn > 0 {
		messages, _ := unix.ParseSocketControlMessage(oob[:oobn])
		for _, m := range messages {
			fds, _ := unix.ParseUnixRights(&m)
			for _, fd := range fds {
				unix.Close(fd)
				r.seen = true
			}
		}
	}
	if n <= 0 && err == nil {
		err = net.ErrClosed
	}
	return max(n, 0), err
}
