package datastore

import (
	"errors"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/nodeless/nodeless/tests/attack"
)

// TestAttackRewrites: a tenant changes what it has again and again. Every change is kept for minutes, and no quota counts it.
func TestAttackRewrites(t *testing.T) {
	now := time.Now()
	p := &paced{newTruthful(sickLog{rev: 8}), newPace(func() time.Time { return now })}
	write := func(key string, size int) bool {
		_, _, _, err := p.Update(t.Context(), key, make([]byte, size), 3, 0)
		_, again := p.Create(t.Context(), key, nil, 0)
		if errors.Is(again, rpctypes.ErrGRPCRequestTooManyRequests) {
			t.Errorf("an empty value at %s is refused", key)
		}
		return !errors.Is(err, rpctypes.ErrGRPCRequestTooManyRequests)
	}
	attack.Try(t, "T6", "fill the disk with what a ConfigMap was", func(*testing.T) attack.Outcome {
		for range writeBurst >> 20 {
			if !write("/registry/configmaps/a/x", 1<<20) {
				t.Error("refused before the bound")
			}
		}
		if write("/registry/configmaps/a/x", 1<<20) || write("/registry/pods/a/y", 1<<19) || write("/registry/example.com/things/a/z", 1<<20) {
			return attack.Succeeded
		}
		return attack.Refused
	})
	for _, key := range []string{"/registry/configmaps/b/x", "/registry/minions/a", "/registry/services/specs/b/x", "/registry/example.com/a/x", "/registry/secrets/kube-system/a"} {
		if !write(key, 1<<20) {
			t.Errorf("%s is refused, which is another's", key)
		}
	}
	now = now.Add(time.Second)
	if !write("/registry/services/specs/a/x", 1<<20) || write("/registry/configmaps/a/x", 1<<20) {
		t.Error("after a second a MiB more can be written, and no second one")
	}
}

// TestPaceForgets: namespaces come and go.
func TestPaceForgets(t *testing.T) {
	now := time.Now()
	p := newPace(func() time.Time { return now })
	p.take("/registry/pods/busy/x", writeBurst)
	for i := range 3 * maxBuckets {
		now = now.Add(time.Millisecond)
		p.take("/registry/pods/n"+time.Duration(i).String()+"/x", 1)
	}
	if n := len(p.buckets); n > 2*maxBuckets || p.take("/registry/pods/busy/x", writeBurst/2) {
		t.Errorf("%d namespaces are remembered", n)
	}
}

// TestRoom: who is refused before anything was counted hears when to come again.
func TestRoom(t *testing.T) {
	now := time.Now()
	p := newPace(func() time.Time { return now })
	if wait := p.room("a", maxValue); wait != 0 {
		t.Errorf("a namespace that has written nothing waits for %s", wait)
	}
	p.take("/registry/configmaps/a/x", writeBurst-1<<19)
	for size, want := range map[int]time.Duration{1: 0, 1 << 19: 0, 1 << 20: time.Second / 2, 3 << 19: time.Second} {
		if got := p.room("a", size); got != want {
			t.Errorf("%d bytes wait for %s, want %s", size, got, want)
		}
	}
	if now = now.Add(time.Second); p.room("a", 3<<19) != 0 {
		t.Error("after a second there is a MiB more")
	}
	p.take("/registry/configmaps/kube-system/x", 2*writeBurst)
	if wait := p.room("kube-system", maxValue) + p.room("", maxValue) + p.room("b", maxValue); wait != 0 {
		t.Errorf("others wait for %s", wait)
	}
}
