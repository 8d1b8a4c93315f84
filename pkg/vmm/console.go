package vmm

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"sync"
	"unicode"
)

const (
	consoleLimit = 256 << 10 // bytes of one console log; the one before it is kept too
	tailLimit    = 4 << 10   // bytes kept in memory for error messages
)

// boundedLog writes a file that never grows beyond a limit: it is moved aside to path.old and begun anew.
type boundedLog struct {
	path  string
	limit int64

	mu   sync.Mutex
	file *os.File // guarded by mu
	size int64    // guarded by mu
	all  int      // bytes ever written; guarded by mu
	tail tail     // guarded by mu
}

func newBoundedLog(path string, limit int64) (*boundedLog, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open log: %w", err)
	}
	return &boundedLog{path: path, limit: limit, file: f}, nil
}

// Write never fails: a full disk must not stop a microVM.
func (l *boundedLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.tail.write(p)
	l.all += len(p)
	if l.file == nil {
		return len(p), nil
	}
	if l.size+int64(len(p)) > l.limit {
		l.rotate()
	}
	n, _ := l.file.Write(p)
	l.size += int64(n)
	return len(p), nil
}

func (l *boundedLog) rotate() {
	_ = os.Rename(l.path, l.path+".old")
	if f, err := os.OpenFile(l.path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600); err == nil {
		_ = l.file.Close()
		l.file, l.size = f, 0
	}
}

// written is how many bytes have come so far.
func (l *boundedLog) written() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.all
}

// digest returns what matters of the last that was written, in one line, for error messages.
func (l *boundedLog) digest() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.tail.digest()
}

// drop closes the log and, when it is not worth keeping, deletes it.
func (l *boundedLog) drop(keep bool) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file == nil {
		return nil
	}
	err := l.file.Close()
	l.file = nil
	if keep {
		return err
	}
	_ = os.Remove(l.path + ".old") // most often there is none
	if rerr := os.Remove(l.path); rerr != nil && !errors.Is(rerr, fs.ErrNotExist) {
		err = errors.Join(err, rerr)
	}
	return err
}

// tail keeps the last bytes of a stream.
type tail struct{ buf []byte }

func (t *tail) write(p []byte) {
	t.buf = append(t.buf, p...)
	if over := len(t.buf) - tailLimit; over > 0 {
		t.buf = append(t.buf[:0], t.buf[over:]...)
	}
}

// digest is the line in which a kernel says why it died, or the last few lines.
func (t *tail) digest() string {
	const few = 3
	var lines []string
	for line := range strings.Lines(string(t.buf)) {
		line = strings.TrimSpace(strings.Map(printable, line))
		if strings.Contains(line, "Kernel panic") {
			return line
		}
		if line != "" {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines[max(0, len(lines)-few):], "; ")
}

// printable drops control characters, terminal escapes among them; what is left of those is harmless.
func printable(r rune) rune {
	if r == '\t' || unicode.IsPrint(r) {
		return r
	}
	return -1
}

// syncTail is a tail for several goroutines: QEMU's standard error.
type syncTail struct {
	mu sync.Mutex
	t  tail // guarded by mu
}

var _ io.Writer = (*syncTail)(nil)

func (s *syncTail) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.t.write(p)
	return len(p), nil
}

func (s *syncTail) digest() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.t.digest()
}
