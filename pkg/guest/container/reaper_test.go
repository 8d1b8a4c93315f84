package container

import (
	"fmt"
	"os"
	"os/exec"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The test process takes PID 1's part: as a subreaper it inherits the orphans of its descendants.
func TestReaperCollectsOrphansAndLosesNoStatus(t *testing.T) {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		t.Skipf("skipped: the test process cannot become a subreaper: %v", err)
	}
	r := NewReaper()
	go r.Run(t.Context())
	var wg sync.WaitGroup
	limit := make(chan struct{}, 8)
	for i := range 200 {
		wg.Go(func() {
			limit <- struct{}{}
			defer func() { <-limit }()
			want := i % 100
			// Each leaves two orphans behind, which end before and after it.
			cmd := exec.Command("sh", "-c", fmt.Sprintf("(sh -c 'exit 1' &); (sleep 0.02 &); exit %d", want))
			err := r.Start(func() (int, error) {
				if err := cmd.Start(); err != nil {
					return 0, err
				}
				return cmd.Process.Pid, nil
			})
			if err != nil {
				t.Error(err)
				return
			}
			_ = cmd.Wait()
			r.Gone(cmd.Process.Pid)
			if got := exitStatus(cmd.ProcessState, nil); got != int32(want) {
				t.Errorf("status of process %d = %d, want %d", i, got, want)
			}
		})
	}
	wg.Wait()
	for deadline := time.Now().Add(10 * time.Second); ; {
		children := childCount(t)
		if children == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d children are left", children)
		}
		time.Sleep(time.Millisecond)
	}
}

// childCount counts the children of this process, zombies included.
func childCount(t *testing.T) int {
	t.Helper()
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, task := range tasks {
		raw, err := os.ReadFile("/proc/self/task/" + task.Name() + "/children")
		if err != nil {
			continue // the thread has ended
		}
		for _, b := range raw {
			if b == ' ' {
				n++
			}
		}
	}
	return n
}
