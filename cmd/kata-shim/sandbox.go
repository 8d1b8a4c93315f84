package main

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// sandbox is what may be left on the host of one Pod whose shim is gone.
type sandbox struct {
	id     string
	bundle string // only processes whose executable lies below it are ours
	root   string // "/" but in tests
	self   int
}

// validID is what containerd gives as an id; anything else never becomes part of a path.
var validID = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,127}$`)

const killTimeout = 5 * time.Second

// dirs hold the state of a sandbox; Kata has them hard-wired.
func (s sandbox) dirs() []string {
	return []string{
		filepath.Join(s.root, "run/vc/sbs", s.id),
		filepath.Join(s.root, "run/vc/vm", s.id),
		filepath.Join(s.root, "run/kata-containers/shared/sandboxes", s.id),
		filepath.Join(s.root, "run/kata-containers", s.id),
	}
}

// remove ends the sandbox's processes and removes its mounts, folders and cgroups. For the id of a plain
// container, of which the host holds nothing, it does nothing; called twice, the second call finds nothing.
func (s sandbox) remove() error {
	if !validID.MatchString(s.id) {
		return fmt.Errorf("invalid id %q", s.id)
	}
	if !s.known() {
		return nil
	}
	if err := s.kill(); err != nil {
		return err
	}
	var errs []error
	for _, dir := range s.dirs() {
		errs = append(errs, unmountBelow(s.root, dir), os.RemoveAll(dir))
	}
	return errors.Join(append(errs, s.removeCgroups())...)
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
		if err != nil || !strings.Contains(string(cmdline), s.id) || isDelete(string(cmdline)) {
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

// unmountBelow detaches what is mounted at or below dir, the deepest first.
func unmountBelow(root, dir string) error {
	f, err := os.Open(filepath.Join(root, "proc/self/mountinfo"))
	if err != nil {
		return err
	}
	defer f.Close()
	var points []string
	for scan := bufio.NewScanner(f); scan.Scan(); {
		fields := strings.Fields(scan.Text())
		if len(fields) > 4 && (fields[4] == dir || strings.HasPrefix(fields[4], dir+"/")) {
			points = append(points, fields[4])
		}
	}
	var errs []error
	for i := len(points) - 1; i >= 0; i-- {
		if err := syscall.Unmount(points[i], syscall.MNT_DETACH|umountNoFollow); err != nil && !errors.Is(err, syscall.EINVAL) && !errors.Is(err, syscall.ENOENT) {
			errs = append(errs, fmt.Errorf("unmount %s: %w", points[i], err))
		}
	}
	return errors.Join(errs...)
}

const umountNoFollow = 0x8 // UMOUNT_NOFOLLOW, umount2(2)

// removeCgroups removes the folders kata_<id> in each v1 hierarchy or in v2, with their children.
func (s sandbox) removeCgroups() error {
	want := "kata_" + s.id
	var found []string
	err := filepath.WalkDir(filepath.Join(s.root, "sys/fs/cgroup"), func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return nil // hierarchies change while we walk
		}
		if strings.Contains(path, "/"+want) {
			found = append(found, path)
		}
		return nil
	})
	if err != nil {
		return err
	}
	var errs []error
	for i := len(found) - 1; i >= 0; i-- { // children first
		if err := syscall.Rmdir(found[i]); err != nil && !errors.Is(err, syscall.ENOENT) {
			errs = append(errs, fmt.Errorf("remove cgroup %s: %w", found[i], err))
		}
	}
	return errors.Join(errs...)
}
