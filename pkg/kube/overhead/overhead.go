// Package overhead has the scheduler and the kubelet count what a Pod takes besides its containers (spec.overhead) once. pkg/server calls
// it before it starts either.
//
// Kubernetes v1.37.2 counts it twice as soon as the kubelet has reported a Pod's status.resources and status.allocatedResources. They
// have it already; PodRequests of k8s.io/component-helpers takes the larger of these and of the spec, and adds the overhead. For microVMs
// that is 448 MiB each that nobody uses.
package overhead

import (
	"k8s.io/apiserver/pkg/util/feature"
	"k8s.io/component-base/featuregate"
)

// podStatus is the gate by which what is reported for the Pod as a whole is looked at.
const podStatus featuregate.Feature = "InPlacePodLevelResourcesVerticalScaling"

// Once takes effect for the whole process. It is called before anything else runs.
//
// One place adds up a host's Pods for both: PodInfo.CalculateResource of k8s.io/kubernetes/pkg/scheduler/framework. It is the only one
// that asks for the gate by this variable. All that resizes Pods asks by another, and goes on. So Pods count by their spec. Where they
// have no resources as a whole, they count by what is reported of their containers, which is without overhead.
func Once() {
	if _, done := feature.DefaultMutableFeatureGate.(gates); !done {
		feature.DefaultMutableFeatureGate = gates{feature.DefaultMutableFeatureGate}
	}
}

// gates are those of the process, but for one.
type gates struct {
	featuregate.MutableVersionedFeatureGate
}

// Enabled tells whether a gate is on.
func (g gates) Enabled(key featuregate.Feature) bool {
	return key != podStatus && g.MutableVersionedFeatureGate.Enabled(key)
}
