package cri

import (
	"context"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/nodeless/nodeless/pkg/vmm"
)

// runPodSandbox is the call that boots a microVM.
const runPodSandbox = "/runtime.v1.RuntimeService/RunPodSandbox"

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

// gate lets so many microVMs boot at the same time, first come, first served. A boot keeps a core busy, so more boots than
// cores end no sooner, and each of them as late as the last.
type gate struct {
	places chan struct{} // full when nobody may enter
	hold   time.Duration
}

func newGate(places int) *gate { return &gate{places: make(chan struct{}, places), hold: hold} }

// enter waits for a place. leave frees it, as does the time limit.
func (g *gate) enter(ctx context.Context) (leave func(), err error) {
	select {
	case g.places <- struct{}{}:
	case <-ctx.Done():
		return nil, status.Errorf(codes.DeadlineExceeded, "%d other microVMs are booting on this host, and more wait: %v", cap(g.places), context.Cause(ctx))
	}
	var once sync.Once
	free := func() { once.Do(func() { <-g.places }) }
	timer := time.AfterFunc(g.hold, free)
	return func() {
		timer.Stop()
		free()
	}, nil
}
