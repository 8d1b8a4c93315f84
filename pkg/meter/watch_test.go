package meter

import (
	"context"
	"log/slog"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/nodeless/nodeless/pkg/sandboxrecord"
)

// watchedWorld has the record of a microVM, a real process that is its own nodeless-vmm.
func watchedWorld(t *testing.T) (sandboxrecord.Dir, *Ledger, Clock, sandboxrecord.Record, *exec.Cmd) {
	t.Helper()
	dir := sandboxrecord.Dir(t.TempDir())
	ledger, err := Open(t.Context(), t.TempDir()+"/ledger.db")
	must(t, err)
	t.Cleanup(func() { must(t, ledger.Close()) })
	clock, err := SystemClock()
	must(t, err)
	qemu := exec.CommandContext(t.Context(), "sleep", "3600")
	must(t, qemu.Start())
	p, _, err := sandboxrecord.Find(os.DirFS("/proc"), qemu.Process.Pid)
	must(t, err)
	now := clock()
	r := sample("0123abcd").Record
	r.BootID, r.QEMU, r.VMM, r.StartBoot, r.Resizes, r.EndBoot = now.BootID, p, p, p.Boot(), nil, 0
	r.Start = now.Wall.Add(p.Boot() - now.Boot).UTC()
	must(t, dir.Write(r))
	return dir, ledger, clock, r, qemu
}

// TestEndIsSeenThoughNobodyWritesIt: nodeless-vmm is killed with its QEMU, as by a kubelet that empties the Pod's cgroup.
func TestEndIsSeenThoughNobodyWritesIt(t *testing.T) {
	dir, ledger, clock, _, qemu := watchedWorld(t)
	c := NewCollector(Config{Dir: dir, Clock: clock}, ledger, slog.New(slog.DiscardHandler))
	defer c.ends.close()
	must(t, c.scan(t.Context()))
	before := clock().Boot
	must(t, qemu.Process.Kill())
	_ = qemu.Wait() // it was killed
	for deadline := time.Now().Add(10 * time.Second); ; {
		if _, seen := c.ends.of("0123abcd"); seen {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the end was not seen")
		}
	}
	after := clock().Boot
	must(t, c.scan(t.Context()))
	got := byID(all(t, ledger))["0123abcd"]
	if got.Estimated || got.EndBoot < before || got.EndBoot > after {
		t.Errorf("it ended %s after the boot, estimated: %v; want between %s and %s, as seen", got.EndBoot, got.Estimated, before, after)
	}
	if len(c.ends.files) != 0 || len(c.ends.seen) != 0 {
		t.Errorf("the watch is not forgotten: %v, %v", c.ends.files, c.ends.seen)
	}
}

// TestEndIsTakenDownAtOnce: an end that was seen and not written down would be lost with this process.
func TestEndIsTakenDownAtOnce(t *testing.T) {
	dir, ledger, clock, r, qemu := watchedWorld(t)
	c := NewCollector(Config{Dir: dir, Clock: clock, Interval: time.Hour}, ledger, slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(t.Context())
	ran := make(chan error, 1)
	go func() { ran <- c.Run(ctx) }()
	must(t, c.Ready(ctx))
	must(t, qemu.Process.Kill())
	_ = qemu.Wait() // it was killed
	for deadline := time.Now().Add(10 * time.Second); byID(all(t, ledger))[r.Sandbox].EndBoot == 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the end is not in the ledger long before the next look at the folder")
		}
	}
	cancel()
	must(t, <-ran)
}

// TestAnotherProcessIsNotWatched: the number belongs to somebody else by now.
func TestAnotherProcessIsNotWatched(t *testing.T) {
	clock, err := SystemClock()
	must(t, err)
	e := newEnds(clock)
	defer e.close()
	if err := e.watch("0123abcd", os.Getpid(), func() (bool, error) { return false, nil }); err != nil || len(e.files) != 0 {
		t.Errorf("watch = %v, %d are watched", err, len(e.files))
	}
}
