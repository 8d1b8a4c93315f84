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
	kept  map[string]*turn       // of Pods that the kubelet will ask for again, by UID; guarded by mu
}

// turn is a Pod's place in the queue of boots.
type turn struct {
	boot   *vmm.Boot
	given  chan error // nil when it is the Pod's turn
	leave  context.CancelFunc
	forget *time.Timer // while it is kept
}

func newSemaphore(places int) *semaphore {
	return &semaphore{
		places: fair.New(int64(places), int64(places)), number: places, hold: hold, boots: map[*vmm.Boot]struct{}{}, kept: map[string]*turn{},
	}
}

// acquire waits for a place for a Pod. release frees it, as does the time limit.
//
// A Pod waits for half of the time that the kubelet gives it, and boots in the rest. When that half is over it loses nothing: the kubelet
// asks again some seconds later, and the Pod goes on where it stood in the queue.
func (s *semaphore) acquire(ctx context.Context, pod *cri.PodSandboxMetadata) (release func(), err error) {
	t := s.queue(pod)
	wait, cancel := firstHalf(ctx)
	defer cancel()
	select {
	case <-t.given:
	case <-wait.Done():
		again := ""
		if ctx.Err() == nil && pod.GetUid() != "" {
			again = "; the Pod keeps its turn"
			s.keep(t)
		} else {
			s.drop(t)
		}
		return nil, status.Errorf(codes.DeadlineExceeded, "%d other microVMs are booting on this host, and more wait: %v%s", s.number, context.Cause(wait), again)
	}
	s.mu.Lock()
	t.boot.Booting, t.boot.Since = true, time.Now()
	s.mu.Unlock()
	var once sync.Once
	free := func() { once.Do(func() { s.places.Release(t.boot.Namespace, 1) }) }
	timer := time.AfterFunc(s.hold, free)
	return func() {
		timer.Stop()
		free()
		t.leave()
		s.forget(t.boot)
	}, nil
}

// firstHalf ends when half of the time that ctx has is over.
func firstHalf(ctx context.Context) (context.Context, context.CancelFunc) {
	end, ok := ctx.Deadline()
	if !ok {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, time.Until(end)/2)
}

// queue gives a Pod the turn that was kept for it, or one behind all others of its namespace.
func (s *semaphore) queue(pod *cri.PodSandboxMetadata) *turn {
	s.mu.Lock()
	defer s.mu.Unlock()
	if t := s.kept[pod.GetUid()]; t != nil && t.forget.Stop() {
		delete(s.kept, pod.GetUid())
		return t
	}
	boot := &vmm.Boot{Pod: sandboxrecord.Pod{Namespace: pod.GetNamespace(), Name: pod.GetName(), UID: pod.GetUid()}, Since: time.Now()}
	s.boots[boot] = struct{}{}
	ctx, leave := context.WithCancel(context.Background()) // it may outlive the call
	t := &turn{boot: boot, given: make(chan error, 1), leave: leave}
	go func() { t.given <- s.places.Acquire(ctx, boot.Namespace, 1) }()
	return t
}

// keep has a turn wait for its Pod, which may be given it meanwhile. A Pod that stays away keeps others waiting no longer than a boot does.
func (s *semaphore) keep(t *turn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.kept[t.boot.UID] = t
	t.forget = time.AfterFunc(s.hold, func() {
		s.mu.Lock()
		if s.kept[t.boot.UID] == t {
			delete(s.kept, t.boot.UID)
		}
		s.mu.Unlock()
		s.drop(t)
	})
}

// drop ends a turn that nobody waits for.
func (s *semaphore) drop(t *turn) {
	s.forget(t.boot)
	t.leave()
	go func() {
		if <-t.given == nil {
			s.places.Release(t.boot.Namespace, 1)
		}
	}()
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
