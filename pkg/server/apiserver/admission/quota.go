package admission

import (
	"context"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/admission/plugin/resourcequota"
	"k8s.io/kubernetes/pkg/apis/core"
)

// withoutOverhead has quotas count what a Pod asks for, and not what its microVM takes besides. pkg/server/quota counts what is
// there already in the same way.
func withoutOverhead(plugin admission.Interface, name string) admission.Interface {
	quota, ok := plugin.(admission.ValidationInterface)
	if name != resourcequota.PluginName || !ok {
		return plugin
	}
	return &bareQuota{quota}
}

type bareQuota struct{ admission.ValidationInterface }

var _ admission.ValidationInterface = (*bareQuota)(nil)

// Validate is called for each new or changed object.
func (q *bareQuota) Validate(ctx context.Context, a admission.Attributes, o admission.ObjectInterfaces) error {
	if a.GetResource().GroupResource() == core.Resource("pods") {
		a = barePod{a}
	}
	return q.ValidationInterface.Validate(ctx, a, o)
}

// barePod is a request about a Pod, as one without an overhead.
type barePod struct{ admission.Attributes }

// GetObject is the Pod.
func (p barePod) GetObject() runtime.Object { return bare(p.Attributes.GetObject()) }

// GetOldObject is what the Pod was before.
func (p barePod) GetOldObject() runtime.Object { return bare(p.Attributes.GetOldObject()) }

func bare(object runtime.Object) runtime.Object {
	pod, ok := object.(*core.Pod)
	if !ok || pod == nil || pod.Spec.Overhead == nil || pod.Spec.RuntimeClassName == nil || *pod.Spec.RuntimeClassName != RuntimeClass {
		return object
	}
	without := *pod // the request's own is stored as it is
	without.Spec.Overhead = nil
	return &without
}
