package probe

import (
	"context"
	"errors"
	"fmt"
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
	hangs, slow := errors.New("no answer"), fmt.Errorf("try a boot: %w", vmm.ErrSlow)
	for _, tt := range []struct {
		name         string
		quiet, loud  error
		want         Answer
		boots, again int // by how many boots it is found out, the second time
	}{
		{name: "a boot that works means KVM", want: Answer{Accel: vmm.AccelKVM, Detail: "booted in"}, boots: 1},
		{name: "a boot that works when it talks means KVM", quiet: hangs, want: Answer{Accel: vmm.AccelKVM, Detail: "booted in"}, boots: 2},
		{name: "a boot that hangs means emulation and says why", quiet: errors.New("x"), loud: hangs, want: Answer{vmm.AccelTCG, "no answer", NoBoot}, boots: 2},
		{name: "a boot that is too slow is tried again", quiet: hangs, loud: slow, want: Answer{vmm.AccelTCG, "too slowly", NoTime}, boots: 2, again: 2},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cfg, device := fakeHost(t)
			boots := 0
			boot := func(_ context.Context, c vmm.HostConfig) error {
				boots++
				if c.Accel != vmm.AccelKVM {
					t.Errorf("booted with %q", c.Accel)
				}
				if c.Debug {
					return tt.loud
				}
				return tt.quiet
			}
			probe := func(want int, why string) {
				t.Helper()
				boots = 0
				got, err := run(t.Context(), cfg, device, boot)
				if err != nil || got.Accel != tt.want.Accel || got.Cause != tt.want.Cause || !strings.Contains(got.Detail, tt.want.Detail) {
					t.Errorf("probe = %+v, %v", got, err)
				}
				if boots != want {
					t.Errorf("%d boots, want %d: %s", boots, want, why)
				}
			}
			probe(tt.boots, "the answer is new")
			probe(tt.again, "an answer is kept, unless it is for want of time")
			command := cfg.QEMUCommand()
			if err := os.WriteFile(command[len(command)-1], []byte("v2"), 0o600); err != nil {
				t.Fatal(err)
			}
			probe(tt.boots, "another QEMU is asked again")
		})
	}
}

func TestNoDeviceMeansEmulation(t *testing.T) {
	cfg, device := fakeHost(t)
	got, err := run(t.Context(), cfg, device+"-none", nil)
	if err != nil || got.Accel != vmm.AccelTCG || got.Cause != NoDevice || !strings.Contains(got.Detail, "no such file") {
		t.Errorf("probe = %+v, %v", got, err)
	}
}

func TestEachCauseHasItsRemedy(t *testing.T) {
	for cause, want := range map[Cause]string{NoDevice: "firmware", NoAccess: "as root", NoBoot: "nested", NoTime: "less busy"} {
		if do := cause.Do(); !strings.Contains(do, want) || cause.Doubtful() != strings.Contains(do, "--accel kvm") {
			t.Errorf("%s: %q", cause, do)
		}
	}
}

func TestNoBundleIsAnError(t *testing.T) {
	if got, err := run(t.Context(), vmm.HostConfig{Bundle: t.TempDir()}, "/dev/null", nil); err == nil {
		t.Errorf("probe = %+v, want an error", got)
	}
}

func TestCancelledProbeIsNotKept(t *testing.T) {
	cfg, device := fakeHost(t)
	ctx, cancel := context.WithCancel(t.Context())
	_, err := run(ctx, cfg, device, func(context.Context, vmm.HostConfig) error { cancel(); return errors.New("killed") })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("probe = %v, want the cancellation", err)
	}
	if _, err := os.Stat(filepath.Join(cfg.LogDir, cacheFile)); err == nil {
		t.Error("an answer was kept")
	}
}
