package main

import (
	"context"
	"testing"
	"time"

	taskevents "github.com/containerd/containerd/api/events"
	"github.com/containerd/containerd/events"
)

// counter counts what reaches containerd.
type counter struct{ oom, other int }

func (c *counter) Publish(_ context.Context, _ string, e events.Event) error {
	if _, ok := e.(*taskevents.TaskOOM); ok {
		c.oom++
	} else {
		c.other++
	}
	return nil
}

func (c *counter) Close() error { return nil }

// TestGuestCannotFloodContainerd: a guest that tells of a container without memory in a loop is heard once a second;
// what the shim itself has to say is always passed on.
func TestGuestCannotFloodContainerd(t *testing.T) {
	var got counter
	clock := time.Unix(1700000000, 0)
	p := &publisher{Publisher: &got, now: func() time.Time { return clock }}
	for range 100 * 1000 {
		for _, e := range []events.Event{&taskevents.TaskOOM{ContainerID: "x"}, &taskevents.TaskExit{ContainerID: "x"}} {
			if err := p.Publish(t.Context(), "", e); err != nil {
				t.Fatal(err)
			}
		}
		clock = clock.Add(time.Millisecond) // 100 seconds in all
	}
	if got.other != 100*1000 {
		t.Errorf("%d of 100000 other events passed", got.other)
	}
	if want := 100 + oomBurst; got.oom < 90 || got.oom > want {
		t.Errorf("%d notices passed, want at most %d and nearly as many", got.oom, want)
	}
}
