package testbed

import (
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"
)

func TestInPIDNamespace(t *testing.T) {
	home, err := os.Readlink("/proc/self/ns/pid")
	if err != nil {
		t.Fatal(err)
	}
	inner := exec.Command("sleep", "60")
	inner.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID}
	if err := inner.Start(); err != nil {
		t.Skipf("skipped: no pid namespace can be made here: %v", err)
	}
	defer func() {
		_ = inner.Process.Kill()
		_ = inner.Wait()
	}()
	within := fmt.Sprintf("/proc/%d", inner.Process.Pid)
	own, err := os.Readlink(within + "/ns/pid")
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		dir, home string
		want      bool
	}{{"/proc/self", home, true}, {within, home, true}, {within, own, true}, {"/proc/self", own, false}, {"/proc/0", home, false}} {
		if got := InPIDNamespace(tt.dir, tt.home); got != tt.want {
			t.Errorf("InPIDNamespace(%s, %s) = %v, want %v", tt.dir, tt.home, got, tt.want)
		}
	}
}
