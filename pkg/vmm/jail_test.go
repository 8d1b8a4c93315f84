package vmm

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/google/go-cmp/cmp"
)

// wantJailed checks the rights of a microVM's QEMU, its namespaces and what it sees of the host.
func wantJailed(t *testing.T, g *guest) {
	t.Helper()
	qemu := g.qemu()
	user := strconv.Itoa(firstUser + g.pid)
	ids := strings.Join([]string{user, user, user, user}, "\t")
	none := "0000000000000000"
	wantStatus(t, qemu, map[string]string{
		"Uid": ids, "Gid": ids, "Groups": "", "CapEff": none, "CapPrm": none, "CapBnd": none, "CapInh": none, "CapAmb": none,
		"NoNewPrivs": "1", "Seccomp": "2", "NSpid": fmt.Sprintf("%d\t1", qemu),
	})
	for _, kind := range []string{"mnt", "pid", "ipc", "net", "uts", "cgroup"} {
		mine, err := os.Readlink("/proc/self/ns/" + kind)
		must(t, err)
		if its, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", qemu, kind)); err != nil || its == mine {
			t.Errorf("QEMU's %s namespace is %s, %v, the host's is %s", kind, its, err, mine)
		}
	}
	want := []string{
		"/ ro,nosuid,nodev,noexec", g.h.cfg.Bundle + "/qemu ro,nosuid,nodev", g.h.kernel() + " ro,nosuid,nodev,noexec", g.h.initrd + " ro,nosuid,nodev,noexec",
	}
	slices.Sort(want)
	if diff := cmp.Diff(want, mounts(t, qemu)); diff != "" {
		t.Errorf("mounts of QEMU (-want +got):\n%s", diff)
	}
	wantFound(t, g, qemu)
	for fd, what := range openFiles(t, qemu) {
		kind, _, _ := strings.Cut(what, ":")
		switch {
		case kind == "socket" || kind == "pipe" || kind == "anon_inode", strings.HasPrefix(what, "/memfd:"), what == os.DevNull && fd < 3:
		case what == g.scratch():
		default:
			t.Errorf("QEMU has %s open as descriptor %d", what, fd)
		}
	}
}

// wantFound checks what others of the host go by to find QEMU: its program's path, its arguments, its limits and its rank.
func wantFound(t *testing.T, g *guest, qemu int) {
	t.Helper()
	proc := fmt.Sprintf("/proc/%d/", qemu)
	if exe, err := os.Readlink(proc + "exe"); err != nil || exe != g.h.cfg.QEMUCommand()[0] {
		t.Errorf("QEMU's program is %s, %v", exe, err)
	}
	args, err := os.ReadFile(proc + "cmdline")
	if name := "guest=" + filepath.Base(g.dir) + ","; err != nil || !strings.Contains(string(args), name) {
		t.Errorf("QEMU's arguments do not name the sandbox: %q, %v", args, err)
	}
	score, err := os.ReadFile(proc + "oom_score_adj")
	if n, bad := strconv.Atoi(strings.TrimSpace(string(score))); err != nil || bad != nil || n < 2 {
		t.Errorf("QEMU's rank is %q, %v", score, err)
	}
	limits, err := os.ReadFile(proc + "limits")
	must(t, err)
	for name, most := range map[string]int{"Max open files": qemuFiles, "Max processes": qemuThreads + maxVCPUs(1), "Max core file size": 0, "Max locked memory": 0} {
		_, rest, _ := strings.Cut(string(limits), name)
		if fields := strings.Fields(rest); len(fields) < 2 || fields[0] != strconv.Itoa(most) || fields[1] != fields[0] {
			t.Errorf("%s: %.40q, want %d", name, rest, most)
		}
	}
}

// mounts are where a process has something mounted, and with which rights; sorted.
func mounts(t *testing.T, pid int) []string {
	t.Helper()
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", pid))
	must(t, err)
	var list []string
	for line := range strings.Lines(string(raw)) {
		fields := strings.Fields(line) // proc(5): the fifth is the mount point, the sixth the options
		list = append(list, fields[4]+" "+strings.TrimSuffix(strings.ReplaceAll(strings.ReplaceAll(fields[5]+",", "relatime,", ""), "noatime,", ""), ","))
	}
	slices.Sort(list)
	return list
}

