package vmm

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/nodeless/nodeless/pkg/jail"
	"github.com/nodeless/nodeless/pkg/vfio"
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
	if s.Accel == AccelKVM {
		p.Devices = kvmDevices()
	}
	pinned := uint64(0)
	if len(s.Devices) > 0 {
		pinned = uint64(s.MaxMemory) + pinnedBeside
		nodes, links := passThrough(s.Devices)
		p.Devices, p.Links = append(p.Devices, nodes...), links
	}
	p.Limits = append(p.Limits, jail.Limit{Resource: unix.RLIMIT_MEMLOCK, Most: pinned})
	return p
}

// kvmDevices are the devices that QEMU opens itself. QEMU 7.2 opens /dev/kvm by that name and no other. From 9.0 on it takes a descriptor
// (-accel kvm,device=/dev/fdset/N); one way for both is a node, which leads to nothing that the descriptor does not.
func kvmDevices() []string { return []string{"/dev/kvm"} }

// passThrough is what QEMU needs to take devices of the host, and no more: the node by which groups are joined, those of the devices'
// groups, which nobody else can open while it has them, and of /sys the name of each device's group, as a link that leads nowhere. All else
// of a device it reads and writes through its group. It needs no capability, and no call that it does not make anyway.
//
// A Linux from 6.6 on has a node for each device as well (iommufd), and QEMU from 8.2 on takes those as descriptors. Debian 12's 6.1 has
// none; groups are the one way for both.
func passThrough(devices []HostDevice) (nodes []string, links []jail.Link) {
	nodes = []string{vfio.Container}
	for _, d := range devices {
		if node := vfio.Node(d.Group); !slices.Contains(nodes, node) {
			nodes = append(nodes, node)
		}
		links = append(links, jail.Link{
			Path: "/sys/bus/pci/devices/" + d.Address + "/iommu_group", Target: "../../../../kernel/iommu_groups/" + strconv.Itoa(d.Group),
		})
	}
	return nodes, links
}

// noDumps keeps the memory of this process, and of those that it starts, out of files: a guest's Secrets are in it.
func noDumps() error {
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return fmt.Errorf("forbid core dumps: %w", err)
	}
	return nil
}
