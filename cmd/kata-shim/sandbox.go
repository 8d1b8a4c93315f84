package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/moby/sys/mountinfo"

	"github.com/nodeless/nodeless/pkg/contract"
)

// sandbox is what may be left on the host of one Pod whose shim is gone.
type sandbox struct {
	id     string
	bundle string // only processes whose executable lies below it are ours
	root   string // "/" but in tests
	// scratch is the folder of the Pods' disks; empty if it is not known.
	scratch string
	socket  string // of the shim; empty if it is not known
	task    string // the folder that containerd keeps for its task; may be empty or gone
	self    int
}

// hostConfig reads the settings of nodeless-vmm. A shim started by hand has none.
func hostConfig(settings string) contract.HostConfig {
	raw, err := os.ReadFile(settings)
	if err != nil {
		return contract.HostConfig{}
	}
	var c contract.HostConfig
	if json.Unmarshal(raw, &c) != nil {
		return contract.HostConfig{}
	}
	return c
}

// killTimeout is how long processes and cgroups may take to go; containerd gives `delete` a minute for all of it.
const killTimeout = 20 * time.Second

// vmDir holds the sockets of nodeless-vmm.
func (s sandbox) vmDir() string { return filepath.Join(s.root, contract.KataVMs, s.id) }

// dirs hold the state of a sandbox.
func (s sandbox) dirs() []string { return contract.SandboxDirs(s.root, s.id) }

// remove ends the sandbox's processes and removes its mounts, folders and cgroups. For the id of a plain
// container, of which the host holds nothing, it does nothing; called twice, the second call finds nothing.
func (s sandbox) remove() error {
	if !contract.IsSandboxID(s.id) {
		return fmt.Errorf("invalid id %q", s.id)
	}
	if !s.known() { // to Kata; a sandbox that did not boot may have its cgroups nevertheless
		return errors.Join(removeFile(s.socket), removeCgroups(s.podsCgroups()))
	}
	if err := s.kill(); err != nil {
		return err
	}
	var errs []error
	for _, dir := range s.dirs() {
		err := unmountBelow(s.root, dir)
		if err == nil { // never delete through a mount
			err = os.RemoveAll(dir)
		}
		errs = append(errs, err)
	}
	return errors.Join(append(errs, s.removeDisk(), removeFile(s.socket), removeCgroups(s.cgroups()))...)
}

// deleted tells whether Kata's state of the sandbox is gone.
func (s sandbox) deleted() bool {
	_, err := os.Lstat(s.dirs()[0])
	return errors.Is(err, fs.ErrNotExist)
}

// finish removes what is left of a deleted sandbox whose shim, this process, still runs.
func (s sandbox) finish() error {
	if !contract.IsSandboxID(s.id) {
		return fmt.Errorf("invalid id %q", s.id)
	}
	own := s.ownCgroups()
	for _, dir := range own {
		if err := os.WriteFile(filepath.Join(filepath.Dir(dir), "cgroup.procs"), []byte(strconv.Itoa(s.self)), 0); err != nil {
			return fmt.Errorf("leave cgroup %s: %w", dir, err)
		}
	}
	return errors.Join(s.kill(), s.removeDisk(), removeFile(s.socket), removeCgroups(own), removeCgroups(s.podsCgroups()))
}

func (s sandbox) removeDisk() error {
	if s.scratch == "" {
		return nil
	}
	return removeFile(filepath.Join(s.scratch, s.id+contract.DiskSuffix))
}

