package testbed

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/moby/sys/mountinfo"
)

// Leftovers lists what Pods have left in the host: processes of a VM, mounts, network namespaces, links, addresses,
// cgroups, loop devices, scratch disks, state folders, and entries in containerd's metadata. It is empty when every Pod is gone
// without a trace.
func (h *Host) Leftovers(ctx context.Context) ([]string, error) {
	var found []string
	var errs []error
	for _, look := range []func(context.Context) ([]string, error){h.vmProcesses, h.podMounts, h.podLinks, h.podCgroups, h.podFiles, h.loopDevices} {
		some, err := look(ctx)
		found = append(found, some...)
		errs = append(errs, err)
	}
	if len(found) == 0 { // asking containerd is dear, and as long as there is more its answer does not matter
		some, err := h.metadata(ctx)
		found = append(found, some...)
		errs = append(errs, err)
	}
	sort.Strings(found)
	return found, errors.Join(errs...)
}

// UntilClean waits until nothing of any Pod is left; on failure it tells what is.
func (h *Host) UntilClean(ctx context.Context) error {
	for {
		left, err := h.Leftovers(ctx)
		if err == nil && len(left) == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("left behind by Pods: %w\n%s", errors.Join(ctx.Err(), err), strings.Join(left, "\n"))
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// Processes gives the command line of every process in the host, by its pid on the machine.
func (h *Host) Processes() (map[int]string, error) {
	if h.machine != nil {
		return h.processes()
	}
	home, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", h.Pid()))
	if err != nil {
		return nil, err
	}
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil, err
	}
	found := map[int]string{}
	for _, dir := range dirs {
		if !InPIDNamespace(dir, home) {
			continue
		}
		raw, err := os.ReadFile(dir + "/cmdline")
		if err != nil || len(raw) == 0 {
			continue // it has just ended
		}
		pid, err := strconv.Atoi(filepath.Base(dir))
		if err != nil {
			return nil, err
		}
		found[pid] = strings.ReplaceAll(strings.TrimRight(string(raw), "\x00"), "\x00", " ")
	}
	return found, nil
}

func (h *Host) vmProcesses(context.Context) ([]string, error) {
	all, err := h.Processes()
	if err != nil {
		return nil, err
	}
	var found []string
	for pid, line := range all {
		for _, part := range []string{"qemu-system", "virtiofsd", "nodeless-vmm", "containerd-shim"} {
			if strings.Contains(line, part) {
				found = append(found, fmt.Sprintf("process %d: %.200s", pid, line))
				break
			}
		}
	}
	return found, nil
}

func (h *Host) mountPoints() (map[string]bool, error) {
	raw, err := h.ReadFile("/proc/1/mountinfo")
	if err != nil {
		return nil, err
	}
	mounts, err := mountinfo.GetMountsFromReader(bytes.NewReader(raw), nil)
	if err != nil {
		return nil, err
	}
	points := map[string]bool{}
	for _, m := range mounts {
		points[m.Mountpoint] = true
	}
	return points, nil
}

// podMounts are mounts made since the host was empty that belong to a Pod, by where they are.
func (h *Host) podMounts(context.Context) ([]string, error) {
	now, err := h.mountPoints()
	if err != nil {
		return nil, err
	}
	var found []string
	for p := range now {
		if h.baseline[p] {
			continue
		}
		for _, part := range []string{"/run/netns/", "/kubelet/pods/", "/run/kata-containers/", "/run/vc/", "io.containerd", "/sandboxes/"} {
			if strings.Contains(p, part) {
				found = append(found, "mount "+p)
				break
			}
		}
	}
	return found, nil
}

func (h *Host) podLinks(ctx context.Context) ([]string, error) {
	out, err := h.Exec(ctx, "ip", "-o", "link")
	if err != nil {
		return nil, err
	}
	var found []string
	for _, line := range strings.Split(out, "\n") {
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		name, _, _ := strings.Cut(strings.TrimSuffix(f[1], ":"), "@")
		if name != "nodeless0" && (strings.HasPrefix(name, "nl") || strings.HasPrefix(name, "tap")) {
			found = append(found, "link "+name)
		}
	}
	return found, nil
}

func (h *Host) podCgroups(context.Context) ([]string, error) {
	all, err := h.Cgroups()
	if err != nil {
		return nil, err
	}
	var found []string
	for _, path := range all {
		if name := filepath.Base(path); strings.HasPrefix(name, "pod") || strings.HasPrefix(name, "kata_") {
			found = append(found, "cgroup "+path)
		}
	}
	return found, nil
}

func (h *Host) podFiles(context.Context) ([]string, error) {
	names, err := h.Glob(
		"/var/lib/nodeless/agent/scratch/*", "/var/lib/nodeless/agent/kubelet/pods/*",
		"/run/vc/sbs/*", "/run/vc/vm/*", "/run/kata-containers/shared/sandboxes/*", "/run/kata-containers/[0-9a-f]*", "/run/netns/*",
		"/run/containerd/s/*", "/run/nodeless/containerd/state/io.containerd.grpc.v1.cri/*/*",
		"/run/nodeless/containerd/state/io.containerd.runtime.v2.task/k8s.io/*", "/var/lib/nodeless/agent/cni/*/[0-9]*.[0-9]*", "/var/lib/nodeless/agent/cni/links/*.json",
		"/var/lib/nodeless/agent/containerd/io.containerd.grpc.v1.cri/*/*", "/var/lib/nodeless/agent/containerd/io.containerd.runtime.v2.task/k8s.io/*",
		"/var/lib/nodeless/agent/pod-logs/*",
	)
	if err != nil {
		return nil, err
	}
	var found []string
	for _, name := range names {
		// An address that belongs to nobody rests for a while.
		if text, err := h.ReadFile(name); err != nil || string(text) != "retired" {
			found = append(found, "file "+name)
		}
	}
	return found, nil
}

// cgroupDirs are the places where a cgroup of this name may be: each v1 controller, and v2.
func cgroupDirs(name string) []string {
	dirs, _ := filepath.Glob("/sys/fs/cgroup/*" + name)
	return append(dirs, "/sys/fs/cgroup"+name)
}

// removeCgroups removes a cgroup and its children everywhere. The processes in it are dead or dying.
func removeCgroups(name string) error {
	var errs []error
	for _, root := range cgroupDirs(name) {
		errs = append(errs, removeCgroup(root))
	}
	return errors.Join(errs...)
}

func removeCgroup(root string) error {
	var dirs []string
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			dirs = append(dirs, path)
		}
		return nil
	})
	if err != nil {
		return err
	}
	deadline := time.Now().Add(10 * time.Second)
	for i := len(dirs) - 1; i >= 0; i-- {
		for {
			err := syscall.Rmdir(dirs[i])
			if err == nil || errors.Is(err, syscall.ENOENT) {
				break
			}
			if time.Now().After(deadline) {
				return fmt.Errorf("remove cgroup %s: %w", dirs[i], err)
			}
			time.Sleep(20 * time.Millisecond)
		}
	}
	return nil
}
