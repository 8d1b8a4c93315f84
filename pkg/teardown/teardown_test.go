package teardown

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nodeless/nodeless/pkg/contract"
)

const bundleDir = "/data/bundle/abc"

// Ids as containerd gives them.
var (
	alive   = strings.Repeat("0123456789abcdef", 4)
	dead    = strings.Repeat("fedcba9876543210", 4)
	foreign = strings.Repeat("0f", 32)
	disk    = strings.Repeat("a1", 32)
)

// fakeHost is a tree of files that stands for the host. Its kill removes the process's folder.
type fakeHost struct {
	Host
	killed    []int
	unmounted []string
}

func newFakeHost(t *testing.T, files map[string]string, procs map[string][]string) *fakeHost {
	t.Helper()
	root := t.TempDir()
	files["proc/self/mountinfo"] = strings.ReplaceAll(files["proc/self/mountinfo"], "ROOT", root)
	for name, text := range files {
		write(t, filepath.Join(root, name), text)
	}
	for pid, p := range procs { // exe, then arguments
		write(t, filepath.Join(root, "proc", pid, "cmdline"), strings.Join(p[1:], "\x00")+"\x00")
		if err := os.Symlink(p[0], filepath.Join(root, "proc", pid, "exe")); err != nil {
			t.Fatal(err)
		}
	}
	h := &fakeHost{Host: Host{Root: root, Bundles: []string{"/data/bundle"}, ScratchDir: "/data/scratch", Socket: "/run/nodeless/c.sock", CgroupRoot: "/nodeless"}}
	h.Kill = func(pid int, _ syscall.Signal) error {
		h.killed = append(h.killed, pid)
		return os.RemoveAll(filepath.Join(root, "proc", itoa(pid)))
	}
	h.Unmount = func(path string, _ int) error {
		h.unmounted = append(h.unmounted, strings.TrimPrefix(path, root))
		return nil
	}
	return h
}

func itoa(n int) string { return string(rune('0'+n/10)) + string(rune('0'+n%10)) }

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func (h *fakeHost) has(path string) bool {
	_, err := os.Lstat(filepath.Join(h.Root, path))
	return !errors.Is(err, fs.ErrNotExist)
}

func crashed(t *testing.T) *fakeHost {
	return newFakeHost(t, map[string]string{
		"run/vc/sbs/" + alive + "/persist.json":                      `{"HypervisorPath":"` + bundleDir + `/bin/nodeless-vmm"}`,
		"run/vc/sbs/" + dead + "/persist.json":                       `{"HypervisorPath":"` + bundleDir + `/bin/nodeless-vmm"}`,
		"run/vc/sbs/" + foreign + "/persist.json":                    `{"HypervisorPath":"/opt/kata/bin/cloud-hypervisor"}`,
		"run/vc/vm/" + dead + "/clh-api.sock":                        "",
		"run/kata-containers/shared/sandboxes/" + dead + "/shared/x": "",
		"data/scratch/" + disk + ".ext4":                             "",
		"sys/fs/cgroup/cpu/nodeless/pod/kata_" + dead + "/x":         "",
		"proc/self/mountinfo":                                        "1 0 0:1 / / rw - ext4 x rw\n2 1 0:1 / ROOT/run/kata-containers/shared/sandboxes/" + dead + "/shared rw - ext4 x rw\n3 1 0:1 / ROOT/data/with\\040space rw - tmpfs x rw\n",
	}, map[string][]string{
		"10": {bundleDir + "/bin/" + contract.Shim, contract.Shim, "-namespace", "k8s.io", "-id", alive},
		"11": {bundleDir + "/bin/nodeless-vmm", "nodeless-vmm", "--api-socket", "/run/vc/vm/" + alive + "/clh-api.sock"},
		"12": {bundleDir + "/bin/nodeless-vmm (deleted)", "nodeless-vmm", "--api-socket", "/run/vc/vm/" + dead + "/clh-api.sock"},
		"13": {bundleDir + "/qemu/lib/ld-linux-x86-64.so.2", "qemu-system-x86_64", "-name", "guest=" + dead + ",process=nodeless-qemu"},
		"14": {"/opt/kata/bin/virtiofsd", "virtiofsd", "--socket-path=/run/vc/vm/" + dead + "/v.sock"},
		"15": {"/usr/bin/vi", "vi", "/data/scratch/" + dead + ".ext4"},
	})
}

