// Package logbridge sends what the linked libraries log (klog, logrus, the standard logger) to our own logger.
// pkg/server calls Install once, before it starts any component; the state it sets belongs to the process.
package logbridge

import (
	"context"
	"flag"
	"fmt"
	"io"
	"log"
	"log/slog"
	"strconv"
	"strings"

	"github.com/sirupsen/logrus"
	logsapi "k8s.io/component-base/logs/api/v1"
	"k8s.io/klog/v2"
)

// Install routes the libraries to l, until the process ends. What they call information and warnings is debug to us, for none of it
// asks an operator to act; errors become warnings, since Kubernetes retries nearly all of them. verbosity is klog's -v.
//
// The Kubernetes components each apply a logging configuration; from the second on that is an error unless
// it is declared harmless, which is done here, so every component must leave its configuration at the default.
// When ctx has ended their errors are debug too: all of them then say that something else has stopped.
func Install(ctx context.Context, l *slog.Logger, verbosity int) error {
	logsapi.ReapplyHandling = logsapi.ReapplyHandlingIgnoreUnchanged
	if err := logsapi.ValidateAndApply(logsapi.NewLoggingConfiguration(), nil); err != nil {
		return fmt.Errorf("apply logging configuration: %w", err)
	}
	klog.ClearLogger() // the one just applied writes to standard error

	flags := flag.NewFlagSet("klog", flag.ContinueOnError)
	klog.InitFlags(flags)
	for name, value := range map[string]string{"logtostderr": "false", "alsologtostderr": "false", "one_output": "true",
		"stderrthreshold": "FATAL", "v": strconv.Itoa(verbosity)} {
		if err := flags.Set(name, value); err != nil {
			return fmt.Errorf("set klog %s: %w", name, err)
		}
	}
	klog.SetOutput(klogWriter{stopping: ctx, log: l})

	logrus.SetOutput(io.Discard)
	logrus.SetLevel(logrusLevel(l))
	logrus.StandardLogger().ReplaceHooks(make(logrus.LevelHooks))
	logrus.AddHook(logrusHook{stopping: ctx, log: l})

	slog.SetDefault(l)
	log.SetFlags(0)
	log.SetOutput(stdWriter{log: l})
	return nil
}

// logrusLevel spares logrus the formatting of what would be dropped.
func logrusLevel(l *slog.Logger) logrus.Level {
	if l.Enabled(context.Background(), slog.LevelDebug) {
		return logrus.InfoLevel
	}
	return logrus.ErrorLevel
}

// klogWriter takes lines such as "I0102 15:04:05.000000 17 file.go:12] message key=1".
type klogWriter struct {
	stopping context.Context // ended: the process is about to stop
	log      *slog.Logger
}

func (w klogWriter) Write(p []byte) (int, error) {
	level := slog.LevelDebug
	switch {
	case len(p) == 0 || w.stopping.Err() != nil:
	case p[0] == 'E' && !expected(string(p)):
		level = slog.LevelWarn
	case p[0] == 'F':
		level = slog.LevelError
	}
	if w.log.Enabled(context.Background(), level) {
		w.log.Log(context.Background(), level, "kubernetes", "text", klogText(string(p)))
	}
	return len(p), nil
}

// expected tells errors that belong to every start: the apiserver looks for what it is about to make, and reads a file
// of settings that we do not give it.
func expected(line string) bool {
	for _, text := range []string{`namespaces \"kube-system\" not found`, "The manifest file is empty"} {
		if strings.Contains(line, text) {
			return true
		}
	}
	return false
}

// klogText drops the header that repeats time and severity, and keeps the place.
func klogText(line string) string {
	line = strings.TrimSpace(line)
	head, text, found := strings.Cut(line, "] ")
	if !found {
		return line
	}
	if i := strings.LastIndexByte(head, ' '); i >= 0 {
		return head[i+1:] + ": " + text
	}
	return line
}

type stdWriter struct{ log *slog.Logger }

func (w stdWriter) Write(p []byte) (int, error) {
	w.log.Debug("library", "text", strings.TrimSpace(string(p)))
	return len(p), nil
}

type logrusHook struct {
	stopping context.Context // ended: the process is about to stop
	log      *slog.Logger
}

func (logrusHook) Levels() []logrus.Level { return logrus.AllLevels }

func (h logrusHook) Fire(e *logrus.Entry) error {
	level := slog.LevelDebug
	if e.Level <= logrus.ErrorLevel && h.stopping.Err() == nil {
		level = slog.LevelWarn
	}
	args := []any{"text", e.Message}
	for k, v := range e.Data {
		args = append(args, k, v)
	}
	h.log.Log(context.Background(), level, "library", args...)
	return nil
}
