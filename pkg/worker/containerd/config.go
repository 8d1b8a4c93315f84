package containerd

import (
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"

	"github.com/nodeless/nodeless/pkg/bundle"
	"github.com/nodeless/nodeless/pkg/datadir"
	"github.com/nodeless/nodeless/pkg/worker/containerd/pull"
)

const (
	// Handler is the CRI runtime handler whose Pods are microVMs. It is the default one.
	Handler = "kata"
	// RuncHandler is the handler of ordinary containers; it exists only when Config.Runc is set.
	RuncHandler = "runc"
	// PauseImage is the image of each Pod's sandbox container, imported from the bundle.
	PauseImage = "docker.io/nodeless/pause:1"

	// snapshotter and differ are registered by the package erofs below this one.
	snapshotter = "erofs"
	differ      = "erofs"
)

// Config says where everything is. Paths are absolute.
type Config struct {
	Program      string // this program as a real file; it becomes the child
	CNIDir       string // the folder of the CNI plugin
	AuxDir       string // goes in front of the child's PATH
	BundleImages string // archives that must be there before the first Pod
	Kata         Kata
	Converter    string // the program that converts layers

	Root       string // content, snapshots, metadata
	State      string // mounts and shims of running Pods
	Socket     string // gRPC and CRI
	ConfigFile string // where to write containerd's settings
	KataFile   string // where to write Kata's settings
	VMMConfig  string // what each nodeless-vmm reads; the worker writes it
	CNIConf    string // folder of the CNI configuration
	Images     string // an operator's image archives
	Certs      string // containerd's own settings of registries, a folder for each
	Registries string // the operator's file of registries; it need not exist

	Pull       pull.Limits
	Denied     []netip.Prefix // ranges that neither Pods nor pulls reach
	Cluster    []netip.Prefix // ranges of Pods and Services, which pulls do not reach
	Memory     Memory
	Runc       Runc
	Restricted bool // the process lacks CAP_SYS_RESOURCE
	Debug      bool
}

// Memory is what the child may have.
type Memory struct {
	Aim    int64  // what Go aims at, in bytes; 0: nothing
	Bound  int64  // of the cgroup, in bytes
	Cgroup string // absolute name, such as "/nodeless/containerd"; empty: the child has no cgroup of its own

	Converters       int64  // what conversions of layers may have together, in bytes
	ConvertersCgroup string // absolute name; empty: none
}

// Kata is what the Kata shim starts.
type Kata struct {
	Shim, VMM, Virtiofsd, Kernel, Initrd string
}

// Runc is an optional second runtime, the yardstick of measurements.
type Runc struct {
	Binary string // runc; empty means that there is no second runtime
	Shim   string // containerd-shim-runc-v2; empty means that containerd finds it in PATH
}

// DefaultConfig places everything where the bundle, the data dir and the run dir have it.
func DefaultConfig(b *bundle.Bundle, data datadir.Dir, run datadir.RunDir) Config {
	return Config{
		Program:      b.Main(),
		CNIDir:       b.CNI(),
		AuxDir:       b.Aux(),
		BundleImages: b.Images(),
		Kata:         Kata{Shim: b.Shim(), VMM: b.VMM(), Virtiofsd: b.Virtiofsd(), Kernel: b.Kernel(), Initrd: b.Initrd()},
		Converter:    b.Converter(),
		Root:         data.Containerd(),
		State:        run.ContainerdState(),
		Socket:       run.ContainerdSocket(),
		ConfigFile:   run.ContainerdConfig(),
		KataFile:     run.KataConfig(),
		VMMConfig:    run.VMMConfig(),
		CNIConf:      run.CNIConf(),
		Images:       data.Images(),
		Certs:        filepath.Join(filepath.Dir(data.Images()), "certs.d"),
		Registries:   datadir.RegistriesFile,
		Pull:         pull.DefaultLimits(),
		Restricted:   !hasSysResource("/proc/self/status"),
	}
}

// Validate reports all faults at once.
func (c Config) Validate() error {
	var errs []error
	paths := map[string]string{
		"program": c.Program, "CNI folder": c.CNIDir, "aux folder": c.AuxDir, "image folder of the bundle": c.BundleImages,
		"converter": c.Converter, "shim": c.Kata.Shim, "vmm": c.Kata.VMM, "virtiofsd": c.Kata.Virtiofsd, "guest kernel": c.Kata.Kernel, "guest initrd": c.Kata.Initrd,
		"root": c.Root, "state": c.State, "socket": c.Socket, "settings file": c.ConfigFile, "Kata settings file": c.KataFile,
		"VMM settings file": c.VMMConfig, "CNI configuration folder": c.CNIConf, "image folder": c.Images, "registry folder": c.Certs, "registries file": c.Registries,
	}
	if c.Runc.Binary != "" {
		paths["runc"] = c.Runc.Binary
	}
	for what, path := range paths {
		if !filepath.IsAbs(path) {
			errs = append(errs, fmt.Errorf("containerd: %s %q is not an absolute path", what, path))
		}
	}
	const longest = 100 // of 108 bytes that a unix address has, some for the suffix ".ttrpc"
	if len(c.Socket) > longest {
		errs = append(errs, fmt.Errorf("containerd: socket path %s is longer than %d bytes", c.Socket, longest))
	}
	return errors.Join(errs...)
}
