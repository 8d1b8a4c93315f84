// Package qmp speaks QEMU's machine protocol over one unix stream. pkg/vmm uses it to hot-plug devices
// into a running microVM, to hand over file descriptors and to hear of devices that have gone.
package qmp

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"syscall"
)

// ErrClosed says that QEMU has closed the connection, as a rule because it ended.
var ErrClosed = errors.New("qmp connection closed")

// ClassDeviceNotFound is the Class of an Error about a device that does not exist (any more).
const ClassDeviceNotFound = "DeviceNotFound"

// Error is QEMU's refusal of a command.
type Error struct {
	Class string `json:"class"`
	Desc  string `json:"desc"`
}

// Error gives QEMU's own words.
func (e *Error) Error() string { return e.Desc }

// Event is something QEMU tells unasked, such as DEVICE_DELETED.
type Event struct {
	Name string          `json:"event"`
	Data json.RawMessage `json:"data"`
}

// Client is one QMP connection. Its methods may be called from several goroutines.
type Client struct {
	conn    *net.UnixConn
	onEvent func(Event)
	done    chan struct{}

	writeMu sync.Mutex // keeps commands whole on the wire

	mu      sync.Mutex
	next    uint64
	pending map[uint64]chan message // guarded by mu
	closed  bool                    // guarded by mu
}

// message is anything QEMU sends: a greeting, an answer or an event.
type message struct {
	Greeting json.RawMessage `json:"QMP"`
	Return   json.RawMessage `json:"return"`
	Error    *Error          `json:"error"`
	ID       uint64          `json:"id"`
	Event
}

type command struct {
	Execute   string `json:"execute"`
	Arguments any    `json:"arguments,omitempty"`
	ID        uint64 `json:"id"`
}

// New takes over conn, waits for QEMU's greeting and enables commands. onEvent runs on the reading
// goroutine: it must not block and must not call Execute. The Client owns conn, on error too.
func New(ctx context.Context, conn *net.UnixConn, onEvent func(Event)) (*Client, error) {
	c := &Client{conn: conn, onEvent: onEvent, done: make(chan struct{}), pending: map[uint64]chan message{}}
	greeted := make(chan struct{})
	go c.read(greeted)
	select {
	case <-greeted:
	case <-c.done:
		return nil, fmt.Errorf("await qmp greeting: %w", ErrClosed)
	case <-ctx.Done():
		return nil, errors.Join(fmt.Errorf("await qmp greeting: %w", ctx.Err()), conn.Close())
	}
	if err := c.Execute(ctx, "qmp_capabilities", nil, nil); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return c, nil
}

// Execute runs one command and decodes its answer into result, which may be nil.
func (c *Client) Execute(ctx context.Context, name string, args, result any) error {
	return c.execute(ctx, name, args, result, nil)
}

// SendFile gives QEMU a copy of f under a name that later commands use.
func (c *Client) SendFile(ctx context.Context, name string, f *os.File) error {
	return c.ExecuteWith(ctx, "getfd", map[string]string{"fdname": name}, f)
}

// ExecuteWith runs a command that comes with a file, of which QEMU gets a copy.
func (c *Client) ExecuteWith(ctx context.Context, name string, args any, f *os.File) error {
	return c.execute(ctx, name, args, nil, syscall.UnixRights(int(f.Fd())))
}

// Done is closed when the connection has ended.
func (c *Client) Done() <-chan struct{} { return c.done }

// Close ends the connection; QEMU runs on.
func (c *Client) Close() error {
	if err := c.conn.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		return fmt.Errorf("close qmp: %w", err)
	}
	return nil
}

func (c *Client) execute(ctx context.Context, name string, args, result any, rights []byte) error {
	id, answer, err := c.expect()
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	defer c.forget(id)
	line, err := json.Marshal(command{Execute: name, Arguments: args, ID: id})
	if err != nil {
		return fmt.Errorf("encode %s: %w", name, err)
	}
	if err := c.send(append(line, '\n'), rights); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	select {
	case m := <-answer:
		if m.Error != nil {
			return fmt.Errorf("%s: %w", name, m.Error)
		}
		if result == nil {
			return nil
		}
		if err := json.Unmarshal(m.Return, result); err != nil {
			return fmt.Errorf("decode answer to %s: %w", name, err)
		}
		return nil
	case <-c.done:
		return fmt.Errorf("%s: %w", name, ErrClosed)
	case <-ctx.Done():
		return fmt.Errorf("%s: %w", name, ctx.Err())
	}
}

func (c *Client) expect() (uint64, chan message, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return 0, nil, ErrClosed
	}
	c.next++
	answer := make(chan message, 1)
	c.pending[c.next] = answer
	return c.next, answer, nil
}

func (c *Client) forget(id uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.pending, id)
}

// send writes one line; rights travel with its first byte.
func (c *Client) send(line, rights []byte) error {
	c.writeMu.Lock()
	defer c.writeMu.Unlock()
	if rights != nil {
		n, _, err := c.conn.WriteMsgUnix(line, rights, nil)
		if err != nil {
			return err
		}
		line = line[n:]
	}
	if len(line) == 0 {
		return nil
	}
	_, err := c.conn.Write(line)
	return err
}

// maxMessage bounds what QEMU may say at once: a QEMU that a guest has taken over must not fill this process's memory.
const maxMessage = 1 << 20

// read serves the connection until it ends. QEMU sends one message a line.
func (c *Client) read(greeted chan<- struct{}) {
	defer c.end()
	lines := bufio.NewScanner(c.conn)
	lines.Buffer(nil, maxMessage)
	for lines.Scan() {
		if len(bytes.TrimSpace(lines.Bytes())) == 0 {
			continue
		}
		var m message
		if err := json.Unmarshal(lines.Bytes(), &m); err != nil {
			return
		}
		switch {
		case m.Greeting != nil:
			if greeted != nil {
				close(greeted)
			}
			greeted = nil // it may come again, and means nothing then
		case m.Name != "":
			c.onEvent(m.Event)
		default:
			c.mu.Lock()
			if answer, ok := c.pending[m.ID]; ok {
				answer <- m // buffered, and each id is answered once
				delete(c.pending, m.ID)
			}
			c.mu.Unlock()
		}
	}
}

func (c *Client) end() {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	close(c.done)
	_ = c.conn.Close() // the peer is gone or talks nonsense
}
