package vmm

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/nodeless/nodeless/pkg/hint"
	"github.com/nodeless/nodeless/pkg/jail"
)

// firstUser is the user of a microVM whose nodeless-vmm has pid 0. Pids are below 2^22, so each microVM of a host has a user and a group of
// its own while it lives. No distribution or directory gives out numbers there by itself: systemd's for containers end at 0x6fffffff, those
// that sssd makes at 2000200000.
const firstUser = 0x78000000

const (
	// qemuFiles is more than a QEMU with all its devices and queues has open.
	qemuFiles = 4096
	// qemuThreads is how many threads QEMU has at most beside those of its vCPUs: 64 that read and write disks, and a few.
	qemuThreads = 128
	// pinnedBeside is what is pinned of a QEMU with a device passed through beside its guest's memory.
	pinnedBeside = 256 * mib
)

// starter starts a program in a jail. cmd has its files; it is as after exec.Cmd.Start when that succeeds.
type starter func(cmd *exec.Cmd, p jail.Plan) error

// by starts by way of a program that is a nodeless-vmm.
func by(second string) starter {
	return func(cmd *exec.Cmd, p jail.Plan) error { return jail.Start(second, cmd, p) }
}

// plan is what QEMU has in its jail: its own files, the guest's kernel and initrd, and the descriptors that it inherits.
func (c HostConfig) plan(s Spec) jail.Plan {
	p := jail.Plan{
		Argv: append(c.QEMUCommand(), Args(s)...), Env: c.QEMUEnv(), Name: "nodeless",
		Shown: []jail.Shown{{Path: filepath.Join(c.Bundle, "qemu"), Programs: true}, {Path: s.Kernel}},
		User:  firstUser + os.Getpid(), Calls: qemuCalls(),
		Limits: []jail.Limit{
			{Resource: unix.RLIMIT_CORE}, {Resource: unix.RLIMIT_MSGQUEUE},
			{Resource: unix.RLIMIT_NOFILE, Most: qemuFiles}, {Resource: unix.RLIMIT_NPROC, Most: uint64(s.MaxVCPUs) + qemuThreads},
		},
	}
	if s.Initrd != s.Kernel {
		p.Shown = append(p.Shown, jail.Shown{Path: s.Initrd})
	}
	pinned := uint64(0)
	if s.Accel == AccelKVM {
		p.Devices = kvmDevices()
		pinned = uint64(s.MaxMemory) + pinnedBeside
	}
	p.Limits = append(p.Limits, jail.Limit{Resource: unix.RLIMIT_MEMLOCK, Most: pinned})
	return p
}

// kvmDevices are the devices that QEMU opens itself. QEMU 7.2 opens /dev/kvm by that name and no other. From 9.0 on it takes a descriptor
// (-accel kvm,device=/dev/fdset/N); one way for both is a node, which leads to nothing that the descriptor does not.
func kvmDevices() []string { return []string{"/dev/kvm"} }

// errNotInJail says that QEMU cannot reach what it would have to open itself.
var errNotInJail = errors.New("QEMU's jail shows no devices of the host")

// inJail refuses what QEMU would open by a path that its jail does not have. For a device that is passed through it would have to show the
// device's folder below /sys with that of its IOMMU group, /dev/vfio/vfio and the node of the group: known before boot, as plan makes the
// jail once. QEMU from 8.2 on can be given descriptors instead (vfio-pci,fd=, iommufd,fd=). The memory that it pins is in plan's limits.
func (v *vm) inJail(path string) error {
	v.mu.Lock()
	p := v.proc
	v.mu.Unlock()
	if p == nil {
		return nil
	}
	if _, err := os.Lstat(fmt.Sprintf("/proc/%d/root%s", p.cmd.Process.Pid, filepath.Clean(path))); err != nil {
		return &hint.Error{Op: "pass through", On: path, Err: errNotInJail, Do: "run the Pod without the device: this version passes none through"}
	}
	return nil
}

// noDumps keeps the memory of this process, and of those that it starts, out of files: a guest's Secrets are in it.
func noDumps() error {
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return fmt.Errorf("forbid core dumps: %w", err)
	}
	return nil
}
