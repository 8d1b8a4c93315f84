package bounds

import (
	"context"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/kubernetes/pkg/apis/core"
	"k8s.io/kubernetes/pkg/apis/events"
	"k8s.io/kubernetes/plugin/pkg/admission/eventratelimit"
)

// everyEvent has upstream's EventRateLimit (Kubernetes 1.37) count the Events of both groups. By itself it knows those of the core group
// alone. Who writes the same objects to events.k8s.io would have no limit.
func everyEvent(plugin admission.Interface, name string) admission.Interface {
	limit, ok := plugin.(admission.ValidationInterface)
	if name != eventratelimit.PluginName || !ok {
		return plugin
	}
	return &rateLimit{limit}
}

type rateLimit struct{ admission.ValidationInterface }

var _ admission.ValidationInterface = (*rateLimit)(nil)

// Validate is called for each new or changed object.
func (r *rateLimit) Validate(ctx context.Context, a admission.Attributes, o admission.ObjectInterfaces) error {
	if a.GetKind().GroupKind() == events.Kind("Event") {
		a = coreEvent{a}
	}
	return r.ValidationInterface.Validate(ctx, a, o)
}

// coreEvent is a request about an Event, as one to the core group.
type coreEvent struct{ admission.Attributes }

func (e coreEvent) GetKind() schema.GroupVersionKind {
	return core.Kind("Event").WithVersion(e.Attributes.GetKind().Version)
}
