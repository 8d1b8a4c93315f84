// Package watchcache has the apiserver's caches forget what was. Upstream's cache of a kind (k8s.io/apiserver/pkg/storage/cacher,
// Kubernetes 1.37) keeps the events of the last 75 seconds for watchers that come back. Its ring grows while more come, up to 102,400
// events, and shrinks only by further events: after a thousand Pods are deleted, what they were stays for as long as nothing happens, each
// version of each Pod. A cache that is asked to list anew forgets them, as it does when its database has compacted what it missed.
package watchcache

import (
	"context"
	"reflect"
	"sync"
	"time"

	"golang.org/x/time/rate"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/registry/generic"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/cacher"
	"k8s.io/apiserver/pkg/storage/storagebackend"
	"k8s.io/apiserver/pkg/storage/storagebackend/factory"
	"k8s.io/client-go/tools/cache"
)

// Relisting has the caches of a server's kinds forget what was when it is much and nothing more comes. relisted is called after each time.
func Relisting(next generic.RESTOptionsGetter, relisted func()) generic.RESTOptionsGetter {
	return relisting{next, relisted}
}

type relisting struct {
	generic.RESTOptionsGetter
	relisted func()
}

// GetRESTOptions is asked for each kind.
func (f relisting) GetRESTOptions(resource schema.GroupResource, example runtime.Object) (generic.RESTOptions, error) {
	opts, err := f.RESTOptionsGetter.GetRESTOptions(resource, example)
	if err == nil && opts.Decorator != nil && !uncached(opts.Decorator) {
		opts.Decorator = f.cached
	}
	return opts, err
}

// uncached tells whether a kind has no cache, as events have none.
func uncached(d generic.StorageDecorator) bool {
	return reflect.ValueOf(d).Pointer() == reflect.ValueOf(generic.UndecoratedStorage).Pointer()
}

// cached is upstream's cache of a kind (registry.StorageWithCacher) upon a storage that counts what the cache is told.
func (f relisting) cached(config *storagebackend.ConfigForResource, prefix string, key func(runtime.Object) (string, error), one, list func() runtime.Object,
	attrs storage.AttrFunc, triggers storage.IndexerFuncs, indexers *cache.Indexers) (storage.Interface, factory.DestroyFunc, error) {
	raw, closeRaw, err := generic.NewRawStorage(config, one, list, prefix)
	if err != nil {
		return nil, nil, err
	}
	c, err := cacher.NewCacherFromConfig(cacher.Config{
		Storage: newCounted(raw, f.relisted), Versioner: storage.APIObjectVersioner{}, GroupResource: config.GroupResource,
		EventsHistoryWindow: config.EventsHistoryWindow, ResourcePrefix: prefix, KeyFunc: key, NewFunc: one, NewListFunc: list,
		GetAttrsFunc: attrs, IndexerFuncs: triggers, Indexers: indexers, Codec: config.Codec,
	})
	if err != nil {
		closeRaw()
		return nil, nil, err
	}
	delegator := cacher.NewCacheDelegator(c, raw)
	return waiting{delegator, c.Ready}, sync.OnceFunc(func() {
		delegator.Stop()
		c.Stop()
		closeRaw()
	}), nil
}

// counted is a storage as its cache sees it: a list, and a watch that goes on from there.
type counted struct {
	storage.Interface
	relisted func()

	mu      sync.Mutex
	counts  counts
	listing bool // the cache was told that it missed something
	pace    *rate.Limiter
}

func newCounted(next storage.Interface, relisted func()) *counted {
	return &counted{Interface: next, relisted: relisted, pace: rate.NewLimiter(rate.Every(seldom), few)}
}

// GetList counts what the cache begins with.
func (c *counted) GetList(ctx context.Context, key string, opts storage.ListOptions, list runtime.Object) error {
	if err := c.Interface.GetList(ctx, key, opts, list); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if opts.Predicate.Continue == "" {
		c.counts = counts{}
	}
	c.counts.live += meta.LenList(list)
	return nil
}

// Watch counts what the cache is told. One that is told to forget reads that what it missed has expired, and lists.
func (c *counted) Watch(ctx context.Context, key string, opts storage.ListOptions) (watch.Interface, error) {
	from, err := c.Interface.Watch(ctx, key, opts)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if opts.SendInitialEvents != nil && *opts.SendInitialEvents {
		c.counts = counts{}
	}
	if c.listing {
		c.listing = false
		time.AfterFunc(settle, c.relisted)
	}
	w := &watching{from: from, to: make(chan watch.Event), stopped: make(chan struct{})}
	go w.run(c)
	return w, nil
}

// settle is how long a cache may take from its watch until what it knew before is out of every hand: its watchers are told to come again.
const settle = 5 * time.Second

// take counts an event.
func (c *counted) take(e watch.EventType) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.counts.take(e)
}

// tick tells at the end of a period whether the cache is to list anew. It seldom is: all watchers of the kind begin anew with it, those of
// strangers too, and a tenant can make a burst every minute.
func (c *counted) tick() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.counts.tick() && !c.listing && c.pace.Allow() {
		c.listing = true
	}
	return c.listing
}

// watching hands a watch's events on.
type watching struct {
	from    watch.Interface
	to      chan watch.Event
	stopped chan struct{}
	stop    sync.Once
}

var _ watch.Interface = (*watching)(nil)

// Stop ends the watch.
func (w *watching) Stop() {
	w.stop.Do(func() {
		close(w.stopped)
		w.from.Stop()
	})
}

// ResultChan has the events, until the watch ends.
func (w *watching) ResultChan() <-chan watch.Event { return w.to }

func (w *watching) run(c *counted) {
	defer close(w.to)
	tick := time.NewTicker(period)
	defer tick.Stop()
	for {
		var e watch.Event
		select {
		case <-w.stopped:
			return
		case <-tick.C:
			if !c.tick() {
				continue
			}
			e = watch.Event{Type: watch.Error, Object: &apierrors.NewResourceExpired("the cache lists anew to give up what it holds of objects that are gone").ErrStatus}
		case next, ok := <-w.from.ResultChan():
			if !ok {
				return
			}
			e = next
			c.take(e.Type)
		}
		select {
		case <-w.stopped:
			return
		case w.to <- e:
		}
	}
}
