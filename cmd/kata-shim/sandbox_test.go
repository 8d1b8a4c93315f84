package main

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestParse(t *testing.T) {
	tests := []struct {
		name string
		args []string
		want call
	}{
		{name: "info", args: []string{"-info"}, want: call{info: true}},
		{name: "delete", args: []string{"-namespace", "k8s.io", "-address", "/run/c.sock", "-publish-binary", "/bin/x", "-id", "abc", "-bundle", "/b", "delete"}, want: call{id: "abc", namespace: "k8s.io", address: "/run/c.sock", task: "/b", action: "delete"}},
		{name: "a container named delete is not an action", args: []string{"-namespace", "delete", "-id", "delete", "start"}, want: call{id: "delete", namespace: "delete", action: "start"}},
		{name: "daemon", args: []string{"-namespace", "k8s.io", "-id", "abc"}, want: call{id: "abc", namespace: "k8s.io"}},
		{name: "flag without value", args: []string{"-id"}, want: call{}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := parse(tt.args); got != tt.want {
				t.Errorf("parse(%q) = %+v, want %+v", tt.args, got, tt.want)
			}
		})
	}
}

// tree makes files below a root that stands for "/".
func tree(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for name, text := range files {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

// Two sandboxes' ids.
var (
	mine  = strings.Repeat("0123456789abcdef", 4)
	other = strings.Repeat("fedcba9876543210", 4)
)

func TestRemoveTakesOneSandboxOnly(t *testing.T) {
	root := tree(t, map[string]string{
		"run/vc/sbs/" + mine + "/persist.json":                          "{}",
		"run/vc/vm/" + mine + "/clh-api.sock":                           "",
		"run/vc/vm/" + other + "/clh-api.sock":                          "",
		"run/kata-containers/shared/sandboxes/" + mine + "/shared/file": "x",
		"proc/self/mountinfo":                                           "",
		"scratch/" + mine + ".ext4":                                     "",
		"scratch/" + other + ".ext4":                                    "",
		"s/" + mine:                                                     "",
		"s/" + other:                                                    "",
	})
	cgroups := []string{"sys/fs/cgroup/cpu/nodeless/pod1/kata_" + mine + "/child", "sys/fs/cgroup/cpu/nodeless/pod1/kata_" + other}
	for _, c := range cgroups {
		if err := os.MkdirAll(filepath.Join(root, c), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	s := sandbox{id: mine, bundle: "/bundle", root: root, scratch: filepath.Join(root, "scratch"), socket: filepath.Join(root, "s/"+mine)}
	if s.deleted() {
		t.Error("the sandbox counts as deleted although Kata has state of it")
	}
	for range 2 { // the second call finds nothing to do
		if err := s.remove(); err != nil {
			t.Fatal(err)
		}
	}
	for path, want := range map[string]bool{
		"run/vc/sbs/" + mine: false, "run/vc/vm/" + mine: false, "run/kata-containers/shared/sandboxes/" + mine: false,
		"sys/fs/cgroup/cpu/nodeless/pod1/kata_" + mine: false,
		"scratch/" + mine + ".ext4":                    false,
		"s/" + mine:                                    false, "s/" + other: true,
		"run/vc/vm/" + other: true, cgroups[1]: true, "scratch/" + other + ".ext4": true,
	} {
		if _, err := os.Stat(filepath.Join(root, path)); (err == nil) != want {
			t.Errorf("%s is there: %v, want %v", path, err == nil, want)
		}
	}
}

func TestPlainContainerIsLeftAlone(t *testing.T) {
	root := tree(t, map[string]string{"run/vc/vm/" + other + "/x": ""}) // no /proc: looking there would fail
	if err := (sandbox{id: strings.Repeat("c", 64), bundle: "/bundle", root: root}).remove(); err != nil {
		t.Errorf("remove = %v", err)
	}
}

func TestHostileIDIsRefused(t *testing.T) {
	for _, id := range []string{"", "..", "../../etc", "a/b", "-x", "abc", mine + "0", strings.ToUpper(mine)} {
		if err := (sandbox{id: id, bundle: "/bundle", root: t.TempDir()}).remove(); err == nil {
			t.Errorf("id %q was accepted", id)
		}
	}
}

func TestProcessesAreOursAndOfThisSandbox(t *testing.T) {
	root := tree(t, map[string]string{
		"proc/10/cmdline": "nodeless-vmm\x00--api-socket\x00/run/vc/vm/" + mine + "/clh-api.sock\x00",
		"proc/11/cmdline": "nodeless-vmm\x00--api-socket\x00/run/vc/vm/" + other + "/clh-api.sock\x00",
		"proc/12/cmdline": "grep\x00mine\x00",
		"proc/13/cmdline": "shim\x00-id\x00mine\x00delete\x00",
		"proc/15/cmdline": "nodeless-vmm\x00/run/vc/vm/" + mine + "0/clh-api.sock\x00", // a longer name is another
		"proc/14/cmdline": "shim\x00-id\x00mine\x00",
	})
	for pid, exe := range map[string]string{
		"10": "/bundle/bin/nodeless-vmm", "11": "/bundle/bin/nodeless-vmm", "12": "/usr/bin/grep", "13": "/bundle/bin/shim", "14": "/bundle/bin/shim", "15": "/bundle/bin/nodeless-vmm",
	} {
		if err := os.Symlink(exe, filepath.Join(root, "proc", pid, "exe")); err != nil {
			t.Fatal(err)
		}
	}
	got := sandbox{id: mine, bundle: "/bundle", root: root, self: 14}.processes()
	if len(got) != 1 || got[0] != 10 {
		t.Errorf("processes = %v, want [10]", got)
	}
}

func TestOwnCgroupsAreFoundWithoutASearch(t *testing.T) {
	root := tree(t, map[string]string{
		"proc/self/cgroup": "9:name=systemd:/n/pod/kata_" + mine + "\n7:cpu,cpuacct:/n/pod\n6:pids:/elsewhere\n0::/n/pod/kata_" + mine + "\n",
	})
	want := []string{"systemd/n/pod/kata_" + mine, "cpu,cpuacct/n/pod/kata_" + mine, "unified/n/pod/kata_" + mine}
	for _, dir := range append([]string{"cpu,cpuacct/n/pod/kata_" + other, "pids/n/pod/kata_" + mine}, want...) {
		if err := os.MkdirAll(filepath.Join(root, "sys/fs/cgroup", dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	got := sandbox{id: mine, root: root}.ownCgroups()
	for i, dir := range got {
		got[i] = strings.TrimPrefix(dir, filepath.Join(root, "sys/fs/cgroup")+"/")
	}
	if !slices.Equal(got, want) {
		t.Errorf("own cgroups are %q, want %q", got, want)
	}
}

func TestScratchDir(t *testing.T) {
	root := tree(t, map[string]string{"good": `{"bundle":"/b","scratchDir":"/d/scratch"}`, "bad": "{"})
	for name, want := range map[string]string{"good": "/d/scratch", "bad": "", "missing": ""} {
		if got := hostConfig(filepath.Join(root, name)).ScratchDir; got != want {
			t.Errorf("the folder of disks by %s is %q, want %q", name, got, want)
		}
	}
}

// A microVM that did not boot is not in Kata's state, and no process of ours is in its cgroups. They go nevertheless, at the shim's end
// and when containerd has it deleted.
func TestCgroupsOfASandboxThatDidNotBoot(t *testing.T) {
	for name, remove := range map[string]func(sandbox) error{"finish": sandbox.finish, "delete": sandbox.remove} {
		root := tree(t, map[string]string{
			"task/config.json":    `{"linux":{"cgroupsPath":"/n/kubepods/pod1/` + mine + `"}}`,
			"proc/self/cgroup":    "0::/n/containerd\n",
			"proc/self/mountinfo": "",
		})
		left := []string{"cpu/n/kubepods/pod1/kata_" + mine, "n/kubepods/pod1/kata_" + mine}
		kept := []string{"cpu/n/kubepods/pod1/kata_" + other, "cpu/n/kubepods/pod2/kata_" + mine}
		for _, dir := range append(left, kept...) {
			if err := os.MkdirAll(filepath.Join(root, "sys/fs/cgroup", dir), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		s := sandbox{id: mine, bundle: "/bundle", root: root, task: filepath.Join(root, "task")}
		for range 2 {
			if err := remove(s); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
		}
		for i, dir := range append(left, kept...) {
			if _, err := os.Stat(filepath.Join(root, "sys/fs/cgroup", dir)); (err == nil) != (i >= len(left)) {
				t.Errorf("%s: %s is there: %v", name, dir, err == nil)
			}
		}
	}
}

// A sandbox whose mounts cannot all be seen is not deleted: what is mounted there would be deleted with it.
func TestNothingIsDeletedWhereMountsCannotBeSeen(t *testing.T) {
	for name, mounts := range map[string]string{
		"a line that is too long": "1 0 0:1 / / rw - overlay x lowerdir=" + strings.Repeat("/layer:", 1<<14) + "\n",
		"a line that is none":     "what\n",
	} {
		file := "run/kata-containers/shared/sandboxes/" + mine + "/shared/precious"
		root := tree(t, map[string]string{"proc/self/mountinfo": mounts, file: "x"})
		if err := (sandbox{id: mine, bundle: "/bundle", root: root}).remove(); err == nil {
			t.Errorf("%s: the sandbox was removed", name)
		}
		if _, err := os.Stat(filepath.Join(root, file)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A mount below a folder whose name has a space goes as well.
func TestUnmountBelowUnescapes(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "two words")
	point, beside := filepath.Join(dir, "a\tb"), dir+" more"
	inMountNamespace(t, func() error {
		err := errors.Join(os.MkdirAll(point, 0o700), os.Mkdir(beside, 0o700), unix.Mount("tmpfs", point, "tmpfs", 0, ""), unix.Mount("tmpfs", beside, "tmpfs", 0, ""))
		raw, err2 := os.ReadFile("/proc/thread-self/mountinfo") // this thread's, which has its own
		if err := errors.Join(err, err2); err != nil {
			return err
		}
		if err := unmountBelow(tree(t, map[string]string{"proc/self/mountinfo": string(raw)}), dir); err != nil {
			return err
		}
		raw, err = os.ReadFile("/proc/thread-self/mountinfo")
		if left := string(raw); strings.Contains(left, `two\040words/`) || !strings.Contains(left, `two\040words\040more`) {
			t.Errorf("the mount below is there: %v, the one beside: %v", strings.Contains(left, `two\040words/`), strings.Contains(left, `more`))
		}
		return err
	})
}
