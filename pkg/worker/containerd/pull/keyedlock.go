package pull

import (
	"context"
	"sync"

	"github.com/containerd/containerd/v2/core/unpack"
)

// keyedLock sees to it that a layer is fetched and unpacked once, however many pulls want it. Each namespace has one of its own: a
// registry that never ends could claim to have the layers that strangers want.
type keyedLock struct {
	mu    sync.Mutex
	locks map[string]*keyed // guarded by mu
}

type keyed struct {
	held  chan struct{} // full while somebody holds the lock
	users int           // who hold or want it; guarded by keyedLock.mu
}

var _ unpack.KeyedLocker = (*keyedLock)(nil)

func newKeyedLock() *keyedLock { return &keyedLock{locks: map[string]*keyed{}} }

// Lock waits for the key's lock, or for the context's end.
func (l *keyedLock) Lock(ctx context.Context, key string) error {
	l.mu.Lock()
	k, ok := l.locks[key]
	if !ok {
		k = &keyed{held: make(chan struct{}, 1)}
		l.locks[key] = k
	}
	k.users++
	l.mu.Unlock()
	select {
	case k.held <- struct{}{}:
		return nil
	case <-ctx.Done():
		l.leave(key, k)
		return ctx.Err()
	}
}

// Unlock gives the lock away. Only who holds it calls it.
func (l *keyedLock) Unlock(key string) {
	l.mu.Lock()
	k := l.locks[key]
	l.mu.Unlock()
	<-k.held
	l.leave(key, k)
}

func (l *keyedLock) leave(key string, k *keyed) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if k.users--; k.users == 0 {
		delete(l.locks, key)
	}
}

// tenantLocks are the locks of the namespaces that pull.
type tenantLocks struct {
	mu    sync.Mutex
	locks map[string]*tenantLock // guarded by mu
}

type tenantLock struct {
	*keyedLock
	pulls int // guarded by tenantLocks.mu
}

// of gives the lock of a namespace, until done is called.
func (t *tenantLocks) of(tenant string) (lock *keyedLock, done func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	have, ok := t.locks[tenant]
	if !ok {
		have = &tenantLock{keyedLock: newKeyedLock()}
		t.locks[tenant] = have
	}
	have.pulls++
	return have.keyedLock, func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		if have.pulls--; have.pulls == 0 {
			delete(t.locks, tenant)
		}
	}
}
