package erofs

import (
	"context"

	"github.com/nodeless/nodeless/pkg/converter"
	image "github.com/nodeless/nodeless/pkg/erofs"
	"github.com/nodeless/nodeless/pkg/fair"
	"github.com/nodeless/nodeless/pkg/worker/containerd/tenant"
)

const (
	smallWorks, smallPerTenant = 8, 4

	mostLarge = 2
)

// memory is what all conversions and merges together may hold in memory, each in a process of its own. Every one begins small. One that
// turns out to be large waits for one of the few large places, and keeps its small one meanwhile. Who has a large place waits for
// nothing, so nobody waits for ever.
type memory struct {
	small, large *fair.Limiter
	converter    *converter.Runner
}

// newMemory divides what all the processes may have.
func newMemory(run *converter.Runner) *memory {
	large := min(max(run.Bound/converter.Need, 1), mostLarge)
	return &memory{small: fair.New(smallWorks, smallPerTenant), large: fair.New(large, max(large-1, 1)), converter: run}
}

// within does a piece of work within the limits that it hands to it.
func (m *memory) within(ctx context.Context, work func(image.Limits) error) error {
	whose, large := tenant.Of(ctx), false
	if err := m.small.Acquire(ctx, whose, 1); err != nil {
		return err
	}
	defer m.small.Release(whose, 1)
	limits := image.DefaultLimits()
	limits.Grow = func() error {
		err := m.large.Acquire(ctx, whose, 1)
		large = err == nil
		return err
	}
	defer func() {
		if large {
			m.large.Release(whose, 1)
		}
	}()
	return work(limits)
}
