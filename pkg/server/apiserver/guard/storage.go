package guard

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/registry/generic"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/storagebackend"
	"k8s.io/apiserver/pkg/storage/storagebackend/factory"
	"k8s.io/client-go/tools/cache"

	"github.com/nodeless/nodeless/pkg/server/apiserver/bounds"
)

// Storage has the database's refusals told as what they are. Upstream (Kubernetes 1.37) takes any error that it does not know for its own
// and answers with 500, which nobody tries again as it should be.
func Storage(next generic.RESTOptionsGetter) generic.RESTOptionsGetter { return honest{next} }

type honest struct{ generic.RESTOptionsGetter }

// GetRESTOptions is asked for each kind.
func (h honest) GetRESTOptions(resource schema.GroupResource, example runtime.Object) (generic.RESTOptions, error) {
	opts, err := h.RESTOptionsGetter.GetRESTOptions(resource, example)
	if err != nil || opts.Decorator == nil {
		return opts, err
	}
	decorate := opts.Decorator
	opts.Decorator = func(config *storagebackend.ConfigForResource, prefix string, key func(runtime.Object) (string, error), one, list func() runtime.Object,
		attrs storage.AttrFunc, triggers storage.IndexerFuncs, indexers *cache.Indexers) (storage.Interface, factory.DestroyFunc, error) {
		made, destroy, err := decorate(config, prefix, key, one, list, attrs, triggers, indexers)
		if err != nil {
			return made, destroy, err
		}
		return told{made, resource}, destroy, nil
	}
	return opts, nil
}

// told is a storage whose refusals are those of an API.
type told struct {
	storage.Interface
	resource schema.GroupResource
}

// Create writes a new object.
func (s told) Create(ctx context.Context, key string, obj, out runtime.Object, ttl uint64) error {
	return s.tell(key, s.Interface.Create(ctx, key, obj, out, ttl))
}

// GuaranteedUpdate changes an object.
func (s told) GuaranteedUpdate(ctx context.Context, key string, out runtime.Object, ignoreNotFound bool, preconditions *storage.Preconditions,
	change storage.UpdateFunc, known runtime.Object) error {
	return s.tell(key, s.Interface.GuaranteedUpdate(ctx, key, out, ignoreNotFound, preconditions, change, known))
}

// tell makes the database's refusal one of the API.
func (s told) tell(key string, err error) error {
	switch {
	case errors.Is(err, rpctypes.ErrTooManyRequests):
		return bounds.TooFast(namespaceOf(key), 2*time.Second) // the most that an object takes
	case errors.Is(err, rpctypes.ErrRequestTooLarge):
		return apierrors.NewRequestEntityTooLargeError(fmt.Sprintf("the database takes up to 512 KiB of one object, of a ConfigMap, a Secret or a custom resource 1.5 MiB; "+
			"make this one of %s smaller, or several of it", s.resource))
	}
	return err
}

// namespaceOf is that of the object at PREFIX/NAMESPACE/NAME.
func namespaceOf(key string) string {
	parts := strings.Split(key, "/")
	return parts[max(len(parts)-2, 0)]
}