// emptyCgroup removes what newFakeHost needed to make the cgroup of the dead sandbox: the kernel's files do not count when one is removed.
func emptyCgroup(t *testing.T, h *fakeHost) {
	t.Helper()
	if err := os.Remove(filepath.Join(h.Root, "sys/fs/cgroup/cpu/nodeless/pod/kata_"+dead+"/x")); err != nil {
		t.Fatal(err)
	}
}

func TestOrphansAreCollectedAndTheRestIsSpared(t *testing.T) {
	h := crashed(t)
	emptyCgroup(t, h)
	for range 2 { // the second finds nothing
		if err := CollectOrphans(t.Context(), h.Host, slog.New(slog.DiscardHandler)); err != nil {
			t.Fatal(err)
		}
	}
	slices.Sort(h.killed)
	if diff := cmp.Diff([]int{12, 13}, h.killed); diff != "" {
		t.Errorf("killed (-want +got):\n%s", diff)
	}
	if want := []string{"/run/kata-containers/shared/sandboxes/" + dead + "/shared"}; !slices.Equal(h.unmounted[:1], want) {
		t.Errorf("unmounted %v, want %v", h.unmounted, want)
	}
	for path, want := range map[string]bool{
		"run/vc/sbs/" + dead: false, "run/vc/vm/" + dead: false, "run/kata-containers/shared/sandboxes/" + dead: false, "data/scratch/" + disk + ".ext4": false,
		"sys/fs/cgroup/cpu/nodeless/pod/kata_" + dead: false,
		"run/vc/sbs/" + alive:                         true, "run/vc/sbs/" + foreign: true, "sys/fs/cgroup/cpu/nodeless/pod": true,
	} {
		if got := h.has(path); got != want {
			t.Errorf("%s is there: %v, want %v", path, got, want)
		}
	}
}

func TestSandboxIsSparedWhileAnyShimServesIt(t *testing.T) {
	h := newFakeHost(t, map[string]string{"data/scratch/" + disk + ".ext4": "", "proc/self/mountinfo": ""}, map[string][]string{
		"10": {"/opt/other/" + contract.Shim, contract.Shim, "-id", disk},
	})
	alive, dead, err := h.Sandboxes()
	if err != nil || len(dead) != 0 || !slices.Equal(alive, []string{disk}) {
		t.Errorf("Sandboxes = %v, %v, %v; want %s alive", alive, dead, err, disk)
	}
}

// TestFilesOfOtherNamesAreNoSandboxes: a file that somebody else put into the folder of disks ends no process, whatever its name.
func TestFilesOfOtherNamesAreNoSandboxes(t *testing.T) {
	for _, tt := range []struct{ name, file string }{
		{"one letter", "e"},
		{"part of an id", alive[:12]},
		{"longer than an id", alive + "0"},
		{"an id in capitals", strings.ToUpper(alive)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := crashed(t)
			write(t, filepath.Join(h.Root, "data/scratch", tt.file+".ext4"), "")
			emptyCgroup(t, h)
			if err := CollectOrphans(t.Context(), h.Host, slog.New(slog.DiscardHandler)); err != nil {
				t.Fatal(err)
			}
			slices.Sort(h.killed)
			if diff := cmp.Diff([]int{12, 13}, h.killed); diff != "" {
				t.Errorf("killed (-want +got):\n%s", diff)
			}
			if !h.has("data/scratch/" + tt.file + ".ext4") {
				t.Error("the file was removed")
			}
		})
	}
}

