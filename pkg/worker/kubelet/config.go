// Package kubelet runs the kubelet in this process: it registers the Node and runs its Pods through containerd.
// pkg/worker starts it when containerd answers. It needs root, and a cgroup of its own that it makes itself.
package kubelet

import (
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
)

// Config is what the kubelet needs to know of its host and its cluster.
type Config struct {
	NodeName    string
	NodeIP      netip.Addr
	Labels      map[string]string // set on the Node when it registers
	Annotations map[string]string // set on the Node at each start

	RootDir    string // Pod folders and volumes
	PodLogsDir string
	Socket     string // containerd's

	Kubeconfig   string // access to the apiserver; the certificates it names are reloaded
	CertFile     string // serving certificate, reloaded when renewed
	KeyFile      string
	ClientCAFile string // who may call the kubelet

	PodCIDR       netip.Prefix // written into the Node
	ClusterDNS    netip.Addr
	ClusterDomain string

	CgroupRoot     string // absolute cgroup name, such as "/nodeless"
	ResolvConf     string // where to write a resolver configuration if the host's own is of no use to Pods
	HostResolvConf string // the host's own
	MaxPods        int32
	CPUOvercommit  int // how often each CPU of the host is given to Pods

	KubeReserved, SystemReserved int64 // bytes of memory that Pods do not get: the server's and containerd's; the rest of the host's

	ExtraArgs []string // an operator's "name=value", on top of everything
}

// DefaultConfig holds what rarely differs.
func DefaultConfig() Config {
	return Config{ClusterDomain: "cluster.local", CgroupRoot: "/nodeless", HostResolvConf: "/etc/resolv.conf", MaxPods: 110, CPUOvercommit: 1}
}

// Validate reports all faults at once.
func (c Config) Validate() error {
	var errs []error
	for what, value := range map[string]string{
		"node name": c.NodeName, "root folder": c.RootDir, "log folder": c.PodLogsDir, "containerd socket": c.Socket,
		"kubeconfig": c.Kubeconfig, "certificate": c.CertFile, "key": c.KeyFile, "client CA": c.ClientCAFile,
		"cluster domain": c.ClusterDomain, "resolver configuration": c.ResolvConf,
	} {
		if value == "" {
			errs = append(errs, fmt.Errorf("kubelet: no %s", what))
		}
	}
	if !c.NodeIP.IsValid() || !c.ClusterDNS.IsValid() || !c.PodCIDR.IsValid() {
		errs = append(errs, errors.New("kubelet: node address, cluster DNS and Pod range must all be set"))
	}
	if !strings.HasPrefix(c.CgroupRoot, "/") || c.CgroupRoot == "/" || filepath.Clean(c.CgroupRoot) != c.CgroupRoot {
		errs = append(errs, fmt.Errorf("kubelet: cgroup root %q is not a clean absolute name below /", c.CgroupRoot))
	}
	if c.CPUOvercommit < 1 {
		errs = append(errs, fmt.Errorf("kubelet: CPUs are given %d times", c.CPUOvercommit))
	}
	if c.MaxPods < 1 {
		errs = append(errs, fmt.Errorf("kubelet: max Pods is %d", c.MaxPods))
	}
	return errors.Join(errs...)
}
