package main

import (
	"os"
	"path/filepath"
	"testing"
)

func TestBoost(t *testing.T) {
	for _, tt := range []struct{ name, file, limited, boosted, meanwhile, after string }{
		{name: "cgroup v1", file: "sys/fs/cgroup/cpu/n/kubepods/pod1/cpu.cfs_quota_us", limited: "25000", boosted: "-1", after: "25000"},
		{name: "cgroup v2", file: "sys/fs/cgroup/n/kubepods/pod1/cpu.max", limited: "25000 100000", boosted: "max", after: "25000 100000"},
		{name: "the kubelet has resized the Pod meanwhile", file: "sys/fs/cgroup/cpu/n/kubepods/pod1/cpu.cfs_quota_us", limited: "25000", boosted: "-1", meanwhile: "50000", after: "50000"},
		{name: "no limit", file: "sys/fs/cgroup/n/kubepods/pod1/cpu.max", limited: "max 100000", boosted: "max 100000", after: "max 100000"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			root := t.TempDir()
			file := filepath.Join(root, tt.file)
			write := func(text string) {
				if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			expect := func(when, want string) {
				t.Helper()
				if got, err := os.ReadFile(file); err != nil || string(got) != want {
					t.Errorf("%s the limit is %q, %v; want %q", when, got, err, want)
				}
			}
			if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
				t.Fatal(err)
			}
			write(tt.limited)
			var b boost
			b.begin(root, "/n/kubepods/pod1/sandbox")
			expect("at the boot", tt.boosted)
			if tt.meanwhile != "" {
				write(tt.meanwhile)
			}
			b.end()
			expect("afterwards", tt.after)
			write("10000")
			b.end()
			expect("after a second end", "10000")
			b.again(root)
			if b.end(); tt.boosted != tt.limited {
				expect("after the Pod's own end", "10000")
			}
		})
	}
}

func TestBoostOfAPodThatIsGone(t *testing.T) {
	var b boost
	b.begin(t.TempDir(), "/n/kubepods/pod1/sandbox")
	b.end()
}

// TestPodsHaveTheLeast: a limit of the kubelet's that is smaller than what a guest needs is raised, after the boot and after each resize.
func TestPodsHaveTheLeast(t *testing.T) {
	for _, tt := range []struct{ name, file, small, raised, large string }{
		{"cgroup v1", "sys/fs/cgroup/cpu/n/kubepods/pod1/cpu.cfs_quota_us", "1000", "25000", "50000"},
		{"cgroup v2", "sys/fs/cgroup/n/kubepods/pod1/cpu.max", "1000 100000", "25000 100000", "50000 100000"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			root := t.TempDir()
			file := filepath.Join(root, tt.file)
			write := func(path, text string) {
				t.Helper()
				if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			expect := func(when, want string) {
				t.Helper()
				if got, err := os.ReadFile(file); err != nil || string(got) != want {
					t.Errorf("%s the limit is %q, %v; want %q", when, got, err, want)
				}
			}
			if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
				t.Fatal(err)
			}
			write(file, tt.small)
			write(filepath.Join(filepath.Dir(file), "cpu.cfs_period_us"), "100000\n")
			var b boost
			b.hold(root) // before there is a Pod
			b.atLeast(250)
			b.begin(root, "/n/kubepods/pod1/sandbox")
			b.hold(root)
			b.end()
			expect("after the boot", tt.raised)
			write(file, tt.small)
			b.hold(root)
			expect("after a resize", tt.raised)
			write(file, tt.large)
			b.hold(root)
			expect("with more than that", tt.large)
		})
	}
}
