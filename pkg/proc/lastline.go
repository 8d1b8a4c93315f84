package proc

import (
	"bytes"
	"io"
	"sync"
)

// maxLine bounds how much of one line is kept, in bytes.
const maxLine = 1024

// lastLine passes everything on and remembers the last line that held anything.
type lastLine struct {
	next io.Writer // may be nil

	mu   sync.Mutex
	line []byte // the last whole or current line; guarded by mu
	open bool   // line is still being written; guarded by mu
}

func (l *lastLine) Write(p []byte) (int, error) {
	l.mu.Lock()
	l.keep(p)
	l.mu.Unlock()
	if l.next == nil {
		return len(p), nil
	}
	return l.next.Write(p)
}

func (l *lastLine) keep(p []byte) {
	for len(p) > 0 {
		part, rest, ended := bytes.Cut(p, []byte("\n"))
		if len(part) > 0 {
			if !l.open {
				l.line = l.line[:0]
			}
			if room := maxLine - len(l.line); room > 0 {
				l.line = append(l.line, part[:min(room, len(part))]...)
			}
			l.open = true
		}
		if ended {
			l.open = false
		}
		p = rest
	}
}

func (l *lastLine) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return string(bytes.TrimSpace(l.line))
}
