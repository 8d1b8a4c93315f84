package proc_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nodeless/nodeless/pkg/proc"
)

// The children of these tests are the test binary itself, told by an environment variable how to behave.
const roleVar = "PROC_TEST_ROLE"

func TestMain(m *testing.M) {
	switch os.Getenv(roleVar) {
	case "":
		os.Exit(m.Run())
	case "dies":
		fmt.Fprintln(os.Stderr, "first words\nlast words")
		os.Exit(3)
	case "flood":
		for i := range 20000 {
			fmt.Printf("line %d %s\n", i, strings.Repeat("x", 100))
		}
		os.Exit(4)
	case "obeys":
		stop := make(chan os.Signal, 1)
		signal.Notify(stop, syscall.SIGTERM)
		fmt.Println("up")
		<-stop
	case "deaf":
		signal.Ignore(syscall.SIGTERM)
		fmt.Println("up")
		time.Sleep(time.Hour)
	case "parent": // runs a child and reports its pid, to be killed by the test
		c := child("obeys")
		c.Started = func(pid int) { fmt.Println(pid) }
		_ = c.Run(context.Background())
	}
	os.Exit(0)
}

func child(role string) proc.Child {
	return proc.Child{Name: role, Path: os.Args[0], Env: append(os.Environ(), roleVar+"="+role)}
}

func TestEarlyEndCarriesStatusAndLastLine(t *testing.T) {
	err := child("dies").Run(t.Context())
	if err == nil || !strings.Contains(err.Error(), "exit status 3") || !strings.HasSuffix(err.Error(), "last words") {
		t.Errorf("Run = %v, want exit status 3 and the last words", err)
	}
}

func TestFloodedLogIsPassedOnWhole(t *testing.T) {
	c := child("flood")
	r, w := io.Pipe()
	c.Log = w
	lines := make(chan int)
	go func() {
		n := 0
		for s := bufio.NewScanner(r); s.Scan(); {
			n++
		}
		lines <- n
	}()
	err := c.Run(t.Context())
	w.Close()
	if n := <-lines; n != 20000 {
		t.Errorf("passed on %d lines, want 20000", n)
	}
	if err == nil || !strings.Contains(err.Error(), "line 19999") {
		t.Errorf("Run = %v, want the last line in it", err)
	}
}

func TestStopIsAskedForThenForced(t *testing.T) {
	for _, role := range []string{"obeys", "deaf"} {
		t.Run(role, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			c := child(role)
			c.StopTimeout = 300 * time.Millisecond
			c.Log = cancelOnFirstWrite{cancel}
			if err := c.Run(ctx); err != nil {
				t.Errorf("Run = %v, want nil after ctx ended", err)
			}
		})
	}
}

type cancelOnFirstWrite struct{ cancel context.CancelFunc }

func (c cancelOnFirstWrite) Write(p []byte) (int, error) { c.cancel(); return len(p), nil }

func TestChildDiesWithItsParent(t *testing.T) {
	parent := exec.Command(os.Args[0])
	parent.Env = append(os.Environ(), roleVar+"=parent")
	out, err := parent.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	var pid int
	if _, err := fmt.Fscan(out, &pid); err != nil {
		t.Fatal(err)
	}
	if err := parent.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = parent.Wait()
	deadline := time.Now().Add(10 * time.Second)
	for alive(pid) {
		if time.Now().After(deadline) {
			t.Fatalf("pid %d outlived its parent", pid)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// alive tells whether pid still runs; a zombie does not.
func alive(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	return !strings.HasPrefix(rest, "Z")
}

func TestMissingProgram(t *testing.T) {
	err := proc.Child{Name: "ghost", Path: "/nonexistent"}.Run(t.Context())
	if err == nil || !strings.HasPrefix(err.Error(), "start ghost: ") {
		t.Errorf("Run = %v, want a start error", err)
	}
}
