package admission

import (
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/kubernetes/pkg/apis/apps"
	"k8s.io/kubernetes/pkg/apis/batch"
	"k8s.io/kubernetes/pkg/apis/core"

	"github.com/nodeless/nodeless/pkg/admission/rules"
	"github.com/nodeless/nodeless/pkg/podsize"
)

// templateOf is what an object makes its Pods of, or nil.
func templateOf(object runtime.Object) *core.PodTemplateSpec {
	switch o := object.(type) {
	case *apps.Deployment:
		return &o.Spec.Template
	case *apps.StatefulSet:
		return &o.Spec.Template
	case *apps.DaemonSet:
		return &o.Spec.Template
	case *apps.ReplicaSet:
		return &o.Spec.Template
	case *batch.Job:
		return &o.Spec.Template
	case *batch.CronJob:
		return &o.Spec.JobTemplate.Spec.Template
	case *core.ReplicationController:
		return o.Spec.Template
	}
	return nil
}

// several tells that an object makes more than one Pod at a time, of the same claims.
func several(object runtime.Object) bool {
	switch o := object.(type) {
	case *apps.Deployment:
		return o.Spec.Replicas > 1
	case *apps.ReplicaSet:
		return o.Spec.Replicas > 1
	case *apps.StatefulSet: // not those of its volumeClaimTemplates, which are no volumes of the template
		return o.Spec.Replicas > 1
	case *core.ReplicationController:
		return o.Spec.Replicas != nil && *o.Spec.Replicas > 1
	case *apps.DaemonSet:
		return true
	case *batch.Job:
		return o.Spec.Parallelism != nil && *o.Spec.Parallelism > 1
	case *batch.CronJob:
		return o.Spec.JobTemplate.Spec.Parallelism != nil && *o.Spec.JobTemplate.Spec.Parallelism > 1
	}
	return false
}

// templatePath is where an object of a kind has what it makes its Pods of.
func templatePath(kind string) *field.Path {
	if kind == "CronJob" {
		return field.NewPath("spec", "jobTemplate", "spec", "template")
	}
	return field.NewPath("spec", "template")
}

// unchanged tells that an update leaves an object's Pods as they are, as those of its controllers do.
func unchanged(a admission.Attributes) bool {
	if a.GetOperation() != admission.Update {
		return false
	}
	before, now := templateOf(a.GetOldObject()), templateOf(a.GetObject())
	return before != nil && now != nil && apiequality.Semantic.DeepEqual(before, now)
}

// foresee says which spec the Pods of a template will have, where that is not what they ask for, or why there is none.
func (s *size) foresee(at *field.Path, template *core.PodTemplateSpec) []string {
	if name := template.Spec.RuntimeClassName; name != nil && *name != RuntimeClass {
		return nil
	}
	pod := &core.Pod{ObjectMeta: *template.ObjectMeta.DeepCopy(), Spec: *template.Spec.DeepCopy()}
	forget(pod)
	asking := resourcesOfPod(pod)
	wish, err := podsize.ParseWish(pod.Annotations)
	if err != nil {
		return rules.Refusals(asking, faults(at, err))
	}
	wish = wish.Narrow(s.there)
	got, err := s.catalog.Fit(wish.On(podsize.DemandOf(asking, s.catalog.Rules)))
	if err != nil {
		return rules.Refusals(asking, faults(at, err))
	}
	return s.difference("each of its Pods", asking, wish, got)
}
