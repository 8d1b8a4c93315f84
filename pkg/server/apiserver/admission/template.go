package admission

import (
	"fmt"

	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/kubernetes/pkg/apis/apps"
	"k8s.io/kubernetes/pkg/apis/batch"
	"k8s.io/kubernetes/pkg/apis/core"

	"github.com/nodeless/nodeless/pkg/spec"
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
func (s *size) foresee(template *core.PodTemplateSpec) []string {
	if name := template.Spec.RuntimeClassName; name != nil && *name != RuntimeClass {
		return nil
	}
	pod := &core.Pod{ObjectMeta: *template.ObjectMeta.DeepCopy(), Spec: template.Spec}
	wish, err := spec.ParseWish(pod.Annotations)
	if err != nil {
		return []string{fmt.Sprintf("its Pods will be refused: %v", err)}
	}
	asked := demandOf(pod, s.catalog.Rules)
	got, err := s.catalog.Fit(wish.Narrow(s.there).On(asked))
	if err != nil {
		return []string{fmt.Sprintf("its Pods will be refused: %v", err)}
	}
	return difference("each of its Pods", asked, wish, got)
}
