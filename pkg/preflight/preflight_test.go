package preflight_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nodeless/nodeless/pkg/hint"
	"github.com/nodeless/nodeless/pkg/preflight"
)

const allCaps = "Name:\tx\nCapEff:\t000001ffffffffff\n"

func text(s string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(s)} }

// good is a host on which everything is as it should be.
func good() preflight.Host {
	return preflight.Host{
		Proc: fstest.MapFS{
			"self/status":          text(allCaps),
			"sys/kernel/osrelease": text("6.1.0-56-amd64\n"),
			"meminfo":              text("MemTotal: 16000000 kB\nSwapTotal: 0 kB\n"),
			"net/tcp":              text("  sl  local_address\n"),
			"1/comm":               text("systemd\n"),

			"sys/kernel/core_pattern": text("core\n"),
		},
		Sys: fstest.MapFS{
			"fs/cgroup/cgroup.controllers":                     text("cpuset cpu io memory hugetlb pids\n"),
			"devices/system/cpu/smt/active":                    text("0\n"),
			"devices/system/cpu/vulnerabilities/meltdown":      text("Not affected\n"),
			"devices/system/cpu/vulnerabilities/spectre_v2":    text("Mitigation: Enhanced IBRS\n"),
			"devices/system/cpu/vulnerabilities/itlb_multihit": text("KVM: Mitigation: Split huge pages\n"),
		},
		Etc:         fstest.MapFS{},
		Now:         func() time.Time { return time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC) },
		ClockSynced: func() (bool, error) { return true, nil },
		Disk:        func(string) (preflight.Disk, error) { return preflight.Disk{Free: 100 << 30}, nil },
		Writable:    func(string) error { return nil },
		Kernel:      func(context.Context) []preflight.Result { return nil },
		Accel: func(context.Context) (preflight.Accel, error) {
			return preflight.Accel{Kind: "kvm", Detail: "booted in 80 ms"}, nil
		},
		Bundle: func(context.Context) error { return nil },
	}
}

func settings() preflight.Settings {
	return preflight.Settings{DataDir: "/var/lib/nodeless", NodeName: "host-1", Accel: "auto",
		Ports: []preflight.Port{{Number: 6443, Of: "apiserver", Flag: "--https-listen-port"}, {Number: 10250, Of: "kubelet"}}}
}

// thp is what the host's kernel says of transparent huge pages.
func thp(own, shared string) func(*preflight.Host) {
	const dir = "kernel/mm/transparent_hugepage/"
	return sys(fstest.MapFS{dir + "enabled": text(own), dir + "shmem_enabled": text(shared)})
}

// proc changes files of the good host's /proc.
func proc(files fstest.MapFS) func(*preflight.Host) {
	return func(h *preflight.Host) {
		for name, f := range files {
			h.Proc.(fstest.MapFS)[name] = f
		}
	}
}

// sys changes files of the good host's /sys.
func sys(files fstest.MapFS) func(*preflight.Host) {
	return func(h *preflight.Host) {
		for name, f := range files {
			h.Sys.(fstest.MapFS)[name] = f
		}
	}
}

// listening is a /proc with process 77 "haproxy" listening on port 6443 (0x192B).
var listening = fstest.MapFS{
	"net/tcp": text("  sl  local_address rem_address st\n" +
		"   0: 00000000:192B 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 4711 1\n" +
		"   1: 0100007F:280A 0100007F:1111 01 00000000:00000000 00:00000000 00000000 0 0 4712 1\n"),
	"77/comm": text("haproxy\n"),
	"77/fd/5": &fstest.MapFile{Mode: fs.ModeSymlink, Data: []byte("socket:[4711]")},
}

func TestGoodHostPasses(t *testing.T) {
	r := preflight.Run(context.Background(), good(), settings())
	for _, res := range r.Results {
		if res.Status != preflight.Pass {
			t.Errorf("%s: %s %q", res.Name, res.Status, res.Detail)
		}
	}
	if err := r.Err(); err != nil {
		t.Errorf("Err = %v", err)
	}
}

