package contract

import "time"

// Sockets in the folder of a sandbox below KataVMs. The names are Kata's, which tells them to nodeless-vmm when it starts it.
const (
	// APISocket is where nodeless-vmm answers Cloud Hypervisor's API. Kata and the shim call it.
	APISocket = "clh-api.sock"
	// AgentSocket leads to the guest's services: see Connect. nodeless-vmm answers on it; Kata, the shim and pkg/worker/cri connect to it.
	AgentSocket = "clh.sock"
)

// APIPrefix begins the paths of the API's calls, before their names.
const APIPrefix = "/api/v1/"

// Calls of the API that the shim makes itself, beside Kata's. CallEffort is ours, the others are Cloud Hypervisor's.
const (
	CallInfo   = "vm.info"   // GET, answered with Info
	CallResize = "vm.resize" // PUT of a Resize
	CallEffort = "vm.effort" // GET, answered with Effort
)

// Info is what the shim reads of the answer to CallInfo: the size that QEMU has at this moment.
type Info struct {
	Config struct {
		Memory struct {
			Size int64 `json:"size"` // bytes
		} `json:"memory"`
		CPUs struct {
			Boot int `json:"boot_vcpus"`
		} `json:"cpus"`
	} `json:"config"`
}

// Resize asks for another size. The shim writes it, nodeless-vmm reads it. What is zero stays as it is.
type Resize struct {
	VCPUs  int   `json:"desired_vcpus"`
	Memory int64 `json:"desired_ram"` // bytes
	// SpecCPU and SpecMemory are the Pod's new spec, in thousandths of a core and in bytes, for the record of the microVM's life. They are
	// ours, not Cloud Hypervisor's; zero when the Pod has none.
	SpecCPU    int64 `json:"nodeless_spec_cpu"`
	SpecMemory int64 `json:"nodeless_spec_memory"`
}

// Effort is what a microVM does at one moment. nodeless-vmm writes it; the shim reads it while it waits for the guest.
type Effort struct {
	CPU   time.Duration `json:"cpu"`   // that QEMU has used, in nanoseconds
	Wants bool          `json:"wants"` // it wants more: one of its threads runs, waits for a CPU or waits for a disk
}

// HeldFile is the file beside APISocket that tells whether the Pod is held. It is there once it has been. nodeless-vmm writes it, with
// whose Pod it is (pkg/vmm, Held); the shim and pkg/worker/notice read it.
const HeldFile = "held.json"

// Hold is what HeldFile says of the disk.
type Hold struct {
	Held    bool  `json:"held"`    // false when the Pod goes on
	Times   int   `json:"times"`   // how often it has been held
	Free    int64 `json:"free"`    // bytes, when it was held or let go
	Reserve int64 `json:"reserve"` // bytes, below which Pods are held
}
