// Package spot has spot Pods give way. They fill what ordinary Pods leave idle, except for a reserve on each host, to which the
// scheduler lets none of them (pkg/server/scheduler). When ordinary Pods grow into the reserve, spot Pods on the host are given notice,
// and are ended when it is over; an ordinary Pod for which even the reserve is too small pushes spot Pods out at once. Of both
// people learn by the event SpotPodInterruption, the cloud's own. pkg/server starts it.
package spot

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	resourcehelper "k8s.io/component-helpers/resource"

	"github.com/nodeless/nodeless/pkg/api"
	"github.com/nodeless/nodeless/pkg/kube"
	"github.com/nodeless/nodeless/pkg/run"
)

// pause is the time between two looks at the hosts.
const pause = 2 * time.Second

// Config is what the component needs to know.
type Config struct {
	Access  kube.Access
	Reserve int           // percent of each host that spot Pods leave free
	Notice  time.Duration // between telling a spot Pod and ending it
}

// Validate reports everything that is missing or makes no sense.
func (c Config) Validate() error {
	var errs []error
	if c.Access.Server == "" || c.Access.CertFile == "" {
		errs = append(errs, errors.New("spot: no access to the apiserver"))
	}
	if c.Reserve < 0 || c.Reserve > 100 {
		errs = append(errs, fmt.Errorf("spot: a reserve of %d percent, want 0 to 100", c.Reserve))
	}
	if c.Notice < 0 {
		errs = append(errs, fmt.Errorf("spot: notice of %s, want none or more", c.Notice))
	}
	return errors.Join(errs...)
}

// leastGrace is what a spot Pod has to end in even where there is no notice: Kubernetes' own default.
const leastGrace = 30 * time.Second

// Grace is the longest time that a spot Pod has to end in: as long as its notice.
func (c Config) Grace() time.Duration { return max(c.Notice, leastGrace) }

// Spot is the component.
type Spot struct {
	cfg     Config
	log     *slog.Logger
	now     func() time.Time
	notes   kube.Teller
	shuffle func(n int, swap func(i, j int))
	client  kubernetes.Interface // made by Run; tests set it before
}

var _ run.Component = (*Spot)(nil)

// New gives a component that has not touched anything yet.
func New(cfg Config, log *slog.Logger) *Spot {
	return &Spot{cfg: cfg, log: log, now: time.Now, notes: kube.NewTeller(), shuffle: rand.Shuffle}
}

// Name is "spot".
func (s *Spot) Name() string { return "spot" }

// Run looks at the hosts until ctx ends.
func (s *Spot) Run(ctx context.Context) error {
	if err := s.cfg.Validate(); err != nil {
		return err
	}
	if s.client == nil {
		client, err := kubernetes.NewForConfig(s.cfg.Access.RESTConfig("nodeless-spot"))
		if err != nil {
			return fmt.Errorf("make client of the apiserver: %w", err)
		}
		s.client = client
	}
	factory := informers.NewSharedInformerFactoryWithOptions(s.client, 0, informers.WithTransform(slim))
	pods, nodes := factory.Core().V1().Pods().Lister(), factory.Core().V1().Nodes().Lister()
	gone := make(chan *corev1.Pod)
	_, err := factory.Core().V1().Pods().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{DeleteFunc: func(object any) {
		if late, ok := object.(cache.DeletedFinalStateUnknown); ok {
			object = late.Obj
		}
		if pod, ok := object.(*corev1.Pod); ok && isSpot(pod) {
			select {
			case gone <- pod:
			case <-ctx.Done():
			}
		}
	}})
	if err != nil {
		return fmt.Errorf("follow Pods that go: %w", err)
	}
	factory.Start(ctx.Done())
	factory.WaitForCacheSync(ctx.Done())
	defer factory.Shutdown()
	ticker := time.NewTicker(pause)
	defer ticker.Stop()
	for {
		if err := s.look(ctx, pods, nodes); err != nil && ctx.Err() == nil {
			s.log.Warn("spot Pods not dealt with, will try again", "error", err)
		}
		if !s.until(ctx, ticker.C, gone) {
			return nil
		}
	}
}

// until waits for the next look, false when there is none. A Pod that is pushed out may have gone before it is looked at: it is told of
// when it goes.
func (s *Spot) until(ctx context.Context, next <-chan time.Time, gone <-chan *corev1.Pod) bool {
	for {
		select {
		case <-ctx.Done():
			return false
		case <-next:
			return true
		case pod := <-gone:
			if err := s.pushedOut(ctx, pod); err != nil && ctx.Err() == nil {
				s.log.Warn("end of a spot Pod not told", "pod", pod.Namespace+"/"+pod.Name, "error", err)
			}
		}
	}
}

