package rules

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// How much of what no quota counts one object may have. Each is something that the host or a controller, which all share, does or keeps for
// it: an object of a MiB has room for thousands.
const (
	maxVolumes    = 200 // of a Pod, as a conformance test has 151: each is mounted on the host, which has 100,000 mounts for all
	maxSubPaths   = 100 // of a Pod's containers together: each is one more mount
	maxContainers = 100 // of a Pod, of every kind
	maxPorts      = 100 // of a Service: each is rules of the host for itself and for each of its Pods
	maxMetrics    = 20  // of a HorizontalPodAutoscaler: each is asked for every five seconds, by a few workers for all

	// maxAllPorts is of a namespace's Services together. 50 Services, each of 100 ports and 50 Pods, would be 250,000 chains of the host's
	// packet rules.
	maxAllPorts = 500
)

// amounts refuses a Pod that has too much of what no quota counts.
func (r *report) amounts(base *field.Path, spec *corev1.PodSpec) {
	few := func(have, most int, at ...string) {
		if have > most {
			r.deny(field.TooMany(base.Child("spec", at...), have, most))
		}
	}
	few(len(spec.Volumes), maxVolumes, "volumes")
	few(len(spec.InitContainers)+len(spec.Containers)+len(spec.EphemeralContainers), maxContainers, "containers")
	paths := 0
	for _, containers := range [][]corev1.Container{spec.InitContainers, spec.Containers} {
		for i := range containers {
			for _, m := range containers[i].VolumeMounts {
				if m.SubPath != "" || m.SubPathExpr != "" {
					paths++
				}
			}
		}
	}
	if paths > maxSubPaths {
		r.deny(field.Forbidden(base.Child("spec", "containers"), fmt.Sprintf("volumes are mounted by %d sub-paths, and a Pod may have %d: mount the volume itself", paths, maxSubPaths)))
	}
}

// Autoscaler reports on a new or changed HorizontalPodAutoscaler with so many metrics.
func Autoscaler(metrics int) Findings {
	var r report
	if metrics > maxMetrics {
		r.deny(field.TooMany(field.NewPath("spec", "metrics"), metrics, maxMetrics))
	}
	return r.findings(field.NewPath("spec"))
}
