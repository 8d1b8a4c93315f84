package hypervisor

import (
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
	"github.com/nodeless/nodeless/tests/attack"
)

// on makes a component for a host whose probe answers as given.
func on(t *testing.T, want, accel string) (*Hypervisor, string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "vmm.json")
	cluster := func() (string, error) { return "cls-00000001", nil }
	h := New(Config{File: file, Want: want, ClusterID: cluster, Host: vmm.HostConfig{Bundle: "/b", ScratchDir: "/s", LogDir: "/l"}}, slog.New(slog.DiscardHandler))
	h.probe = func(context.Context, vmm.HostConfig) (string, string, error) { return accel, "no /dev/kvm", nil }
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

func TestHypervisorWritesWhatItChose(t *testing.T) {
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
