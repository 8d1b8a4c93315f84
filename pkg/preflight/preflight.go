package preflight

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nodeless/nodeless/pkg/hint"
)

// Host is what the checks look at. ThisHost fills it; tests put their own in.
type Host struct {
	Proc, Sys, Etc fs.FS
	Euid           int
	Now            func() time.Time
	ClockSynced    func() (bool, error)
	Disk           func(dir string) (Disk, error)
	Writable       func(dir string) error
	// Kernel tries the kernel's features in a throwaway namespace.
	Kernel func(ctx context.Context) []Result
	// Accel probes how microVMs can run. nil skips the check.
	Accel func(ctx context.Context) (Accel, error)
	// Registries reads the operator's file of image registries. nil skips the check.
	Registries func() error
	// Volumes tries whether the daemon of Pods' volumes can be another user than root. nil skips the check.
	Volumes func() error
	// Bundle verifies the unpacked files. nil skips the check.
	Bundle func(ctx context.Context) error
}

// Accel is how microVMs can run on a host.
type Accel struct {
	Kind     string // "kvm" or "tcg"
	Detail   string // why
	Do       string // what can be done about it, without KVM
	Doubtful bool   // KVM is there, and a trial boot on it failed
}

// Settings are the parts of the server's configuration that decide whether a host fits.
type Settings struct {
	DataDir   string
	NodeName  string
	Ports     []Port
	Accel     string // auto, kvm, tcg or any
	HugePages string // keep or advise
	ServerPID int    // of the server that runs on the data dir now; 0: none. What it uses is not in the way.
}

// Port is a TCP port that the server will listen on.
type Port struct {
	Number int
	Of     string // "apiserver"
	Flag   string // how to choose another one; empty if that cannot be done
}

// Disk is what statfs tells of the file system that holds a folder.
type Disk struct {
	Type  int64 // the magic number
	Free  uint64
	Inode uint64 // free inodes; file systems without a table of them say 0
}

// ThisHost is the machine that the program runs on. nft and iptables are programs to try rules with; "" skips that.
func ThisHost(nft, iptables string) Host {
	return Host{
		Proc: os.DirFS("/proc"), Sys: os.DirFS("/sys"), Etc: os.DirFS("/etc"),
		Euid: os.Geteuid(), Now: time.Now, ClockSynced: clockSynced, Disk: statfs, Writable: writable,
		Kernel: func(ctx context.Context) []Result { return tryKernel(ctx, nft, iptables) },
	}
}

// Run makes all checks.
func Run(ctx context.Context, h Host, s Settings) Report {
	r := required(ctx, h, s)
	r.Results = append(r.Results, hardening(h, s)...)
	return r
}

// required makes the checks of what a server needs.
func required(ctx context.Context, h Host, s Settings) Report {
	var r Report
	for _, check := range []func(Host, Settings) []Result{
		checkUser, checkKernelVersion, checkMemory, checkDisk, checkPorts, checkClock, checkName, checkCgroups, checkLimits, checkSecurityModules, checkForeign, checkHugePages,
	} {
		r.Results = append(r.Results, check(h, s)...)
	}
	if h.Registries != nil {
		r.Results = append(r.Results, checkRegistries(h)...)
	}
	if h.Kernel != nil {
		if h.Euid == 0 {
			r.Results = append(r.Results, h.Kernel(ctx)...)
		} else {
			r.Results = append(r.Results, warn("kernel features", "not tried: needs root", "run `nodeless check` as root"))
		}
	}
	if h.Bundle != nil {
		r.Results = append(r.Results, checkBundle(ctx, h))
	}
	if h.Accel != nil {
		r.Results = append(r.Results, checkAccel(ctx, h, s))
	}
	return r
}

// Require is what the server asks at its start: nil, or every reason why this host cannot work. The bundle was verified
// when it was unpacked and the accelerator is probed by the worker, so neither is looked at again.
func Require(ctx context.Context, h Host, s Settings) (Report, error) {
	h.Bundle, h.Accel = nil, nil
	r := required(ctx, h, s)
	return r, r.Err()
}

// checkRegistries gives each fault of the file a line of its own.
func checkRegistries(h Host) (out []Result) {
	const name = "registries"
	err := h.Registries()
	faults := []error{err}
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		faults = joined.Unwrap()
	}
	for _, fault := range faults {
		if fault == nil {
			out = append(out, pass(name, "the settings of image registries can be read"))
			continue
		}
		out = append(out, fail(name, fault.Error(), strings.Join(hint.Of(fault), "; ")))
	}
	return out
}

func checkBundle(ctx context.Context, h Host) Result {
	if err := h.Bundle(ctx); err != nil {
		return fail("bundle", err.Error(), "install nodeless again; its unpacked files were changed or damaged")
	}
	return pass("bundle", "all files are as they were packed")
}

func checkAccel(ctx context.Context, h Host, s Settings) Result {
	how, err := h.Accel(ctx)
	switch {
	case err != nil:
		return fail("microVM", err.Error(), "look at the detail; `nodeless server --accel tcg` runs without KVM")
	case how.Kind == "kvm":
		return pass("microVM", how.Detail)
	case s.Accel == "tcg" || s.Accel == "any":
		return warn("microVM", "emulated by choice (--accel "+s.Accel+"), which is slow and by QEMU's own word no security boundary: "+how.Detail, how.Do)
	case s.Accel == "kvm" && how.Doubtful:
		return warn("microVM", "KVM by choice (--accel kvm), though a trial boot failed: "+how.Detail, how.Do)
	}
	return fail("microVM", how.Detail, how.Do+"; or, if all Pods may trust each other, ask for emulation with --accel tcg")
}

func statfs(dir string) (Disk, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return Disk{}, fmt.Errorf("statfs %s: %w", dir, err)
	}
	return Disk{Type: st.Type, Free: st.Bavail * uint64(st.Bsize), Inode: st.Ffree}, nil
}

func writable(dir string) error { return unix.Access(dir, unix.W_OK|unix.X_OK) }

func clockSynced() (bool, error) {
	var t unix.Timex
	state, err := unix.Adjtimex(&t)
	return state != unix.TIME_ERROR, err
}
