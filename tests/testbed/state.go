package testbed

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// metadata gives the entries of Pods in containerd's metadata. Images have committed snapshots; containers have active ones.
func (h *Host) metadata(ctx context.Context) ([]string, error) {
	if socket, err := h.Glob("/run/nodeless/containerd/containerd.sock"); err != nil || len(socket) == 0 {
		return nil, err // nothing runs
	}
	var found []string
	for _, list := range []struct {
		args []string
		ours func(fields []string) bool
	}{
		{[]string{"containers", "ls"}, func([]string) bool { return true }},
		{[]string{"tasks", "ls"}, func([]string) bool { return true }},
		{[]string{"sandboxes", "ls"}, func([]string) bool { return true }},
		{[]string{"leases", "ls"}, func([]string) bool { return true }},
		{[]string{"snapshots", "ls"}, func(f []string) bool { return f[len(f)-1] == "Active" || f[len(f)-1] == "View" }},
	} {
		out, err := h.Nodeless(ctx, append([]string{"ctr"}, list.args...)...)
		if err != nil {
			return found, err
		}
		lines := strings.Split(strings.TrimSpace(out), "\n")
		for _, line := range lines[1:] { // behind the heading
			if fields := strings.Fields(line); len(fields) > 0 && list.ours(fields) {
				found = append(found, fmt.Sprintf("containerd %s: %.120s", strings.Join(list.args, " "), line))
			}
		}
	}
	return found, nil
}

// loopDevices are those whose file lies in the host. Loop devices know no namespace, so their files are compared, not
// their names.
func (h *Host) loopDevices(context.Context) ([]string, error) {
	if h.machine != nil {
		return h.Glob("/sys/block/loop*/loop/backing_file") // all are the product's
	}
	devices, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	if err != nil {
		return nil, err
	}
	var found []string
	for _, name := range devices {
		raw, err := os.ReadFile(name)
		if err != nil {
			continue // detached meanwhile
		}
		path := strings.TrimSpace(string(raw))
		dev := "/dev/" + strings.Split(name, "/")[3]
		if same, err := backs(dev, h.Path(strings.TrimSuffix(path, " (deleted)"))); err == nil && same {
			found = append(found, "loop device "+dev+" "+path)
		}
	}
	return found, nil
}

// backs tells whether file is what the loop device shows.
func backs(dev, file string) (bool, error) {
	var st unix.Stat_t
	if err := unix.Stat(file, &st); err != nil {
		return false, err
	}
	f, err := os.Open(dev)
	if err != nil {
		return false, err
	}
	defer f.Close()
	info, err := unix.IoctlLoopGetStatus64(int(f.Fd()))
	if err != nil {
		return false, err
	}
	return info.Device == st.Dev && info.Inode == st.Ino, nil
}

// Rules gives the packet rules of the host, one a line, without their counters.
func (h *Host) Rules(ctx context.Context) ([]string, error) {
	out, err := h.Exec(ctx, filepath.Join(filepath.Dir(h.Program), "..", "aux", "nft"), "--stateless", "list", "ruleset")
	if err != nil {
		return nil, err
	}
	return rules(out), nil
}

// expiry is what the kernel counts down in elements of a set.
var expiry = regexp.MustCompile(` expires \S+`)

// counting are sets that count what Pods send; the kernel empties them when they have sent nothing for a while.
func counting() []string { return []string{"set pace", "set fresh", "set flows"} }

// rules names each line by the table and chain it is in, and sorts them: chains have no order among themselves.
func rules(out string) []string {
	var lines, path []string
	for line := range strings.Lines(out) {
		line = strings.TrimSpace(expiry.ReplaceAllString(line, ""))
		switch {
		case line == "" || strings.HasPrefix(line, "#"):
		case line == "}":
			path = path[:max(0, len(path)-1)]
		case len(path) > 0 && slices.Contains(counting(), path[len(path)-1]):
		case strings.HasSuffix(line, "{"):
			path = append(path, strings.TrimSuffix(line, " {"))
			lines = append(lines, strings.Join(path, " / "))
		default:
			lines = append(lines, strings.Join(path, " / ")+": "+line)
		}
	}
	slices.Sort(lines)
	return lines
}

// Links gives the names of the host's network devices.
func (h *Host) Links(ctx context.Context) ([]string, error) {
	out, err := h.Exec(ctx, "ip", "-o", "link")
	if err != nil {
		return nil, err
	}
	var names []string
	for line := range strings.Lines(out) {
		if f := strings.Fields(line); len(f) > 1 {
			name, _, _ := strings.Cut(strings.TrimSuffix(f[1], ":"), "@")
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names, nil
}

// Mounts lists what is mounted in the host beyond an empty host's mounts.
func (h *Host) Mounts() ([]string, error) {
	now, err := h.mountPoints()
	if err != nil {
		return nil, err
	}
	var points []string
	for p := range now {
		if !h.baseline[p] {
			points = append(points, p)
		}
	}
	slices.Sort(points)
	return points, nil
}

// Cgroups lists the cgroups below the root given to the server, and that root, in every hierarchy.
func (h *Host) Cgroups() ([]string, error) {
	if h.machine != nil {
		out, err := h.over("find /sys/fs/cgroup" + h.Cgroup + " -type d 2>/dev/null || :") // some go meanwhile
		return strings.Fields(out), err
	}
	var found []string
	for _, root := range cgroupDirs(h.Cgroup) {
		err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				found = append(found, path)
			}
			return nil // it went while we looked
		})
		if err != nil {
			return nil, err
		}
	}
	return found, nil
}

// Usage is what one process holds.
type Usage struct {
	Files  []string         // what its descriptors point at, sorted
	RSS    int64            // bytes
	Tasks  int              // threads
	Memory map[string]int64 // the parts of RSS: RssAnon, RssFile, RssShmem
}

// UsageOf measures a process by its pid on the machine.
func UsageOf(pid int) (Usage, error) {
	u := Usage{Memory: map[string]int64{}}
	dir := filepath.Join("/proc", strconv.Itoa(pid))
	status, err := os.ReadFile(filepath.Join(dir, "status"))
	if err != nil {
		return u, err
	}
	for line := range strings.Lines(string(status)) {
		name, value, _ := strings.Cut(line, ":")
		number, _ := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64)
		switch {
		case name == "VmRSS":
			u.RSS = number << 10
		case strings.HasPrefix(name, "Rss"):
			u.Memory[name] = number << 10
		case name == "Threads":
			u.Tasks = int(number)
		}
	}
	entries, err := os.ReadDir(filepath.Join(dir, "fd"))
	if err != nil {
		return u, err
	}
	for _, e := range entries {
		if to, err := os.Readlink(filepath.Join(dir, "fd", e.Name())); err == nil {
			u.Files = append(u.Files, to)
		}
	}
	slices.Sort(u.Files)
	return u, nil
}
