package contract

// ConfigEnv is the environment variable with the path of the HostConfig. pkg/worker/containerd sets it for containerd, from which the shim
// and what the shim starts have it: the shim and nodeless-vmm read it.
const ConfigEnv = "NODELESS_VMM_CONFIG"

// Values of HostConfig.Accel.
const (
	AccelKVM = "kvm" // hardware virtualisation
	AccelTCG = "tcg" // emulation: development and CI
)

// HostConfig is what every microVM of a host has in common, a file of JSON. pkg/worker/vmmconfig writes it when the server starts.
// nodeless-vmm reads it all (pkg/vmm checks it); the shim reads ScratchDir, KubeletDir and LogRate.
type HostConfig struct {
	Bundle     string `json:"bundle"`               // the unpacked bundle
	Accel      string `json:"accel"`                // AccelKVM or AccelTCG
	TSCKHz     uint64 `json:"tscKHz,omitempty"`     // rate of the host's time stamp counter; 0 lets the guest measure it
	ScratchDir string `json:"scratchDir"`           // where the Pods' writable disks live
	KubeletDir string `json:"kubeletDir,omitempty"` // where the kubelet has the Pods' volumes and files
	LogDir     string `json:"logDir"`               // one log and one console log per microVM
	Debug      bool   `json:"debug"`                // verbose guest kernel and VMM log

	RecordDir string `json:"lifespanDir,omitempty"` // where the microVMs' lives are recorded; empty for no record
	NodeName  string `json:"nodeName,omitempty"`    // this host's, for the record
	ClusterID string `json:"clusterID,omitempty"`   // of the cluster whose microVMs these are, for the record

	Disk Disk `json:"disk"`
	// LogRate is how many bytes a second all containers of a Pod say to their logs; 0 for no bound.
	LogRate int64 `json:"logRate,omitempty"`

	// RootPorts is how many root ports a microVM has beside those of the host's devices that it is made with. Each costs boot time, and
	// disks and NICs do not need one: they go behind a bridge.
	RootPorts int `json:"rootPorts,omitempty"`
	// RootPortWindowMiB is the prefetchable 64-bit address window kept free behind each of them, for what is plugged in with a large BAR. It
	// has to be twice the largest BAR: the firmware does not place it as the BAR will have to be. Zero leaves the firmware's choice.
	RootPortWindowMiB int64 `json:"rootPortWindowMiB,omitempty"`
}

// Disk bounds what a Pod may do to the host's disks (docs/disks.md), in a HostConfig. Zero is no bound.
type Disk struct {
	BytesPerSecond int64 `json:"bytesPerSecond,omitempty"` // that are read, and as many that are written
	OpsPerSecond   int64 `json:"opsPerSecond,omitempty"`   // of each kind as well
	// ReservePercent is how much of the file system of writable disks stays free: below it, Pods that fill it are held.
	ReservePercent int `json:"reservePercent,omitempty"`
}
