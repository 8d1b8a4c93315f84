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
	own, err := cm.GetKubeletContainer(logger, server.KubeletCgroups)
	if err != nil {
		logger.Info("It is not known in which cgroup the kubelet is", "err", err)
	}
	roots := askedFor(cm.NodeAllocatableRoot(server.CgroupRoot, server.CgroupsPerQOS, server.CgroupDriver), own)
	images := cadvisor.NewImageFsInfoProvider(server.ContainerRuntimeEndpoint)
	// Figures of containers come from the runtime (gates in settings.go), so that cadvisor need not look for them.
	const legacyStats, findContainers = false, false
	host, err := cadvisor.New(logger, images, server.RootDirectory, roots, legacyStats, server.LocalStorageCapacityIsolation, !findContainers)
	if err != nil {
		return nil, fmt.Errorf("measure host: %w", err)
	}
	return oversold{host, times}, nil
}

// askedFor are the cgroups that the kubelet will ask for: that of the Pods and, where it is in one, its own, such as that of a service. It
// asks every few seconds, and cadvisor knows no cgroup that is not below one of these, but for the root of all.
func askedFor(pods, own string) []string {
	if own == "" || own == "/" {
		return []string{pods}
	}
	return []string{pods, own}
}
