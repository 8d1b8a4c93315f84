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

// semaphore lets so many microVMs boot at the same time. Namespaces take turns (pkg/fair). A boot keeps a core busy, so more boots than
// cores end no sooner, and each of them as late as the last.
type semaphore struct {
	places *fair.Limiter
	number int
	hold   time.Duration

	mu    sync.Mutex
	boots map[*vmm.Boot]struct{} // that wait or boot; guarded by mu
}

func newSemaphore(places int) *semaphore {
	return &semaphore{places: fair.New(int64(places), int64(places)), number: places, hold: hold, boots: map[*vmm.Boot]struct{}{}}
}

// acquire waits for a place for a Pod. release frees it, as does the time limit.
func (s *semaphore) acquire(ctx context.Context, pod *cri.PodSandboxMetadata) (release func(), err error) {
	boot := &vmm.Boot{Pod: sandboxrecord.Pod{Namespace: pod.GetNamespace(), Name: pod.GetName(), UID: pod.GetUid()}, Since: time.Now()}
	s.note(boot)
	namespace := pod.GetNamespace()
	if s.places.Acquire(ctx, namespace, 1) != nil {
		s.forget(boot)
		return nil, status.Errorf(codes.DeadlineExceeded, "%d other microVMs are booting on this host, and more wait: %v", s.number, context.Cause(ctx))
	}
	s.mu.Lock()
	boot.Booting, boot.Since = true, time.Now()
	s.mu.Unlock()
	var once sync.Once
	free := func() { once.Do(func() { s.places.Release(namespace, 1) }) }
	timer := time.AfterFunc(s.hold, free)
	return func() {
		timer.Stop()
		free()
		s.forget(boot)
	}, nil
}

func (s *semaphore) note(boot *vmm.Boot) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.boots[boot] = struct{}{}
}

func (s *semaphore) forget(boot *vmm.Boot) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.boots, boot)
}

// list gives the Pods whose microVMs boot or wait for their turn, the oldest first.
func (s *semaphore) list() []vmm.Boot {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []vmm.Boot
	for boot := range s.boots {
		all = append(all, *boot)
	}
	slices.SortFunc(all, func(a, b vmm.Boot) int { return cmp.Or(a.Since.Compare(b.Since), cmp.Compare(a.UID, b.UID)) })
	return all
}
