package logbridge_test

import (
	"bytes"
	"context"
	"errors"
	"log"
	"log/slog"
	"strings"
	"testing"

	"github.com/sirupsen/logrus"
	logsapi "k8s.io/component-base/logs/api/v1"
	"k8s.io/klog/v2"

	"github.com/nodeless/nodeless/pkg/server/logbridge"
)

// TestLibrariesLogThroughOurs is one test because the state belongs to the process.
func TestLibrariesLogThroughOurs(t *testing.T) {
	var out bytes.Buffer
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	if err := logbridge.Install(ctx, slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug})), 0); err != nil {
		t.Fatal(err)
	}
	expect := func(what string, want ...string) {
		t.Helper()
		klog.Flush()
		for _, w := range want {
			if !strings.Contains(out.String(), w) {
				t.Errorf("%s: log is %q, want %q in it", what, out.String(), w)
			}
		}
		out.Reset()
	}
	klog.Info("an information")
	expect("klog", "level=DEBUG", "an information")
	klog.Background().Error(errors.New("broken"), "a structured error", "pod", "web-1")
	expect("klog structured", "level=WARN", "a structured error", "web-1", "broken")
	klog.V(4).Info("chatter")
	if out.Len() > 0 {
		t.Errorf("verbosity 0 lets %q through", out.String())
	}
	logrus.WithField("k", 1).Error("from logrus")
	expect("logrus", "level=WARN", "from logrus", "k=1")
	log.Print("from the standard logger")
	expect("standard logger", "level=DEBUG", "from the standard logger")

	// What kubelet and kube-proxy do later changes nothing, neither does what is done after CoreDNS has started.
	if err := logsapi.ValidateAndApply(logsapi.NewLoggingConfiguration(), nil); err != nil {
		t.Errorf("apply again: %v", err)
	}
	klog.ClearLogger()
	klog.Warning("still here")
	expect("after a second application", "level=DEBUG", "still here")

	klog.Error(`cannot watch: namespaces \"kube-system\" not found`)
	expect("an error of every start", "level=DEBUG", "kube-system")
	stop()
	klog.Error("connection refused")
	expect("while stopping", "level=DEBUG", "connection refused")
}
