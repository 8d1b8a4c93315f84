package probe

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nodeless/nodeless/pkg/vmm"
)

// fakeHost has a bundle with a QEMU that nobody runs, and a device that can be opened.
func fakeHost(t *testing.T) (cfg vmm.HostConfig, device string) {
	t.Helper()
	dir := t.TempDir()
	cfg = vmm.HostConfig{Bundle: dir, LogDir: filepath.Join(dir, "log"), ScratchDir: dir}
	command := cfg.QEMUCommand()
	for _, f := range []string{command[0], command[len(command)-1]} {
		if err := errors.Join(os.MkdirAll(filepath.Dir(f), 0o700), os.WriteFile(f, []byte("v1"), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	device = filepath.Join(dir, "kvm")
	if err := os.WriteFile(device, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	return cfg, device
}

func TestAnswerFollowsTheBootAndIsKept(t *testing.T) {
	for _, tt := range []struct {
		name     string
		err      error
		accel    string
		inDetail string
	}{
		{name: "a boot that works means KVM", accel: vmm.AccelKVM, inDetail: "booted in"},
		{name: "a boot that hangs means emulation and says why", err: errors.New("no answer"), accel: vmm.AccelTCG, inDetail: "no answer"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cfg, device := fakeHost(t)
			boots := 0
			boot := func(_ context.Context, c vmm.HostConfig) error {
				boots++
				if c.Accel != vmm.AccelKVM {
					t.Errorf("booted with %q", c.Accel)
				}
				return tt.err
			}
			for range 2 {
				accel, detail, err := run(t.Context(), cfg, device, boot)
				if err != nil || accel != tt.accel || !strings.Contains(detail, tt.inDetail) {
					t.Errorf("probe = %q, %q, %v", accel, detail, err)
				}
			}
			if boots != 1 {
				t.Errorf("%d boots, want 1: the answer is kept", boots)
			}
			command := cfg.QEMUCommand()
			if err := os.WriteFile(command[len(command)-1], []byte("v2"), 0o600); err != nil {
				t.Fatal(err)
			}
			if _, _, err := run(t.Context(), cfg, device, boot); err != nil || boots != 2 {
				t.Errorf("%d boots, %v; want 2: another QEMU is asked again", boots, err)
			}
		})
	}
}

func TestNoDeviceMeansEmulation(t *testing.T) {
	cfg, device := fakeHost(t)
	accel, detail, err := run(t.Context(), cfg, device+"-none", nil)
	if err != nil || accel != vmm.AccelTCG || !strings.Contains(detail, "no such file") {
		t.Errorf("probe = %q, %q, %v", accel, detail, err)
	}
}

func TestNoBundleIsAnError(t *testing.T) {
	if accel, _, err := run(t.Context(), vmm.HostConfig{Bundle: t.TempDir()}, "/dev/null", nil); err == nil {
		t.Errorf("probe = %q, want an error", accel)
	}
}

func TestCancelledProbeIsNotKept(t *testing.T) {
	cfg, device := fakeHost(t)
	ctx, cancel := context.WithCancel(t.Context())
	_, _, err := run(ctx, cfg, device, func(context.Context, vmm.HostConfig) error { cancel(); return errors.New("killed") })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("probe = %v, want the cancellation", err)
	}
	if _, err := os.Stat(filepath.Join(cfg.LogDir, cacheFile)); err == nil {
		t.Error("an answer was kept")
	}
}
