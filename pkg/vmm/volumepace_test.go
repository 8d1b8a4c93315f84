package vmm

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestVolumesArePaidFor: what a Pod has taken too much of its volumes, by any kind of work, it waits for.
func TestVolumesArePaidFor(t *testing.T) {
	const rate = 100 * mib
	for _, tt := range []struct {
		name   string
		bounds Disk
		done   work // in a second, after a second of nothing
		wait   time.Duration
		busy   bool
	}{
		{name: "nothing", bounds: Disk{BytesPerSecond: rate, OpsPerSecond: 100}},
		{name: "a little", bounds: Disk{BytesPerSecond: rate}, done: work{rate / 10}},
		{name: "what is saved up, and what comes", bounds: Disk{BytesPerSecond: rate}, done: work{rate, 2 * rate}, busy: true},
		{name: "too much is read", bounds: Disk{BytesPerSecond: rate}, done: work{5 * rate, 0}, wait: 3 * time.Second, busy: true},
		{name: "too much is written", bounds: Disk{BytesPerSecond: rate}, done: work{0, 4 * rate}, wait: 2 * time.Second, busy: true},
		{name: "too often", bounds: Disk{OpsPerSecond: 100}, done: work{1, 1, 0, 300}, wait: time.Second, busy: true},
		{name: "as much as it likes", bounds: Disk{OpsPerSecond: 100}, done: work{9 * rate, 9 * rate}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := volumePace{bounds: tt.bounds}
			p.account(work{}, time.Second)
			wait, busy := p.account(tt.done, time.Second)
			if wait.Round(time.Millisecond) != tt.wait || busy != tt.busy {
				t.Errorf("it waits %v and is busy: %v, want %v, %v", wait, busy, tt.wait, tt.busy)
			}
			if wait > 0 {
				if again, _ := p.account(work{}, wait); again > 0 {
					t.Errorf("after it has waited it has to wait %v", again)
				}
			}
		})
	}
}

// TestVolumesOfAHeldPodAreLeftAlone: nobody but who holds a Pod lets its volumes go on.
func TestVolumesOfAHeldPodAreLeftAlone(t *testing.T) {
	daemon := exec.Command("sleep", "60")
	must(t, daemon.Start())
	t.Cleanup(func() {
		_ = daemon.Process.Kill()
		_ = daemon.Wait()
	})
	pid := daemon.Process.Pid
	stands := func() bool { return standsStill(pid) }
	must(t, daemon.Process.Signal(unix.SIGSTOP))
	eventually(t, "it stands still", stands)
	p := volumePace{bounds: Disk{BytesPerSecond: mib}, last: time.Now(), paused: []int{pid}}
	if got := p.look(time.Now(), true); got != lookInterval {
		t.Errorf("while it is held it is looked at every %v", got)
	}
	p.release()
	if !stands() {
		t.Error("it goes on while it is held")
	}
	p.paused = []int{pid}
	p.look(time.Now(), false) // there is nothing to compare with yet
	eventually(t, "it goes on when nobody holds it", func() bool { return !stands() })
	if got := (&volumePace{}).look(time.Now(), false); got != lookInterval {
		t.Errorf("without a bound it is looked at every %v", got)
	}
}

// standsStill tells whether somebody has stopped a process.
func standsStill(pid int) bool {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	_, rest, _ := strings.Cut(string(raw), ") ")
	return strings.HasPrefix(rest, "T")
}
