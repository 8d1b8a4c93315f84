package vmm

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/nodeless/nodeless/pkg/contract"
)

// PCI slots on the root bus. The lower ones hold what every microVM has, slot 0x1f is the chipset's. A hot-plugged device
// has a slot number in between: behind the root port at that slot of the root bus, or at that slot of the bus behind
// the plug bridge. One bridge costs a boot what one root port costs, and each costs about a hundredth of it under emulation.
const (
	slotSerial    = 0x01
	slotScratch   = 0x02
	slotRNG       = 0x03
	slotShare     = 0x04
	slotNet       = 0x05 // and 0x06, 0x07
	maxNets       = 3
	slotBalloon   = 0x08
	firstPortSlot = 0x09
	lastPortSlot  = 0x1d
	slotBridge    = contract.PlugBridge

	bridgeID = "plug"
)

// Memory hot-plug: DIMM slots, and the size of the blocks a guest can take in.
const (
	dimmSlots = 8
	dimmBlock = 128 * mib
)

// Spec is everything QEMU's command line depends on.
type Spec struct {
	Name     string // the sandbox id
	Accel    string
	Debug    bool
	Firmware string // folder
	Kernel   string
	Initrd   string
	Cmdline  string // the guest kernel's

	Memory       int64 // bytes
	MaxMemory    int64 // bytes; equal to Memory when none can be added
	SharedMemory bool  // virtiofsd reads and writes guest memory
	HugePages    bool
	VCPUs        int // that the guest uses
	MaxVCPUs     int // that it has: a kernel that finds itself on no hypervisor that it knows, as under TCG, takes none in later

	RootPorts         int // beside those of Devices
	RootPortWindowMiB int64
	Devices           []HostDevice
	FillThreads       int // that fill the guest's memory before it starts; 0 leaves it empty
	Disk              Disk
	Share             *ShareSpec
	Nets              []NetSpec

	// Descriptors that QEMU inherits. AgentFD and ScratchFD may be 0: no agent port then, no writable disk.
	QMPFD, ConsoleFD, AgentFD, ScratchFD int
}

// ShareSpec is the folder shared by virtiofsd.
type ShareSpec struct {
	Tag, Socket string
	FD          int // connected to Socket
	QueueSize   int
}

// NetSpec is one NIC on an open tap device.
type NetSpec struct {
	ID, MAC  string
	TapFDs   []int
	VhostFDs []int // as many as TapFDs, or none
}

// Args is QEMU's command line without the program.
func Args(s Spec) []string {
	a := []string{
		"-name", "guest=" + escape(s.Name) + ",process=nodeless-qemu,debug-threads=on",
		"-L", s.Firmware,
		"-no-user-config", "-nodefaults", "-display", "none", "-no-reboot",
		"-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
		"-machine", machine(s.Accel),
	}
	a = append(a, accel(s)...)
	a = append(a, memory(s)...)
	a = append(a,
		"-smp", fmt.Sprintf("%d,sockets=1,cores=%d,threads=1", s.MaxVCPUs, s.MaxVCPUs), // the guest uses VCPUs of them
		"-rtc", "base=utc",
		"-kernel", s.Kernel, "-initrd", s.Initrd, "-append", s.Cmdline,
		"-chardev", fmt.Sprintf("socket,id=qmp,fd=%d", s.QMPFD), "-mon", "chardev=qmp,mode=control",
		"-chardev", fmt.Sprintf("socket,id=console,fd=%d", s.ConsoleFD), "-serial", "chardev:console",
		"-object", "rng-builtin,id=rng", // asks the kernel, and needs no file
		"-device", virtio("rng", slotRNG, "rng=rng"),
	)
	a = append(a, balloon(s)...)
	a = append(a, agentPort(s)...)
	a = append(a, s.Disk.group()...)
	a = append(a, scratch(s)...)
	a = append(a, share(s)...)
	a = append(a, nets(s)...)
	a = append(a, rootPorts(s)...)
	a = append(a, hostDevices(s)...)
	return append(a, "-device", fmt.Sprintf("pci-bridge,id=%s,bus=pcie.0,%s,chassis_nr=%d,shpc=on", bridgeID, addr(slotBridge), slotBridge))
}

