// Package fair shares a bound among strangers. It is a semaphore whose places go round by key, as a rule the namespace of a Pod: one that
// wishes for much waits behind its own wishes, and the others do not. The image parts of pkg/worker/containerd hold what they need of
// network and memory by it, pkg/worker/cri its boots, and pkg/server/billing its readers.
//
// golang.org/x/sync/semaphore cannot do this: it has one queue for all, first come, first served, and no bound for each key. A tenant
// with a thousand wishes would be served before the next one's first.
package fair

import (
	"context"
	"fmt"
	"slices"
	"sync"
)

// Limiter is a weighted semaphore. Keys take turns; within a key it is first come, first served.
type Limiter struct {
	perKey int64

	mu     sync.Mutex
	free   int64                // guarded by mu, as are all below
	held   map[string]int64     // by key
	queues map[string][]*waiter // by key; none is empty
	turns  []string             // the keys with waiters, the one whose turn it is first
}

type waiter struct {
	weight int64
	ready  chan struct{} // closed when it has its places
}

// New gives a limiter of total places, of which one key has perKey at most.
func New(total, perKey int64) *Limiter {
	return &Limiter{perKey: min(perKey, total), free: total, held: map[string]int64{}, queues: map[string][]*waiter{}}
}

// Acquire waits for places, or for the context's end. More than a key may have are as many as it may have.
func (l *Limiter) Acquire(ctx context.Context, key string, weight int64) error {
	w := &waiter{weight: min(weight, l.perKey), ready: make(chan struct{})}
	l.mu.Lock()
	if len(l.queues[key]) == 0 {
		l.turns = append(l.turns, key)
	}
	l.queues[key] = append(l.queues[key], w)
	l.grant()
	l.mu.Unlock()
	select {
	case <-w.ready:
		return nil
	case <-ctx.Done():
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	select {
	case <-w.ready: // both at once: what it was given goes back
		l.giveBack(key, w.weight)
	default:
		l.leave(key, w)
		l.grant() // it may have stood before one that fits
	}
	return fmt.Errorf("wait for a place: %w", context.Cause(ctx))
}

// Release gives places back that Acquire gave.
func (l *Limiter) Release(key string, weight int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.giveBack(key, min(weight, l.perKey))
}

// Wanted tells whether a key other than this one waits for places.
func (l *Limiter) Wanted(key string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.queues) > 1 || len(l.queues) == 1 && len(l.queues[key]) == 0
}

func (l *Limiter) giveBack(key string, weight int64) {
	l.free += weight
	if l.held[key] -= weight; l.held[key] <= 0 {
		delete(l.held, key)
	}
	l.grant()
}

// grant gives places away, a turn at a time. A key that has all it may have is passed over. One whose wish is larger than what is
// free is waited for: otherwise small wishes would keep it waiting for ever.
func (l *Limiter) grant() {
	for i := 0; i < len(l.turns); {
		key := l.turns[i]
		w := l.queues[key][0]
		if l.held[key]+w.weight > l.perKey {
			i++
			continue
		}
		if w.weight > l.free {
			return
		}
		l.free -= w.weight
		l.held[key] += w.weight
		close(w.ready)
		l.leave(key, w)
		if at := slices.Index(l.turns, key); at >= 0 { // its next one waits for its turn
			l.turns = append(slices.Delete(l.turns, at, at+1), key)
		}
		i = 0
	}
}

// leave takes a waiter out of its queue.
func (l *Limiter) leave(key string, w *waiter) {
	queue := slices.DeleteFunc(l.queues[key], func(other *waiter) bool { return other == w })
	if len(queue) > 0 {
		l.queues[key] = queue
		return
	}
	delete(l.queues, key)
	l.turns = slices.DeleteFunc(l.turns, func(other string) bool { return other == key })
}
