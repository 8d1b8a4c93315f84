// Package syslogd offers a syslog socket on hosts that have none: the Kata shim refuses to start a Pod without one.
// pkg/worker runs it before containerd, in the same mount namespace. What arrives goes to our own log, as detail.
package syslogd

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"regexp"
	"strings"
	"time"

	"github.com/nodeless/nodeless/pkg/hint"
	"github.com/nodeless/nodeless/pkg/run"
)

// Config says where to look and where to listen.
type Config struct {
	// Existing are the sockets that Go's log/syslog tries, in its order.
	Existing []string
	// Socket is made when none of them answers. It must be one of them.
	Socket string
	// PerSecond is how many lines go to the log in a second; more are counted and dropped, so that senders never wait.
	PerSecond int
}

// DefaultConfig suits every Linux host.
func DefaultConfig() Config {
	return Config{Existing: []string{"/dev/log", "/var/run/syslog", "/var/run/log"}, Socket: "/var/run/syslog", PerSecond: 200}
}

// Validate reports all faults at once.
func (c Config) Validate() error {
	var errs []error
	if c.Socket == "" {
		errs = append(errs, errors.New("syslog: no socket"))
	}
	if c.PerSecond < 1 {
		errs = append(errs, fmt.Errorf("syslog: %d lines per second", c.PerSecond))
	}
	return errors.Join(errs...)
}

// Syslog is the component.
type Syslog struct {
	cfg   Config
	log   *slog.Logger
	ready chan struct{} // closed when there is a socket, ours or the host's
}

var (
	_ run.Component = (*Syslog)(nil)
	_ run.Readier   = (*Syslog)(nil)
)

// New gives a component that has not touched the host yet.
func New(cfg Config, log *slog.Logger) *Syslog {
	return &Syslog{cfg: cfg, log: log, ready: make(chan struct{})}
}

// Name is "syslog".
func (s *Syslog) Name() string { return "syslog" }

// Ready waits until there is a socket.
func (s *Syslog) Ready(ctx context.Context) error {
	select {
	case <-s.ready:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Run offers the socket until ctx ends, or only waits if the host has one.
func (s *Syslog) Run(ctx context.Context) error {
	if err := s.cfg.Validate(); err != nil {
		return err
	}
	for _, path := range s.cfg.Existing {
		if answers(path) {
			s.log.Debug("host has a syslog socket", "path", path)
			close(s.ready)
			<-ctx.Done()
			return nil
		}
	}
	if err := removeDead(s.cfg.Socket); err != nil {
		return err
	}
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: s.cfg.Socket, Net: "unixgram"})
	if err != nil {
		return &hint.Error{Op: "make syslog socket", On: s.cfg.Socket, Err: err, Do: "run as root on a writable /run, or start a syslog daemon"}
	}
	defer removeQuietly(s.cfg.Socket)
	defer conn.Close()
	if err := os.Chmod(s.cfg.Socket, 0o600); err != nil {
		return fmt.Errorf("close syslog socket to others: %w", err)
	}
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	close(s.ready)
	err = s.forward(ctx, conn)
	if ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("read syslog socket %s: %w", s.cfg.Socket, err)
}

// answers tells whether a daemon listens on path, in either of the two ways that log/syslog tries.
func answers(path string) bool {
	for _, network := range []string{"unixgram", "unix"} {
		if conn, err := net.Dial(network, path); err == nil {
			return conn.Close() == nil
		}
	}
	return false
}

// removeDead removes a socket that nobody listens on; the caller has found that out. Anything else there stays.
func removeDead(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil && info.Mode()&fs.ModeSocket == 0 {
		err = errors.New("it is there and is no socket")
	}
	if err == nil {
		err = os.Remove(path)
	}
	if err != nil {
		return &hint.Error{Op: "make syslog socket", On: path, Err: err, Do: "remove it, or start a syslog daemon"}
	}
	return nil
}

// removeQuietly takes our socket away; on the way out there is nobody left to tell.
func removeQuietly(path string) { _ = os.Remove(path) }

// forward logs what arrives, at most so much in a second.
func (s *Syslog) forward(ctx context.Context, conn net.Conn) error {
	buf := make([]byte, 64<<10)
	var window time.Time // the second that count is of
	var count int
	for {
		n, err := conn.Read(buf)
		if err != nil {
			return err
		}
		if !s.log.Enabled(ctx, slog.LevelDebug) {
			continue
		}
		if now := time.Now(); now.Sub(window) >= time.Second {
			if dropped := count - s.cfg.PerSecond; dropped > 0 {
				s.log.Debug("syslog lines dropped", "count", dropped)
			}
			window, count = now, 0
		}
		if count++; count <= s.cfg.PerSecond {
			tag, text := parse(string(buf[:n]))
			s.log.Debug("syslog", "from", tag, "text", text)
		}
	}
}

// line is "<priority>time host tag[pid]: text" or "<priority>time tag[pid]: text", as Go and the C library write it.
var line = regexp.MustCompile(`(?s)^(?:<\d{1,3}>)?.*?(\S+\[\d+\]): ?(.*)$`)

// parse takes sender and text out of a message; what has another form is all text.
func parse(message string) (tag, text string) {
	message = strings.TrimRight(message, "\n\x00")
	if m := line.FindStringSubmatch(message); m != nil {
		return m[1], m[2]
	}
	return "", message
}