// slim keeps of an object what is looked at.
func slim(object any) (any, error) {
	switch o := object.(type) {
	case *corev1.Pod:
		kept := &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Name: o.Name, Namespace: o.Namespace, UID: o.UID, ResourceVersion: o.ResourceVersion, DeletionTimestamp: o.DeletionTimestamp, Annotations: map[string]string{}},
			Spec: corev1.PodSpec{NodeName: o.Spec.NodeName, Resources: o.Spec.Resources, Overhead: o.Spec.Overhead,
				TerminationGracePeriodSeconds: o.Spec.TerminationGracePeriodSeconds},
			Status: corev1.PodStatus{Phase: o.Status.Phase},
		}
		for _, key := range []string{api.ChargeType, api.InterruptionAt} {
			if value, ok := o.Annotations[key]; ok {
				kept.Annotations[key] = value
			}
		}
		for _, c := range o.Status.Conditions {
			if c.Type == corev1.DisruptionTarget {
				kept.Status.Conditions = append(kept.Status.Conditions, c)
			}
		}
		if o.Spec.Resources == nil {
			kept.Spec.Containers, kept.Spec.InitContainers = o.Spec.Containers, o.Spec.InitContainers
		}
		return kept, nil
	case *corev1.Node:
		return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: o.Name, ResourceVersion: o.ResourceVersion}, Status: corev1.NodeStatus{Allocatable: o.Status.Allocatable}}, nil
	}
	return object, nil
}

// look deals with every host that has spot Pods.
func (s *Spot) look(ctx context.Context, pods corelisters.PodLister, nodes corelisters.NodeLister) error {
	all, err := pods.List(labels.Everything())
	if err != nil {
		return fmt.Errorf("list Pods: %w", err)
	}
	hosts, known := map[string]*host{}, map[string]*corev1.Pod{}
	var errs []error
	for _, pod := range all {
		if isSpot(pod) {
			errs = append(errs, s.pushedOut(ctx, pod), s.hurry(ctx, pod))
		}
		if pod.Spec.NodeName == "" || pod.DeletionTimestamp != nil || pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed {
			continue
		}
		h := hosts[pod.Spec.NodeName]
		if h == nil {
			h = &host{}
			hosts[pod.Spec.NodeName] = h
		}
		asks := asked(pod)
		h.used = h.used.plus(asks)
		if isSpot(pod) {
			key := pod.Namespace + "/" + pod.Name
			known[key] = pod
			h.spot = append(h.spot, spotPod{key, asks, noticeOf(pod)})
		}
	}
	for name, h := range hosts {
		node, err := nodes.Get(name)
		if err != nil || len(h.spot) == 0 {
			continue // a Node that is gone takes its Pods along
		}
		h.has = amount{node.Status.Allocatable.Cpu().MilliValue(), node.Status.Allocatable.Memory().Value()}
		errs = append(errs, s.free(ctx, h, known))
	}
	return errors.Join(errs...)
}

func isSpot(pod *corev1.Pod) bool { return pod.Annotations[api.ChargeType] == api.ChargeSpot }

func asked(pod *corev1.Pod) amount {
	r := resourcehelper.PodRequests(pod, resourcehelper.PodResourcesOptions{})
	return amount{r.Cpu().MilliValue(), r.Memory().Value()}
}

func noticeOf(pod *corev1.Pod) time.Time {
	at, err := time.Parse(time.RFC3339, pod.Annotations[api.InterruptionAt])
	if err != nil {
		return time.Time{} // only we write it
	}
	return at
}

// free carries out the plan for one host.
func (s *Spot) free(ctx context.Context, h *host, known map[string]*corev1.Pod) error {
	percent, now := int64(s.cfg.Reserve), s.now()
	if todo := plan(*h, percent, now); len(todo.tell) > 0 {
		s.prefer(ctx, h, known) // it takes calls to know
	}
	todo := plan(*h, percent, now)
	var errs []error
	for _, key := range todo.keep {
		errs = append(errs, s.keep(ctx, known[key]))
	}
	for _, key := range todo.end {
		errs = append(errs, s.end(ctx, known[key]))
	}
	for _, key := range todo.tell {
		errs = append(errs, s.tell(ctx, known[key], now.Add(s.cfg.Notice)))
	}
	return errors.Join(errs...)
}

// prefer puts spot Pods in a random order, those last that a PodDisruptionBudget protects.
func (s *Spot) prefer(ctx context.Context, h *host, known map[string]*corev1.Pod) {
	s.shuffle(len(h.spot), func(i, j int) { h.spot[i], h.spot[j] = h.spot[j], h.spot[i] })
	protected := map[string]bool{}
	for _, p := range h.spot {
		pod := known[p.key]
		err := s.client.CoreV1().Pods(pod.Namespace).EvictV1(ctx, &policyv1.Eviction{
			ObjectMeta: metav1.ObjectMeta{Name: pod.Name, Namespace: pod.Namespace}, DeleteOptions: &metav1.DeleteOptions{DryRun: []string{metav1.DryRunAll}},
		})
		protected[p.key] = apierrors.IsTooManyRequests(err)
	}
	slices.SortStableFunc(h.spot, func(a, b spotPod) int {
		switch {
		case protected[a.key] == protected[b.key]:
			return 0
		case protected[a.key]:
			return 1
		}
		return -1
	})
}