func TestFacts(t *testing.T) {
	tests := []struct {
		name   string
		change func(*preflight.Host)
		set    func(*preflight.Settings)
		fact   string
		want   preflight.Status
		detail string // contained
		do     string // contained
	}{
		{name: "not root", change: func(h *preflight.Host) { h.Euid = 1000 }, fact: "user", want: preflight.Fail, detail: "uid 1000", do: "sudo"},
		{name: "not root tries no kernel features", change: func(h *preflight.Host) { h.Euid = 1000 }, fact: "kernel features", want: preflight.Warn},
		{name: "no CAP_SYS_RESOURCE is no obstacle", change: proc(fstest.MapFS{"self/status": text("CapEff:\t000001fffeffffff\n")}), fact: "capabilities", want: preflight.Warn, detail: "CAP_SYS_RESOURCE"},
		{name: "no capabilities", change: proc(fstest.MapFS{"self/status": text("CapEff:\t0000000000000000\n")}), fact: "capabilities", want: preflight.Fail, detail: "CAP_NET_ADMIN"},
		{name: "old kernel", change: proc(fstest.MapFS{"sys/kernel/osrelease": text("4.18.0-500.el8\n")}), fact: "kernel", want: preflight.Fail, do: "5.13"},
		{name: "5.9 is older than 5.13", change: proc(fstest.MapFS{"sys/kernel/osrelease": text("5.9.1\n")}), fact: "kernel", want: preflight.Fail},
		{name: "little memory", change: proc(fstest.MapFS{"meminfo": text("MemTotal: 1000000 kB\n")}), fact: "memory", want: preflight.Fail, detail: "976 MiB"},
		{name: "some memory", change: proc(fstest.MapFS{"meminfo": text("MemTotal: 2000000 kB\n")}), fact: "memory", want: preflight.Warn},
		{name: "swap", change: proc(fstest.MapFS{"meminfo": text("MemTotal: 9000000 kB\nSwapTotal: 1024 kB\n")}), fact: "swap", want: preflight.Warn, do: "swapoff"},
		{name: "port taken, by name", change: proc(listening), fact: "port 6443", want: preflight.Fail, detail: "haproxy (pid 77)", do: "--https-listen-port"},
		{name: "an open connection is no listener", change: proc(listening), fact: "port 10250", want: preflight.Pass},
		{name: "port of our own server", change: proc(listening), set: func(s *preflight.Settings) { s.ServerPID = 77 }, fact: "port 6443", want: preflight.Pass, detail: "running server"},
		{name: "no room", change: func(h *preflight.Host) {
			h.Disk = func(string) (preflight.Disk, error) { return preflight.Disk{Free: 1 << 30}, nil }
		}, fact: "data dir", want: preflight.Fail, detail: "1.0 GiB"},
		{name: "nfs", change: func(h *preflight.Host) {
			h.Disk = func(string) (preflight.Disk, error) {
				return preflight.Disk{Free: 1 << 40, Type: unix.NFS_SUPER_MAGIC}, nil
			}
		}, fact: "data dir", want: preflight.Fail, detail: "nfs"},
		{name: "read-only", change: func(h *preflight.Host) { h.Writable = func(string) error { return unix.EROFS } }, fact: "data dir", want: preflight.Fail, do: "--data-dir"},
		{name: "clock in the past", change: func(h *preflight.Host) { h.Now = func() time.Time { return time.Unix(0, 0) } }, fact: "clock", want: preflight.Fail, detail: "1970"},
		{name: "clock adrift", change: func(h *preflight.Host) { h.ClockSynced = func() (bool, error) { return false, nil } }, fact: "clock", want: preflight.Warn},
		{name: "host name", set: func(s *preflight.Settings) { s.NodeName = "My_Host" }, fact: "node name", want: preflight.Fail, do: "--node-name"},
		{name: "cgroup v2 lacks memory", change: func(h *preflight.Host) {
			h.Sys = fstest.MapFS{"fs/cgroup/cgroup.controllers": text("cpuset cpu pids")}
		}, fact: "cgroups", want: preflight.Fail, detail: "memory"},
		{name: "cgroup v1", change: func(h *preflight.Host) {
			h.Sys = fstest.MapFS{"fs/cgroup/cpu/tasks": text(""), "fs/cgroup/cpuacct/tasks": text(""), "fs/cgroup/cpuset/tasks": text(""), "fs/cgroup/memory/tasks": text(""), "fs/cgroup/pids/tasks": text("")}
		}, fact: "cgroups", want: preflight.Warn},
		{name: "two threads a core", change: sys(fstest.MapFS{"devices/system/cpu/smt/active": text("1\n")}), fact: "SMT", want: preflight.Warn, do: "nosmt"},
		{name: "an open flaw", change: sys(fstest.MapFS{"devices/system/cpu/vulnerabilities/mds": text("Vulnerable: Clear CPU buffers attempted, no microcode; SMT vulnerable\n")}),
			fact: "CPU flaws", want: preflight.Warn, detail: "open: mds", do: "microcode"},
		{name: "a flaw between threads", change: sys(fstest.MapFS{"devices/system/cpu/vulnerabilities/l1tf": text("Mitigation: PTE Inversion; VMX: conditional cache flushes, SMT vulnerable\n")}),
			fact: "CPU flaws", want: preflight.Warn, detail: "l1tf", do: "nosmt"},
		{name: "no word on flaws", change: func(h *preflight.Host) { h.Sys = fstest.MapFS{} }, fact: "CPU flaws", want: preflight.Warn},
		{name: "dumps go to a program", change: proc(fstest.MapFS{"sys/kernel/core_pattern": text("|/usr/share/apport/apport -p%p\n")}), fact: "core dumps", want: preflight.Warn, detail: "/usr/share/apport/apport"},
		{name: "dumps go to systemd", change: proc(fstest.MapFS{"sys/kernel/core_pattern": text("|/lib/systemd/systemd-coredump %P\n")}), fact: "core dumps", want: preflight.Pass},
		{name: "huge pages for shared memory", change: thp("always [madvise] never", "always within_size advise [never] deny force"), fact: "huge pages", want: preflight.Pass, detail: "without volumes; --huge-pages"},
		{name: "no huge pages", change: thp("always madvise [never]", "[never]"), fact: "huge pages", want: preflight.Pass, detail: "no guest"},
		{name: "huge pages by the kernel", change: thp("[always]", "[advise]"), fact: "huge pages", want: preflight.Pass, detail: "all guests"},
		{name: "huge pages asked for", change: thp("[madvise]", "[never]"), set: func(s *preflight.Settings) { s.HugePages = "advise" }, fact: "huge pages", want: preflight.Pass, detail: "by --huge-pages"},
		{name: "huge pages that are not known", set: func(s *preflight.Settings) { s.HugePages = "advise" }, fact: "huge pages", want: preflight.Fail, do: "leave out --huge-pages"},
		{name: "volumes need root", change: func(h *preflight.Host) { h.Volumes = func() error { return errors.New("no ID-mapped mounts") } }, fact: "volumes", want: preflight.Warn, detail: "no ID-mapped mounts", do: "6.3"},
		{name: "volumes need no root", change: func(h *preflight.Host) { h.Volumes = func() error { return nil } }, fact: "volumes", want: preflight.Pass},
		{name: "no cgroups", change: func(h *preflight.Host) { h.Sys = fstest.MapFS{} }, fact: "cgroups", want: preflight.Fail},
		{name: "low limit", change: proc(fstest.MapFS{"sys/fs/inotify/max_user_instances": text("16\n")}), fact: "limits", want: preflight.Warn, do: "sysctl -w fs.inotify.max_user_instances"},
		{name: "SELinux", change: func(h *preflight.Host) { h.Sys.(fstest.MapFS)["fs/selinux/enforce"] = text("1") }, fact: "security module", want: preflight.Warn},
		{name: "another kubelet", change: proc(fstest.MapFS{"9/comm": text("kubelet\n")}), fact: "other clusters", want: preflight.Warn, detail: "kubelet (pid 9)"},
		{name: "another CNI", change: func(h *preflight.Host) { h.Etc = fstest.MapFS{"cni/net.d/10-flannel.conflist": text("{}")} }, fact: "other clusters", want: preflight.Warn, detail: "10-flannel.conflist"},
		{name: "no KVM", change: accel("tcg", "no /dev/kvm", nil), fact: "microVM", want: preflight.Fail, detail: "no /dev/kvm", do: "--accel tcg"},
		{name: "KVM demanded", change: accel("tcg", "no /dev/kvm", nil), set: func(s *preflight.Settings) { s.Accel = "kvm" }, fact: "microVM", want: preflight.Fail},
		{name: "KVM demanded that did not boot", change: accel("tcg", "no boot", nil), set: func(s *preflight.Settings) { s.Accel = "kvm" }, fact: "microVM", want: preflight.Warn, detail: "KVM by choice", do: "mend it"},
		{name: "KVM that did not boot", change: accel("tcg", "no boot", nil), fact: "microVM", want: preflight.Fail, detail: "no boot", do: "mend it"},
		{name: "emulation demanded", change: accel("tcg", "not probed", nil), set: func(s *preflight.Settings) { s.Accel = "tcg" }, fact: "microVM", want: preflight.Warn, detail: "by choice"},
		{name: "probe broken", change: accel("", "", errors.New("no kernel")), fact: "microVM", want: preflight.Fail, detail: "no kernel"},
		{name: "bundle damaged", change: func(h *preflight.Host) {
			h.Bundle = func(context.Context) error { return errors.New("qemu: wrong hash") }
		}, fact: "bundle", want: preflight.Fail, detail: "wrong hash", do: "install nodeless again"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h, s := good(), settings()
			if tt.change != nil {
				tt.change(&h)
			}
			if tt.set != nil {
				tt.set(&s)
			}
			got := find(t, preflight.Run(context.Background(), h, s), tt.fact)
			if got.Status != tt.want || !strings.Contains(got.Detail, tt.detail) || !strings.Contains(got.Do, tt.do) {
				t.Errorf("%s = %+v, want %s, detail with %q, remedy with %q", tt.fact, got, tt.want, tt.detail, tt.do)
			}
			if got.Status != preflight.Pass && got.Do == "" {
				t.Error("no remedy")
			}
		})
	}
}

