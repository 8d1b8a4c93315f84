package vmm

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// paceInterval is how often a Pod is looked at that uses its volumes much, paceLongest how long it stands still at most between two looks.
	paceInterval = 100 * time.Millisecond
	paceLongest  = time.Second
	// much is the part of its bound from which on a Pod is looked at more often.
	much = 0.25
	// stillBusy is for how long after that, or after it had to wait: it goes on as it did.
	stillBusy = 5 * time.Second
)

// kinds is what is bounded, each by itself: bytes read and written, and how often each.
const kinds = 4

// work is what a Pod's virtiofsd has ever done, by kind.
type work [kinds]int64

// volumePace bounds what a Pod does to its volumes, to what it may do to its disks. QEMU moves a disk's bytes and counts them. Those of
// volumes are moved by virtiofsd, which has no bound of its own. A cgroup's bound on block devices is none where writes are buffered
// (version 1), nor on file systems that have no block device. So virtiofsd stands still until the Pod has paid for what it has taken.
type volumePace struct {
	id     string // the sandbox
	bounds Disk
	log    *slog.Logger

	pids   []int
	found  time.Time // when pids was looked for
	before work
	last   time.Time // of before; zero if there is none to compare with
	owed   [kinds]float64
	busy   time.Time // when it last did much, or had to wait
	paused []int
}

// rates are the bounds, by kind; 0 is none.
func (d Disk) rates() [kinds]float64 {
	return [kinds]float64{float64(d.BytesPerSecond), float64(d.BytesPerSecond), float64(d.OpsPerSecond), float64(d.OpsPerSecond)}
}

// look lets the volumes wait or go on, and tells when to look again. While they stand still because the Pod is held, the hold lets
// them go.
func (p *volumePace) look(now time.Time, held bool) time.Duration {
	if !p.bounds.limited() {
		return lookInterval
	}
	if held {
		p.paused, p.last = nil, time.Time{}
		return lookInterval
	}
	sum, comparable := p.measure(now)
	took := now.Sub(p.last)
	done, first := sum, p.last.IsZero() || !comparable
	for i := range done {
		done[i] -= p.before[i]
	}
	p.before, p.last = sum, now
	if first {
		p.release()
		return lookInterval
	}
	wait, busy := p.account(done, took)
	if wait > 0 || busy {
		p.busy = now
	}
	if wait > 0 {
		p.pause()
		return min(max(wait, paceInterval/10), paceLongest)
	}
	p.release()
	if now.Sub(p.busy) < stillBusy {
		return paceInterval
	}
	return lookInterval
}

// account adds what was done in a time to what is owed. It tells for how long the Pod has to wait, and whether it does much. What it may
// do in a second it may do at once.
func (p *volumePace) account(done work, in time.Duration) (wait time.Duration, busy bool) {
	for i, rate := range p.bounds.rates() {
		if rate <= 0 {
			continue
		}
		p.owed[i] = max(p.owed[i]-in.Seconds()*rate+float64(max(done[i], 0)), -rate)
		wait = max(wait, time.Duration(p.owed[i]/rate*float64(time.Second)))
		busy = busy || float64(done[i]) > much*rate*in.Seconds()
	}
	return wait, busy
}

// measure adds up what the Pod's virtiofsd has done, and tells whether that can be compared with what was measured before.
func (p *volumePace) measure(now time.Time) (sum work, comparable bool) {
	comparable = true
	if len(p.pids) == 0 && now.Sub(p.found) >= findAgain {
		p.pids, p.found = p.find(), now
		comparable = false
	}
	for _, pid := range p.pids {
		one, err := ioOf(pid)
		if err != nil { // it has ended
			p.pids = nil
			return work{}, false
		}
		for i := range sum {
			sum[i] += one[i]
		}
	}
	return sum, comparable
}

// ioOf reads what a process has done.
func ioOf(pid int) (w work, err error) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/io", pid))
	if err != nil {
		return w, err
	}
	for line := range strings.Lines(string(raw)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
		if i := slices.Index([]string{"rchar", "wchar", "syscr", "syscw"}, name); i >= 0 {
			w[i], _ = strconv.ParseInt(value, 10, 64) // the kernel writes numbers
		}
	}
	return w, nil
}

// find looks for the daemon among the children of our parent, the shim, which starts both, and for the child that it works in.
func (p *volumePace) find() (pids []int) {
	for _, pid := range childrenOf(os.Getppid()) {
		if !p.serves(pid) {
			continue
		}
		pids = append(pids, pid)
		for _, child := range childrenOf(pid) {
			if p.serves(child) {
				pids = append(pids, child)
			}
		}
	}
	return pids
}

func (p *volumePace) serves(pid int) bool {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	return err == nil && servesVolumes(strings.Split(string(raw), "\x00"), p.id)
}

// childrenOf are the pids of a process' children, those of all its threads.
func childrenOf(pid int) (pids []int) {
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	if err != nil {
		return nil
	}
	for _, file := range files {
		raw, err := os.ReadFile(file)
		if err != nil {
			continue // a thread that has ended
		}
		for word := range strings.FieldsSeq(string(raw)) {
			if n, err := strconv.Atoi(word); err == nil {
				pids = append(pids, n)
			}
		}
	}
	return pids
}

// pause lets the volumes wait: reads as well, since the daemon does one like the other.
func (p *volumePace) pause() {
	if len(p.paused) > 0 {
		return
	}
	for _, pid := range p.pids {
		if p.serves(pid) && unix.Kill(pid, unix.SIGSTOP) == nil {
			p.paused = append(p.paused, pid)
		}
	}
	p.log.Debug("the volumes wait: the Pod has done more to them than it may", "owed", p.owed)
}

// release lets them go on.
func (p *volumePace) release() {
	for _, pid := range p.paused {
		_ = unix.Kill(pid, unix.SIGCONT) // fails only when it has ended
	}
	p.paused = nil
}
