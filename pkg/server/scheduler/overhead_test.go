package scheduler

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/kubernetes/pkg/scheduler/framework"

	"github.com/nodeless/nodeless/pkg/kube/overhead"
)

// TestOverheadCountsOnce: a Pod takes as much of its host after the kubelet has reported what it has as before. The scheduler and the
// kubelet add their Pods up by the same code. When the first half fails, upstream has mended it, and pkg/kube/overhead can go.
func TestOverheadCountsOnce(t *testing.T) {
	const mib = 1 << 20
	reported := func(p *corev1.Pod) *corev1.Pod {
		all := corev1.ResourceList{}
		for name, q := range p.Spec.Containers[0].Resources.Requests {
			all[name] = q
		}
		if p.Spec.Resources != nil {
			all = p.Spec.Resources.Requests.DeepCopy()
		}
		memory := all.Memory().DeepCopy()
		memory.Add(*p.Spec.Overhead.Memory())
		with := all.DeepCopy()
		with[corev1.ResourceMemory] = memory
		p.Status.Phase, p.Status.Resources, p.Status.AllocatedResources = corev1.PodRunning, &corev1.ResourceRequirements{Requests: all}, with
		return p
	}
	sized := pod("shop", "0.25C0.5Gi", "a")
	native := pod("shop", "0.25C0.5Gi", "b")
	native.Spec.Containers[0].Resources.Requests, native.Spec.Resources = native.Spec.Resources.Requests, nil
	memory := func(pods ...*corev1.Pod) int64 {
		return framework.NewNodeInfo(pods...).GetRequested().GetMemory() / mib
	}
	if got := memory(reported(sized.DeepCopy())); got != 512+2*448 {
		t.Errorf("upstream counts %d MiB for a Pod of 512 and 448; does it still need mending?", got)
	}
	overhead.Once()
	overhead.Once() // it may be repeated
	for name, p := range map[string]*corev1.Pod{"sized to a spec": sized, "with its own figures": native} {
		if before, after := memory(p), memory(reported(p.DeepCopy())); before != 512+448 || after != before {
			t.Errorf("a Pod %s counts %d MiB, and %d once it runs, want %d", name, before, after, 512+448)
		}
	}
}
