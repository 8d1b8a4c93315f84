package watchcache

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/generic"
	genericregistry "k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/storage"

	"github.com/nodeless/nodeless/tests/attack"
)

// TestUncached: upstream's choice of kinds without a cache is kept.
func TestUncached(t *testing.T) {
	if !uncached(generic.UndecoratedStorage) || uncached(genericregistry.StorageWithCacher()) {
		t.Error("a kind without a cache is not told from one with a cache")
	}
}

// TestCounts: a cache forgets after a burst, when what it holds without need is more than what it would have to list.
func TestCounts(t *testing.T) {
	const many = 4 * least
	for _, tt := range []struct {
		name   string
		live   int
		burst  map[watch.EventType]int
		after  int // events in each period afterwards
		forget bool
	}{
		{"many deleted", many, map[watch.EventType]int{watch.Deleted: many}, 0, true},
		{"many deleted, a few events come", many, map[watch.EventType]int{watch.Deleted: many}, 10, true},
		{"many deleted, more come and go", many, map[watch.EventType]int{watch.Deleted: many}, 100, false},
		{"many changed", many, map[watch.EventType]int{watch.Modified: many}, 0, true},
		{"few of many changed", 10 * many, map[watch.EventType]int{watch.Modified: many}, 0, false},
		{"many made, which stay", 0, map[watch.EventType]int{watch.Added: many}, 0, false},
		{"few deleted", least, map[watch.EventType]int{watch.Deleted: least - 1}, 0, false},
		{"bookmarks", 0, map[watch.EventType]int{watch.Bookmark: many}, 0, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := counts{live: tt.live}
			for e, n := range tt.burst {
				for range n {
					c.take(e)
				}
			}
			if c.tick() {
				t.Error("forgets in the midst of it")
			}
			var forgets bool
			for range calm + 1 {
				for range tt.after {
					c.take(watch.Modified)
				}
				forgets = c.tick() || forgets
			}
			if forgets != tt.forget {
				t.Errorf("forgets: %v, want %v", forgets, tt.forget)
			}
		})
	}
}

// fake is a database of ConfigMaps.
type fake struct {
	storage.Interface
	items   int
	watches chan *watch.FakeWatcher
}

func (f *fake) GetList(_ context.Context, _ string, _ storage.ListOptions, list runtime.Object) error {
	into, ok := list.(*corev1.ConfigMapList)
	if !ok {
		return fmt.Errorf("a list of %T", list)
	}
	into.Items = make([]corev1.ConfigMap, f.items)
	return nil
}

func (f *fake) Watch(context.Context, string, storage.ListOptions) (watch.Interface, error) {
	w := watch.NewFake()
	f.watches <- w
	return w, nil
}

// TestListsFromWithinWait: a list that nobody asks for waits until the cache is ready, and not for ever; one for a user does not.
func TestListsFromWithinWait(t *testing.T) {
	for _, tt := range []struct {
		name         string
		user         user.Info
		ready, takes time.Duration
	}{
		{"from within", nil, time.Second, time.Second},
		{"from within, ready", nil, 0, 0},
		{"from within, never ready", nil, time.Hour, getReady},
		{"for a user", &user.DefaultInfo{Name: "dev"}, time.Second, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, began := t.Context(), time.Now()
				if tt.user != nil {
					ctx = request.WithUser(ctx, tt.user)
				}
				w := waiting{&fake{items: 3}, func() bool { return time.Since(began) >= tt.ready }}
				list := &corev1.ConfigMapList{}
				if err := w.GetList(ctx, "/", storage.ListOptions{}, list); err != nil || len(list.Items) != 3 {
					t.Errorf("%d items, %v", len(list.Items), err)
				}
				if took := time.Since(began); took < tt.takes || took > tt.takes+100*time.Millisecond {
					t.Errorf("it took %v, want %v", took, tt.takes)
				}
			})
		})
	}
}

