// Package probe decides whether microVMs run on KVM or under emulation. The worker asks it before it writes
// the vmm.HostConfig, and `nodeless check` shows its answer.
//
// That /dev/kvm exists proves little: there are hosts whose KVM starts and on which no ordinary kernel ever
// prints a line. So the bundled kernel is booted once; the answer is kept until the host, its kernel or the
// bundled QEMU change.
package probe

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nodeless/nodeless/pkg/atomicfile"
	"github.com/nodeless/nodeless/pkg/vmm"
)

const (
	// bootTimeout is generous: a boot on a KVM that works takes about a second.
	bootTimeout = 10 * time.Second
	cacheFile   = "kvm-probe.json"
)

// Booter boots the bundled guest once; vmm.TryBoot is one.
type Booter func(context.Context, vmm.HostConfig) error

// answer is what is kept.
type answer struct {
	Key    string `json:"key"`
	Accel  string `json:"accel"`
	Detail string `json:"detail"`
}

// Probe returns vmm.AccelKVM or vmm.AccelTCG and why. cfg.Accel is not read. An error means that neither
// can work or that ctx has ended.
func Probe(ctx context.Context, cfg vmm.HostConfig) (accel, detail string, err error) {
	return run(ctx, cfg, "/dev/kvm", vmm.TryBoot)
}

func run(ctx context.Context, cfg vmm.HostConfig, device string, boot Booter) (accel, detail string, err error) {
	if _, err := os.Stat(cfg.QEMUCommand()[0]); err != nil {
		return "", "", fmt.Errorf("probe KVM: %w", err)
	}
	f, err := os.OpenFile(device, os.O_RDWR, 0)
	if err != nil {
		return vmm.AccelTCG, err.Error(), nil // cheap: not worth keeping, and the operator may be about to mend it
	}
	_ = f.Close() // only opened to see that it can be
	key, err := cacheKey(cfg)
	if err != nil {
		return "", "", err
	}
	path := filepath.Join(cfg.LogDir, cacheFile)
	if kept, ok := load(path); ok && kept.Key == key {
		return kept.Accel, kept.Detail, nil
	}
	got, err := try(ctx, cfg, boot)
	if err != nil {
		return "", "", err
	}
	got.Key = key
	return got.Accel, got.Detail, save(path, got)
}

// try boots on KVM.
func try(ctx context.Context, cfg vmm.HostConfig, boot Booter) (answer, error) {
	cfg.Accel = vmm.AccelKVM
	begun := time.Now()
	bootCtx, cancel := context.WithTimeout(ctx, bootTimeout)
	defer cancel()
	err := boot(bootCtx, cfg)
	if ctx.Err() != nil {
		return answer{}, fmt.Errorf("probe KVM: %w", ctx.Err())
	}
	if err != nil {
		return answer{Accel: vmm.AccelTCG, Detail: "KVM does not boot the guest kernel: " + err.Error()}, nil
	}
	return answer{Accel: vmm.AccelKVM, Detail: fmt.Sprintf("guest booted in %v", time.Since(begun).Round(time.Millisecond))}, nil
}

// cacheKey changes with the running kernel, the boot and the bundled QEMU.
func cacheKey(cfg vmm.HostConfig) (string, error) {
	var names unix.Utsname
	if err := unix.Uname(&names); err != nil {
		return "", fmt.Errorf("read kernel release: %w", err)
	}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("read boot id: %w", err)
	}
	command := cfg.QEMUCommand()
	qemu, err := os.Open(command[len(command)-1])
	if err != nil {
		return "", fmt.Errorf("probe KVM: %w", err)
	}
	defer qemu.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, qemu); err != nil {
		return "", fmt.Errorf("hash %s: %w", qemu.Name(), err)
	}
	return fmt.Sprintf("%s %s %x", unix.ByteSliceToString(names.Release[:]), strings.TrimSpace(string(boot)), sum.Sum(nil)), nil
}

func load(path string) (answer, bool) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return answer{}, false
	}
	var a answer
	return a, json.Unmarshal(raw, &a) == nil
}

func save(path string, a answer) error {
	raw, err := json.Marshal(a)
	if err == nil {
		err = errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), atomicfile.Write(path, raw, 0o600))
	}
	if err != nil {
		return fmt.Errorf("keep the answer about KVM: %w", err)
	}
	return nil
}
