// Package datadir names every path that nodeless owns, so that each has one owner and one spelling.
// It touches no file except in Prepare.
package datadir

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/nodeless/nodeless/pkg/hint"
)

const (
	// Default is the data folder of an installed server.
	Default = Dir("/var/lib/nodeless")
	// DefaultRun is the folder of what lives until the next reboot: sockets and generated settings.
	DefaultRun = RunDir("/run/nodeless")
	// ConfigFile is the operator's settings.
	ConfigFile = "/etc/nodeless/config.yaml"
	// RegistriesFile is the operator's mirrors, credentials and certificates of image registries, mode 0600.
	RegistriesFile = "/etc/nodeless/registries.yaml"
	// Kubeconfig is the administrator's access, mode 0600.
	Kubeconfig = "/etc/nodeless/kubeconfig"
)

// Dir is the data folder: what must outlive a reboot.
type Dir string

func (d Dir) path(elem ...string) string {
	return filepath.Join(append([]string{string(d)}, elem...)...)
}

// Bundles holds the unpacked bundles, one folder for each content hash, and the links current and previous.
func (d Dir) Bundles() string { return d.path("bundle") }

// Lock is held by the running server and contains its pid.
func (d Dir) Lock() string { return d.path("server.lock") }

// DB is the folder of the datastore.
func (d Dir) DB() string { return d.path("server", "db") }

// DBFile is the SQLite file below DB.
func (d Dir) DBFile() string { return d.path("server", "db", "state.db") }

// TLS holds the certificate authorities, certificates and keys of the control plane.
func (d Dir) TLS() string { return d.path("server", "tls") }

// Cred holds kubeconfigs of the components and the key that encrypts Secrets.
func (d Dir) Cred() string { return d.path("server", "cred") }

// AgentTLS holds the certificates of the kubelet.
func (d Dir) AgentTLS() string { return d.path("agent", "tls") }

// Containerd is containerd's root: content store, snapshots, metadata.
func (d Dir) Containerd() string { return d.path("agent", "containerd") }

// Kubelet is the kubelet's root: Pod folders and volumes.
func (d Dir) Kubelet() string { return d.path("agent", "kubelet") }

// PodLogs is where the kubelet has container logs written.
func (d Dir) PodLogs() string { return d.path("agent", "pod-logs") }

// Images is where an operator puts image archives (*.tar) for hosts without a registry.
func (d Dir) Images() string { return d.path("agent", "images") }

// Scratch holds the writable disk of each running Pod.
func (d Dir) Scratch() string { return d.path("agent", "scratch") }

// Lifespans holds the records of microVMs' lives that are not in the ledger yet.
func (d Dir) SandboxRecords() string { return d.path("agent", "lifespans") }

// Ledger is the SQLite file of how long every sandbox ran.
func (d Dir) Ledger() string { return d.path("server", "meter", "ledger.db") }

// Bills is the SQLite file of what was charged and what was reserved.
func (d Dir) Bills() string { return d.path("server", "billing", "bills.db") }

// AuditLog is who did what to the cluster's objects; what is older lies beside it.
func (d Dir) AuditLog() string { return d.path("server", "audit", "audit.log") }

// CNI holds the address allocations of the Pod range.
func (d Dir) CNI() string { return d.path("agent", "cni") }

// VolumePlugins is where the controller-manager looks for programs that mount volumes. It stays empty.
func (r RunDir) VolumePlugins() string { return r.path("volume-plugins") }

// Prepare makes the folders, closed to other users, and proves that the data folder can be written.
func (d Dir) Prepare() error {
	for _, dir := range []string{string(d), d.DB(), d.TLS(), d.Cred(), d.AgentTLS(), d.Containerd(), d.Kubelet(), d.PodLogs(), d.Images(), d.Scratch(), d.SandboxRecords(), d.CNI()} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return unwritable(d, err)
		}
	}
	f, err := os.CreateTemp(string(d), ".write-test-*")
	if err != nil {
		return unwritable(d, err)
	}
	name := f.Name()
	if err := f.Close(); err != nil {
		return fmt.Errorf("close %s: %w", name, err)
	}
	return os.Remove(name)
}

func unwritable(d Dir, err error) error {
	return &hint.Error{Op: "write to data dir", On: string(d), Err: err,
		Do: "run as root on a writable file system, or choose another folder with --data-dir"}
}

// RunDir is the folder of sockets and generated settings.
type RunDir string

func (r RunDir) path(elem ...string) string {
	return filepath.Join(append([]string{string(r)}, elem...)...)
}

// Kine is the datastore's socket.
func (r RunDir) Kine() string { return r.path("kine.sock") }

// ContainerdSocket is containerd's gRPC and CRI socket.
func (r RunDir) ContainerdSocket() string { return r.path("containerd", "containerd.sock") }

// CRI is the runtime service's socket for the kubelet.
func (r RunDir) CRI() string { return r.path("cri.sock") }

// Messages holds copies of the last messages of containers, for the kubelet.
func (r RunDir) Messages() string { return r.path("messages") }

// ContainerdState is containerd's state folder: mounts and shims of running Pods.
func (r RunDir) ContainerdState() string { return r.path("containerd", "state") }

// ContainerdConfig is the generated containerd configuration.
func (r RunDir) ContainerdConfig() string { return r.path("containerd.toml") }

// KataConfig is the generated Kata configuration.
func (r RunDir) KataConfig() string { return r.path("kata.toml") }

// VMMConfig is what each nodeless-vmm reads at start.
func (r RunDir) VMMConfig() string { return r.path("vmm.json") }

// VMMLogs holds the consoles of the microVMs.
func (r RunDir) VMMLogs() string { return r.path("vmm") }

// CNIConf is the folder of the CNI configuration.
func (r RunDir) CNIConf() string { return r.path("cni", "net.d") }

// Scheduler is the configuration of the scheduler.
func (r RunDir) Scheduler() string { return r.path("scheduler.yaml") }

// Admission is the configuration of the apiserver's admission plugins.
func (r RunDir) Admission() string { return r.path("admission.yaml") }

// AuditPolicy is what the apiserver writes to its audit log.
func (r RunDir) AuditPolicy() string { return r.path("audit-policy.yaml") }

// ResolvConf is what the kubelet hands to Pods as the host's resolver configuration when the host's own is of no use.
func (r RunDir) ResolvConf() string { return r.path("resolv.conf") }

// Prepare makes the folders, closed to other users.
func (r RunDir) Prepare() error {
	for _, dir := range []string{string(r), filepath.Dir(r.ContainerdSocket()), r.ContainerdState(), r.VMMLogs(), r.CNIConf()} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return &hint.Error{Op: "make run dir", On: dir, Err: err, Do: "run as root, or choose another folder with --run-dir"}
		}
	}
	return nil
}
