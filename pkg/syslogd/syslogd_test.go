package syslogd

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// lines collects what is logged.
type lines struct {
	mu   sync.Mutex
	text bytes.Buffer // guarded by mu
	more chan struct{}
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n, err := l.text.Write(p)
	select {
	case l.more <- struct{}{}:
	default:
	}
	return n, err
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// start runs the component until the test ends or stop is called.
func start(t *testing.T, cfg Config) (out *lines, stop func()) {
	t.Helper()
	out = &lines{more: make(chan struct{}, 1)}
	s := New(cfg, slog.New(slog.NewTextHandler(out, &slog.HandlerOptions{Level: slog.LevelDebug})))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	if err := s.Ready(ctx); err != nil {
		t.Fatal(err)
	}
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run = %v, want nil", err)
		}
	})
	t.Cleanup(stop)
	return out, stop
}

func TestForwardsAndRemovesItsSocket(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	cfg := Config{Existing: []string{socket}, Socket: socket, PerSecond: 10}
	out, stop := start(t, cfg)
	conn, err := net.Dial("unixgram", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte("<14>2026-01-02T03:04:05Z host kata[17]: level=info msg=\"vm: started\"\n")); err != nil {
		t.Fatal(err)
	}
	for !strings.Contains(out.String(), "vm: started") {
		<-out.more
	}
	if !strings.Contains(out.String(), "from=kata[17]") {
		t.Errorf("log %q does not name the sender", out)
	}
	stop()
	if _, err := os.Lstat(socket); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the socket is still there: %v", err)
	}
}

func TestFloodIsDroppedNotQueued(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	out, _ := start(t, Config{Existing: []string{socket}, Socket: socket, PerSecond: 5})
	conn, err := net.Dial("unixgram", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for range 2000 { // each Write waits for room in the queue: it ends only if the reader keeps up
		if _, err := conn.Write([]byte("<14>x kata[1]: flood")); err != nil {
			t.Fatal(err)
		}
	}
	if n := strings.Count(out.String(), "flood"); n > 500 {
		t.Errorf("%d of 2000 lines were logged, want few", n)
	}
}

func TestSocketOfTheHostIsUsed(t *testing.T) {
	dir := t.TempDir()
	host := filepath.Join(dir, "log")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: host, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ours := filepath.Join(dir, "ours")
	start(t, Config{Existing: []string{host, ours}, Socket: ours, PerSecond: 1})
	if _, err := os.Lstat(ours); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a second socket was made: %v", err)
	}
}

func TestDeadSocketIsReplacedAndAFileIsNot(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil { // a unixgram listener leaves its socket behind
		t.Fatal(err)
	}
	if _, err := os.Lstat(socket); err != nil {
		t.Fatal(err)
	}
	start(t, Config{Existing: []string{socket}, Socket: socket, PerSecond: 1})

	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	err = New(Config{Existing: []string{file}, Socket: file, PerSecond: 1}, slog.New(slog.DiscardHandler)).Run(t.Context())
	if err == nil {
		t.Error("a file in the way was replaced")
	}
}

func TestParse(t *testing.T) {
	for message, want := range map[string][2]string{
		"<14>2026-01-02T03:04:05Z host kata[17]: a: b[3]: c\n": {"kata[17]", "a: b[3]: c"},
		"<30>Jan  2 03:04:05 virtiofsd[9]: x":                  {"virtiofsd[9]", "x"},
		"no form at all":                                       {"", "no form at all"},
	} {
		if tag, text := parse(message); tag != want[0] || text != want[1] {
			t.Errorf("parse(%q) = %q, %q, want %q", message, tag, text, want)
		}
	}
}
