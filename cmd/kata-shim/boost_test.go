package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v2"
	shimapi "github.com/containerd/containerd/runtime/v2/shim"
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
			bundle := t.TempDir()
			b.begin(root, bundle, "/n/kubepods/pod1/sandbox", quota{})
			expect("at the boot", tt.boosted)
			if tt.meanwhile != "" {
				write(tt.meanwhile)
			}
			b.end()
			expect("afterwards", tt.after)
			if left, err := os.ReadDir(bundle); err != nil || len(left) != 0 {
				t.Errorf("in the bundle is left %v, %v", left, err)
			}
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
	b.begin(t.TempDir(), t.TempDir(), "/n/kubepods/pod1/sandbox", quota{25000, 100000})
	b.end()
}

// A limit that was lifted is back however the shim that lifted it ends: by what delete does, and by what the Pod's next sandbox says.
func TestLiftedLimitComesBack(t *testing.T) {
	for _, tt := range []struct{ name, file, limited, lifted, other string }{
		{name: "cgroup v1", file: "sys/fs/cgroup/cpu/n/kubepods/pod1/cpu.cfs_quota_us", limited: "25000", lifted: "-1", other: "50000"},
		{name: "cgroup v2", file: "sys/fs/cgroup/n/kubepods/pod1/cpu.max", limited: "25000 100000", lifted: "max", other: "50000 100000"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			root, bundle := t.TempDir(), t.TempDir()
			file := filepath.Join(root, tt.file)
			write, expect := controlFile(t, file)
			spec := quota{25000, 100000}
			write(tt.limited)
			(&boost{}).begin(root, bundle, "/n/kubepods/pod1/first", spec) // killed with that
			expect("while a shim boots", tt.lifted)

			var b boost // of the Pod's next sandbox, before containerd has had anything deleted
			b.begin(root, t.TempDir(), "/n/kubepods/pod1/second", spec)
			expect("while the next one boots", tt.lifted)
			b.end()
			expect("after the next one's boot", tt.limited)

			write(tt.lifted)
			if err := restoreLifted(bundle); err != nil {
				t.Error(err)
			}
			expect("after delete", tt.limited)
			write(tt.other)
			if err := restoreLifted(bundle); err != nil {
				t.Error(err)
			}
			expect("after a delete that finds the kubelet's new limit", tt.other)
			if err := os.Remove(file); err != nil {
				t.Fatal(err)
			}
			if err := restoreLifted(bundle); err != nil {
				t.Errorf("delete of a sandbox whose Pod has gone: %v", err)
			}
		})
	}
	if err := restoreLifted(t.TempDir()); err != nil {
		t.Errorf("delete of a sandbox that lifted nothing: %v", err)
	}
}

// A sandbox that cannot be created leaves the limit as it was.
func TestLimitAfterASandboxThatCannotBeCreated(t *testing.T) {
	root, bundle := t.TempDir(), t.TempDir()
	file := filepath.Join(root, "sys/fs/cgroup/n/kubepods/pod1/cpu.max")
	if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o700), os.WriteFile(file, []byte("25000 100000"), 0o600)); err != nil {
		t.Fatal(err)
	}
	s := service{Shim: noBoot{t: t, file: file}, boost: &boost{}, sandbox: sandbox{root: root}}
	d := description{}
	d.Linux.CgroupsPath = "/n/kubepods/pod1/x"
	if _, err := s.createSandbox(t.Context(), &taskapi.CreateTaskRequest{Bundle: bundle}, d); err == nil {
		t.Error("the fault is not told")
	}
	if got, err := os.ReadFile(file); err != nil || string(got) != "25000 100000" {
		t.Errorf("the limit is %q, %v", got, err)
	}
}

// noBoot is a shim whose microVM does not boot.
type noBoot struct {
	shimapi.Shim
	t    *testing.T
	file string
}

func (n noBoot) Create(context.Context, *taskapi.CreateTaskRequest) (*taskapi.CreateTaskResponse, error) {
	if got, err := os.ReadFile(n.file); err != nil || string(got) != "max" {
		n.t.Errorf("during the boot the limit is %q, %v", got, err)
	}
	return nil, errors.New("no answer")
}

// TestBoostLastsAsLongAsTheBoot: on a busy host a boot takes longer than a Pod may wait for its image.
func TestBoostLastsAsLongAsTheBoot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		root := t.TempDir()
		file := filepath.Join(root, "sys/fs/cgroup/n/kubepods/pod1/cpu.max")
		if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o700), os.WriteFile(file, []byte("25000 100000"), 0o600)); err != nil {
			t.Fatal(err)
		}
		limit := func() string {
			raw, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			return string(raw)
		}
		var b boost
		b.begin(root, t.TempDir(), "/n/kubepods/pod1/sandbox", quota{})
		time.Sleep(10 * boostTime)
		if got := limit(); got != "max" {
			t.Errorf("during the boot the limit is %q", got)
		}
		b.booted()
		time.Sleep(boostTime - time.Second)
		if got := limit(); got != "max" {
			t.Errorf("while the image is pulled the limit is %q", got)
		}
		time.Sleep(2 * time.Second)
		if got := limit(); got != "25000 100000" {
			t.Errorf("after that the limit is %q", got)
		}
	})
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
			write, expect := controlFile(t, file)
			write(tt.small)
			var b boost
			b.hold(root) // before there is a Pod
			b.atLeast(quota{25000, 100000})
			b.begin(root, t.TempDir(), "/n/kubepods/pod1/sandbox", quota{})
			b.hold(root)
			b.end()
			expect("after the boot", tt.raised)
			write(tt.small)
			b.hold(root)
			expect("after a resize", tt.raised)
			write(tt.large)
			b.hold(root)
			expect("with more than that", tt.large)
		})
	}
}

// controlFile stands in for the control file of a cgroup: write is what others write there, expect compares what it says.
func controlFile(t *testing.T, file string) (write func(text string), expect func(when, want string)) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		t.Fatal(err)
	}
	write = func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	expect = func(when, want string) {
		t.Helper()
		if got, err := os.ReadFile(file); err != nil || string(got) != want {
			t.Errorf("%s the limit is %q, %v; want %q", when, got, err, want)
		}
	}
	return write, expect
}
