package kubelet

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/nodeless/nodeless/pkg/hint"
)

// cgroups is where the host's cgroup hierarchies are mounted.
type cgroups struct {
	v1      []string // a mount point for each v1 hierarchy
	unified string   // the v2 hierarchy when it is the only one; empty on v1 and hybrid hosts
}

// hostCgroups reads the mounts of this process.
func hostCgroups() (cgroups, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return cgroups{}, fmt.Errorf("find cgroups: %w", err)
	}
	defer f.Close()
	return parseCgroups(f)
}

// parseCgroups reads lines such as "32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu".
func parseCgroups(mounts io.Reader) (found cgroups, err error) {
	infos, err := mountinfo.GetMountsFromReader(mounts, nil)
	if err != nil {
		return cgroups{}, fmt.Errorf("find cgroups: %w", err)
	}
	var unified string
	for _, m := range infos {
		switch m.FSType {
		case "cgroup":
			found.v1 = append(found.v1, m.Mountpoint)
		case "cgroup2":
			unified = m.Mountpoint
		}
	}
	if len(found.v1) == 0 {
		found.unified = unified
	}
	return found, nil
}

// prepareCgroups makes the cgroup that all Pods live below. The kubelet demands that it exists.
func prepareCgroups(host cgroups, name string) error {
	var errs []error
	for _, mount := range host.v1 {
		errs = append(errs, prepareV1(mount, name))
	}
	if host.unified != "" {
		errs = append(errs, prepareV2(host.unified, name))
	}
	if len(host.v1) == 0 && host.unified == "" {
		errs = append(errs, errors.New("no cgroup hierarchy is mounted"))
	}
	if err := errors.Join(errs...); err != nil {
		return &hint.Error{Op: "make cgroup", On: name, Err: err, Do: "run as root with cgroups mounted on /sys/fs/cgroup"}
	}
	return nil
}

// prepareV1 makes the cgroup in one hierarchy. In cpuset nothing can run until CPUs and memory nodes are set on
// each level.
func prepareV1(mount, name string) error {
	dir := mount
	for _, part := range strings.Split(strings.Trim(name, "/"), "/") {
		parent := dir
		dir = filepath.Join(dir, part)
		if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
		for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
			if err := inherit(parent, dir, file); err != nil {
				return err
			}
		}
	}
	return nil
}

// inherit copies a setting from the parent unless the child has its own. Hierarchies without it have no such file.
func inherit(parent, child, file string) error {
	have, err := os.ReadFile(filepath.Join(child, file))
	if errors.Is(err, os.ErrNotExist) || len(bytes.TrimSpace(have)) > 0 {
		return nil
	}
	if err != nil {
		return err
	}
	value, err := os.ReadFile(filepath.Join(parent, file))
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(child, file), bytes.TrimSpace(value), 0o644)
}

// prepareV2 makes the cgroup and passes every controller that there is down to it.
func prepareV2(mount, name string) error {
	dir := mount
	for _, part := range strings.Split(strings.Trim(name, "/"), "/") {
		if err := passDown(dir); err != nil {
			return err
		}
		dir = filepath.Join(dir, part)
		if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
	}
	return passDown(dir)
}

// passDown enables the controllers one by one: some cannot be, and those that Pods need are checked by the kubelet.
func passDown(dir string) error {
	have, err := os.ReadFile(filepath.Join(dir, "cgroup.controllers"))
	if err != nil {
		return err
	}
	enabled, err := os.ReadFile(filepath.Join(dir, "cgroup.subtree_control"))
	if err != nil {
		return err
	}
	for _, controller := range strings.Fields(string(have)) {
		if strings.Contains(" "+strings.TrimSpace(string(enabled))+" ", " "+controller+" ") {
			continue
		}
		err := os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte("+"+controller), 0o644)
		if err != nil && needed(controller) {
			return fmt.Errorf("enable controller %s in %s: %w", controller, dir, err)
		}
	}
	return nil
}

func needed(controller string) bool {
	switch controller {
	case "cpu", "cpuset", "memory", "pids":
		return true
	}
	return false
}

// oomScoreAdj protects the process from the kernel's memory killer as the kubelet asks for, if it is allowed to.
func oomScoreAdj(proc string) int32 {
	const (
		protected     = -999
		sysResourceNo = unix.CAP_SYS_RESOURCE
	)
	status, err := os.ReadFile(filepath.Join(proc, "status"))
	if err != nil {
		return 0
	}
	if hasCapability(status, sysResourceNo) {
		return protected
	}
	return currentScore(proc)
}

func currentScore(proc string) int32 {
	raw, err := os.ReadFile(filepath.Join(proc, "oom_score_adj"))
	if err != nil {
		return 0
	}
	var score int32
	if _, err := fmt.Sscan(string(raw), &score); err != nil {
		return 0
	}
	return score
}

func hasCapability(status []byte, number uint) bool {
	for _, line := range strings.Split(string(status), "\n") {
		if hex, ok := strings.CutPrefix(line, "CapEff:"); ok {
			var set uint64
			if _, err := fmt.Sscanf(strings.TrimSpace(hex), "%x", &set); err != nil {
				return false
			}
			return set&(1<<number) != 0
		}
	}
	return false
}

// maxFiles is the most open files the kubelet can set without more rights than the process has.
func maxFiles() int64 {
	const want = 1_000_000 // the kubelet's own default
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil || limit.Max > want {
		return want
	}
	return int64(limit.Max)
}
