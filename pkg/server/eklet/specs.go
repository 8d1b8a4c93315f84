package eklet

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"

	"github.com/nodeless/nodeless/pkg/api"
	"github.com/nodeless/nodeless/pkg/spec"
)

const (
	// SpecMatched is the reason of the event that names a Pod's spec, Starting that of the one about its sandbox.
	SpecMatched = "SpecMatched"
	Starting    = "Starting"
	source      = "eklet"
	// recent is how old a Pod may be for its spec to be news.
	recent = 5 * time.Minute
)

// next deals with one Pod; false when there will be no more.
func (e *Eklet) next(ctx context.Context, queue workqueue.TypedRateLimitingInterface[cache.ObjectName], pods func(string) corelisters.PodNamespaceLister) bool {
	key, ended := queue.Get()
	if ended {
		return false
	}
	defer queue.Done(key)
	pod, err := pods(key.Namespace).Get(key.Name)
	if err == nil {
		err = e.tell(ctx, pod)
	}
	if err == nil || apierrors.IsNotFound(err) || ctx.Err() != nil {
		queue.Forget(key)
		return true
	}
	e.log.Debug("Pod's spec not told, will try again", "pod", key, "error", err)
	queue.AddRateLimited(key)
	return true
}

// tell brings a Pod's annotation up to date with its size and says in an event, once, which spec it has.
func (e *Eklet) tell(ctx context.Context, pod *corev1.Pod) error {
	said, ok := pod.Annotations[api.Spec]
	if !ok || pod.DeletionTimestamp != nil || pod.Spec.Resources == nil {
		return nil
	}
	limits := pod.Spec.Resources.Limits
	now := spec.Size{Type: pod.Annotations[api.SpecType], CPU: limits.Cpu().MilliValue(), Memory: limits.Memory().Value()}
	before, err := spec.ParseSize(said, now.Type)
	if err != nil {
		return nil // written by something newer than this
	}
	now.GPU = before.GPU
	if now != before {
		if err := e.annotate(ctx, pod, now); err != nil {
			return err
		}
		return e.event(ctx, pod, mark(now), SpecMatched, fmt.Sprintf("The Pod went from %s to %s (%s)", before, now, now.Type))
	}
	if e.now().Sub(pod.CreationTimestamp.Time) > recent {
		return nil
	}
	if err := e.event(ctx, pod, mark(now), SpecMatched, fmt.Sprintf("The Pod is a %s (%s); %s", now, now.Type, e.reason(pod))); err != nil {
		return err
	}
	if pod.Spec.NodeName == "" {
		return nil
	}
	return e.event(ctx, pod, "starting", Starting, "Starting pod sandbox eks-"+shorten(string(pod.UID)))
}

// mark tells events about different specs apart.
func mark(size spec.Size) string { return fmt.Sprintf("%x.%x", size.CPU, size.Memory) }

// reason is why a Pod has the spec it has.
func (e *Eklet) reason(pod *corev1.Pod) string {
	if pod.Annotations[api.CPU] != "" {
		return "its annotations name that spec"
	}
	asked := pod.Spec
	asked.Resources = nil // that is the spec
	return "its containers ask for " + spec.DemandOf(&asked, e.cfg.Catalog.Rules).String()
}

func (e *Eklet) annotate(ctx context.Context, pod *corev1.Pod, now spec.Size) error {
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": pod.UID, "annotations": map[string]string{api.Spec: now.String()}}})
	if err != nil {
		return fmt.Errorf("encode annotation: %w", err)
	}
	if _, err := e.client.CoreV1().Pods(pod.Namespace).Patch(ctx, pod.Name, types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
		return fmt.Errorf("annotate Pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	return nil
}

// event says something about a Pod; its name makes sure that it is said once.
func (e *Eklet) event(ctx context.Context, pod *corev1.Pod, mark, reason, message string) error {
	at := metav1.NewTime(e.now())
	name := fmt.Sprintf("%s.%s.%s", pod.Name, shorten(string(pod.UID)), mark)
	_, err := e.client.CoreV1().Events(pod.Namespace).Create(ctx, &corev1.Event{
		ObjectMeta:     metav1.ObjectMeta{Name: name, Namespace: pod.Namespace},
		InvolvedObject: corev1.ObjectReference{APIVersion: "v1", Kind: "Pod", Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID, ResourceVersion: pod.ResourceVersion},
		Reason:         reason, Message: message, Type: corev1.EventTypeNormal, Source: corev1.EventSource{Component: source},
		FirstTimestamp: at, LastTimestamp: at, Count: 1,
	}, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) && !apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
		return fmt.Errorf("tell spec of Pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	return nil
}

// shorten keeps of a UID what tells two Pods of one name apart.
func shorten(uid string) string { return uid[:min(len(uid), 8)] }
