package cri

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/nodeless/nodeless/pkg/contract"
)

// figures are what the host itself knows of a Pod. What a guest says of itself decides nothing that its neighbours depend on.
type figures struct {
	cgroups string // where the host's cgroup hierarchies are: /sys/fs/cgroup
	root    string // the cgroup below which all Pods live, such as /nodeless
	scratch string // folder of the writable disks
	pods    string // the kubelet's folder of Pods
}

// memory is what a Pod takes of the host's memory, in bytes.
type memory struct {
	usage      uint64
	workingSet uint64 // usage without what the kernel gives up at once
	rss        uint64
}

// validUID is what the apiserver gives as a Pod's UID; anything else never becomes part of a path.
var validUID = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9-]{0,63}$`)

// errNoCgroup tells that a Pod has no cgroup here (any more).
var errNoCgroup = errors.New("the Pod has no cgroup")

// memory reads a Pod's cgroup, in which all of its processes on the host are: QEMU, virtiofsd, the shim.
func (f figures) memory(uid string) (memory, error) {
	if !validUID.MatchString(uid) {
		return memory{}, fmt.Errorf("read memory of Pod %q: that is no UID", uid)
	}
	for _, class := range []string{"", "burstable", "besteffort"} { // as the kubelet names them
		below := filepath.Join(f.root, "kubepods", class, "pod"+uid)
		if m, err := readMemory(filepath.Join(f.cgroups, below), v2); !errors.Is(err, os.ErrNotExist) {
			return m, err
		}
		if m, err := readMemory(filepath.Join(f.cgroups, "memory", below), v1); !errors.Is(err, os.ErrNotExist) {
			return m, err
		}
	}
	return memory{}, fmt.Errorf("read memory of Pod %s: %w", uid, errNoCgroup)
}

// generation names the files of a generation of cgroups, and the fields of memory.stat.
type generation struct{ usage, inactive, rss string }

// v1 and v2 are the two; they are told apart by which of the files is there.
var (
	v1 = generation{"memory.usage_in_bytes", "total_inactive_file", "total_rss"}
	v2 = generation{"memory.current", "inactive_file", "anon"}
)

func readMemory(dir string, g generation) (memory, error) {
	raw, err := os.ReadFile(filepath.Join(dir, g.usage))
	if err != nil {
		return memory{}, err
	}
	usage, err := strconv.ParseUint(strings.TrimSpace(string(raw)), 10, 64)
	if err != nil {
		return memory{}, fmt.Errorf("parse %s: %w", filepath.Join(dir, g.usage), err)
	}
	stat, err := os.ReadFile(filepath.Join(dir, "memory.stat"))
	if err != nil {
		return memory{}, err
	}
	m := memory{usage: usage, workingSet: usage}
	for line := range strings.Lines(string(stat)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		n, err := strconv.ParseUint(value, 10, 64)
		if err != nil {
			continue
		}
		switch name {
		case g.inactive:
			m.workingSet -= min(n, usage)
		case g.rss:
			m.rss = n
		}
	}
	return m, nil
}

// disk is what a sandbox's writable disk takes of the host's, in bytes: blocks, not the size that the guest sees.
func (f figures) disk(sandbox string) (uint64, error) {
	if !validID.MatchString(sandbox) {
		return 0, fmt.Errorf("measure disk of sandbox %q: that is no id", sandbox)
	}
	var st unix.Stat_t
	path := filepath.Join(f.scratch, sandbox+contract.DiskSuffix)
	if err := unix.Lstat(path, &st); err != nil {
		return 0, fmt.Errorf("measure disk %s: %w", path, err)
	}
	return uint64(st.Blocks) * 512, nil
}

// messages is what the files of a Pod's last messages take, in bytes: a guest may write to them as much as it likes, and the kubelet counts
// them nowhere. Only the kubelet makes files there.
func (f figures) messages(uid string) (bytes uint64) {
	if !validUID.MatchString(uid) {
		return 0
	}
	files, err := filepath.Glob(filepath.Join(f.pods, uid, "containers", "*", "*"))
	if err != nil {
		return 0
	}
	for _, file := range files {
		var st unix.Stat_t
		if unix.Lstat(file, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFREG {
			bytes += uint64(st.Blocks) * 512
		}
	}
	return bytes
}