// openFiles are what a process has open, by descriptor.
func openFiles(t *testing.T, pid int) map[int]string {
	t.Helper()
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	entries, err := os.ReadDir(dir)
	must(t, err)
	open := map[int]string{}
	for _, e := range entries {
		fd, err := strconv.Atoi(e.Name())
		must(t, err)
		if what, err := os.Readlink(filepath.Join(dir, e.Name())); err == nil { // it may have closed it
			open[fd] = what
		}
	}
	return open
}

func (g *guest) scratch() string {
	return filepath.Join(g.h.cfg.ScratchDir, filepath.Base(g.dir)+".ext4")
}

func TestDisksAreOpenedAsAskedFor(t *testing.T) {
	path := image(t)
	mode := func(f *os.File) int {
		flags, err := unix.FcntlInt(f.Fd(), unix.F_GETFL, 0)
		must(t, err)
		return flags & (unix.O_ACCMODE | unix.O_DIRECT)
	}
	first, _, err := openDisk(diskConfig{Path: path, Readonly: true})
	must(t, err)
	second, _, err := openDisk(diskConfig{Path: path, Readonly: true})
	must(t, err)
	if direct, _, err := openDisk(diskConfig{Path: path, Readonly: true, Direct: true}); errors.Is(err, unix.EINVAL) {
		t.Logf("not tried: the file system of %s cannot be read directly", path)
	} else {
		if must(t, err); mode(direct) != unix.O_RDONLY|unix.O_DIRECT {
			t.Errorf("a disk to read directly is open with mode %#x", mode(direct))
		}
		must(t, direct.Close())
	}
	if mode(first) != unix.O_RDONLY {
		t.Errorf("a disk to read only is open with mode %d", mode(first))
	}
	if _, _, err := openDisk(diskConfig{Path: path}); !errors.Is(err, errInUse) {
		t.Errorf("to write to a disk that others read: %v, want errInUse", err)
	}
	copied, err := duplicate(second)
	must(t, errors.Join(err, first.Close(), second.Close()))
	if _, _, err := openDisk(diskConfig{Path: path}); !errors.Is(err, errInUse) {
		t.Errorf("to write to a disk while a copy of a descriptor is open: %v, want errInUse", err)
	}
	must(t, copied.Close())
	writer, _, err := openDisk(diskConfig{Path: path})
	if must(t, err); mode(writer) != unix.O_RDWR {
		t.Errorf("a writable disk is open with mode %d", mode(writer))
	}
	if _, _, err := openDisk(diskConfig{Path: path, Readonly: true}); !errors.Is(err, errInUse) {
		t.Errorf("to read a disk that another writes to: %v, want errInUse", err)
	}
	must(t, writer.Close())
	pipe := filepath.Join(t.TempDir(), "pipe")
	must(t, unix.Mkfifo(pipe, 0o600))
	for _, path := range []string{pipe, t.TempDir()} {
		if _, _, err := openDisk(diskConfig{Path: path, Readonly: true}); err == nil {
			t.Errorf("%s was opened as a disk", path)
		}
	}
}

// TestUsersOfMicroVMs: each pid that a kernel can give has a user of its own, and none is another's.
func TestUsersOfMicroVMs(t *testing.T) {
	const mostPIDs, endOfContainers, endOfDirectory, foreign = 1 << 22, 0x6fffffff, 2_000_200_000, 0x7ffe0000
	if firstUser <= endOfContainers || firstUser <= endOfDirectory || firstUser+mostPIDs > foreign {
		t.Errorf("users from %d to %d are others' as well", firstUser, firstUser+mostPIDs)
	}
}

// TestTryBoot: what tries whether a host can run microVMs does so in the jail as well. It is another program than nodeless-vmm, and goes by
// the one of the bundle.
func TestTryBoot(t *testing.T) {
	t.Parallel()
	h := needHost(t)
	cfg := h.cfg
	cfg.Bundle = filepath.Join(h.dir, "bundle")
	must(t, os.MkdirAll(filepath.Dir(cfg.VMM()), 0o755))
	must(t, os.Symlink(h.prog, cfg.VMM()))
	for _, part := range []string{"qemu", "guest"} {
		must(t, os.Symlink(filepath.Join(h.cfg.Bundle, part), filepath.Join(cfg.Bundle, part)))
	}
	must(t, TryBoot(t.Context(), cfg))
	must(t, os.Remove(cfg.VMM()))
	if err := TryBoot(t.Context(), cfg); err == nil || !contains(err, "enter the jail") {
		t.Errorf("without a nodeless-vmm: %v", err)
	}
}
