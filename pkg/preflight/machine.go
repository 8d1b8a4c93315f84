package preflight

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/util/validation"
)

const (
	mib = 1 << 20
	gib = 1 << 30

	minMemory, goodMemory = 1500 * mib, 3000 * mib
	minDisk, goodDisk     = 2 * gib, 10 * gib
)

// minKernel is the oldest kernel on which kube-proxy's nftables mode works.
var minKernel = [2]int{5, 13}

// earliest is before every release of nodeless: a clock that shows less is wrong, and certificates would be too.
var earliest = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func checkUser(h Host, _ Settings) []Result {
	if h.Euid != 0 {
		return []Result{fail("user", fmt.Sprintf("uid %d, not root", h.Euid), "run it as root, or with sudo")}
	}
	out := []Result{pass("user", "root")}
	caps, err := effective(h.Proc)
	if err != nil {
		return append(out, warn("capabilities", err.Error(), "look whether /proc is mounted"))
	}
	var lacking []string
	for _, c := range []struct {
		bit  int
		name string
	}{{unix.CAP_SYS_ADMIN, "CAP_SYS_ADMIN"}, {unix.CAP_NET_ADMIN, "CAP_NET_ADMIN"}, {unix.CAP_MKNOD, "CAP_MKNOD"}, {unix.CAP_SYS_CHROOT, "CAP_SYS_CHROOT"}} {
		if caps&(1<<c.bit) == 0 {
			lacking = append(lacking, c.name)
		}
	}
	switch {
	case len(lacking) > 0:
		return append(out, fail("capabilities", "root without "+strings.Join(lacking, ", "), "run it outside of a container, or give the container these capabilities"))
	case caps&(1<<unix.CAP_SYS_RESOURCE) == 0:
		return append(out, warn("capabilities", "root without CAP_SYS_RESOURCE: limits and OOM scores stay as they are", "no action needed, unless Pods need many open files"))
	}
	return append(out, pass("capabilities", "all that are needed"))
}

// effective reads the capability set of this process.
func effective(proc fs.FS) (uint64, error) {
	data, err := fs.ReadFile(proc, "self/status")
	if err != nil {
		return 0, fmt.Errorf("read capabilities: %w", err)
	}
	for _, line := range strings.Split(string(data), "\n") {
		if hex, ok := strings.CutPrefix(line, "CapEff:"); ok {
			return strconv.ParseUint(strings.TrimSpace(hex), 16, 64)
		}
	}
	return 0, errors.New("read capabilities: no CapEff in /proc/self/status")
}

func checkKernelVersion(h Host, _ Settings) []Result {
	data, err := fs.ReadFile(h.Proc, "sys/kernel/osrelease")
	if err != nil {
		return []Result{fail("kernel", err.Error(), "mount /proc")}
	}
	release := strings.TrimSpace(string(data))
	var v [2]int
	if _, err := fmt.Sscanf(release, "%d.%d", &v[0], &v[1]); err != nil {
		return []Result{warn("kernel", fmt.Sprintf("release %q is not understood", release), fmt.Sprintf("make sure that it is %d.%d or later", minKernel[0], minKernel[1]))}
	}
	if slices.Compare(v[:], minKernel[:]) < 0 {
		return []Result{fail("kernel", release, fmt.Sprintf("boot Linux %d.%d or later", minKernel[0], minKernel[1]))}
	}
	return []Result{pass("kernel", release)}
}

func checkMemory(h Host, _ Settings) []Result {
	data, err := fs.ReadFile(h.Proc, "meminfo")
	if err != nil {
		return []Result{warn("memory", err.Error(), "mount /proc")}
	}
	total, swap := meminfo(data, "MemTotal"), meminfo(data, "SwapTotal")
	detail := fmt.Sprintf("%d MiB", total/mib)
	out := []Result{pass("memory", detail)}
	switch {
	case total < minMemory:
		out[0] = fail("memory", detail, fmt.Sprintf("give the host %d MiB or more: the server takes about 500, each small Pod about 300", minMemory/mib))
	case total < goodMemory:
		out[0] = warn("memory", detail, "enough for a few Pods; each small one takes about 300 MiB")
	}
	if swap > 0 {
		return append(out, warn("swap", fmt.Sprintf("%d MiB in use or free", swap/mib), "turn swap off (swapoff -a) if Pods must keep their speed: microVM memory may be swapped out"))
	}
	return append(out, pass("swap", "none"))
}