func accel(accel, detail string, err error) func(*preflight.Host) {
	return func(h *preflight.Host) {
		h.Accel = func(context.Context) (preflight.Accel, error) {
			return preflight.Accel{Kind: accel, Detail: detail, Do: "mend it", Doubtful: strings.Contains(detail, "boot")}, err
		}
	}
}

func find(t *testing.T, r preflight.Report, name string) preflight.Result {
	t.Helper()
	for _, res := range r.Results {
		if res.Name == name {
			return res
		}
	}
	t.Fatalf("no result %q in %+v", name, r.Results)
	return preflight.Result{}
}

func TestRequireNamesEveryFailureWithItsRemedy(t *testing.T) {
	h := good()
	h.Euid = 1000
	proc(listening)(&h)
	h.Accel = func(context.Context) (preflight.Accel, error) { t.Error("probed"); return preflight.Accel{}, nil }
	_, err := preflight.Require(context.Background(), h, settings())
	if err == nil || !strings.Contains(err.Error(), "check user: uid 1000") || !strings.Contains(err.Error(), "check port 6443: in use") {
		t.Errorf("Require = %v", err)
	}
	if got := hint.Of(err); len(got) != 2 {
		t.Errorf("hints = %q, want two", got)
	}
}

func TestThisHostKeepsItsInterfaces(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("skipped: needs root to make a throwaway network namespace")
	}
	before := links(t)
	results := preflight.ThisHost("", "").Kernel(context.Background())
	if len(results) < 2 {
		t.Errorf("results = %+v", results)
	}
	if after := links(t); after != before {
		t.Errorf("interfaces changed: before\n%s\nafter\n%s", before, after)
	}
}