func machine(accel string) string {
	opts := "q35,memory-backend=mem,usb=off,vmport=off,smm=off,sata=off,smbus=off,i8042=off,dump-guest-core=off"
	if accel == AccelKVM {
		opts += ",hpet=off"
	}
	return opts
}

// emulatedCPU is what the emulator has, but for what it claims to do fast with strings (ERMS, FSRM, FSRS). It runs them a piece at a time;
// without the claims Linux clears and copies memory by loops of larger pieces (docs/adr/0023).
const emulatedCPU = "max,erms=off,fsrm=off,fsrs=off"

// accel names what executes the guest's code. On KVM a guest's addresses are as long as the host's, so that cards of the host have room.
func accel(s Spec) []string {
	if s.Accel == AccelKVM {
		return []string{"-accel", "kvm", "-cpu", "host,host-phys-bits=on"}
	}
	cpu := emulatedCPU
	if len(s.Devices) > 0 {
		cpu += fmt.Sprintf(",phys-bits=%d", emulatedPhysBits)
	}
	return []string{"-accel", "tcg,thread=multi,tb-size=128", "-cpu", cpu}
}

// memory puts the guest's RAM into a memfd where virtiofsd must map it too or where it is made of huge
// pages, and into plain anonymous memory elsewhere.
func memory(s Spec) []string {
	size := fmt.Sprintf("size=%dM", s.Memory/mib)
	if s.MaxMemory > s.Memory {
		size += fmt.Sprintf(",slots=%d,maxmem=%dM", dimmSlots, s.MaxMemory/mib)
	}
	return []string{"-m", size, "-object", memoryBackend(s) + ",id=mem," + fmt.Sprintf("size=%dM", s.Memory/mib)}
}

func memoryBackend(s Spec) string {
	kind := "memory-backend-ram"
	switch {
	case s.HugePages:
		kind = "memory-backend-memfd,share=on,hugetlb=on"
	case s.SharedMemory:
		kind = "memory-backend-memfd,share=on"
	}
	if s.FillThreads > 0 {
		kind += fmt.Sprintf(",prealloc=on,prealloc-threads=%d", s.FillThreads)
	}
	return kind
}

// virtio describes a device on the root bus.
func virtio(kind string, slot int, props ...string) string {
	return strings.Join(append([]string{"virtio-" + kind + "-pci", "bus=pcie.0", addr(slot), "disable-legacy=on"}, props...), ",")
}

// balloon lets the guest hand back memory: what it has free, as it becomes free, and what is taken from it. Huge pages
// cannot be handed back in the small pieces it works with.
func balloon(s Spec) []string {
	if s.HugePages {
		return nil
	}
	return []string{"-device", virtio("balloon", slotBalloon, "id=balloon", "free-page-reporting=on")}
}

func addr(slot int) string { return fmt.Sprintf("addr=0x%02x", slot) }

func agentPort(s Spec) []string {
	if s.AgentFD == 0 {
		return nil
	}
	return []string{
		"-device", virtio("serial", slotSerial, "id=serial", "max_ports=2"),
		"-chardev", fmt.Sprintf("socket,id=agent,fd=%d", s.AgentFD),
		"-device", "virtserialport,bus=serial.0,chardev=agent,name=" + contract.AgentPortName,
	}
}

