package vmm

import (
	"encoding/json"
	"errors"
	"fmt"
)

// The shapes of Cloud Hypervisor's REST API, as far as Kata's driver fills them in; those of our shim's calls are in pkg/contract. The
// generated client that Kata uses carries dozens of types and net/http; a process per Pod cannot afford them.

// vmConfig is the body of vm.create.
type vmConfig struct {
	Cpus    cpusConfig    `json:"cpus"`
	Memory  memoryConfig  `json:"memory"`
	Payload payloadConfig `json:"payload"`
	Fs      []fsConfig    `json:"fs"`
	Vsock   *vsockConfig  `json:"vsock"`

	// Ways to a root file system that nodeless does not use; naming them gives a clear error.
	Disks []json.RawMessage `json:"disks"`
	Pmem  []json.RawMessage `json:"pmem"`
	// Devices of the host that the guest has from its boot on.
	Devices []deviceConfig `json:"devices"`
}

type cpusConfig struct {
	BootVcpus int `json:"boot_vcpus"`
	MaxVcpus  int `json:"max_vcpus"`
}

type memoryConfig struct {
	Size        int64 `json:"size"`
	HotplugSize int64 `json:"hotplug_size"`
	Shared      bool  `json:"shared"`
	Hugepages   bool  `json:"hugepages"`
}

type payloadConfig struct {
	Kernel    string `json:"kernel"`
	Cmdline   string `json:"cmdline"`
	Initramfs string `json:"initramfs"`
}

type fsConfig struct {
	Tag       string `json:"tag"`
	Socket    string `json:"socket"`
	QueueSize int    `json:"queue_size"`
}

type vsockConfig struct {
	Socket string `json:"socket"`
}

// netConfig is the body of vm.add-net; the tap's descriptors travel beside it.
type netConfig struct {
	Mac string `json:"mac"`
}

// diskConfig is the body of vm.add-disk.
type diskConfig struct {
	Path     string `json:"path"`
	Readonly bool   `json:"readonly"`
	Direct   bool   `json:"direct"`
	Serial   string `json:"serial"`
}

// deviceConfig is a PCI device of the host, in vm.create and as the body of vm.add-device.
type deviceConfig struct {
	Path  string `json:"path"`  // below /sys/bus/pci/devices, or where that leads to
	Iommu bool   `json:"iommu"` // behind an IOMMU of the guest
}

type removeDevice struct {
	ID string `json:"id"`
}

// deviceInfo answers a hot-plug. The Bdf names the slot in the form of an address on bus 0, which is all that Kata can
// express; the guest agent looks behind the root port there, or at that slot behind the plug bridge.
type deviceInfo struct {
	ID  string `json:"id"`
	Bdf string `json:"bdf"`
}

type pingReply struct {
	Version string `json:"version"`
	Pid     int    `json:"pid"`
}

// infoReply answers vm.info. Config repeats what Kata sent, with the sizes brought up to date.
type infoReply struct {
	Config           map[string]json.RawMessage `json:"config"`
	State            string                     `json:"state"`
	MemoryActualSize int64                      `json:"memory_actual_size"`
}

// States that Kata compares with.
const (
	stateNone     = "NotCreated"
	stateCreated  = "Created"
	stateRunning  = "Running"
	stateShutdown = "Shutdown"
)

const mib = 1 << 20

// What no host has; sums of numbers up to these cannot overflow.
const (
	mostMemory = 1 << 46
	mostVCPUs  = 1 << 12
)

// parseVMConfig reads the body of vm.create and refuses what cannot work.
func parseVMConfig(body []byte) (vmConfig, map[string]json.RawMessage, error) {
	var c vmConfig
	var raw map[string]json.RawMessage
	if err := errors.Join(json.Unmarshal(body, &c), json.Unmarshal(body, &raw)); err != nil {
		return c, nil, fmt.Errorf("parse VM configuration: %w", err)
	}
	var errs []error
	if c.Cpus.BootVcpus < 1 {
		errs = append(errs, fmt.Errorf("cpus.boot_vcpus: %d is less than 1", c.Cpus.BootVcpus))
	}
	if c.Cpus.BootVcpus > mostVCPUs || c.Memory.Size > mostMemory {
		errs = append(errs, fmt.Errorf("cpus.boot_vcpus, memory.size: %d vCPUs, %d bytes: no host has as many", c.Cpus.BootVcpus, c.Memory.Size))
	}
	if c.Memory.Size < 64*mib {
		errs = append(errs, fmt.Errorf("memory.size: %d bytes are too few to boot", c.Memory.Size))
	}
	if c.Payload.Kernel == "" || c.Payload.Initramfs == "" {
		errs = append(errs, errors.New("payload: kernel and initrd are both needed"))
	}
	if len(c.Disks) > 0 || len(c.Pmem) > 0 {
		errs = append(errs, errors.New("disks, pmem: a root image is not supported, use an initrd"))
	}
	if c.Vsock == nil || c.Vsock.Socket == "" {
		errs = append(errs, errors.New("vsock.socket: no path for the agent channel"))
	}
	if len(c.Fs) > 1 {
		errs = append(errs, errors.New("fs: more than one shared folder"))
	}
	if err := errors.Join(errs...); err != nil {
		return c, nil, fmt.Errorf("check VM configuration: %w", err)
	}
	return c, raw, nil
}
