package eklet

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"

	"github.com/nodeless/nodeless/pkg/api"
	"github.com/nodeless/nodeless/pkg/kube"
	"github.com/nodeless/nodeless/pkg/podsize"
)

const (
	// SpecMatched is the reason of the event that names a Pod's spec, Starting that of the one about its sandbox.
	SpecMatched = "SpecMatched"
	Starting    = "Starting"
	// recent is how old a Pod may be for its spec to be news.
	recent = 5 * time.Minute
)

// next deals with one Pod; false when there will be no more.
func (e *Eklet) next(ctx context.Context, queue workqueue.TypedRateLimitingInterface[cache.ObjectName], pods cache.Indexer) bool {
	key, ended := queue.Get()
	if ended {
		return false
	}
	defer queue.Done(key)
	pod, err := corelisters.NewPodLister(pods).Pods(key.Namespace).Get(key.Name)
	if err == nil {
		err = errors.Join(e.tell(ctx, pod), e.tellClaims(ctx, pod, pods))
	}
	if err == nil || apierrors.IsNotFound(err) || ctx.Err() != nil {
		queue.Forget(key)
		return true
	}
	e.log.Debug("Pod's spec or claims not told, will try again", "pod", key, "error", err)
	queue.AddRateLimited(key)
	return true
}

// tell brings a Pod's annotation up to date with its size and says in an event, once, which spec it has.
func (e *Eklet) tell(ctx context.Context, pod *corev1.Pod) error {
	said, ok := pod.Annotations[api.Spec]
	if !ok || pod.DeletionTimestamp != nil {
		return nil
	}
	before, err := podsize.ParseSize(said, pod.Annotations[api.SpecType])
	if err != nil {
		return nil // written by something newer than this
	}
	now, ok := e.size(pod, before)
	if !ok {
		return nil
	}
	if now != before {
		if err := e.annotate(ctx, pod, now); err != nil {
			return err
		}
		return e.event(ctx, pod, mark(now), SpecMatched, fmt.Sprintf("The Pod went from %s to %s (%s)", before, now, now.Type))
	}
	if e.now().Sub(pod.CreationTimestamp.Time) > recent {
		return nil
	}
	if err := e.event(ctx, pod, mark(now), SpecMatched, fmt.Sprintf("The Pod is a %s (%s); %s", now, now.Type, e.reason(pod, now))); err != nil {
		return err
	}
	if pod.Spec.NodeName == "" {
		return nil
	}
	return e.event(ctx, pod, "starting", Starting, "Starting pod sandbox eks-"+kube.ShortUID(pod))
}

// size is the spec that a Pod has now: its own resources, or, where it keeps its own figures, what fits them.
func (e *Eklet) size(pod *corev1.Pod, before podsize.Size) (now podsize.Size, ok bool) {
	if native(pod) {
		wish, err := podsize.ParseWish(pod.Annotations)
		if err != nil {
			return now, false
		}
		demand := wish.On(podsize.DemandOf(&pod.Spec, e.cfg.Catalog.Rules))
		demand.GPU, demand.Types = before.GPU, []string{before.Type}
		now, err = e.cfg.Catalog.Fit(demand)
		return now, err == nil
	}
	if pod.Spec.Resources == nil {
		return now, false
	}
	limits := pod.Spec.Resources.Limits
	now = before // with its GPUs
	now.CPU, now.Memory = limits.Cpu().MilliValue(), limits.Memory().Value()
	return now, true
}

// native tells that a Pod keeps its own figures.
func native(pod *corev1.Pod) bool { return pod.Annotations[api.Sizing] != "" }

// mark tells events about different specs apart.
func mark(size podsize.Size) string { return fmt.Sprintf("%x.%x", size.CPU, size.Memory) }

// reason is why a Pod has the spec it has.
func (e *Eklet) reason(pod *corev1.Pod, now podsize.Size) string {
	if pod.Annotations[api.CPU] != "" {
		return "its annotations name that spec"
	}
	asked := pod.Spec
	if pod.Annotations[api.AskedWhole] == "" && !native(pod) {
		asked.Resources = nil // that is the spec
	}
	kind := map[string]string{api.CPUType: now.Type}
	if now.GPU > 0 {
		kind = map[string]string{api.GPUType: now.Type, api.GPUCount: strconv.FormatInt(now.GPU, 10)}
	}
	if wish, err := podsize.ParseWish(kind); err == nil {
		if why, _ := e.cfg.Catalog.Why(&asked, wish, now); why != "" {
			return why
		}
	}
	return "its containers ask for " + podsize.DemandOf(&asked, e.cfg.Catalog.Rules).String()
}

func (e *Eklet) annotate(ctx context.Context, pod *corev1.Pod, now podsize.Size) error {
	text := now.String()
	return kube.Annotate(ctx, e.client, pod, map[string]*string{api.Spec: &text})
}

// event says something about a Pod, once for each mark.
func (e *Eklet) event(ctx context.Context, pod *corev1.Pod, mark, reason, message string) error {
	return e.notes.Tell(ctx, e.client, pod, kube.Note{Mark: mark, Type: corev1.EventTypeNormal, Reason: reason, Message: message}, e.now())
}
