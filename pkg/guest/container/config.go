package container

import (
	"fmt"
	"slices"
	"strings"

	_ "github.com/opencontainers/cgroups/devices" // the device controller of cgroup v2
	"github.com/opencontainers/runc/libcontainer/configs"
	"github.com/opencontainers/runc/libcontainer/specconv"
	"github.com/opencontainers/runtime-spec/specs-go"
)

const (
	cgroupRoot = "/sys/fs/cgroup"
	// podCgroup holds the containers' cgroups; its own figures are the sandbox's.
	podCgroup = "/pod"
)

// prepareSpec turns the host's description into one that fits the guest, and sets the kernel parameters it asks for.
// pid is the PID namespace to join; with none the container gets its own.
func prepareSpec(req Request, ns *namespaces, pid string, limits bounds) error {
	s := req.Spec
	if s.Process == nil || s.Linux == nil {
		return fmt.Errorf("container %s: description without process or linux section", req.ID)
	}
	if err := ns.applySysctl(s.Linux.Sysctl); err != nil {
		return err
	}
	adapt(req.ID, s, pid, ns)
	if privileged(s) {
		if err := addGuestDevices(s, "/dev"); err != nil {
			return err
		}
	}
	completeResources(s, limits)
	return nil
}

// adapt gives a description the namespaces of the sandbox and a cgroup below podCgroup, and takes from it what the
// guest's kernel does not do.
func adapt(id string, s *specs.Spec, pid string, ns *namespaces) {
	s.Hooks = nil
	s.Hostname = ""
	s.Linux.CgroupsPath = podCgroup + "/" + id
	s.Linux.Namespaces = append(keepNamespaces(s.Linux.Namespaces),
		specs.LinuxNamespace{Type: specs.PIDNamespace, Path: pid},
		specs.LinuxNamespace{Type: specs.CgroupNamespace},
		specs.LinuxNamespace{Type: specs.IPCNamespace, Path: ns.ipc()},
		specs.LinuxNamespace{Type: specs.UTSNamespace, Path: ns.uts()})
	s.Linux.Sysctl = nil
	if s.Linux.Resources == nil {
		s.Linux.Resources = &specs.LinuxResources{}
	}
}

// CheckID refuses names that would lead a container's cgroup or files elsewhere.
func CheckID(id string) error {
	name := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("_.-+", r)
	}
	if id == "" || id == "." || id == ".." || len(id) > 255 || strings.ContainsFunc(id, func(r rune) bool { return !name(r) }) {
		return fmt.Errorf("container %.300q: %w", id, ErrName)
	}
	return nil
}

// keepNamespaces keeps those that stay the container's own.
func keepNamespaces(in []specs.LinuxNamespace) []specs.LinuxNamespace {
	return slices.DeleteFunc(slices.Clone(in), func(n specs.LinuxNamespace) bool {
		return n.Type != specs.MountNamespace && n.Type != specs.UserNamespace
	})
}

// completeResources sets what the host leaves out. An out-of-memory kill ends the whole container, as the kubelet asks for on cgroup v2.
// A container may use its devices, and a privileged one every device. One that forks without end leaves its neighbours some room.
func completeResources(s *specs.Spec, limits bounds) {
	r := s.Linux.Resources
	if r.Pids == nil {
		most := int64(limits.processes - limits.processes/4)
		r.Pids = &specs.LinuxPids{Limit: &most}
	}
	if r.Unified == nil {
		r.Unified = map[string]string{}
	}
	r.Unified["memory.oom.group"] = "1"
	for _, d := range s.Linux.Devices {
		r.Devices = append(r.Devices, specs.LinuxDeviceCgroup{
			Allow: true, Type: d.Type, Major: &d.Major, Minor: &d.Minor, Access: "rwm",
		})
	}
	if privileged(s) {
		r.Devices = append(r.Devices, specs.LinuxDeviceCgroup{Allow: true, Access: "rwm"})
	}
}

// privileged recognises a privileged container by what only they have: all capabilities and no masked path.
func privileged(s *specs.Spec) bool {
	c := s.Process.Capabilities
	return c != nil && len(s.Linux.MaskedPaths) == 0 &&
		slices.Contains(c.Bounding, "CAP_SYS_ADMIN") && slices.Contains(c.Bounding, "CAP_SYS_RAWIO")
}

// libcontainerConfig converts a prepared description.
func libcontainerConfig(id string, s *specs.Spec) (*configs.Config, error) {
	config, err := specconv.CreateLibcontainerConfig(&specconv.CreateOpts{CgroupName: id, Spec: s})
	if err != nil {
		return nil, fmt.Errorf("convert container %s: %w", id, err)
	}
	return config, nil
}

// splitSysctl separates the settings of the network namespace, which the sandbox is, from the others.
func splitSysctl(all map[string]string) (net, other map[string]string) {
	net, other = map[string]string{}, map[string]string{}
	for k, v := range all {
		if strings.HasPrefix(k, "net.") {
			net[k] = v
			continue
		}
		other[k] = v
	}
	return net, other
}
