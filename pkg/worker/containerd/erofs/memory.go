package erofs

import (
	"context"
	"runtime/debug"

	"github.com/nodeless/nodeless/pkg/fair"
	"github.com/nodeless/nodeless/pkg/worker/containerd/tenant"

	image "github.com/nodeless/nodeless/pkg/erofs"
)

const (
	smallWorks, smallPerTenant = 8, 4

	// largeNeed is what a conversion at all its limits takes at its peak, garbage included, and base what the rest of containerd
	// may have. Both are measured (docs/SPECIFICATION.md).
	largeNeed = 640 << 20
	base      = 512 << 20
	mostLarge = 2
)

// memory is what all conversions and merges together may hold in memory. Every one begins small; one that turns out to be large waits
// for one of the few large places and keeps its small one meanwhile. Who has a large place waits for nothing, so nobody waits for ever.
type memory struct{ small, large *fair.Limiter }

// newMemory divides what the process may have; limit is Go's own idea of it.
func newMemory(limit int64) *memory {
	large := min(max((limit-base)/largeNeed, 1), mostLarge)
	return &memory{small: fair.New(smallWorks, smallPerTenant), large: fair.New(large, max(large-1, 1))}
}

// processMemory is the limit that the child was started with.
func processMemory() int64 { return debug.SetMemoryLimit(-1) }

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
