package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
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

func TestRemoveTakesOneSandboxOnly(t *testing.T) {
	root := tree(t, map[string]string{
		"run/vc/sbs/mine/persist.json":                          "{}",
		"run/vc/vm/mine/clh-api.sock":                           "",
		"run/vc/vm/other/clh-api.sock":                          "",
		"run/kata-containers/shared/sandboxes/mine/shared/file": "x",
		"proc/self/mountinfo":                                   "",
		"scratch/mine.ext4":                                     "",
		"scratch/other.ext4":                                    "",
		"s/mine":                                                "",
		"s/other":                                               "",
	})
	cgroups := []string{"sys/fs/cgroup/cpu/nodeless/pod1/kata_mine/child", "sys/fs/cgroup/cpu/nodeless/pod1/kata_other"}
	for _, c := range cgroups {
		if err := os.MkdirAll(filepath.Join(root, c), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	s := sandbox{id: "mine", bundle: "/bundle", root: root, scratch: filepath.Join(root, "scratch"), socket: filepath.Join(root, "s/mine")}
	if s.deleted() {
		t.Error("the sandbox counts as deleted although Kata has it on its books")
	}
	for range 2 { // the second call finds nothing to do
		if err := s.remove(); err != nil {
			t.Fatal(err)
		}
	}
	for path, want := range map[string]bool{
		"run/vc/sbs/mine": false, "run/vc/vm/mine": false, "run/kata-containers/shared/sandboxes/mine": false,
		"sys/fs/cgroup/cpu/nodeless/pod1/kata_mine": false,
		"scratch/mine.ext4":                         false,
		"s/mine":                                    false, "s/other": true,
		"run/vc/vm/other": true, cgroups[1]: true, "scratch/other.ext4": true,
	} {
		if _, err := os.Stat(filepath.Join(root, path)); (err == nil) != want {
			t.Errorf("%s is there: %v, want %v", path, err == nil, want)
		}
	}
}

func TestPlainContainerIsLeftAlone(t *testing.T) {
	root := tree(t, map[string]string{"run/vc/vm/other/x": ""}) // no /proc: looking there would fail
	if err := (sandbox{id: "container", bundle: "/bundle", root: root}).remove(); err != nil {
		t.Errorf("remove = %v", err)
	}
}

func TestHostileIDIsRefused(t *testing.T) {
	for _, id := range []string{"", "..", "../../etc", "a/b", "-x"} {
		if err := (sandbox{id: id, bundle: "/bundle", root: t.TempDir()}).remove(); err == nil {
			t.Errorf("id %q was accepted", id)
		}
	}
}

func TestProcessesAreOursAndOfThisSandbox(t *testing.T) {
	root := tree(t, map[string]string{
		"proc/10/cmdline": "nodeless-vmm\x00--api-socket\x00/run/vc/vm/mine/clh-api.sock\x00",
		"proc/11/cmdline": "nodeless-vmm\x00--api-socket\x00/run/vc/vm/other/clh-api.sock\x00",
		"proc/12/cmdline": "grep\x00mine\x00",
		"proc/13/cmdline": "shim\x00-id\x00mine\x00delete\x00",
		"proc/14/cmdline": "shim\x00-id\x00mine\x00",
	})
	for pid, exe := range map[string]string{
		"10": "/bundle/bin/nodeless-vmm", "11": "/bundle/bin/nodeless-vmm", "12": "/usr/bin/grep", "13": "/bundle/bin/shim", "14": "/bundle/bin/shim",
	} {
		if err := os.Symlink(exe, filepath.Join(root, "proc", pid, "exe")); err != nil {
			t.Fatal(err)
		}
	}
	got := sandbox{id: "mine", bundle: "/bundle", root: root, self: 14}.processes()
	if len(got) != 1 || got[0] != 10 {
		t.Errorf("processes = %v, want [10]", got)
	}
}

func TestOwnCgroupsAreFoundWithoutASearch(t *testing.T) {
	root := tree(t, map[string]string{
		"proc/self/cgroup": "9:name=systemd:/n/pod/kata_mine\n7:cpu,cpuacct:/n/pod\n6:pids:/elsewhere\n0::/n/pod/kata_mine\n",
	})
	want := []string{"systemd/n/pod/kata_mine", "cpu,cpuacct/n/pod/kata_mine", "unified/n/pod/kata_mine"}
	for _, dir := range append([]string{"cpu,cpuacct/n/pod/kata_other", "pids/n/pod/kata_mine"}, want...) {
		if err := os.MkdirAll(filepath.Join(root, "sys/fs/cgroup", dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	got := sandbox{id: "mine", root: root}.ownCgroups()
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
		if got := scratchDir(filepath.Join(root, name)); got != want {
			t.Errorf("scratchDir(%s) = %q, want %q", name, got, want)
		}
	}
}
