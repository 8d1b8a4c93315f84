package vmm

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/nodeless/nodeless/pkg/contract"
	"github.com/nodeless/nodeless/pkg/sandboxrecord"
)

// effortInterval is how often it is looked whether a microVM that boots gets on.
const effortInterval = 500 * time.Millisecond

var (
	// ErrStuck says that a guest does not get on, however much time it is given.
	ErrStuck = errors.New("the guest does not get on")
	// ErrSlow says that a guest got on all the time and was not done when its time was over.
	ErrSlow = errors.New("the guest gets on, but too slowly")
)

// Boot is a Pod whose microVM boots on this host, or waits for its turn. pkg/worker/cri knows of them, and pkg/worker/notice tells.
type Boot struct {
	sandboxrecord.Pod
	Booting bool
	Since   time.Time // since when it does the one or the other
}

// effort is what a process does for its progress at one moment.
type effort struct {
	cpu   time.Duration // that it has used
	wants bool          // one of its threads runs, waits for a CPU or waits for a disk
	signs int           // of life that it has given: bytes on its console, answers
}

// bounds are how long a microVM is waited for. What counts is not the clock: on a busy host a guest may get a CPU now and then only, and
// is waited for as long as it wants one. A guest that wants none, or that uses one and gives no sign of life, is stuck.
type bounds struct {
	idle   time.Duration // in all that it may want no CPU
	silent time.Duration // of CPU time that it may use between two signs of life
	most   time.Duration // of CPU time that it may use in all
}

// fillTime is how long QEMU may take for memory and devices beside the time that goes with the memory's size: each device is reset.
const fillTime = 5 * time.Minute

// bootBounds are several times what a boot takes on a slow host.
func bootBounds(accel string) bounds {
	if accel == AccelKVM {
		return bounds{idle: time.Minute, silent: 2 * time.Minute, most: 5 * time.Minute}
	}
	return bounds{idle: time.Minute, silent: 5 * time.Minute, most: 15 * time.Minute}
}

// with gives a microVM with devices of the host more time: before QEMU says a word, all of the guest's memory is filled and locked for
// them, which takes a second for each GiB of it at most.
func (b bounds) with(devices int, memory int64) bounds {
	if devices == 0 {
		return b
	}
	more := fillTime + time.Duration(memory>>30)*time.Second
	b.idle, b.silent, b.most = b.idle+more, b.silent+more, b.most+more
	return b
}

// tally is what a wait has seen so far.
type tally struct {
	bounds
	last       effort
	first      time.Duration // CPU time before
	idled      time.Duration
	lastSignAt time.Duration // in CPU time
}

func (b bounds) begin(now effort) *tally {
	return &tally{bounds: b, last: now, first: now.cpu, lastSignAt: now.cpu}
}

// add takes in what was seen after some time. The error says why there is no point in waiting longer.
func (t *tally) add(now effort, after time.Duration) error {
	worked := now.cpu - t.last.cpu
	sign := now.signs != t.last.signs
	if sign {
		t.lastSignAt = now.cpu
	}
	if !sign && !now.wants && worked < after/5 {
		t.idled += min(after, 2*effortInterval) // who looks too late has not been given a CPU itself
	}
	t.last = now
	switch {
	case t.idled >= t.idle:
		return fmt.Errorf("%w: for %v it has neither run nor waited for a CPU", ErrStuck, t.idled.Round(time.Second))
	case now.cpu-t.lastSignAt >= t.silent:
		return fmt.Errorf("%w: it has used %v of CPU time without a sign of life", ErrStuck, (now.cpu - t.lastSignAt).Round(time.Second))
	case now.cpu-t.first >= t.most:
		return fmt.Errorf("%w: it has used %v of CPU time", ErrSlow, (now.cpu - t.first).Round(time.Second))
	}
	return nil
}

// while gives a context that ends, with ErrStuck or ErrSlow as its cause, when there is no point in waiting longer for what look looks at.
// A look that fails decides nothing: who has ended is seen to end.
func (b bounds) while(ctx context.Context, look func() (effort, error)) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	now, err := look()
	if err != nil {
		return ctx, func() { cancel(nil) }
	}
	go func() {
		t, at := b.begin(now), time.Now()
		tick := time.NewTicker(effortInterval)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			now, err := look()
			if err != nil {
				return
			}
			if err := t.add(now, time.Since(at)); err != nil {
				cancel(err)
				return
			}
			at = time.Now()
		}
	}()
	return ctx, func() { cancel(nil) }
}

// effortOf reads what a process does; proc is /proc.
func effortOf(proc fs.FS, pid int) (effort, error) {
	dir := strconv.Itoa(pid)
	fields, err := statFields(proc, dir+"/stat")
	if err != nil {
		return effort{}, err
	}
	const utime, stime = 14 - 3, 15 - 3 // proc(5)
	var e effort
	for _, field := range []string{fields[utime], fields[stime]} {
		ticks, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			return effort{}, fmt.Errorf("read the CPU time of process %d: %w", pid, err)
		}
		e.cpu += time.Duration(ticks) * (time.Second / 100) // USER_HZ
	}
	threads, err := fs.ReadDir(proc, dir+"/task")
	if err != nil {
		return effort{}, fmt.Errorf("look at process %d: %w", pid, err)
	}
	for _, thread := range threads {
		if fields, err := statFields(proc, dir+"/task/"+thread.Name()+"/stat"); err == nil { // it may have ended
			e.wants = e.wants || fields[0] == "R" || fields[0] == "D"
		}
	}
	return e, nil
}

// statFields are those of a stat from the state on, behind the name, which may hold anything.
func statFields(proc fs.FS, path string) ([]string, error) {
	raw, err := fs.ReadFile(proc, path)
	if err != nil {
		return nil, fmt.Errorf("look at a process: %w", err)
	}
	const enough = 20
	fields := strings.Fields(string(raw[strings.LastIndexByte(string(raw), ')')+1:]))
	if len(fields) < enough {
		return nil, fmt.Errorf("look at a process: %s is %q", path, raw)
	}
	return fields, nil
}

// effort looks at the microVM's QEMU.
func (v *vm) effort(p *process) (effort, error) {
	e, err := effortOf(os.DirFS("/proc"), p.cmd.Process.Pid)
	if v.console != nil {
		e.signs = v.console.written()
	}
	return e, err
}

// currentEffort is the answer to contract.CallEffort.
func (v *vm) currentEffort() (contract.Effort, error) {
	v.mu.Lock()
	p := v.proc
	v.mu.Unlock()
	if p == nil {
		return contract.Effort{}, fmt.Errorf("look at the microVM: %w", errState)
	}
	e, err := v.effort(p)
	return contract.Effort{CPU: e.cpu, Wants: e.wants}, err
}
