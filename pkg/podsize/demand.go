package podsize

import (
	"math"

	corev1 "k8s.io/api/core/v1"
)

// GPUResource is what containers ask for GPUs by.
const GPUResource corev1.ResourceName = "nvidia.com/gpu"

// What a Pod, and since 2026 an init container, gets that asks for nothing.
const (
	usualCPU    = 1000
	usualMemory = 2 * Gi
)

// DemandOf adds up what a Pod asks for: of its containers the larger of all requests together and the largest single limit,
// or what an init container needs if that is more, or what the Pod asks for as a whole. Sidecars (init containers that are
// restarted always) count as containers, and run beside the init containers that come after them. A Pod that says nothing
// gets one core and 2 GiB.
func DemandOf(pod *corev1.PodSpec, rules Rules) Demand {
	var sidecars, inits []corev1.Container
	var beside Demand // what an init container and the sidecars before it need
	for _, c := range pod.InitContainers {
		if c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			sidecars = append(sidecars, c)
			continue
		}
		inits = append(inits, c)
		if len(sidecars) > 0 {
			beside = beside.or(together(append([]corev1.Container{c}, sidecars...)))
		}
	}
	d := together(append(sidecars, pod.Containers...)).or(beside)
	if pod.Resources != nil {
		d = d.or(together([]corev1.Container{{Resources: *pod.Resources}}))
	}
	if rules.Init2026 {
		if len(inits) > 0 && d.CPU == 0 && d.Memory == 0 {
			d.CPU, d.Memory, d.Usual = usualCPU, usualMemory, true
		}
		for _, c := range inits {
			one := together([]corev1.Container{c})
			if one.CPU == 0 && one.Memory == 0 {
				one.CPU, one.Memory = usualCPU, usualMemory
			}
			d = d.or(one)
		}
	} else {
		d = d.or(together(inits))
	}
	if d.CPU == 0 && d.Memory == 0 && d.GPU == 0 {
		d.CPU, d.Memory, d.Usual = usualCPU, usualMemory, true
	}
	d.Usual = d.Usual && d.CPU == usualCPU && d.Memory == usualMemory // or an init container asks for more
	return d
}

// together is what a set of containers needs that run at the same time.
func together(set []corev1.Container) Demand {
	var sum, most Demand
	for _, c := range set {
		sum.CPU = plus(sum.CPU, c.Resources.Requests.Cpu().MilliValue())
		sum.Memory = plus(sum.Memory, c.Resources.Requests.Memory().Value())
		gpus, ok := c.Resources.Requests[GPUResource]
		if !ok {
			gpus = c.Resources.Limits[GPUResource] // the apiserver takes the limit for the request
		}
		sum.GPU = plus(sum.GPU, gpus.Value())
		most = most.or(Demand{CPU: c.Resources.Limits.Cpu().MilliValue(), Memory: c.Resources.Limits.Memory().Value()})
	}
	return sum.or(most)
}

// or is the larger of two demands in each respect.
func (d Demand) or(other Demand) Demand {
	d.CPU = max(d.CPU, other.CPU)
	d.Memory = max(d.Memory, other.Memory)
	d.GPU = max(d.GPU, other.GPU)
	return d
}

// plus adds; what is too much for an integer is too much for any spec as well, and what is negative the API refuses.
func plus(a, b int64) int64 {
	if b < 0 {
		return a
	}
	if a > math.MaxInt64-b {
		return math.MaxInt64
	}
	return a + b
}
