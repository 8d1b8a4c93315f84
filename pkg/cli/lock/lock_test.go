package lock_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/nodeless/nodeless/pkg/cli/lock"
	"github.com/nodeless/nodeless/pkg/hint"
)

const holdEnv = "LOCK_TEST_HOLD"

// TestMain makes the test binary a process that takes the lock and keeps it until it is killed.
func TestMain(m *testing.M) {
	path := os.Getenv(holdEnv)
	if path == "" {
		os.Exit(m.Run())
	}
	l, err := lock.Acquire(path)
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println("held")
	_, _ = io.Copy(io.Discard, os.Stdin) // select{} would be a deadlock, and end the process
	runtime.KeepAlive(l)                 // or a collection would give the lock back
}

func TestSecondServerIsRefusedAndNamed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "server.lock")
	if pid, err := lock.Holder(path); pid != 0 || err != nil {
		t.Fatalf("Holder of nothing = %d, %v", pid, err)
	}
	other := exec.Command(os.Args[0])
	other.Env = append(os.Environ(), holdEnv+"="+path)
	out, err := other.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := other.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "held\n" {
		t.Fatalf("other process: %q, %v", line, err)
	}
	_, err = lock.Acquire(path)
	if !errors.Is(err, lock.ErrHeld) || !strings.Contains(err.Error(), fmt.Sprintf("pid %d", other.Process.Pid)) {
		t.Errorf("Acquire = %v, want ErrHeld with pid %d", err, other.Process.Pid)
	}
	if do := hint.Of(err); len(do) != 1 || !strings.Contains(do[0], fmt.Sprintf("kill %d", other.Process.Pid)) {
		t.Errorf("hints = %q", do)
	}
	if pid, err := lock.Holder(path); pid != other.Process.Pid || err != nil {
		t.Errorf("Holder = %d, %v, want %d", pid, err, other.Process.Pid)
	}

	if err := other.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = other.Wait() // killed
	if pid, err := lock.Holder(path); pid != 0 || err != nil {
		t.Errorf("Holder after kill -9 = %d, %v", pid, err)
	}
	l, err := lock.Acquire(path)
	if err != nil {
		t.Fatalf("after kill -9: %v", err)
	}
	if err := l.Release(); err != nil {
		t.Error(err)
	}
}

func TestFolderThatIsNotThere(t *testing.T) {
	if _, err := lock.Acquire(filepath.Join(t.TempDir(), "none", "server.lock")); !errors.Is(err, os.ErrNotExist) || len(hint.Of(err)) == 0 {
		t.Errorf("Acquire = %v", err)
	}
}
