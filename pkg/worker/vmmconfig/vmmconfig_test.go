package vmmconfig

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nodeless/nodeless/pkg/hint"
	"github.com/nodeless/nodeless/pkg/vmm"
	"github.com/nodeless/nodeless/pkg/vmm/probe"
	"github.com/nodeless/nodeless/tests/attack"
)

// on makes a component for a host whose probe answers as given; without KVM there is no device.
func on(t *testing.T, want, accel string) (*Writer, string) {
	t.Helper()
	answer := probe.Answer{Accel: accel, Detail: "as probed"}
	if accel == vmm.AccelTCG {
		answer.Cause = probe.NoDevice
	}
	return answering(t, want, answer)
}

func answering(t *testing.T, want string, answer probe.Answer) (*Writer, string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "vmm.json")
	cluster := func() (string, error) { return "cls-00000001", nil }
	h := New(Config{File: file, Want: want, ClusterID: cluster, Host: vmm.HostConfig{Bundle: "/b", ScratchDir: "/s", LogDir: "/l"}}, slog.New(slog.DiscardHandler))
	h.probe = func(context.Context, vmm.HostConfig) (probe.Answer, error) { return answer, nil }
	return h, file
}

// TestAttackEmulationUnasked: on a host whose KVM fails, or was taken away, nobody's Pods are emulated without a word.
func TestAttackEmulationUnasked(t *testing.T) {
	for _, want := range []string{Auto, vmm.AccelKVM} {
		attack.Try(t, "T12", "KVM is gone and accel is "+want, func(t *testing.T) attack.Outcome {
			h, file := on(t, want, vmm.AccelTCG)
			err := h.Run(t.Context())
			if err == nil || !strings.Contains(strings.Join(hint.Of(err), " "), "--accel=tcg") {
				t.Errorf("Run = %v, want an error that says how emulation is asked for", err)
			}
			if _, err := os.Stat(file); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("microVMs can be started: %v", err)
			}
			return attack.Refused
		})
	}
}

func TestWriterWritesWhatItChose(t *testing.T) {
	for _, tt := range []struct{ want, there, got string }{
		{Auto, vmm.AccelKVM, vmm.AccelKVM},
		{vmm.AccelKVM, vmm.AccelKVM, vmm.AccelKVM},
		{vmm.AccelTCG, vmm.AccelKVM, vmm.AccelTCG},
		{Any, vmm.AccelKVM, vmm.AccelKVM},
		{Any, vmm.AccelTCG, vmm.AccelTCG},
	} {
		h, file := on(t, tt.want, tt.there)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- h.Run(ctx) }()
		if err := h.Ready(t.Context()); err != nil {
			t.Fatal(err)
		}
		raw, err := os.ReadFile(file)
		var host vmm.HostConfig
		if err = errors.Join(err, json.Unmarshal(raw, &host)); err != nil || host.Accel != tt.got || host.ClusterID != "cls-00000001" {
			t.Errorf("%s: wrote %q of %q, %v, want %s", tt.want, host.Accel, host.ClusterID, err, tt.got)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("%s: Run = %v", tt.want, err)
		}
	}
}

// TestWhoAsksForKVMIsBelieved: a trial boot that failed is a warning then. It is no reason to emulate, and no KVM is no KVM.
func TestWhoAsksForKVMIsBelieved(t *testing.T) {
	for _, tt := range []struct {
		want  string
		cause probe.Cause
		ok    bool
	}{
		{vmm.AccelKVM, probe.NoBoot, true},
		{vmm.AccelKVM, probe.NoTime, true},
		{vmm.AccelKVM, probe.NoDevice, false},
		{vmm.AccelKVM, probe.NoAccess, false},
		{Auto, probe.NoBoot, false},
		{Auto, probe.NoTime, false},
	} {
		h, _ := answering(t, tt.want, probe.Answer{Accel: vmm.AccelTCG, Detail: "as probed", Cause: tt.cause})
		var log bytes.Buffer
		h.log = slog.New(slog.NewTextHandler(&log, nil))
		host, err := h.choose(t.Context())
		if (err == nil) != tt.ok || tt.ok && host.Accel != vmm.AccelKVM {
			t.Errorf("%s, %s: %q, %v", tt.want, tt.cause, host.Accel, err)
		}
		if tt.ok && !strings.Contains(log.String(), "level=WARN") {
			t.Errorf("%s, %s: no warning: %s", tt.want, tt.cause, log.String())
		}
		if do := strings.Join(hint.Of(err), " "); !tt.ok && !strings.Contains(do, tt.cause.Do()) {
			t.Errorf("%s, %s: the hint is %q", tt.want, tt.cause, do)
		}
	}
}
