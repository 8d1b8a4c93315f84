package datastore

import (
	"errors"
	"fmt"
	"testing"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/nodeless/nodeless/tests/attack"
)

// TestAttackLargeObjects: a tenant makes as many objects as it may, each as large as the apiserver takes.
func TestAttackLargeObjects(t *testing.T) {
	for _, tt := range []struct {
		key  string
		size int
		ok   bool
	}{
		{"/registry/pods/a/x", 512 << 10, true},
		{"/registry/pods/a/x", 512<<10 + 1, false},
		{"/registry/replicasets/a/x", 1 << 20, false},
		{"/registry/services/specs/a/x", 1 << 20, false},
		{"/registry/controllerrevisions/a/x", 1 << 20, false},
		{"/registry/configmaps/a/x", 1<<20 + 1<<18, true}, // a MiB is what they hold by themselves
		{"/registry/secrets/a/x", 3<<19 + 1, false},
		{"/registry/apiextensions.k8s.io/customresourcedefinitions/x", 3 << 19, true},
		{"/registry/autoscaling.cloud.tencent.com/horizontalpodcronscalers/a/x", 3<<19 + 1, false},
	} {
		what := fmt.Sprintf("a value of %d bytes at %s", tt.size, tt.key)
		try := func(t *testing.T) (refused bool) {
			b := sized{newTruthful(sickLog{rev: 8})}
			_, createErr := b.Create(t.Context(), tt.key, make([]byte, tt.size), 0)
			_, _, _, updateErr := b.Update(t.Context(), tt.key, make([]byte, tt.size), 3, 0)
			refused = errors.Is(createErr, rpctypes.ErrGRPCRequestTooLarge)
			if refused != errors.Is(updateErr, rpctypes.ErrGRPCRequestTooLarge) {
				t.Errorf("create: %v, update: %v", createErr, updateErr)
			}
			return refused
		}
		if tt.ok {
			if try(t) {
				t.Errorf("%s is refused", what)
			}
			continue
		}
		attack.Try(t, "T6", what, func(t *testing.T) attack.Outcome {
			if !try(t) {
				return attack.Succeeded
			}
			return attack.Refused
		})
	}
}
