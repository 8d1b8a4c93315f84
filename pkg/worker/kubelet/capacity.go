package kubelet

import (
	"context"
	"fmt"

	cadvisorapi "github.com/google/cadvisor/lib/model"
	"k8s.io/klog/v2"
	"k8s.io/kubernetes/cmd/kubelet/app/options"
	"k8s.io/kubernetes/pkg/kubelet/cadvisor"
	"k8s.io/kubernetes/pkg/kubelet/cm"
)

// oversold is the host with each of its CPUs counted several times (docs/adr/0025). Nothing else changes: Pods that are busy at the
// same time share the CPUs by the cores of their specs, and memory is never sold twice.
type oversold struct {
	cadvisor.Interface
	times int
}

// MachineInfo is what the kubelet makes the Node's capacity of.
func (o oversold) MachineInfo(logger klog.Logger) (*cadvisorapi.MachineInfo, error) {
	info, err := o.Interface.MachineInfo(logger)
	if err != nil {
		return nil, err
	}
	more := *info
	more.NumCores *= o.times
	return &more, nil
}

// measure makes what the kubelet sees of the host, as the kubelet would itself.
func measure(ctx context.Context, server *options.KubeletServer, times int) (cadvisor.Interface, error) {
	logger := klog.FromContext(ctx)
	roots := []string{cm.NodeAllocatableRoot(server.CgroupRoot, server.CgroupsPerQOS, server.CgroupDriver)}
	images := cadvisor.NewImageFsInfoProvider(server.ContainerRuntimeEndpoint)
	// Figures of containers come from the runtime (gates in settings.go), so that cadvisor need not look for them.
	const legacyStats, findContainers = false, false
	host, err := cadvisor.New(logger, images, server.RootDirectory, roots, legacyStats, server.LocalStorageCapacityIsolation, !findContainers)
	if err != nil {
		return nil, fmt.Errorf("measure host: %w", err)
	}
	return oversold{host, times}, nil
}