// meminfo gives a line of /proc/meminfo in bytes.
func meminfo(data []byte, key string) uint64 {
	sc := bufio.NewScanner(bytes.NewReader(data))
	for sc.Scan() {
		if f := strings.Fields(sc.Text()); len(f) >= 2 && f[0] == key+":" {
			n, _ := strconv.ParseUint(f[1], 10, 64) // not a number: 0
			return n * 1024
		}
	}
	return 0
}

// unfit are file systems on which SQLite's locks or the erofs layers do not work.
var unfit = map[int64]string{unix.NFS_SUPER_MAGIC: "nfs", unix.SMB_SUPER_MAGIC: "smb", 0xFE534D42: "smb2", unix.V9FS_MAGIC: "9p"}

func checkDisk(h Host, s Settings) []Result {
	dir := existing(s.DataDir)
	const name = "data dir"
	if err := h.Writable(dir); err != nil {
		return []Result{fail(name, fmt.Sprintf("%s cannot be written: %v", dir, err), "run as root on a writable file system, or choose another folder with --data-dir")}
	}
	d, err := h.Disk(dir)
	if err != nil {
		return []Result{warn(name, err.Error(), "look at the file system of "+dir)}
	}
	detail := fmt.Sprintf("%s: %.1f GiB free", s.DataDir, float64(d.Free)/gib)
	switch {
	case unfit[d.Type] != "":
		return []Result{fail(name, fmt.Sprintf("%s is on %s", s.DataDir, unfit[d.Type]), "choose a folder on a local disk with --data-dir: the datastore needs locks, Pods need speed")}
	case d.Free < minDisk:
		return []Result{fail(name, detail, fmt.Sprintf("free at least %d GiB, or choose another folder with --data-dir", minDisk/gib))}
	case d.Type == unix.TMPFS_MAGIC || d.Type == unix.RAMFS_MAGIC:
		return []Result{warn(name, detail+", in memory (tmpfs)", "choose a folder on a disk with --data-dir, if the cluster shall outlive a reboot")}
	case d.Free < goodDisk:
		return []Result{warn(name, detail, "images and the writable disks of Pods grow: have 10 GiB or more")}
	}
	return []Result{pass(name, detail)}
}

// existing is dir or the nearest parent of it that is there.
func existing(dir string) string {
	for ; dir != "/" && dir != "."; dir = filepath.Dir(dir) {
		if _, err := os.Stat(dir); err == nil {
			break
		}
	}
	return dir
}

func checkClock(h Host, _ Settings) []Result {
	now := h.Now()
	if now.Before(earliest) {
		return []Result{fail("clock", now.UTC().Format(time.RFC3339), "set the clock: certificates made now would not be valid")}
	}
	if synced, err := h.ClockSynced(); err != nil || !synced {
		return []Result{warn("clock", "not synchronised", "run chrony or systemd-timesyncd; certificates and logs rely on the clock")}
	}
	return []Result{pass("clock", "synchronised")}
}

func checkName(_ Host, s Settings) []Result {
	if bad := validation.IsDNS1123Subdomain(s.NodeName); len(bad) > 0 {
		return []Result{fail("node name", fmt.Sprintf("%q is not a valid node name", s.NodeName), "give the node a name of lower-case letters, digits, '-' and '.' with --node-name")}
	}
	return []Result{pass("node name", s.NodeName)}
}

// needed are the cgroup controllers that the kubelet insists on; v1 has cpuacct besides.
var needed = []string{"cpu", "cpuset", "memory", "pids"}

