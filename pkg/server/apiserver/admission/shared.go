package admission

import (
	"cmp"
	"context"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	"k8s.io/kubernetes/pkg/apis/apps"
	"k8s.io/kubernetes/pkg/apis/autoscaling"
	"k8s.io/kubernetes/pkg/apis/core"

	"github.com/nodeless/nodeless/pkg/admission/rules"
	"github.com/nodeless/nodeless/pkg/api"
)

// shared warns of claims of an object's Pods that are mounted by several of them, or by a Pod that is not the object's. Exempt are Pods
// outside of a microVM: the kernel is the host's, and locks hold.
func (r *ruling) shared(a admission.Attributes, at *field.Path, spec *corev1.PodSpec, exempt bool) []string {
	meta, ok := a.GetObject().(metav1.Object)
	if !ok || exempt {
		return nil
	}
	many, own := several(a.GetObject()), a.GetKind().Kind+"/"+cmp.Or(a.GetName(), meta.GetName())
	return rules.SharedClaims(at, spec, func(claim string) string {
		if many {
			return "the other Pods"
		}
		return r.mounter(a.GetNamespace(), claim, func(other *corev1.Pod) bool { return other.Annotations[api.Workload] == own })
	})
}

// mounter names a Pod that has not ended and that mounts a claim, of those that are not left out, or is empty.
func (r *ruling) mounter(namespace, claim string, leaveOut func(*corev1.Pod) bool) string {
	others, err := r.pods.Pods(namespace).List(labels.Everything())
	if err != nil {
		return ""
	}
	for _, other := range others {
		if other.Status.Phase == corev1.PodSucceeded || other.Status.Phase == corev1.PodFailed || leaveOut(other) {
			continue
		}
		for i := range other.Spec.Volumes {
			if c := other.Spec.Volumes[i].PersistentVolumeClaim; c != nil && c.ClaimName == claim && !c.ReadOnly {
				return "Pod " + other.Name
			}
		}
	}
	return ""
}

// grown tells that an update has an object make more than one Pod at a time, which it did not before.
func grown(a admission.Attributes) bool {
	return a.GetOperation() == admission.Update && a.GetOldObject() != nil && several(a.GetObject()) && !several(a.GetOldObject())
}

// scaled is a request to scale an object, as the one that changes the object itself; nil where that is not of interest. A scale has figures
// only: the template is asked for, once for each growth beyond one Pod.
func (r *ruling) scaled(ctx context.Context, a admission.Attributes) admission.Attributes {
	now, ok := a.GetObject().(*autoscaling.Scale)
	was, both := a.GetOldObject().(*autoscaling.Scale)
	if !ok || !both || was.Spec.Replicas > 1 || now.Spec.Replicas <= 1 {
		return nil
	}
	kind, external := r.scalable(ctx, a)
	if external == nil {
		return nil
	}
	before, err := legacyscheme.Scheme.ConvertToVersion(external, runtime.InternalGroupVersioner)
	if err != nil {
		return nil
	}
	after := before.DeepCopyObject()
	replicate(before, was.Spec.Replicas)
	replicate(after, now.Spec.Replicas)
	gvk := a.GetResource().GroupVersion().WithKind(kind)
	return admission.NewAttributesRecord(after, before, gvk, a.GetNamespace(), a.GetName(), a.GetResource(), "", admission.Update, a.GetOperationOptions(), a.IsDryRun(), a.GetUserInfo())
}

// scalableKinds are Kubernetes' own that make Pods and have a scale.
var scalableKinds = map[schema.GroupResource]string{
	apps.Resource("deployments"): "Deployment", apps.Resource("statefulsets"): "StatefulSet", apps.Resource("replicasets"): "ReplicaSet",
	core.Resource("replicationcontrollers"): "ReplicationController",
}

// scalable gets the object that is scaled, if it is of one of these kinds.
func (r *ruling) scalable(ctx context.Context, a admission.Attributes) (kind string, object runtime.Object) {
	kind = scalableKinds[a.GetResource().GroupResource()]
	get := owners{client: r.client}.getter(a.GetNamespace(), a.GetResource().GroupVersion().WithKind(kind))
	if get == nil {
		return "", nil
	}
	found, err := get(ctx, a.GetName(), metav1.GetOptions{ResourceVersion: "0"})
	if err != nil {
		return "", nil // it is for who scales it to say
	}
	object, _ = found.(runtime.Object)
	return kind, object
}

// replicate sets how many Pods an object makes.
func replicate(object runtime.Object, n int32) {
	switch o := object.(type) {
	case *apps.Deployment:
		o.Spec.Replicas = n
	case *apps.StatefulSet:
		o.Spec.Replicas = n
	case *apps.ReplicaSet:
		o.Spec.Replicas = n
	case *core.ReplicationController:
		o.Spec.Replicas = &n
	}
}
