package memcg

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/sys/mountinfo"
)

// errNone says that memory cannot be bounded here.
var errNone = errors.New("no cgroup hierarchy with memory is mounted")

// Group is a cgroup with a bound.
type Group struct {
	dir string
	v2  bool
}

// Make makes the cgroup of the name, such as "/nodeless/containerd", and bounds it. What it is below is made too. mounts is
// /proc/self/mountinfo.
func Make(mounts, name string, bound int64) (Group, error) {
	mount, v2, err := hierarchy(mounts)
	if err != nil {
		return Group{}, fmt.Errorf("find cgroups: %w", err)
	}
	if mount == "" {
		return Group{}, fmt.Errorf("make cgroup %s: %w", name, errNone)
	}
	g := Group{dir: filepath.Join(mount, name), v2: v2}
	if v2 {
		if err := passDown(mount, name); err != nil {
			return Group{}, fmt.Errorf("make cgroup %s: %w", name, err)
		}
	}
	if err := os.MkdirAll(g.dir, 0o755); err != nil {
		return Group{}, fmt.Errorf("make cgroup %s: %w", name, err)
	}
	return g, g.Bound(bound)
}

// Bound changes the bound.
func (g Group) Bound(bound int64) error {
	file := "memory.limit_in_bytes"
	if g.v2 {
		file = "memory.max"
	}
	if err := os.WriteFile(filepath.Join(g.dir, file), []byte(strconv.FormatInt(bound, 10)), 0o644); err != nil {
		return fmt.Errorf("bound cgroup %s: %w", g.dir, err)
	}
	return nil
}

// Ended tells whether the kernel has ended a process of the group for its memory.
func (g Group) Ended() bool {
	file := "memory.oom_control"
	if g.v2 {
		file = "memory.events"
	}
	raw, err := os.ReadFile(filepath.Join(g.dir, file))
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(raw)) {
		if n, ok := strings.CutPrefix(line, "oom_kill "); ok && strings.TrimSpace(n) != "0" {
			return true
		}
	}
	return false
}

// Remove removes the group when its processes have ended.
func (g Group) Remove() error {
	if err := os.Remove(g.dir); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove cgroup: %w", err)
	}
	return nil
}

// Join moves a process into the group.
func (g Group) Join(pid int) error {
	if err := os.WriteFile(filepath.Join(g.dir, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0o644); err != nil {
		return fmt.Errorf("move process %d to its cgroup: %w", pid, err)
	}
	return nil
}

// Sweep removes the groups below that no process is in.
func (g Group) Sweep() error {
	entries, err := os.ReadDir(g.dir)
	if err != nil {
		return fmt.Errorf("sweep cgroup: %w", err)
	}
	for _, e := range entries {
		if e.IsDir() {
			_ = os.Remove(filepath.Join(g.dir, e.Name())) // one that is not empty stays
		}
	}
	return nil
}

// hierarchy finds where memory is counted, by a list of mounts such as /proc/self/mountinfo. On hosts with both versions it is where
// version 1 has memory.
func hierarchy(mounts string) (mount string, v2 bool, err error) {
	f, err := os.Open(mounts)
	if err != nil {
		return "", false, err
	}
	defer f.Close()
	infos, err := mountinfo.GetMountsFromReader(f, mountinfo.FSTypeFilter("cgroup", "cgroup2"))
	if err != nil {
		return "", false, err
	}
	for _, m := range infos {
		switch {
		case m.FSType == "cgroup" && slices.Contains(strings.Split(m.VFSOptions, ","), "memory"):
			return m.Mountpoint, false, nil
		case m.FSType == "cgroup2":
			mount, v2 = m.Mountpoint, true
		}
	}
	return mount, v2, nil
}

// passDown lets the cgroups above name count memory.
func passDown(mount, name string) error {
	dir := mount
	for _, part := range strings.Split(strings.Trim(filepath.Dir(name), "/"), "/") {
		if err := count(dir); err != nil {
			return err
		}
		if part == "" {
			break
		}
		dir = filepath.Join(dir, part)
		if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
	}
	return count(dir)
}

func count(dir string) error {
	file := filepath.Join(dir, "cgroup.subtree_control")
	have, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	if slices.Contains(strings.Fields(string(have)), "memory") {
		return nil
	}
	return os.WriteFile(file, []byte("+memory"), 0o644)
}
