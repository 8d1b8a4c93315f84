package cri

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodeless/nodeless/pkg/fair"
	"github.com/nodeless/nodeless/pkg/sandboxrecord"
	"github.com/nodeless/nodeless/pkg/vmm"
)

// hold is how long a boot keeps others waiting. On a busy host one takes as long as it gets on; one that waits for something else than a
// core is over by then, or given up (pkg/vmm).
const hold = 2 * time.Minute

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

	mu    sync.Mutex
	boots map[*vmm.Boot]struct{} // that wait or boot; guarded by mu
}

func newGate(places int) *gate {
	return &gate{places: fair.New(int64(places), int64(places)), number: places, hold: hold, boots: map[*vmm.Boot]struct{}{}}
}

// enter waits for a place for a Pod. leave frees it, as does the time limit.
func (g *gate) enter(ctx context.Context, pod *cri.PodSandboxMetadata) (leave func(), err error) {
	boot := &vmm.Boot{Pod: sandboxrecord.Pod{Namespace: pod.GetNamespace(), Name: pod.GetName(), UID: pod.GetUid()}, Since: time.Now()}
	g.note(boot)
	namespace := pod.GetNamespace()
	if g.places.Acquire(ctx, namespace, 1) != nil {
		g.forget(boot)
		return nil, status.Errorf(codes.DeadlineExceeded, "%d other microVMs are booting on this host, and more wait: %v", g.number, context.Cause(ctx))
	}
	g.mu.Lock()
	boot.Booting, boot.Since = true, time.Now()
	g.mu.Unlock()
	var once sync.Once
	free := func() { once.Do(func() { g.places.Release(namespace, 1) }) }
	timer := time.AfterFunc(g.hold, free)
	return func() {
		timer.Stop()
		free()
		g.forget(boot)
	}, nil
}

func (g *gate) note(boot *vmm.Boot) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.boots[boot] = struct{}{}
}

func (g *gate) forget(boot *vmm.Boot) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.boots, boot)
}

// list gives the Pods whose microVMs boot or wait for their turn, the oldest first.
func (g *gate) list() []vmm.Boot {
	g.mu.Lock()
	defer g.mu.Unlock()
	var all []vmm.Boot
	for boot := range g.boots {
		all = append(all, *boot)
	}
	slices.SortFunc(all, func(a, b vmm.Boot) int { return cmp.Or(a.Since.Compare(b.Since), cmp.Compare(a.UID, b.UID)) })
	return all
}
