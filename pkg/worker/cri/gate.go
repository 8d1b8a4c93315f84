package cri

import (
	"context"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/nodeless/nodeless/pkg/fair"
	"github.com/nodeless/nodeless/pkg/vmm"
)

// hold is how long a boot keeps others waiting. One that takes longer is not waiting for a core.
const hold = 20 * time.Second

// places is how many microVMs may boot at the same time on so many cores. An emulated boot is one core's work from
// beginning to end; with KVM about half of the call is waiting.
func places(accel string, cores int) int {
	if accel == vmm.AccelKVM {
		return 2 * cores
	}
	return cores
}

// gate lets so many microVMs boot at the same time; namespaces take turns, and in one it is first come, first served. A boot keeps a core
// busy, so more boots than cores end no sooner, and each of them as late as the last.
type gate struct {
	places *fair.Limiter
	number int
	hold   time.Duration
}

func newGate(places int) *gate {
	return &gate{places: fair.New(int64(places), int64(places)), number: places, hold: hold}
}

// enter waits for a place for a Pod of the namespace. leave frees it, as does the time limit.
func (g *gate) enter(ctx context.Context, namespace string) (leave func(), err error) {
	if g.places.Acquire(ctx, namespace, 1) != nil {
		return nil, status.Errorf(codes.DeadlineExceeded, "%d other microVMs are booting on this host, and more wait: %v", g.number, context.Cause(ctx))
	}
	var once sync.Once
	free := func() { once.Do(func() { g.places.Release(namespace, 1) }) }
	timer := time.AfterFunc(g.hold, free)
	return func() {
		timer.Stop()
		free()
	}, nil
}