// TestLongerNamesAreOthers: an id that is part of a longer run of digits in the arguments of a process is not the sandbox's.
func TestLongerNamesAreOthers(t *testing.T) {
	h := newFakeHost(t, map[string]string{"data/scratch/" + dead + ".ext4": "", "proc/self/mountinfo": ""}, map[string][]string{
		"10": {bundleDir + "/bin/nodeless-vmm", "nodeless-vmm", "/run/vc/vm/" + dead + "0/clh-api.sock"},
		"11": {bundleDir + "/bin/nodeless-vmm", "nodeless-vmm", "/run/vc/vm/0" + dead + "/clh-api.sock"},
		"12": {bundleDir + "/bin/nodeless-vmm", "nodeless-vmm", "/run/vc/vm/A" + dead + "/clh-api.sock"},
		"13": {bundleDir + "/bin/nodeless-vmm", "nodeless-vmm", "a=" + foreign + ",b=/run/vc/vm/" + dead + "/clh-api.sock"},
	})
	if err := h.RemoveSandbox(dead); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]int{13}, h.killed); diff != "" {
		t.Errorf("killed (-want +got):\n%s", diff)
	}
}

func TestHostileIDIsNeverAPath(t *testing.T) {
	h := newFakeHost(t, map[string]string{"proc/self/mountinfo": ""}, map[string][]string{})
	for _, id := range []string{"", "..", "../etc", "a/b", "e", alive[1:], alive + "0", strings.ToUpper(alive)} {
		if err := h.RemoveSandbox(id); err == nil {
			t.Errorf("id %q was accepted", id)
		}
	}
}

// fakeNetwork counts.
type fakeNetwork struct{ removed int }

func (n *fakeNetwork) Find(context.Context) ([]string, error) { return []string{"link nodeless0"}, nil }
func (n *fakeNetwork) Remove(context.Context) error           { n.removed++; return nil }

func TestDryRunTellsAndRemovesNothing(t *testing.T) {
	h := crashed(t)
	network := &fakeNetwork{}
	var out bytes.Buffer
	steps := Steps(Installation{Host: h.Host, DataDir: "/data", RunDir: "/run/nodeless", Network: network})
	if err := Uninstall(t.Context(), steps, true, &out); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"would remove process 13 (qemu-system-x86_64)", "would remove sandbox " + dead, "would remove sandbox " + alive, "would remove link nodeless0", "with space"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("output lacks %q:\n%s", want, out.String())
		}
	}
	for _, not := range []string{foreign, "vi)", "/opt"} {
		if strings.Contains(out.String(), not) {
			t.Errorf("output names %q, which is not ours:\n%s", not, out.String())
		}
	}
	if len(h.killed) > 0 || len(h.unmounted) > 0 || network.removed > 0 || !h.has("run/vc/sbs/"+dead) {
		t.Error("the dry run removed something")
	}
}

func TestUninstallRemovesOursOnly(t *testing.T) {
	h := crashed(t)
	network := &fakeNetwork{}
	mountinfo := filepath.Join(h.Root, "proc/self/mountinfo")
	h.Unmount = func(path string, _ int) error { return os.WriteFile(mountinfo, nil, 0o600) }
	emptyCgroup(t, h)
	in := Installation{Host: h.Host, DataDir: "/data", RunDir: "/run/nodeless", Network: network}
	if err := Uninstall(t.Context(), Steps(in), false, &bytes.Buffer{}); err != nil {
		t.Fatal(err)
	}
	slices.Sort(h.killed)
	if diff := cmp.Diff([]int{10, 11, 12, 13}, h.killed); diff != "" {
		t.Errorf("killed (-want +got):\n%s", diff)
	}
	for path, want := range map[string]bool{
		"run/vc/sbs/" + alive: false, "sys/fs/cgroup/cpu/nodeless": false,
		"data": true, "run/vc/sbs/" + foreign: true, "sys/fs/cgroup/cpu": true,
	} {
		if got := h.has(path); got != want {
			t.Errorf("%s is there: %v, want %v", path, got, want)
		}
	}
	if network.removed != 1 {
		t.Errorf("network removed %d times, want once", network.removed)
	}
}
