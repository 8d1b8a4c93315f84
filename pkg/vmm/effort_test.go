package vmm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"
	"testing/synctest"
	"time"
)

// TestBusyHostIsWaitedFor: what ends a wait is that a guest does not get on, and not that a busy host lets it get on slowly.
func TestBusyHostIsWaitedFor(t *testing.T) {
	const second = time.Second
	tests := []struct {
		name string
		// at is what the guest does so long after its start.
		at   func(since time.Duration) effort
		want error // after an hour; nil if it is waited for
		most time.Duration
	}{
		{name: "it waits for a CPU and gets next to none", at: func(d time.Duration) effort { return effort{cpu: d / 200, wants: true} }},
		{name: "it waits for a disk", at: func(time.Duration) effort { return effort{wants: true} }},
		{name: "it is never seen to run, and its console grows", at: func(d time.Duration) effort { return effort{cpu: d / 20, signs: int(d / effortInterval)} }},
		{name: "it does nothing", at: func(time.Duration) effort { return effort{} }, want: ErrStuck, most: 2 * time.Minute},
		{name: "its kernel idles", at: func(d time.Duration) effort { return effort{cpu: d / 50} }, want: ErrStuck, most: 2 * time.Minute},
		{name: "it runs in circles", at: func(d time.Duration) effort { return effort{cpu: d, wants: true} }, want: ErrStuck, most: 3 * time.Minute},
		{name: "it talks and comes to no end", at: func(d time.Duration) effort { return effort{cpu: d, wants: true, signs: int(d / second)} }, want: ErrSlow, most: 6 * time.Minute},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				begun := time.Now()
				look := func() (effort, error) { return tt.at(time.Since(begun)), nil }
				ctx, cancel := bootBounds(AccelKVM).while(t.Context(), look)
				defer cancel()
				select {
				case <-ctx.Done():
				case <-time.After(time.Hour):
				}
				took, err := time.Since(begun), context.Cause(ctx)
				if !errors.Is(err, tt.want) || tt.want == nil && err != nil || tt.want != nil && took > tt.most {
					t.Errorf("after %v the wait ended with %v, want %v within %v", took, err, tt.want, tt.most)
				}
			})
		})
	}
}

// TestLateLookAccusesNobody: who looks every half minute only, for want of a CPU, does not count the time between for idleness.
func TestLateLookAccusesNobody(t *testing.T) {
	tally := bootBounds(AccelKVM).begin(effort{})
	for range 10 {
		if err := tally.add(effort{}, 30*time.Second); err != nil {
			t.Fatal(err)
		}
	}
}

func TestEffortIsReadFromProc(t *testing.T) {
	stat := func(state string, utime, stime int) *fstest.MapFile {
		return &fstest.MapFile{Data: fmt.Appendf(nil, "7 (qemu (x) R) %s 1 7 7 0 -1 4194560 1 0 0 0 %d %d 0 0 20 0 2 0 100 0 0", state, utime, stime)}
	}
	for _, tt := range []struct {
		state string
		wants bool
	}{{"S", false}, {"R", true}, {"D", true}, {"T", false}} {
		proc := fstest.MapFS{"7/stat": stat("S", 150, 50), "7/task/7/stat": stat("S", 1, 1), "7/task/8/stat": stat(tt.state, 1, 1)}
		if got, err := effortOf(proc, 7); err != nil || got != (effort{cpu: 2 * time.Second, wants: tt.wants}) {
			t.Errorf("with a thread in state %s: %+v, %v", tt.state, got, err)
		}
	}
	if _, err := effortOf(fstest.MapFS{}, 7); err == nil {
		t.Error("a process that is not there has an effort")
	}
	if got, err := effortOf(os.DirFS("/proc"), os.Getpid()); err != nil || !got.wants {
		t.Errorf("this process, which runs: %+v, %v", got, err)
	}
}

// TestSlowQEMUIsWaitedFor: stand-ins for a QEMU that takes long to start up, and for such that never do.
func TestSlowQEMUIsWaitedFor(t *testing.T) {
	limits := bounds{idle: time.Second, silent: 500 * time.Millisecond, most: time.Minute}
	tests := []struct{ name, script, want string }{
		{name: "it does nothing", script: "read -r _ <&5", want: "neither run nor waited for a CPU"},
		{name: "it runs in circles", script: "while :; do :; done", want: "without a sign of life"},
		// Four times the CPU time that it may be silent for, with a word now and then, and no hurry at all.
		{name: "it gets on", script: `
			used() { read -r _ _ _ _ _ _ _ _ _ _ _ _ _ u s _ </proc/$$/stat; }
			used; end=$((u+s+200))
			while [ $((u+s)) -lt $end ]; do i=0; while [ $i -lt 5000 ]; do i=$((i+1)); done; echo booting >&4; used; done
			exec "${0%/*}/next/` + fakeQEMU + `"`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			v, _ := recordedVM(t, func(path string) error {
				next := filepath.Join(filepath.Dir(path), "next")
				return errors.Join(os.Mkdir(next, 0o700), played(filepath.Join(next, fakeQEMU)), scripted(tt.script)(path))
			})
			p, err := v.launch()
			must(t, err)
			ctx, cancel := limits.while(t.Context(), func() (effort, error) { return v.effort(p) })
			defer cancel()
			err = v.greet(ctx, p)
			if e, err := v.currentEffort(); tt.want == "" && (err != nil || e.CPU < time.Second) {
				t.Errorf("effort = %+v, %v", e, err)
			}
			v.shutdown()
			cause := context.Cause(ctx)
			if tt.want == "" && (err != nil || cause != nil) {
				t.Errorf("QEMU answered with %v; the wait ended with %v", err, cause)
			}
			if tt.want != "" && (err == nil || !errors.Is(cause, ErrStuck) || !strings.Contains(cause.Error(), tt.want)) {
				t.Errorf("QEMU answered with %v; the wait ended with %v, want %q", err, cause, tt.want)
			}
		})
	}
}

// TestGuestThatIsGivenUpIsKilled: QEMU answers, its guest never does.
func TestGuestThatIsGivenUpIsKilled(t *testing.T) {
	v, _ := recordedVM(t, played)
	if _, err := v.currentEffort(); !errors.Is(err, errState) {
		t.Errorf("the effort of a microVM that does not run: %v", err)
	}
	err := v.start(t.Context(), bounds{idle: time.Second, silent: time.Minute, most: time.Minute})
	if !errors.Is(err, ErrStuck) {
		t.Errorf("start = %v", err)
	}
	select {
	case <-v.ended:
	default:
		t.Error("QEMU still runs")
	}
}
