package vmm

import (
	"testing"
	"time"
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

func TestVolumesOfAHeldPodAreLeftAlone(t *testing.T) {
	p := volumePace{bounds: Disk{BytesPerSecond: mib}}
	p.last = time.Now()
	if got := p.look(time.Now(), true); got != lookInterval || !p.last.IsZero() {
		t.Errorf("while it is held it is looked at every %v", got)
	}
	if got := (&volumePace{}).look(time.Now(), false); got != lookInterval {
		t.Errorf("without a bound it is looked at every %v", got)
	}
}
