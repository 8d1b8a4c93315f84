package datastore

import (
	"context"
	"strings"

	"github.com/k3s-io/kine/pkg/server"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

const (
	// maxValue is etcd's own bound; kine has none, and the apiserver takes requests of twice as much.
	maxValue = 3 << 19
	// maxWorkload is the bound of what tenants make many of, and what controllers copy. The apiserver and the controllers keep all of these in
	// memory: with as many as a quota has, a namespace can take a few hundred MiB of it, not many GiB.
	maxWorkload = 512 << 10
)

// large are the kinds that are made to be large. Custom resources, whose keys begin with their group, may be as well.
var large = [...]string{"/registry/configmaps/", "/registry/secrets/"}

// sized refuses values that are too large, with etcd's error for it.
type sized struct{ server.Backend }

var _ server.Backend = sized{}

// Create writes a new key.
func (b sized) Create(ctx context.Context, key string, value []byte, lease int64) (int64, error) {
	if len(value) > most(key) {
		return 0, rpctypes.ErrGRPCRequestTooLarge
	}
	return b.Backend.Create(ctx, key, value, lease)
}

// Update replaces the value of a key.
func (b sized) Update(ctx context.Context, key string, value []byte, revision, lease int64) (int64, *server.KeyValue, bool, error) {
	if len(value) > most(key) {
		return 0, nil, false, rpctypes.ErrGRPCRequestTooLarge
	}
	return b.Backend.Update(ctx, key, value, revision, lease)
}

// most is how large the value of a key may be.
func most(key string) int {
	for _, prefix := range large {
		if strings.HasPrefix(key, prefix) {
			return maxValue
		}
	}
	if kind, _, _ := strings.Cut(strings.TrimPrefix(key, "/registry/"), "/"); strings.Contains(kind, ".") {
		return maxValue
	}
	return maxWorkload
}