func checkCgroups(h Host, _ Settings) []Result {
	const name = "cgroups"
	if data, err := fs.ReadFile(h.Sys, "fs/cgroup/cgroup.controllers"); err == nil {
		have := strings.Fields(string(data))
		if lack := without(needed, have); len(lack) > 0 {
			return []Result{fail(name, "v2 without "+strings.Join(lack, ", "), "enable the controllers: boot with cgroup_enable=memory, or delegate them (Delegate=yes) to the service")}
		}
		return []Result{pass(name, "v2: "+strings.Join(have, " "))}
	}
	var have []string
	for _, c := range append([]string{"cpuacct"}, needed...) {
		if _, err := fs.Stat(h.Sys, "fs/cgroup/"+c+"/tasks"); err == nil {
			have = append(have, c)
		}
	}
	if lack := without(append([]string{"cpuacct"}, needed...), have); len(lack) > 0 {
		return []Result{fail(name, "controllers not mounted: "+strings.Join(lack, ", "), "boot with cgroup v2 (systemd.unified_cgroup_hierarchy=1), or mount the v1 controllers below /sys/fs/cgroup")}
	}
	return []Result{warn(name, "v1, which Linux and Kubernetes give up", "boot with cgroup v2 (systemd.unified_cgroup_hierarchy=1)")}
}

func without(want, have []string) (lack []string) {
	for _, w := range want {
		if !slices.Contains(have, w) {
			lack = append(lack, w)
		}
	}
	return lack
}

// checkLimits looks at the kernel limits that many Pods run into.
func checkLimits(h Host, _ Settings) []Result {
	for _, l := range []struct {
		file string
		min  int
	}{{"fs/inotify/max_user_instances", 128}, {"fs/inotify/max_user_watches", 8192}, {"kernel/pid_max", 16384}} {
		data, err := fs.ReadFile(h.Proc, "sys/"+l.file)
		if err != nil {
			continue // not every kernel has each
		}
		key := strings.ReplaceAll(l.file, "/", ".")
		if n, err := strconv.Atoi(strings.TrimSpace(string(data))); err == nil && n < l.min {
			return []Result{warn("limits", fmt.Sprintf("%s = %d", key, n), fmt.Sprintf("raise it: sysctl -w %s=%d", key, l.min*4))}
		}
	}
	return []Result{pass("limits", "inotify and pids suffice")}
}

// checkHugePages tells of what guests' memory is made. With small pages each miss of the TLB costs a guest on KVM more steps.
func checkHugePages(h Host, s Settings) []Result {
	const name, dir = "huge pages", "kernel/mm/transparent_hugepage/"
	own, ownErr := fs.ReadFile(h.Sys, dir+"enabled")
	shared, sharedErr := fs.ReadFile(h.Sys, dir+"shmem_enabled")
	never := func(b []byte) bool {
		return strings.Contains(string(b), "[never]") || strings.Contains(string(b), "[deny]")
	}
	switch {
	case ownErr != nil || sharedErr != nil:
		if s.HugePages == "advise" {
			return []Result{fail(name, "the kernel knows none", "leave out --huge-pages=advise, or boot a kernel with CONFIG_TRANSPARENT_HUGEPAGE")}
		}
		return []Result{pass(name, "the kernel knows none")}
	case s.HugePages == "advise":
		return []Result{pass(name, "for all guests, by --huge-pages=advise")}
	case never(own):
		return []Result{pass(name, "for no guest; --huge-pages=advise has them")}
	case never(shared):
		return []Result{pass(name, "for guests without volumes; --huge-pages=advise has them for all")}
	}
	return []Result{pass(name, "for all guests")}
}

func checkSecurityModules(h Host, _ Settings) []Result {
	if data, err := fs.ReadFile(h.Sys, "fs/selinux/enforce"); err == nil && strings.TrimSpace(string(data)) == "1" {
		return []Result{warn("security module", "SELinux is enforcing; nodeless brings no policy for it", "if Pods cannot start and the audit log shows denials: setenforce 0, or write a policy")}
	}
	if data, err := fs.ReadFile(h.Sys, "module/apparmor/parameters/enabled"); err == nil && strings.HasPrefix(string(data), "Y") {
		return []Result{pass("security module", "AppArmor is on; Pods are in microVMs and need no profile")}
	}
	return []Result{pass("security module", "none in the way")}
}
