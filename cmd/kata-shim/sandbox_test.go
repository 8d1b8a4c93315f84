package main

import (
	"os"
	"path/filepath"
	"testing"
)

func TestParse(t *testing.T) {
	tests := []struct {
		name string
		args []string
		want call
	}{
		{name: "info", args: []string{"-info"}, want: call{info: true}},
		{name: "delete", args: []string{"-namespace", "k8s.io", "-address", "/run/c.sock", "-publish-binary", "/bin/x", "-id", "abc", "-bundle", "/b", "delete"}, want: call{id: "abc", action: "delete"}},
		{name: "a container named delete is not an action", args: []string{"-namespace", "delete", "-id", "delete", "start"}, want: call{id: "delete", action: "start"}},
		{name: "daemon", args: []string{"-namespace", "k8s.io", "-id", "abc"}, want: call{id: "abc"}},
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
	})
	cgroups := []string{"sys/fs/cgroup/cpu/nodeless/pod1/kata_mine/child", "sys/fs/cgroup/cpu/nodeless/pod1/kata_other"}
	for _, c := range cgroups {
		if err := os.MkdirAll(filepath.Join(root, c), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	s := sandbox{id: "mine", bundle: "/bundle", root: root}
	for range 2 { // the second call finds nothing to do
		if err := s.remove(); err != nil {
			t.Fatal(err)
		}
	}
	for path, want := range map[string]bool{
		"run/vc/sbs/mine": false, "run/vc/vm/mine": false, "run/kata-containers/shared/sandboxes/mine": false,
		"sys/fs/cgroup/cpu/nodeless/pod1/kata_mine": false,
		"run/vc/vm/other":                           true, cgroups[1]: true,
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
