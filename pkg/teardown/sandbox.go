package teardown

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/nodeless/nodeless/pkg/contract"
)

// shimSockets is where containerd's shim library has it hard-wired.
const shimSockets = "run/containerd/s"

// Host is the machine that is cleaned. The zero value of a function means the system call.
type Host struct {
	Root       string // "/" but in tests
	Bundles    []string
	ScratchDir string
	Socket     string // containerd's; the shims' sockets are named after it
	CgroupRoot string // such as "/nodeless"
	Kill       func(pid int, sig syscall.Signal) error
	Unmount    func(path string, flags int) error
}

func (h Host) path(elem ...string) string {
	root := h.Root
	if root == "" {
		root = "/"
	}
	return filepath.Join(append([]string{root}, elem...)...)
}

func (h Host) kill(pid int, sig syscall.Signal) error {
	if h.Kill != nil {
		return h.Kill(pid, sig)
	}
	return syscall.Kill(pid, sig)
}

func (h Host) unmount(path string, flags int) error {
	if h.Unmount != nil {
		return h.Unmount(path, flags)
	}
	return syscall.Unmount(path, flags)
}

// Sandboxes lists the ids of our sandboxes of which anything is there, sorted, and whether a shim serves them.
func (h Host) Sandboxes() (alive, dead []string, err error) {
	running, err := processes(h.path())
	if err != nil {
		return nil, nil, err
	}
	served := map[string]bool{}
	ours := map[string]bool{}
	for _, p := range running {
		if id := p.shimOf(); id != "" {
			served[id] = true
			ours[id] = ours[id] || p.runsFrom(h.Bundles)
		}
	}
	for _, id := range h.candidates() {
		if ours[id] || !h.isOurs(id, running) {
			continue
		}
		ours[id] = true
	}
	for id, our := range ours {
		switch {
		case !our || !contract.IsSandboxID(id):
		case served[id]:
			alive = append(alive, id)
		default:
			dead = append(dead, id)
		}
	}
	slices.Sort(alive)
	slices.Sort(dead)
	return alive, dead, nil
}

// candidates are the ids of all sandboxes on the host that left something, ours or not.
func (h Host) candidates() []string {
	var ids []string
	for _, dir := range []string{h.path(contract.KataSandboxes), h.path(contract.KataVMs), h.path(contract.KataShares), h.path(h.ScratchDir)} {
		entries, err := os.ReadDir(dir)
		if err != nil {
			continue // none was ever made
		}
		for _, e := range entries {
			ids = append(ids, strings.TrimSuffix(e.Name(), contract.DiskSuffix))
		}
	}
	slices.Sort(ids)
	return slices.Compact(ids)
}

// isOurs looks for proof: a scratch disk, our VMM in Kata's state, or a process of our bundle that serves it.
func (h Host) isOurs(id string, running []process) bool {
	if _, err := os.Lstat(h.scratch(id)); err == nil {
		return true
	}
	state, err := os.ReadFile(h.path(contract.KataSandboxes, id, "persist.json"))
	if err == nil && bytes.Contains(state, []byte("/"+contract.VMM)) {
		return true
	}
	return slices.ContainsFunc(running, func(p process) bool { return p.runsFrom(h.Bundles) && p.names(id) })
}

func (h Host) scratch(id string) string { return h.path(h.ScratchDir, id+contract.DiskSuffix) }

func (h Host) dirs(id string) []string { return contract.SandboxDirs(h.path(), id) }

// RemoveSandbox removes all that the host holds of a sandbox: processes, mounts, folders, disk, sockets, cgroups.
// What is not there counts as removed.
func (h Host) RemoveSandbox(id string) error {
	if !contract.IsSandboxID(id) {
		return fmt.Errorf("remove sandbox %q: invalid id", id)
	}
	err := killAll(func() ([]process, error) {
		all, err := processes(h.path())
		return slices.DeleteFunc(all, func(p process) bool { return !p.runsFrom(h.Bundles) || !p.names(id) || p.pid == os.Getpid() }), err
	}, h.kill)
	if err != nil {
		return fmt.Errorf("remove sandbox %s: %w", id, err)
	}
	errs := []error{unmountBelow(h.path(), h.unmount, h.dirs(id)...)}
	if errs[0] == nil { // never delete through a mount
		for _, dir := range h.dirs(id) {
			errs = append(errs, os.RemoveAll(dir))
		}
	}
	errs = append(errs, removeFile(h.scratch(id)), removeFile(h.shimSocket(id)), removeDirs(cgroupDirs(h.path(), h.CgroupRoot, id)))
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("remove sandbox %s: %w", id, err)
	}
	return nil
}

// shimSocket is what containerd's shim library names the socket of a sandbox's shim.
func (h Host) shimSocket(id string) string {
	return h.path(shimSockets, fmt.Sprintf("%x", sha256.Sum256([]byte(filepath.Join(h.Socket, contract.CRINamespace, id)))))
}

func removeFile(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}
