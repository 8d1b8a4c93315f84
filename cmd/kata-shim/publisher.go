package main

import (
	"context"
	"sync"
	"time"

	taskevents "github.com/containerd/containerd/api/events"
	"github.com/containerd/containerd/events"
	shimapi "github.com/containerd/containerd/runtime/v2/shim"
)

// How often a guest may tell of a container without memory: containerd writes each notice to disk, and what a guest says
// need not be true.
const (
	oomBurst    = 8
	oomInterval = time.Second
)

// publisher drops the notices of a guest that tells of too many containers without memory.
type publisher struct {
	shimapi.Publisher
	now func() time.Time

	mu    sync.Mutex
	spent int       // notices of the burst that are used up, guarded by mu
	since time.Time // when one of them was given back, guarded by mu
}

// Publish passes the event on.
func (p *publisher) Publish(ctx context.Context, topic string, event events.Event) error {
	if _, notice := event.(*taskevents.TaskOOM); notice && !p.allowed() {
		return nil
	}
	return p.Publisher.Publish(ctx, topic, event)
}

func (p *publisher) allowed() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.now()
	if back := int(now.Sub(p.since) / oomInterval); back > 0 {
		p.spent, p.since = max(0, p.spent-back), now
	}
	if p.spent == oomBurst {
		return false
	}
	p.spent++
	return true
}