// TestAskedToList: events come through in order; after a burst the cache reads that it has to list, and once it watches again it is told
// that it relisted. What it lists then counts anew.
func TestAskedToList(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		from, relisted := &fake{items: 5, watches: make(chan *watch.FakeWatcher, 2)}, 0
		c := newCounted(from, func() { relisted++ })
		begin := func() (*watch.FakeWatcher, watch.Interface) {
			if err := c.GetList(t.Context(), "/", storage.ListOptions{}, &corev1.ConfigMapList{}); err != nil {
				t.Fatal(err)
			}
			w, err := c.Watch(t.Context(), "/", storage.ListOptions{})
			if err != nil {
				t.Fatal(err)
			}
			return <-from.watches, w
		}
		source, w := begin()
		object := &corev1.ConfigMap{}
		for i := range least {
			object.ResourceVersion = fmt.Sprint(i)
			go source.Modify(object.DeepCopy())
			e := <-w.ResultChan()
			if m, ok := e.Object.(*corev1.ConfigMap); !ok || m.ResourceVersion != fmt.Sprint(i) || e.Type != watch.Modified {
				t.Fatalf("event %d came as %+v", i, e)
			}
		}
		began := time.Now()
		e := <-w.ResultChan()
		if err := apierrors.FromObject(e.Object); e.Type != watch.Error || !apierrors.IsResourceExpired(err) {
			t.Fatalf("after a burst came %+v, want that what was missed has expired", e)
		}
		if took := time.Since(began); took > (calm+1)*period {
			t.Errorf("it came after %v", took)
		}
		w.Stop()
		if relisted != 0 {
			t.Error("told before the cache has listed")
		}
		_, w = begin()
		defer w.Stop()
		time.Sleep(settle)
		synctest.Wait()
		if relisted != 1 || c.counts != (counts{live: 5}) {
			t.Errorf("told %d times that the cache relisted, want once; %+v is counted, want 5 objects", relisted, c.counts)
		}
		time.Sleep(10 * period)
		if c.listing || relisted != 1 {
			t.Error("asked to list anew without a burst")
		}
	})
}

// TestAttackBursts: a tenant rewrites objects for half a minute, waits until the cache forgets, and does it again, for an hour. Each time
// all watchers of the kind, those of strangers and of controllers, would have to begin anew.
func TestAttackBursts(t *testing.T) {
	attack.Try(t, "T6", "have the watchers of a kind begin anew again and again", func(t *testing.T) (outcome attack.Outcome) {
		synctest.Test(t, func(t *testing.T) {
			c := newCounted(&fake{}, func() {})
			asked := 0
			for began := time.Now(); time.Since(began) < time.Hour; {
				for range least {
					c.take(watch.Modified)
				}
				for range calm + 1 {
					time.Sleep(period)
					if c.tick() {
						asked++
						c.listing, c.counts = false, counts{} // as the cache lists and watches
					}
				}
			}
			if asked == 0 || asked > few+6 {
				t.Logf("asked to list anew %d times in an hour", asked)
				outcome = attack.Succeeded
				return
			}
			outcome = attack.Contained
		})
		return outcome
	})
}

// TestWatchEnds: a watch that the cache ends, or the database, ends on both sides.
func TestWatchEnds(t *testing.T) {
	for _, side := range []string{"cache", "database"} {
		t.Run(side, func(t *testing.T) {
			from := &fake{watches: make(chan *watch.FakeWatcher, 1)}
			w, err := newCounted(from, func() {}).Watch(t.Context(), "/", storage.ListOptions{})
			if err != nil {
				t.Fatal(err)
			}
			source := <-from.watches
			if side == "cache" {
				w.Stop()
				w.Stop()
			} else {
				source.Stop()
			}
			for _, ch := range []<-chan watch.Event{w.ResultChan(), source.ResultChan()} {
				select {
				case _, open := <-ch:
					if open {
						t.Error("an event after the end")
					}
				case <-time.After(time.Minute):
					t.Error("not ended on one side")
				}
			}
		})
	}
}

// TestListFails: a list that the database does not give counts nothing.
func TestListFails(t *testing.T) {
	c := newCounted(&fake{items: 3, watches: make(chan *watch.FakeWatcher, 1)}, func() {})
	c.counts.live = 2
	if err := c.GetList(t.Context(), "/", storage.ListOptions{}, &corev1.Pod{}); err == nil || errors.Is(err, context.Canceled) || c.counts.live != 2 {
		t.Errorf("err = %v, %+v", err, c.counts)
	}
}