// removeFile removes a file that may not be there, or have a name.
func removeFile(path string) error {
	if path == "" {
		return nil
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func (s sandbox) known() bool {
	for _, dir := range s.dirs() {
		if _, err := os.Lstat(dir); err == nil {
			return true
		}
	}
	return false
}

// kill ends every process of the sandbox and waits until it is gone.
func (s sandbox) kill() error {
	s.askVMM()
	deadline := time.Now().Add(killTimeout)
	for {
		pids := s.processes()
		if len(pids) == 0 {
			return nil
		}
		for _, pid := range pids {
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
				return fmt.Errorf("kill %d: %w", pid, err)
			}
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("processes %v outlive SIGKILL", pids)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// askVMM has nodeless-vmm end QEMU, for a moment: it is the one that writes down when that was.
func (s sandbox) askVMM() {
	const patience = 2 * time.Second
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		asked := false
		for _, pid := range s.processes() {
			exe, err := os.Readlink(filepath.Join(s.root, "proc", strconv.Itoa(pid), "exe"))
			if err == nil && filepath.Base(exe) == contract.VMM && syscall.Kill(pid, syscall.SIGTERM) == nil {
				asked = true
			}
		}
		if !asked {
			return
		}
	}
}

// processes are those of our bundle that carry the id in their arguments: shim, vmm, QEMU, virtiofsd.
func (s sandbox) processes() []int {
	entries, err := os.ReadDir(filepath.Join(s.root, "proc"))
	if err != nil {
		return nil
	}
	var pids []int
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == s.self {
			continue
		}
		dir := filepath.Join(s.root, "proc", e.Name())
		exe, err := os.Readlink(filepath.Join(dir, "exe")) // a zombie has none
		if err != nil || !strings.HasPrefix(exe, s.bundle+"/") {
			continue
		}
		cmdline, err := os.ReadFile(filepath.Join(dir, "cmdline"))
		if err != nil || !contract.NamesSandbox(string(cmdline), s.id) || isDelete(string(cmdline)) {
			continue
		}
		pids = append(pids, pid)
	}
	return pids
}

// isDelete spares another `delete` of the same sandbox.
func isDelete(cmdline string) bool {
	return strings.HasSuffix(strings.TrimRight(cmdline, "\x00"), "\x00delete")
}

// unmountBelow detaches what is mounted at or below dir, the latest first. It succeeds only if it has seen all mounts: what is left of one
// would be deleted through it.
func unmountBelow(root, dir string) error {
	f, err := os.Open(filepath.Join(root, "proc/self/mountinfo"))
	if err != nil {
		return err
	}
	defer f.Close()
	mounts, err := mountinfo.GetMountsFromReader(f, mountinfo.PrefixFilter(dir))
	if err != nil {
		return fmt.Errorf("list mounts: %w", err)
	}
	var errs []error
	for _, m := range slices.Backward(mounts) {
		err := syscall.Unmount(m.Mountpoint, syscall.MNT_DETACH|umountNoFollow)
		if err != nil && !errors.Is(err, syscall.EINVAL) && !errors.Is(err, syscall.ENOENT) {
			errs = append(errs, fmt.Errorf("unmount %s: %w", m.Mountpoint, err))
		}
	}
	return errors.Join(errs...)
}

const umountNoFollow = 0x8 // UMOUNT_NOFOLLOW, umount2(2)

func (s sandbox) cgroupName() string { return contract.Cgroup + s.id }

// cgroups lists the folders kata_<id> in each v1 hierarchy or in v2, with their children, children first.
func (s sandbox) cgroups() []string {
	var found []string
	_ = filepath.WalkDir(filepath.Join(s.root, "sys/fs/cgroup"), func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && strings.Contains(path, "/"+s.cgroupName()) {
			found = append([]string{path}, found...)
		}
		return nil // hierarchies change while we walk
	})
	return found
}

// podsCgroups lists those folders kata_<id> that are in the Pod's cgroup, which the task's description names. A microVM that did not boot
// has them, and this process need not have been in any.
func (s sandbox) podsCgroups() []string {
	d, err := readDescription(s.task)
	if err != nil || d.Linux.CgroupsPath == "" {
		return nil
	}
	dir := filepath.Join(filepath.Dir(filepath.Clean("/"+d.Linux.CgroupsPath)), s.cgroupName())
	var found []string
	hierarchies, _ := filepath.Glob(filepath.Join(s.root, "sys/fs/cgroup/*")) // the pattern is good
	for _, h := range append(hierarchies, filepath.Join(s.root, "sys/fs/cgroup")) {
		if info, err := os.Stat(filepath.Join(h, dir)); err == nil && info.IsDir() {
			found = append(found, filepath.Join(h, dir))
		}
	}
	return found
}

// ownCgroups lists those folders kata_<id> that this process is in, or whose parent it is in, without a search.
func (s sandbox) ownCgroups() []string {
	raw, err := os.ReadFile(filepath.Join(s.root, "proc/self/cgroup"))
	if err != nil {
		return nil
	}
	var found []string
	for line := range strings.Lines(string(raw)) {
		fields := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(fields) != 3 {
			continue
		}
		hierarchies := []string{strings.TrimPrefix(fields[1], "name=")}
		if fields[1] == "" {
			hierarchies = []string{"", "unified"}
		}
		for _, h := range hierarchies {
			dir := filepath.Join(s.root, "sys/fs/cgroup", h, fields[2])
			if filepath.Base(dir) != s.cgroupName() {
				dir = filepath.Join(dir, s.cgroupName())
			}
			if _, err := os.Lstat(dir); err == nil {
				found = append(found, dir)
			}
		}
	}
	return found
}

// removeCgroups removes empty cgroups. One that a killed process is still leaving is busy for a while: freeing the
// memory of a microVM takes its time.
func removeCgroups(dirs []string) error {
	deadline := time.Now().Add(killTimeout)
	var errs []error
	for _, dir := range dirs {
		err := syscall.Rmdir(dir)
		for errors.Is(err, syscall.EBUSY) && time.Now().Before(deadline) {
			time.Sleep(10 * time.Millisecond)
			err = syscall.Rmdir(dir)
		}
		if err != nil && !errors.Is(err, syscall.ENOENT) {
			errs = append(errs, fmt.Errorf("remove cgroup %s: %w", dir, err))
		}
	}
	return errors.Join(errs...)
}
