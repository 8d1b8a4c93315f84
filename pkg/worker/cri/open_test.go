package cri

import (
	"testing"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodeless/nodeless/pkg/api"
)

// TestOpen: a Pod that keeps its own figures boots with what its limits do not say.
func TestOpen(t *testing.T) {
	const mib = 1 << 20
	type size struct{ memory, quota, period int64 }
	for _, tt := range []struct {
		name, sizing, spec string
		kubelet, want      size
	}{
		{"sized to a spec", "", "1C2Gi", size{2048 * mib, 100_000, 100_000}, size{2048 * mib, 100_000, 100_000}},
		{"nothing is said", api.SizingOpen, "1C2Gi", size{}, size{2048 * mib, 100_000, 100_000}},
		{"one container has limits", api.SizingOpen, "1C2Gi", size{64 * mib, 10_000, 100_000}, size{2048 * mib, 100_000, 100_000}},
		{"larger than the spec", api.SizingOpen, "1C2Gi", size{4096 * mib, 100_000, 50_000}, size{4096 * mib, 100_000, 50_000}},
		{"all have limits", api.SizingLimits, "0.25C0.5Gi", size{64 * mib, 1_000, 100_000}, size{64 * mib, 25_000, 100_000}},
		{"limits as a whole", api.SizingWhole, "0.25C0.5Gi", size{64 * mib, 1_000, 100_000}, size{64 * mib, 1_000, 100_000}},
		{"a spec of another time", api.SizingOpen, "huge", size{64 * mib, 0, 0}, size{64 * mib, 0, 0}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			config := &cri.PodSandboxConfig{
				Annotations: map[string]string{api.Sizing: tt.sizing, api.Spec: tt.spec, api.SpecType: "intel"},
				Linux: &cri.LinuxPodSandboxConfig{Resources: &cri.LinuxContainerResources{
					MemoryLimitInBytes: tt.kubelet.memory, CpuQuota: tt.kubelet.quota, CpuPeriod: tt.kubelet.period,
				}},
			}
			open(config)
			r := config.Linux.Resources
			if got := (size{r.MemoryLimitInBytes, r.CpuQuota, r.CpuPeriod}); got != tt.want {
				t.Errorf("the microVM gets %+v, want %+v", got, tt.want)
			}
		})
	}
	open(&cri.PodSandboxConfig{Annotations: map[string]string{api.Sizing: api.SizingOpen}}) // of no system that there is
}
