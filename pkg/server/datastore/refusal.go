package datastore

import (
	"context"
	"errors"

	"github.com/k3s-io/kine/pkg/logstructured"
	"github.com/k3s-io/kine/pkg/server"
)

// truthful tells of writes that the database refused. kine takes every failed append for a lost race (pkg/logstructured v0.17.5). It
// answers an update or delete with a conflict, which the apiserver tries again without end. It answers the create of a key that was never
// there with success, although nothing was written.
type truthful struct{ server.Backend }

var _ server.Backend = truthful{}

// newTruthful puts kine's own logic on a log whose failures are known.
func newTruthful(log logstructured.Log) truthful {
	return truthful{logstructured.New(noticedLog{log})}
}

// Create writes a new key.
func (b truthful) Create(ctx context.Context, key string, value []byte, lease int64) (int64, error) {
	ctx, refused := notice(ctx)
	rev, err := b.Backend.Create(ctx, key, value, lease)
	return rev, refused.or(err)
}

// Update replaces the value of a key.
func (b truthful) Update(ctx context.Context, key string, value []byte, revision, lease int64) (int64, *server.KeyValue, bool, error) {
	ctx, refused := notice(ctx)
	rev, kv, done, err := b.Backend.Update(ctx, key, value, revision, lease)
	return rev, kv, done, refused.or(err)
}

// Delete removes a key.
func (b truthful) Delete(ctx context.Context, key string, revision int64) (int64, *server.KeyValue, bool, error) {
	ctx, refused := notice(ctx)
	rev, kv, done, err := b.Backend.Delete(ctx, key, revision)
	return rev, kv, done, refused.or(err)
}

// refusal is why the last append of one call failed; nil if it did not, or only for a key that is there already.
type refusal struct{ err error }

func (r *refusal) or(err error) error {
	if r.err != nil {
		return r.err
	}
	return err
}

type refusalKey struct{}

// notice gives a context in which noticedLog leaves the reason of a refusal.
func notice(ctx context.Context) (context.Context, *refusal) {
	r := &refusal{}
	return context.WithValue(ctx, refusalKey{}, r), r
}

// noticedLog is a log that keeps why it refused to append.
type noticedLog struct{ logstructured.Log }

// Append writes an event.
func (l noticedLog) Append(ctx context.Context, event *server.Event) (int64, error) {
	rev, err := l.Log.Append(ctx, event)
	if r, ok := ctx.Value(refusalKey{}).(*refusal); ok {
		r.err = err
		if errors.Is(err, server.ErrKeyExists) {
			r.err = nil // a race, as kine takes it
		}
	}
	return rev, err
}
