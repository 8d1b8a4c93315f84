package cri

import (
	"errors"
	"fmt"
	"path/filepath"
)

// Config says where the sockets and files are. Paths are absolute.
type Config struct {
	Socket   string // where the kubelet connects
	Upstream string // containerd's socket
	VMDir    string // a folder for each sandbox, with the socket of its guest's services in it

	Pods       string // the kubelet's folder of Pods
	Messages   string // where copies of containers' last messages are put
	CgroupRoot string // absolute cgroup name below which Pods live, such as "/nodeless"
	VMMConfig  string // the file of pkg/worker/vmmconfig, which says how microVMs run; read when the component starts
}

// Validate reports all faults at once.
func (c Config) Validate() error {
	var errs []error
	for what, path := range map[string]string{"socket": c.Socket, "socket of containerd": c.Upstream, "folder of microVMs": c.VMDir, "configuration of microVMs": c.VMMConfig,
		"cgroup root": c.CgroupRoot, "folder of Pods": c.Pods, "folder of messages": c.Messages} {
		if !filepath.IsAbs(path) {
			errs = append(errs, fmt.Errorf("cri: %s %q is not an absolute path", what, path))
		}
	}
	return errors.Join(errs...)
}
