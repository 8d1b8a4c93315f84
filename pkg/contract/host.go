package contract

import (
	"path/filepath"
	"regexp"
	"slices"
)

// Names of programs of the bundle, by which processes are told apart. containerd starts the shim, and the shim starts nodeless-vmm; the
// shim and pkg/teardown look for them.
const (
	Shim = "containerd-shim-kata-v2"
	VMM  = "nodeless-vmm"
)

// Virtiofsd is the name of what Kata starts for a Pod's volumes. The shim starts it in VirtiofsdNamespaces, of which it makes its jail:
// CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWPID and NEWNET of clone(2), as pkg/jail has them.
const (
	Virtiofsd           = "virtiofsd"
	VirtiofsdNamespaces = 0x6e020000
)

// Folders below which Kata has one for each sandbox, named by its id. They are hard-wired there, below the root of the host. The shim
// removes them; pkg/teardown does it where the shim could not.
const (
	KataSandboxes = "run/vc/sbs"              // Kata's state
	KataVMs       = "run/vc/vm"               // sockets and HeldFile
	KataShares    = KataShared + "/sandboxes" // what virtiofsd serves
	KataShared    = KataRun + "/shared"       // all shares
	KataRun       = "run/kata-containers"     // also the guest's: GuestRoot
)

// SandboxDirs are the folders of one sandbox below the root of the host, Kata's state first: without that one, Kata has no such sandbox.
func SandboxDirs(root, sandbox string) []string {
	var dirs []string
	for _, dir := range []string{KataSandboxes, KataVMs, KataShares, KataRun} {
		dirs = append(dirs, filepath.Join(root, dir, sandbox))
	}
	return dirs
}

var (
	sandboxID = regexp.MustCompile(`^[0-9a-f]{64}$`)
	hexRun    = regexp.MustCompile(`[0-9a-fA-F]{64,}`)
)

// IsSandboxID tells whether id is 64 hexadecimal digits, as containerd gives a sandbox. Nothing else becomes part of a path that is
// removed, nor the mark of a process that is killed.
func IsSandboxID(id string) bool { return sandboxID.MatchString(id) }

// NamesSandbox tells whether an argument of a process has a sandbox's id in it. What is part of a longer run of digits is another's.
func NamesSandbox(arg, id string) bool {
	return IsSandboxID(id) && slices.Contains(hexRun.FindAllString(arg, -1), id)
}

// Cgroup begins the name of a sandbox's cgroup in each hierarchy, before its id. Kata makes it; the shim and pkg/teardown remove it.
const Cgroup = "kata_"

// DiskSuffix ends the name of a Pod's writable disk in HostConfig.ScratchDir, after the sandbox's id. nodeless-vmm makes it and removes it;
// the shim and pkg/teardown remove one that it left, and pkg/worker/cri measures it.
const DiskSuffix = ".ext4"

// CRINamespace is the namespace of containerd in which its CRI service keeps sandboxes and containers.
const CRINamespace = "k8s.io"
