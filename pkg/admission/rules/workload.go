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
	if kind == "DaemonSet" && settings.DaemonSets.noPods() {
		return Findings{} // there are no Pods to tell of
	}
	base, place := field.NewPath("spec", "template"), OnPod
	switch kind {
	case "CronJob":
		base = field.NewPath("spec", "jobTemplate", "spec", "template")
	case "DaemonSet":
		place = OnDaemonSet
	}
	of.misplaced(kind, meta.GetAnnotations(), template, base.Child("metadata", "annotations"))
	if template != nil {
		pods := report{spec: &template.Spec}
		pods.pod(base, &template.ObjectMeta, &template.Spec, where{settings, meta.GetNamespace(), exempt}, place)
		if !exempt {
			pods.hostNamespaces(base, &template.Spec)
		}
		found := pods.findings(base)
		own := of.findings(field.NewPath("metadata"))
		own.Warnings = slices.Concat(own.Warnings, Refusals(&template.Spec, found.Denials), found.Warnings)
		return own
	}
	return of.findings(field.NewPath("metadata"))
}

// willBeRefused begins a warning about a workload that is let in, while its Pods are not.
const willBeRefused = "its Pods will be refused: "

// Refusals are the warnings about a workload whose Pods, of this spec, will be refused.
func Refusals(spec *corev1.PodSpec, denials field.ErrorList) []string {
	r := report{spec: spec}
	for _, denial := range denials {
		r.say(said{before: willBeRefused, path: denial.Field, text: denial.ErrorBody()})
	}
	return r.findings(field.NewPath("spec", "template")).Warnings
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

// Service reports on a new or changed Service. The other Services of its namespace have so many ports together. It refuses one with too
// many. One that is there already is kept as it is, and may have fewer.
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
	if svc.Spec.Type == corev1.ServiceTypeLoadBalancer && svc.Spec.LoadBalancerClass == nil {
		as := corev1.ServiceTypeNodePort
		if ports := svc.Spec.AllocateLoadBalancerNodePorts; ports != nil && !*ports {
			as = corev1.ServiceTypeClusterIP
		}
		r.warn(field.NewPath("spec", "type"), "LoadBalancer: there is none in this version, so the Service stays without an address of its own from outside, unless somebody runs a controller that gives it one. "+
			"It is reached as one of type "+string(as))
	}
	for i := range svc.Spec.Ports {
		if svc.Spec.Ports[i].Protocol == corev1.ProtocolSCTP {
			r.warn(field.NewPath("spec", "ports").Index(i).Child("protocol"), noSCTP)
		}
	}
	return r.findings(field.NewPath("spec"))
}

// noSCTP is said of ports that nothing can listen on.
const noSCTP = "SCTP: the kernel of a microVM has none (Protocol not supported). Use TCP or UDP"

// Ingress reports on a new or changed Ingress of a class. there says whether the cluster has that class: a class is made by what installs
// a controller for it. It refuses nothing.
func Ingress(class string, there bool) Findings {
	var r report
	switch {
	case there:
	case class == "":
		r.warn(field.NewPath("spec", "ingressClassName"), "there is no controller for Ingresses in this version, so nobody serves this one, unless somebody runs one for Ingresses without a class")
	default:
		r.warn(field.NewPath("spec", "ingressClassName"), "there is no IngressClass "+quote(class)+": nobody serves this Ingress until a controller for it is installed (kubectl get ingressclasses)")
	}
	return r.findings(field.NewPath("spec"))
}

// NetworkPolicy reports on a new or changed one. It refuses nothing.
func NetworkPolicy() Findings {
	var r report
	r.warn(field.NewPath("kind"), "a NetworkPolicy is kept but not enforced yet: Pods reach each other whatever it says")
	return r.findings(field.NewPath("spec"))
}
