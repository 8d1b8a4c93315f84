// Package cronscaler scales Deployments, StatefulSets and HorizontalPodAutoscalers at set times. HorizontalPodCronscalers name the times:
// the objects of TKE's HPC add-on (manifests/autoscaling). pkg/server starts it when bootstrap has applied their definition. It acts as a
// user of its own that may do no more than that. An object scales only what is in its own namespace.
package cronscaler

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/dynamic/dynamicinformer"
	"k8s.io/client-go/kubernetes/scheme"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/client-go/util/workqueue"

	"github.com/nodeless/nodeless/pkg/kube"
	"github.com/nodeless/nodeless/pkg/run"
)

const (
	// workers is how many objects are dealt with at once: one whose target answers slowly keeps nobody else waiting.
	workers = 8
	// longestSleep bounds the wait for a time: clocks are set, and machines sleep.
	longestSleep = time.Minute
	// pace is how long after it has scaled an object is left alone. What comes due meanwhile is carried out then, the latest of it.
	pace = 10 * time.Second
	// statusPace is the time between two writes of an object's status: what the tenant who made it causes is written as the system's.
	statusPace = time.Minute
	// mostObjects is how many objects of a namespace are dealt with, as many as the default quota has.
	mostObjects = 20
)

// Config is what the component needs to know.
type Config struct {
	Access kube.Access
	// Local is the time zone of schedules that name none.
	Local *time.Location
}

// Validate reports everything that is missing.
func (c Config) Validate() error {
	var errs []error
	for what, value := range map[string]string{"server": c.Access.Server, "authority": c.Access.CAFile, "certificate": c.Access.CertFile, "key": c.Access.KeyFile} {
		if value == "" {
			errs = append(errs, fmt.Errorf("cronscaler: no %s", what))
		}
	}
	if c.Local == nil {
		errs = append(errs, errors.New("cronscaler: no time zone"))
	}
	return errors.Join(errs...)
}

// Server is the component.
type Server struct {
	cfg Config
	log *slog.Logger
}

var _ run.Component = (*Server)(nil)

// New gives a component that has not touched anything yet.
func New(cfg Config, log *slog.Logger) *Server { return &Server{cfg: cfg, log: log} }

// Name is "cronscaler".
func (s *Server) Name() string { return "cronscaler" }

// Run scales until ctx ends.
func (s *Server) Run(ctx context.Context) error {
	if err := s.cfg.Validate(); err != nil {
		return err
	}
	client, err := s.cfg.Access.Dynamic("nodeless-cronscaler")
	if err != nil {
		return fmt.Errorf("make client of the apiserver: %w", err)
	}
	typed, err := s.cfg.Access.Client("nodeless-cronscaler")
	if err != nil {
		return fmt.Errorf("make client of the apiserver: %w", err)
	}
	events := record.NewBroadcaster(record.WithContext(ctx))
	defer events.Shutdown()
	events.StartRecordingToSink(&typedcorev1.EventSinkImpl{Interface: typed.CoreV1().Events(metav1.NamespaceAll)})
	recorder := events.NewRecorder(scheme.Scheme, corev1.EventSource{Component: "nodeless-cronscaler"})
	return newController(client, recorder, s.cfg.Local, s.log).run(ctx)
}

// controller keeps the objects and acts when their times come.
type controller struct {
	client dynamic.Interface
	events record.EventRecorder
	local  *time.Location
	log    *slog.Logger
	queue  workqueue.TypedRateLimitingInterface[cache.ObjectName]
	store  cache.Indexer // of *unstructured.Unstructured

	mu    sync.Mutex
	known map[cache.ObjectName]*memory // guarded by mu; what is in a memory belongs to the worker that has the name
}

func newController(client dynamic.Interface, events record.EventRecorder, local *time.Location, log *slog.Logger) *controller {
	return &controller{client: client, events: events, local: local, log: log, known: map[cache.ObjectName]*memory{}}
}

// run watches the objects until ctx ends.
func (c *controller) run(ctx context.Context) error {
	err := kube.Wait(ctx, "HorizontalPodCronscalers in the API", func(ctx context.Context) (bool, error) {
		_, err := c.client.Resource(resource()).List(ctx, metav1.ListOptions{Limit: 1})
		return err == nil, err // not found until the definition is established
	})
	if err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	limiter := workqueue.NewTypedItemExponentialFailureRateLimiter[cache.ObjectName](500*time.Millisecond, longestSleep)
	c.queue = workqueue.NewTypedRateLimitingQueue(limiter)
	informers := dynamicinformer.NewDynamicSharedInformerFactory(c.client, 0)
	objects := informers.ForResource(resource()).Informer()
	c.store = objects.GetIndexer()
	add := func(object any) {
		if name, err := cache.DeletionHandlingObjectToName(object); err == nil {
			c.queue.Add(name)
		}
	}
	if _, err := objects.AddEventHandler(cache.ResourceEventHandlerFuncs{AddFunc: add, UpdateFunc: func(_, object any) { add(object) }, DeleteFunc: add}); err != nil {
		return fmt.Errorf("watch HorizontalPodCronscalers: %w", err)
	}
	informers.Start(ctx.Done())
	defer informers.Shutdown()
	informers.WaitForCacheSync(ctx.Done())
	var all sync.WaitGroup
	for range workers {
		all.Go(func() { c.work(ctx) })
	}
	<-ctx.Done()
	c.queue.ShutDown()
	all.Wait()
	return nil
}

// work deals with one object after the other until the queue ends.
func (c *controller) work(ctx context.Context) {
	for {
		name, end := c.queue.Get()
		if end {
			return
		}
		now := time.Now()
		again, err := c.reconcile(ctx, name, now)
		switch {
		case ctx.Err() != nil:
		case err != nil:
			if !apierrors.IsConflict(err) { // it was changed meanwhile, and comes again by itself
				c.log.Warn("HorizontalPodCronscaler not dealt with", "object", name, "error", err)
			}
			c.queue.AddRateLimited(name)
		default:
			c.queue.Forget(name)
		}
		if again > 0 {
			c.queue.AddAfter(name, again-time.Since(now))
		}
		c.queue.Done(name)
	}
}
