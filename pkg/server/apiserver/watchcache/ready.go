package watchcache

import (
	"context"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/storage"
)

// getReady is how long a list from within the server waits for a kind's cache.
const getReady = 30 * time.Second

// waiting is a kind's storage whose lists wait until its cache is ready, where nobody asks who could come again. The cache's own answer
// then is 429. A client takes that for "again after a second"; the finalizer of CustomResourceDefinitions (apiextensions-apiserver,
// pkg/controller/finalizer, Kubernetes 1.37) lists a kind that has often just got its cache, takes 429 for a fault, writes that down,
// reads an object older than what it wrote, and leaves it to an event that does not come: the definition stays for five minutes.
type waiting struct {
	storage.Interface
	ready func() bool
}

// GetList waits, at most for getReady.
func (w waiting) GetList(ctx context.Context, key string, opts storage.ListOptions, list runtime.Object) error {
	if _, request := request.UserFrom(ctx); !request {
		// What is not ready by then says so itself.
		_ = wait.PollUntilContextTimeout(ctx, 10*time.Millisecond, getReady, true, func(context.Context) (bool, error) { return w.ready(), nil })
	}
	return w.Interface.GetList(ctx, key, opts, list)
}
