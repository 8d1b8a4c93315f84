// Package probe decides whether microVMs run on KVM or under emulation. The worker asks it before it writes
// the vmm.HostConfig, and `nodeless check` shows its answer.
//
// That /dev/kvm exists proves little: there are hosts whose KVM starts and on which no ordinary kernel ever
// prints a line. So the bundled kernel is booted once; the answer is kept until the host, its kernel or the
// bundled QEMU change, unless there was only not enough time for one.
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

const cacheFile = "kvm-probe.json"

// Cause is why a host does not count as one with KVM.
type Cause string

// The causes.
const (
	NoDevice Cause = "no device" // the kernel has no KVM
	NoAccess Cause = "no access" // this process may not use it
	NoBoot   Cause = "no boot"   // the bundled guest does not boot on it
	NoTime   Cause = "no time"   // the bundled guest booted, and was not done in time
)

// Doubtful tells that KVM is there, so that who asks for it may be believed.
func (c Cause) Doubtful() bool { return c == NoBoot || c == NoTime }

// Do is what an operator can do about it.
func (c Cause) Do() string {
	switch c {
	case NoDevice:
		return "enable VT-x or AMD-V in the firmware (in a virtual machine: nested virtualization) and load kvm_intel or kvm_amd"
	case NoAccess:
		return "run as root, and in a container pass --device /dev/kvm"
	case NoBoot:
		return "fix what the detail says: in a virtual machine it is the nested virtualization of what runs it; --accel kvm uses KVM all the same"
	case NoTime:
		return "try again when the host is less busy, or use KVM all the same by --accel kvm"
	}
	return ""
}

// Booter boots the bundled guest once; vmm.TryBoot is one.
type Booter func(context.Context, vmm.HostConfig) error

// Answer is how microVMs run on a host.
type Answer struct {
	Accel  string `json:"accel"`           // vmm.AccelKVM or vmm.AccelTCG
	Detail string `json:"detail"`          // why
	Cause  Cause  `json:"cause,omitempty"` // why not on KVM
}

// kept is an answer that is kept.
type kept struct {
	Key string `json:"key"`
	Answer
}

// Probe finds out how microVMs can run. cfg.Accel is not read. An error means that neither way can work or that ctx has ended.
func Probe(ctx context.Context, cfg vmm.HostConfig) (Answer, error) {
	return run(ctx, cfg, "/dev/kvm", vmm.TryBoot)
}

func run(ctx context.Context, cfg vmm.HostConfig, device string, boot Booter) (Answer, error) {
	if _, err := os.Stat(cfg.QEMUCommand()[0]); err != nil {
		return Answer{}, fmt.Errorf("probe KVM: %w", err)
	}
	f, err := os.OpenFile(device, os.O_RDWR, 0)
	if err != nil { // cheap: not worth keeping, and the operator may be about to mend it
		cause := NoDevice
		if errors.Is(err, os.ErrPermission) {
			cause = NoAccess
		}
		return Answer{Accel: vmm.AccelTCG, Detail: err.Error(), Cause: cause}, nil
	}
	_ = f.Close() // only opened to see that it can be
	key, err := cacheKey(cfg)
	if err != nil {
		return Answer{}, err
	}
	path := filepath.Join(cfg.LogDir, cacheFile)
	if k, ok := load(path); ok && k.Key == key {
		return k.Answer, nil
	}
	got, err := try(ctx, cfg, boot)
	if err != nil || got.Cause == NoTime { // another time it may be another answer
		return got, err
	}
	return got, save(path, kept{key, got})
}

// try boots on KVM as a Pod's microVM boots. If that fails, a second boot says all the way where it is, to explain the failure; it is
// given more time, and so is the one that has the last word.
func try(ctx context.Context, cfg vmm.HostConfig, boot Booter) (Answer, error) {
	cfg.Accel = vmm.AccelKVM
	var err error
	for _, cfg.Debug = range []bool{false, true} {
		begun := time.Now()
		if err = boot(ctx, cfg); err == nil {
			return Answer{Accel: vmm.AccelKVM, Detail: fmt.Sprintf("guest booted in %v", time.Since(begun).Round(time.Millisecond))}, nil
		}
		if ctx.Err() != nil {
			return Answer{}, fmt.Errorf("probe KVM: %w", ctx.Err())
		}
	}
	if errors.Is(err, vmm.ErrSlow) {
		return Answer{Accel: vmm.AccelTCG, Detail: "KVM boots the guest kernel, but was not done in time: " + err.Error(), Cause: NoTime}, nil
	}
	return Answer{Accel: vmm.AccelTCG, Detail: "KVM does not boot the guest kernel: " + err.Error(), Cause: NoBoot}, nil
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

func load(path string) (kept, bool) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return kept{}, false
	}
	var k kept
	return k, json.Unmarshal(raw, &k) == nil
}

func save(path string, k kept) error {
	raw, err := json.Marshal(k)
	if err == nil {
		err = errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), atomicfile.Write(path, raw, 0o600))
	}
	if err != nil {
		return fmt.Errorf("keep the answer about KVM: %w", err)
	}
	return nil
}
