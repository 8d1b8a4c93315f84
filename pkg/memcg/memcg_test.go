package memcg

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/nodeless/nodeless/tests/attack"
)

const gib = 1 << 30

func TestBudget(t *testing.T) {
	for _, tt := range []struct {
		total int64
		want  string // server, containerd, its bound, conversions, reserved for both, for the system; MiB
	}{
		{2 * gib, "1024 512 2784 1024 512 128"}, {8 * gib, "1024 512 2784 1024 682 128"}, {24 * gib, "3072 512 2784 1792 2048 384"}, {512 * gib, "8192 512 2784 1792 4096 1024"},
	} {
		b := For(tt.total, 110)
		if got := fmt.Sprint(b.Server/mib, b.Containerd/mib, b.ContainerdMax/mib, b.Converters/mib, b.KubeReserved/mib, b.SystemReserved/mib); got != tt.want {
			t.Errorf("%d GiB: %s, want %s", tt.total/gib, got, tt.want)
		}
	}
}

func TestTotal(t *testing.T) {
	file := filepath.Join(t.TempDir(), "meminfo")
	if err := os.WriteFile(file, []byte("MemTotal:       24683756 kB\nMemFree: 1 kB\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := Total(file); err != nil || got != 24683756<<10 {
		t.Errorf("Total = %d, %v", got, err)
	}
	if _, err := Total(os.DevNull); err == nil {
		t.Error("a file without the total is read")
	}
}

// TestMakeOnV2 has files in place of a hierarchy.
func TestMakeOnV2(t *testing.T) {
	dir := t.TempDir()
	for path, text := range map[string]string{"cgroup.subtree_control": "cpu pids\n", "n/cgroup.subtree_control": "memory\n", "mountinfo": "32 31 0:29 / " + dir + " rw - cgroup2 cgroup2 rw\n"} {
		if err := errors.Join(os.MkdirAll(filepath.Join(dir, "n"), 0o755), os.WriteFile(filepath.Join(dir, path), []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	g, err := Make(filepath.Join(dir, "mountinfo"), "/n/containerd", 5*mib)
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Join(42); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		"cgroup.subtree_control": "+memory", "n/cgroup.subtree_control": "memory\n", "n/containerd/memory.max": "5242880", "n/containerd/cgroup.procs": "42",
	} {
		if got, err := os.ReadFile(filepath.Join(dir, path)); err != nil || string(got) != want {
			t.Errorf("%s: %q, %v; want %q", path, got, err, want)
		}
	}
}

func TestWhereMemoryIsCounted(t *testing.T) {
	v1, v2 := "35 31 0:32 / /c/memory rw - cgroup cgroup rw,memory\n", "41 31 0:38 / /c/unified rw - cgroup2 cgroup2 rw\n"
	for text, want := range map[string]string{v1 + v2: "/c/memory", v2 + v1: "/c/memory", v2: "/c/unified", "1 2 8:3 / / rw - ext4 x rw\n": ""} {
		file := filepath.Join(t.TempDir(), "mountinfo")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, isV2, err := hierarchy(file); got != want || isV2 != (want == "/c/unified") || err != nil {
			t.Errorf("%q: %q, version 2: %t, %v", text, got, isV2, err)
		}
	}
}

// TestAttackADaemonThatIsMadeToGrow: the kernel ends a process that has grown past its bound, and no other.
func TestAttackADaemonThatIsMadeToGrow(t *testing.T) {
	name := fmt.Sprintf("/nodeless-test-memcg-%d/daemon", os.Getpid())
	g, err := Make("/proc/self/mountinfo", name, 64*mib)
	if err != nil {
		t.Skip("skipped: no cgroups of our own here: ", err)
	}
	t.Cleanup(func() {
		if err := errors.Join(syscall.Rmdir(g.dir), syscall.Rmdir(filepath.Dir(g.dir))); err != nil {
			t.Error(err)
		}
	})
	attack.Try(t, "T6", "a daemon is made to grow past its bound", func(t *testing.T) attack.Outcome {
		// It waits for a line, and then wants more than there is.
		cmd := exec.Command("sh", "-c", "read go; head -c 200m /dev/zero | tail")
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		var out strings.Builder
		cmd.Stdout, cmd.Stderr = &out, &out
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if err := g.Join(cmd.Process.Pid); err != nil {
			t.Fatal(err)
		}
		w := bufio.NewWriter(in)
		_, _ = w.WriteString("go\n")
		if err := errors.Join(w.Flush(), in.Close()); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Wait(); err == nil {
			t.Errorf("200 MiB fit into 64: %d bytes came", out.Len())
		}
		return attack.Contained
	})
}