// scratch attaches the Pod's writable disk. Its content dies with the microVM, so flushes are not passed on.
func scratch(s Spec) []string {
	if s.ScratchFD == 0 {
		return nil
	}
	const common = "discard=unmap,cache.no-flush=on"
	disk := "file.driver=file,file.locking=off,file.aio=threads,file.cache.no-flush=on,file.filename=" + setPath(scratchSet)
	node := "driver=raw,node-name=scratch," + common + "," + disk
	if s.Disk.limited() {
		node = "driver=throttle,throttle-group=" + diskGroup + ",node-name=scratch," + common + ",file.driver=raw,file.cache.no-flush=on,file." +
			strings.ReplaceAll(disk, ",file.", ",file.file.")
	}
	return []string{
		"-add-fd", fmt.Sprintf("fd=%d,set=%d", s.ScratchFD, scratchSet),
		"-blockdev", node,
		"-device", virtio("blk", slotScratch, "id="+scratchID, "drive=scratch", "serial="+contract.ScratchSerial, queues(s.VCPUs)),
	}
}

func share(s Spec) []string {
	if s.Share == nil {
		return nil
	}
	return []string{
		"-chardev", fmt.Sprintf("socket,id=share,fd=%d", s.Share.FD),
		"-device", fmt.Sprintf("vhost-user-fs-pci,bus=pcie.0,%s,chardev=share,tag=%s,queue-size=%d",
			addr(slotShare), escape(s.Share.Tag), s.Share.QueueSize),
	}
}

func nets(s Spec) []string {
	var a []string
	for i, n := range s.Nets {
		dev := "tap,id=" + n.ID + fds("fd", n.TapFDs)
		if len(n.VhostFDs) > 0 {
			dev += ",vhost=on" + fds("vhostfd", n.VhostFDs)
		}
		props := []string{"id=" + n.ID, "netdev=" + n.ID, "mac=" + escape(n.MAC), "romfile="}
		if len(n.TapFDs) > 1 {
			props = append(props, "mq=on", fmt.Sprintf("vectors=%d", 2*len(n.TapFDs)+2))
		}
		a = append(a, "-netdev", dev, "-device", virtio("net", slotNet+i, props...))
	}
	return a
}

// fds writes ",fd=3" for one descriptor and ",fds=3:4" for several.
func fds(key string, list []int) string {
	if len(list) == 1 {
		return fmt.Sprintf(",%s=%d", key, list[0])
	}
	parts := make([]string, len(list))
	for i, fd := range list {
		parts[i] = strconv.Itoa(fd)
	}
	return "," + key + "s=" + strings.Join(parts, ":")
}

// rootPorts are those of the cards first. The firmware gives these the windows that their cards need.
func rootPorts(s Spec) []string {
	var a []string
	cards := s.cards()
	for i, slot := range portSlots(cards + s.RootPorts) {
		p := fmt.Sprintf("pcie-root-port,id=%s,bus=pcie.0,%s,chassis=%d,slot=%d", portID(slot), addr(slot), slot, slot)
		if i >= cards && s.RootPortWindowMiB > 0 {
			p += fmt.Sprintf(",pref64-reserve=%dM", s.RootPortWindowMiB)
		}
		a = append(a, "-device", p)
	}
	return a
}

// portSlots are the slots of n root ports: from 0x10 up, then those below it.
func portSlots(n int) []int {
	all := plugSlots()
	return all[:min(n, len(all))]
}

// plugSlots are all slot numbers of hot-plugged devices: from 0x10 up, then those below it.
func plugSlots() []int {
	var slots []int
	for slot := 0x10; slot <= lastPortSlot; slot++ {
		slots = append(slots, slot)
	}
	for slot := firstPortSlot; slot < 0x10; slot++ {
		slots = append(slots, slot)
	}
	return slots
}

func portID(slot int) string { return fmt.Sprintf("rp%02x", slot) }

// queues is one per vCPU up to four: each costs interrupt vectors and memory.
func queues(vcpus int) string { return fmt.Sprintf("num-queues=%d", min(vcpus, 4)) }

// escape doubles commas, which separate options.
func escape(s string) string { return strings.ReplaceAll(s, ",", ",,") }