func links(t *testing.T) string {
	t.Helper()
	entries, err := os.ReadDir("/sys/class/net")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return strings.Join(names, " ")
}

func TestEachFaultOfTheRegistriesFileIsAFact(t *testing.T) {
	h := good()
	h.Registries = func() error {
		return errors.Join(&hint.Error{Op: "read a", Do: "mend a"}, &hint.Error{Op: "read b", Do: "mend b"})
	}
	r := preflight.Run(context.Background(), h, settings())
	if r.Count(preflight.Fail) != 2 {
		t.Errorf("%d facts fail, want 2: %v", r.Count(preflight.Fail), r.Err())
	}
	if got := strings.Join(hint.Of(r.Err()), ", "); got != "mend a, mend b" {
		t.Errorf("what to do is %q", got)
	}
	h.Registries = func() error { return nil }
	if r := preflight.Run(context.Background(), h, settings()); r.Err() != nil {
		t.Errorf("a good file: %v", r.Err())
	}
}

// TestREADMEAsksForTheSameKernel: who reads it boots what the check takes.
func TestREADMEAsksForTheSameKernel(t *testing.T) {
	h := good()
	proc(fstest.MapFS{"sys/kernel/osrelease": text("4.18.0\n")})(&h)
	do := find(t, preflight.Run(t.Context(), h, settings()), "kernel").Do
	release, ok := strings.CutPrefix(do, "boot Linux ")
	release, later := strings.CutSuffix(release, " or later")
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	if want := "Linux " + release + " or newer"; !ok || !later || !strings.Contains(string(readme), want) {
		t.Errorf("an old kernel is told to %q; README.md does not say %q", do, want)
	}
}
