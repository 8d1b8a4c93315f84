package datastore

import (
	"context"
	"strings"
	"sync"
	"time"

	"github.com/k3s-io/kine/pkg/server"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

const (
	// writeRate and writeBurst bound what is written for one namespace, in bytes a second and at once. Quotas count what there is; each change
	// of it is kept as well, with what was there before, for the five minutes that pass until the apiserver compacts. A namespace may be
	// filled to a large part of its quota at once.
	writeRate  = 1 << 20
	writeBurst = 128 << 20
	// maxBuckets is how many namespaces are remembered before those are forgotten that have nothing to be remembered for.
	maxBuckets = 1024
)

// paced refuses writes of a namespace that come too fast for the disk that all share, with etcd's error for it.
type paced struct {
	server.Backend
	*pace
}

// pace is how fast each namespace has written.
type pace struct {
	now func() time.Time

	mu      sync.Mutex
	buckets map[string]bucket // guarded by mu
}

// bucket is what a namespace may still write at once.
type bucket struct {
	left float64
	at   time.Time
}

var _ server.Backend = (*paced)(nil)

func newPace(now func() time.Time) *pace { return &pace{now: now, buckets: make(map[string]bucket)} }

// room is how long it takes until a namespace may write so many bytes, if it writes nothing else meanwhile. Nothing is taken.
func (p *pace) room(namespace string, size int) time.Duration {
	if !isPaced(namespace) {
		return 0
	}
	now := p.now()
	p.mu.Lock()
	defer p.mu.Unlock()
	b, known := p.buckets[namespace]
	if !known {
		return 0
	}
	missing := float64(size) - b.filled(now).left
	return time.Duration(max(missing, 0) / writeRate * float64(time.Second))
}

// isPaced tells whether what is written for the namespace is bounded: not what has none, and not the cluster's own.
func isPaced(namespace string) bool { return namespace != "" && !strings.HasPrefix(namespace, "kube-") }

// Create writes a new key.
func (p *paced) Create(ctx context.Context, key string, value []byte, lease int64) (int64, error) {
	if !p.take(key, len(value)) {
		return 0, rpctypes.ErrGRPCRequestTooManyRequests
	}
	return p.Backend.Create(ctx, key, value, lease)
}

// Update replaces the value of a key.
func (p *paced) Update(ctx context.Context, key string, value []byte, revision, lease int64) (int64, *server.KeyValue, bool, error) {
	if !p.take(key, len(value)) {
		return 0, nil, false, rpctypes.ErrGRPCRequestTooManyRequests
	}
	return p.Backend.Update(ctx, key, value, revision, lease)
}

// take tells whether so many bytes may be written at the key now.
func (p *pace) take(key string, size int) bool {
	namespace := namespaceOf(key)
	if !isPaced(namespace) {
		return true
	}
	now := p.now()
	p.mu.Lock()
	defer p.mu.Unlock()
	b, known := p.buckets[namespace]
	if !known {
		if len(p.buckets) >= maxBuckets {
			p.forget(now)
		}
		b = bucket{writeBurst, now}
	}
	b = b.filled(now)
	enough := b.left >= float64(size)
	if enough {
		b.left -= float64(size)
	}
	p.buckets[namespace] = b
	return enough
}

// forget drops the full ones. The caller has the lock.
func (p *pace) forget(now time.Time) {
	for namespace, b := range p.buckets {
		if b.filled(now).left >= writeBurst {
			delete(p.buckets, namespace)
		}
	}
}

func (b bucket) filled(now time.Time) bucket {
	return bucket{min(b.left+max(now.Sub(b.at).Seconds(), 0)*writeRate, writeBurst), now}
}

// namespaceOf is the namespace of an object's key, or nothing.
func namespaceOf(key string) string {
	parts := strings.Split(strings.TrimPrefix(key, "/registry/"), "/")
	kind := 1 // parts that say the kind; of custom resources it begins with the group
	if strings.Contains(parts[0], ".") || parts[0] == "services" {
		kind = 2
	}
	if len(parts) != kind+2 {
		return ""
	}
	return parts[kind]
}
