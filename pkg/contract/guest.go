package contract

// What nodeless-vmm builds into a microVM and the guest looks for.
const (
	// AgentPortName is the name of the virtio-serial port that carries the agent channel.
	AgentPortName = "agent"
	// ScratchSerial is the serial of the Pod's writable disk.
	ScratchSerial = "scratch"
	// PlugBridge is the slot on the root bus of the PCI bridge behind which disks and NICs are plugged in. Kata passes on a slot's number only
	// and not the way to it.
	PlugBridge = 0x1e
)

// Folders in the guest.
const (
	// GuestRoot holds all paths of the agent's protocol; Kata has it hard-wired. The guest's writable disk is mounted there.
	GuestRoot = "/" + KataRun
	// GuestShare is where what virtiofsd serves is mounted. Kata's shim says so, the guest looks for stale mounts in it.
	GuestShare = GuestRoot + "/shared/containers"
	// GuestVolumes holds a Pod's volumes, each by its name. The shim names them as sources of mounts.
	GuestVolumes = GuestShare + "/" + VolumesDir
	// GuestMemory holds a Pod's volumes in memory. The shim names them as sources of mounts, the guest makes them.
	GuestMemory = GuestRoot + "/sandbox/ephemeral"
)

// VolumesDir is the folder in a share that the shim puts a Pod's volumes into.
const VolumesDir = "volumes"

// Types of mounts that the shim writes in a container's description where one is about a Pod's volume (docs/adr/0017). Kata passes them on;
// the guest makes bind mounts of them.
const (
	MountShare  = "nodeless-share"  // at Source
	MountWatch  = "nodeless-watch"  // at Source, rewritten by the kubelet
	MountMemory = "nodeless-memory" // a tmpfs, to be made at Source with the options after OptionTmpfs
)

// Options of such mounts, each before its value.
const (
	OptionSub   = "nodeless.sub=" // a path below Source
	OptionTmpfs = "nodeless.tmpfs="
)

// NoInput as the port of a standard input says that nobody will ever be at it: the process reads an end at once. The shim's Kata writes it
// (patches/0004), in requests that have no field for that; the guest reads it. It is VMADDR_PORT_ANY, which is no port.
const NoInput = 1<<32 - 1
