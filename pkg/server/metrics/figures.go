package metrics

import (
	"math"
	"sort"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/metrics/pkg/apis/metrics"
)

// figure is one of the numbers that a HorizontalPodAutoscaler can name.
type figure struct {
	name string
	// of gives a Pod's value, or says that it has none: it is a share of something that the Pod does not have.
	of func(p *pod, used corev1.ResourceList) (resource.Quantity, bool)
	// against names what a share is of, for who asks for a Pod that does not have it.
	against string
}

// podFigures lists what is served, by the names and in the units of TKE Serverless. CPU is the average over the window, memory the
// working set: what the containers use without the part of the page cache that they have not touched lately. What TKE
// serves besides is not measured by the kubelet's resource metrics: network, file systems, memory without cache; and GPUs not at all.
func podFigures() []figure {
	absolute := func(name string, resourceName corev1.ResourceName) figure {
		return figure{name: name, of: func(_ *pod, used corev1.ResourceList) (resource.Quantity, bool) { return used[resourceName], true }}
	}
	cpu := func(name, against string, whole func(*pod) amount) figure {
		return figure{name: name, against: against, of: func(p *pod, used corev1.ResourceList) (resource.Quantity, bool) {
			return percent(used.Cpu().AsApproximateFloat64()*1000, whole(p).cpu)
		}}
	}
	memory := func(name, against string, whole func(*pod) amount) figure {
		return figure{name: name, against: against, of: func(p *pod, used corev1.ResourceList) (resource.Quantity, bool) {
			return percent(used.Memory().AsApproximateFloat64(), whole(p).memory)
		}}
	}
	size := func(p *pod) amount { return p.spec }
	requests := func(p *pod) amount { return p.requests }
	limits := func(p *pod) amount { return p.limits }
	return []figure{
		absolute("k8s_pod_cpu_core_used", corev1.ResourceCPU),
		cpu("k8s_pod_rate_cpu_core_used_resource", "spec", size),
		cpu("k8s_pod_rate_cpu_core_used_request", "request of CPU", requests),
		cpu("k8s_pod_rate_cpu_core_used_limit", "limit of CPU", limits),
		absolute("k8s_pod_mem_usage_bytes", corev1.ResourceMemory),
		memory("k8s_pod_rate_mem_usage_bytes_resource", "spec", size),
		memory("k8s_pod_rate_mem_usage_resource", "spec", size), // another name of the one before
		memory("k8s_pod_rate_mem_usage_request", "request of memory", requests),
		memory("k8s_pod_rate_mem_usage_limit", "limit of memory", limits),
	}
}

// percent is used of whole, both in the same unit, to a thousandth.
func percent(used float64, whole int64) (resource.Quantity, bool) {
	if whole <= 0 {
		return resource.Quantity{}, false
	}
	return *resource.NewMilliQuantity(int64(math.Round(used*100*1000/float64(whole))), resource.DecimalSI), true
}

// total is what the containers of a Pod use together.
func total(m *metrics.PodMetrics) corev1.ResourceList {
	sum := corev1.ResourceList{}
	for _, c := range m.Containers {
		for name, used := range c.Usage {
			have := sum[name]
			have.Add(used)
			sum[name] = have
		}
	}
	return sum
}

// figureNames lists the names of podFigures for a message.
func figureNames() string {
	var names []string
	for _, f := range podFigures() {
		names = append(names, f.name)
	}
	sort.Strings(names)
	return strings.Join(names, ", ")
}
