package bundle

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/nodeless/nodeless/pkg/contract"
	"github.com/nodeless/nodeless/pkg/hint"
)

// EnvDir names the environment variable that points to a bundle tree; development and tests set it.
const EnvDir = "NODELESS_BUNDLE"

// Bundle gives the paths in an unpacked bundle.
type Bundle struct {
	dir      string
	manifest Manifest
}

// Locate finds the bundle of the running program: NODELESS_BUNDLE, or the tree in whose bin folder the program is.
func Locate() (string, error) {
	if dir := os.Getenv(EnvDir); dir != "" {
		return dir, nil
	}
	self, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("find own file: %w", err)
	}
	dir := filepath.Dir(filepath.Dir(self))
	if _, err := os.Stat(filepath.Join(dir, ManifestName)); err != nil {
		return "", &hint.Error{
			Op: "find the bundle of", On: self, Err: err,
			Do: "start the nodeless file that was installed, or set " + EnvDir + " to an unpacked bundle",
		}
	}
	return dir, nil
}

// Open reads the manifest of the bundle at dir.
func Open(dir string) (*Bundle, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("open bundle: %w", err)
	}
	m, err := ReadManifest(dir)
	if err != nil {
		return nil, &hint.Error{Op: "open bundle", On: dir, Err: err, Do: "start the nodeless file that was installed: it unpacks the bundle anew when the folder is gone"}
	}
	return &Bundle{dir: dir, manifest: m}, nil
}

func (b *Bundle) path(elem ...string) string {
	return filepath.Join(append([]string{b.dir}, elem...)...)
}

// Dir is the root of the tree.
func (b *Bundle) Dir() string { return b.dir }

// Version is the version of nodeless that the bundle belongs to.
func (b *Bundle) Version() string { return b.manifest.Version }

// Parts lists what the bundle is made of, with versions, origins and licences.
func (b *Bundle) Parts() []Part { return b.manifest.Parts }

// Main is the nodeless program itself.
func (b *Bundle) Main() string { return b.path("bin", "nodeless") }

// VMM is nodeless-vmm, which Kata starts as its hypervisor.
func (b *Bundle) VMM() string { return b.path("bin", contract.VMM) }

// Virtiofsd is the wrapper that Kata starts for shared volumes.
func (b *Bundle) Virtiofsd() string { return b.path("bin", "virtiofsd") }

// Converter is what makes EROFS images of layers, for containerd.
func (b *Bundle) Converter() string { return b.path("bin", "nodeless-converter") }

// Shim is the Kata shim.
func (b *Bundle) Shim() string { return b.path("bin", contract.Shim) }

// Crictl is the CRI debugging client.
func (b *Bundle) Crictl() string { return b.path("bin", "crictl") }

// CNI is the folder with the CNI plugin.
func (b *Bundle) CNI() string { return b.path("cni") }

// Aux is the folder with iptables, nft and their siblings; it goes in front of PATH.
func (b *Bundle) Aux() string { return b.path("aux") }

// Images is the folder with container images to import at start.
func (b *Bundle) Images() string { return b.path("images") }

// Kernel is the guest's ELF kernel.
func (b *Bundle) Kernel() string { return b.path("guest", "vmlinux") }

// Initrd is the guest's first root filesystem.
func (b *Bundle) Initrd() string { return b.path("guest", "initrd") }

// Scratch is the sparse template of a Pod's writable disk.
func (b *Bundle) Scratch() string { return b.path("guest", "scratch.ext4") }

// QEMU is the command line, to be continued, and the environment that start QEMU without any file of the host's.
func (b *Bundle) QEMU() (argv, env []string) {
	return append(b.packed("qemu-system-x86_64"), "-L", b.path("qemu", "share")), []string{"QEMU_MODULE_DIR=" + b.path("qemu", "modules")}
}

// packed starts a program of the qemu tree by the packed dynamic linker.
func (b *Bundle) packed(program string) []string {
	lib := b.path("qemu", "lib")
	return []string{filepath.Join(lib, "ld-linux-x86-64.so.2"), "--library-path", lib, b.path("qemu", "bin", program)}
}
