package run_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nodeless/nodeless/pkg/run"
)

// journal records what components did, in order.
type journal struct {
	mu    sync.Mutex
	lines []string // guarded by mu
}

func (j *journal) add(s string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.lines = append(j.lines, s)
}

type part struct {
	name   string
	j      *journal
	ready  time.Duration
	dies   error // returned after ready, unasked
	leaves bool  // returns nil unasked
	deaf   bool  // ignores the end of its context
}

var _ run.Readier = (*part)(nil)

func (p *part) Name() string { return p.name }

func (p *part) Ready(ctx context.Context) error {
	select {
	case <-time.After(p.ready):
		p.j.add("ready " + p.name)
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (p *part) Run(ctx context.Context) error {
	p.j.add("run " + p.name)
	if p.dies != nil || p.leaves {
		time.Sleep(2 * time.Second)
		return p.dies
	}
	if p.deaf {
		time.Sleep(time.Hour)
	}
	<-ctx.Done()
	p.j.add("stop " + p.name)
	return ctx.Err()
}

func quiet() *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }

func TestStartsAfterNeedsAndStopsInReverse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := &journal{}
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Minute, cancel)
		err := run.All(ctx, quiet(), time.Second,
			run.Step{Component: &part{name: "store", j: j, ready: 3 * time.Second}},
			run.Step{Component: &part{name: "api", j: j, ready: time.Second}, After: []string{"store"}},
			run.Step{Component: &part{name: "side", j: j, ready: 2 * time.Second}},
			run.Step{Component: &part{name: "node", j: j}, After: []string{"api", "side"}},
		)
		if err != nil {
			t.Fatalf("All: %v", err)
		}
		got := j.lines
		if i, k := index(got, "ready store"), index(got, "run api"); i < 0 || k < i {
			t.Errorf("api did not wait for the store: %v", got)
		}
		if i, k := index(got, "ready api"), index(got, "run node"); i < 0 || k < i {
			t.Errorf("node did not wait for the api: %v", got)
		}
		want := []string{"stop node", "stop side", "stop api", "stop store"}
		if diff := cmp.Diff(want, got[len(got)-4:]); diff != "" {
			t.Errorf("stop order (-want +got):\n%s", diff)
		}
	})
}

func index(list []string, s string) int {
	for i, have := range list {
		if have == s {
			return i
		}
	}
	return -1
}

func TestOneFaultStopsAllAndIsNamed(t *testing.T) {
	boom := errors.New("disk full")
	tests := []struct {
		name string
		bad  *part
		want error
	}{
		{name: "an error", bad: &part{name: "bad", dies: boom}, want: boom},
		{name: "a silent return", bad: &part{name: "bad", leaves: true}, want: run.ErrEarlyReturn},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				j := &journal{}
				tt.bad.j = j
				err := run.All(t.Context(), quiet(), time.Second,
					run.Step{Component: &part{name: "good", j: j}},
					run.Step{Component: tt.bad},
					run.Step{Component: &part{name: "never", j: j, ready: time.Hour}, After: []string{"good", "bad"}},
				)
				var fault *run.Fault
				if !errors.Is(err, tt.want) || !errors.As(err, &fault) || fault.Component != "bad" {
					t.Errorf("All = %v, want a Fault of bad with %v", err, tt.want)
				}
				if index(j.lines, "stop good") < 0 {
					t.Errorf("the good component was not stopped: %v", j.lines)
				}
			})
		})
	}
}

func TestDeafComponentIsReportedAndDoesNotHoldTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := &journal{}
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		err := run.All(ctx, quiet(), time.Second,
			run.Step{Component: &part{name: "good", j: j}},
			run.Step{Component: &part{name: "deaf", j: j, deaf: true}},
		)
		if err == nil || !strings.Contains(err.Error(), "deaf") {
			t.Errorf("All = %v, want an error naming deaf", err)
		}
		if index(j.lines, "stop good") < 0 {
			t.Errorf("good was not stopped: %v", j.lines)
		}
		time.Sleep(time.Hour) // synctest wants every goroutine of its bubble gone
	})
}

func TestUnstartableListIsRefused(t *testing.T) {
	j := &journal{}
	for name, steps := range map[string][]run.Step{
		"unknown need": {{Component: &part{name: "a", j: j}, After: []string{"b"}}},
		"twice":        {{Component: &part{name: "a", j: j}}, {Component: &part{name: "a", j: j}}},
	} {
		if err := run.All(t.Context(), quiet(), time.Second, steps...); err == nil {
			t.Errorf("%s: All accepted it", name)
		}
	}
	if len(j.lines) != 0 {
		t.Errorf("something ran: %v", j.lines)
	}
}
