package cronscaler

import (
	"context"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/dynamic"
)

const autoscalerKind = "HorizontalPodAutoscaler"

// placeOf is where a kind is in the API. The cloud's own example spells StatefulSet with a small s.
func placeOf(kind string) (schema.GroupVersionResource, bool) {
	switch kind {
	case "Deployment":
		return schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "deployments"}, true
	case "StatefulSet", "Statefulset":
		return schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "statefulsets"}, true
	case autoscalerKind:
		return schema.GroupVersionResource{Group: "autoscaling", Version: "v2", Resource: "horizontalpodautoscalers"}, true
	}
	return schema.GroupVersionResource{}, false
}

// target reads and writes the size of one thing.
type target struct {
	api         dynamic.ResourceInterface
	what        string // "Deployment web"
	subresource []string
	apply       func(o *unstructured.Unstructured, c Cron) (said string, changed bool, err error)
}

func targetOf(client dynamic.Interface, namespace string, t Target) (target, error) {
	place, ok := placeOf(t.Kind)
	if !ok {
		return target{}, fmt.Errorf("%s cannot be scaled", t.Kind)
	}
	found := target{api: client.Resource(place).Namespace(namespace), what: t.Kind + " " + t.Name, subresource: []string{"scale"}, apply: resize}
	if t.Kind == autoscalerKind {
		found.subresource, found.apply = nil, rebound
	}
	return found, nil
}

// exists tells whether the target is there.
func (t target) exists(ctx context.Context, name string) (bool, error) {
	_, err := t.api.Get(ctx, name, metav1.GetOptions{}, t.subresource...)
	if apierrors.IsNotFound(err) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look for %s: %w", t.what, err)
	}
	return true, nil
}

// scale gives the target the size of c, and says what that changed. What may pass is tried again for some seconds.
func (t target) scale(ctx context.Context, name string, c Cron) (said string, changed bool, err error) {
	pause := wait.Backoff{Duration: 200 * time.Millisecond, Factor: 3, Steps: 5} // 8 s in all
	_ = wait.ExponentialBackoffWithContext(ctx, pause, func(ctx context.Context) (bool, error) {
		said, changed, err = t.try(ctx, name, c)
		return err == nil || !passes(err), nil
	})
	if err == nil && said == "" {
		err = ctx.Err()
	}
	if err != nil {
		return "", false, fmt.Errorf("scale %s: %w", t.what, err)
	}
	return t.what + ": " + said, changed, nil
}

func (t target) try(ctx context.Context, name string, c Cron) (string, bool, error) {
	object, err := t.api.Get(ctx, name, metav1.GetOptions{}, t.subresource...)
	if err != nil {
		return "", false, err
	}
	said, changed, err := t.apply(object, c)
	if err != nil || !changed {
		return said, false, err
	}
	_, err = t.api.Update(ctx, object, metav1.UpdateOptions{}, t.subresource...)
	return said, err == nil, err
}

// passes tells whether an error may be gone the next time.
func passes(err error) bool {
	return !apierrors.IsNotFound(err) && !apierrors.IsForbidden(err) && !apierrors.IsInvalid(err) && !apierrors.IsBadRequest(err)
}

// resize sets the size in a Scale.
func resize(scale *unstructured.Unstructured, c Cron) (string, bool, error) {
	have, _, err := unstructured.NestedInt64(scale.Object, "spec", "replicas")
	if err != nil {
		return "", false, fmt.Errorf("read scale: %w", err)
	}
	if c.TargetSize == nil {
		return "", false, apierrors.NewBadRequest("no targetSize")
	}
	want := int64(*c.TargetSize)
	if have == want {
		return fmt.Sprintf("has %d replicas already", want), false, nil
	}
	return fmt.Sprintf("from %d to %d replicas", have, want), true, unstructured.SetNestedField(scale.Object, want, "spec", "replicas")
}

// rebound sets the bounds of a HorizontalPodAutoscaler. A targetSize is the lower one, and the upper one makes room for it.
func rebound(autoscaler *unstructured.Unstructured, c Cron) (string, bool, error) {
	low, ok, err := unstructured.NestedInt64(autoscaler.Object, "spec", "minReplicas")
	if err != nil {
		return "", false, fmt.Errorf("read minReplicas: %w", err)
	}
	if !ok {
		low = 1 // the API's default
	}
	high, _, err := unstructured.NestedInt64(autoscaler.Object, "spec", "maxReplicas")
	if err != nil {
		return "", false, fmt.Errorf("read maxReplicas: %w", err)
	}
	var wantLow, wantHigh int64
	switch {
	case c.TargetSize != nil:
		wantLow, wantHigh = int64(*c.TargetSize), max(high, int64(*c.TargetSize))
	case c.MinSize != nil && c.MaxSize != nil:
		wantLow, wantHigh = int64(*c.MinSize), int64(*c.MaxSize)
	default:
		return "", false, apierrors.NewBadRequest("no size")
	}
	if low == wantLow && high == wantHigh {
		return fmt.Sprintf("scales between %d and %d replicas already", low, high), false, nil
	}
	if err := unstructured.SetNestedField(autoscaler.Object, wantLow, "spec", "minReplicas"); err != nil {
		return "", false, err
	}
	said := fmt.Sprintf("from between %d and %d replicas to between %d and %d", low, high, wantLow, wantHigh)
	return said, true, unstructured.SetNestedField(autoscaler.Object, wantHigh, "spec", "maxReplicas")
}
