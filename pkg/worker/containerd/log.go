package containerd

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"regexp"
	"slices"
)

// longestLine is how much of a line is kept, in bytes. An error in it may be the words of a guest's agent, 4 MiB of them.
const longestLine = 64 << 10

// logLines turns containerd's JSON log into records of ours. What containerd calls information is detail to us, and
// so is what a shim, whose lines come through containerd as they are, warns of.
type logLines struct {
	log  *slog.Logger
	rest []byte // an unfinished line
	skip bool   // the unfinished line is as long as a line may be, and was logged
}

// shimLine is `time="..." level=warning msg="..." sandbox=...`.
var shimLine = regexp.MustCompile(`^time="[^"]*" level=(\w+) (.*)$`)

func (l *logLines) Write(p []byte) (int, error) {
	l.rest = append(l.rest, p...)
	for {
		line, rest, whole := bytes.Cut(l.rest, []byte("\n"))
		if !whole && (l.skip || len(l.rest) < longestLine) {
			if l.skip {
				l.rest = nil
			}
			return len(p), nil
		}
		l.rest = rest
		if !l.skip {
			l.line(bytes.TrimSpace(line[:min(len(line), longestLine)]))
		}
		l.skip = !whole
	}
}

func (l *logLines) line(line []byte) {
	if len(line) == 0 {
		return
	}
	var record map[string]any
	if m := shimLine.FindSubmatch(line); m != nil {
		l.log.Log(context.Background(), levelOf(string(m[1])), "shim says", "text", string(m[2]))
		return
	}
	if json.Unmarshal(line, &record) != nil {
		l.log.Warn("containerd wrote", "line", string(line)) // a panic, or the last words
		return
	}
	level, _ := record["level"].(string)
	text, _ := record["msg"].(string)
	if level == "" || text == "" {
		l.log.Debug("containerd wrote", "line", string(line))
		return
	}
	attrs := []any{"text", text}
	var names []string
	for name := range record {
		if name != "level" && name != "msg" && name != "time" {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	for _, name := range names {
		attrs = append(attrs, name, record[name])
	}
	l.log.Log(context.Background(), levelOf(level), "containerd says", attrs...)
}

func levelOf(level string) slog.Level {
	switch level {
	case "panic", "fatal":
		return slog.LevelError
	case "error":
		return slog.LevelWarn
	}
	return slog.LevelDebug
}
