package rules

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Workload reports on an object that makes Pods: a Deployment, StatefulSet, DaemonSet, ReplicaSet, ReplicationController,
// Job or CronJob. It refuses nothing. What its Pods will be refused for is a warning, so that whoever applies it
// hears of it and not only a controller; so are annotations on the workload that have an effect on Pods only.
func Workload(kind string, meta metav1.Object, template *corev1.PodTemplateSpec, settings Settings, exempt bool) Findings {
	var of report
	base, place := field.NewPath("spec", "template"), OnPod
	switch kind {
	case "CronJob":
		base = field.NewPath("spec", "jobTemplate", "spec", "template")
	case "DaemonSet":
		place = OnDaemonSet
	}
	of.misplaced(kind, meta.GetAnnotations(), template, base.Child("metadata", "annotations"))
	if template != nil {
		var pods report
		pods.pod(base, &template.ObjectMeta, &template.Spec, where{settings, meta.GetNamespace(), exempt}, place)
		found := pods.findings(base)
		for _, denial := range found.Denials {
			of.found.Warnings = append(of.found.Warnings, "its Pods will be refused: "+denial.Error())
		}
		of.found.Warnings = append(of.found.Warnings, found.Warnings...)
	}
	return of.findings(field.NewPath("metadata"))
}

// misplaced warns of keys that have an effect on Pods only and are on the workload only.
func (r *report) misplaced(kind string, have map[string]string, template *corev1.PodTemplateSpec, belongs *field.Path) {
	var keys []string
	for key := range have {
		if !ofEKS(key) {
			continue
		}
		if template != nil {
			if _, both := template.Annotations[key]; both {
				continue
			}
		}
		keys = append(keys, key)
	}
	slices.Sort(keys)
	at := field.NewPath("metadata", "annotations")
	for _, key := range keys {
		if !r.roomToWarn() {
			r.moreWarnings++
			continue
		}
		text := "has no effect on a " + kind + "; put it in " + belongs.String()
		if lookup(key) == nil {
			if near, _ := meant(key); near != "" {
				text += ", as " + near
			}
		}
		r.warn(at.Key(shown(key)), text)
	}
}

// Service reports on a new or changed Service, where the others of its namespace have so many ports. It refuses one with too many. One that is
// there already is kept as it is, and may have fewer.
func Service(svc, old *corev1.Service, others int) Findings {
	var r report
	n, was := len(svc.Spec.Ports), 0
	if old != nil {
		was = len(old.Spec.Ports)
	}
	switch at := field.NewPath("spec", "ports"); {
	case n > maxPorts:
		r.deny(field.TooMany(at, n, maxPorts))
	case n > was && n+others > maxAllPorts:
		r.deny(field.Forbidden(at, fmt.Sprintf("the Services of the namespace would have %d ports together, and may have %d: delete some, or use another namespace", n+others, maxAllPorts)))
	}
	if svc.Spec.Type == corev1.ServiceTypeNodePort {
		r.warn(field.NewPath("spec", "type"), "NodePort: nodes are not for users, and the addresses of hosts come and go. "+
			"Use ClusterIP inside of the cluster and LoadBalancer or an Ingress from outside")
	}
	return r.findings(field.NewPath("spec"))
}

// NetworkPolicy reports on a new or changed one. It refuses nothing.
func NetworkPolicy() Findings {
	var r report
	r.warn(field.NewPath("kind"), "a NetworkPolicy is kept but not enforced yet: Pods reach each other whatever it says")
	return r.findings(field.NewPath("spec"))
}
