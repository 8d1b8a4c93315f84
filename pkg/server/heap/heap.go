// Package heap has the server's process give back what objects that are gone have taken. Go collects when as much again was allocated as
// lives, which after a large deletion may be never, and returns pages slowly; Pods want that memory. pkg/server runs the component.
package heap

import (
	"context"
	"log/slog"
	"runtime/debug"
	"runtime/metrics"
	"time"

	"github.com/nodeless/nodeless/pkg/run"
)

const (
	// interval is the pause between two looks. A collection costs about a millisecond of a core for each MiB that lives.
	interval = 20 * time.Second
	// least is what is worth a collection, in bytes.
	least = 64 << 20
)

// Heap is the component.
type Heap struct {
	log   *slog.Logger
	look  func() usage
	free  func()
	every time.Duration
	soon  chan struct{}
}

var _ run.Component = (*Heap)(nil)

// New gives a component that has done nothing yet.
func New(log *slog.Logger) *Heap {
	return &Heap{log: log, look: look, free: debug.FreeOSMemory, every: interval, soon: make(chan struct{}, 1)}
}

// Soon says that much has just become garbage, which Go does not know before it collects. It returns at once.
func (h *Heap) Soon() {
	select {
	case h.soon <- struct{}{}:
	default: // it was said
	}
}

// Name is "heap".
func (h *Heap) Name() string { return "heap" }

// Run looks now and then at what is held without need, and gives it back when it is much, until ctx ends.
func (h *Heap) Run(ctx context.Context) error {
	tick := time.NewTicker(h.every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-h.soon:
			h.giveBack()
		case <-tick.C:
			if h.look().much() {
				h.giveBack()
			}
		}
	}
}

func (h *Heap) giveBack() {
	before := h.look()
	h.free()
	h.log.Debug("memory given back to the host", "was", before.idle, "is", h.look().idle)
}

// usage is in bytes.
type usage struct {
	live int64 // what was reachable at the last collection
	idle int64 // what the host could have: garbage, and pages that hold nothing
}

// much tells whether a collection is worth its time: the more lives, the longer it takes.
func (u usage) much() bool { return u.idle > max(least, u.live/2) }

// look asks Go's runtime.
func look() usage {
	samples := []metrics.Sample{
		{Name: "/gc/heap/live:bytes"}, {Name: "/memory/classes/heap/objects:bytes"}, {Name: "/memory/classes/heap/unused:bytes"}, {Name: "/memory/classes/heap/free:bytes"},
	}
	metrics.Read(samples)
	value := func(i int) int64 { return int64(samples[i].Value.Uint64()) }
	return usage{live: value(0), idle: max(0, value(1)-value(0)) + value(2) + value(3)}
}
