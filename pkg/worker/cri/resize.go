package cri

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/containerd/containerd/api/services/tasks/v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/anypb"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodeless/nodeless/pkg/contract"
	"github.com/nodeless/nodeless/pkg/podsize"
)

const (
	// namespaceHeader is how containerd's other services are told where its CRI keeps its tasks.
	namespaceHeader = "containerd-namespace"
	// resourcesType is what shims expect in an update.
	resourcesType = "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources"
)

// UpdatePodSandboxResources has the microVM follow a Pod that is resized as a whole. containerd only notes the new size; the Kata shim
// of ours (cmd/kata-shim/resize.go) takes an update of the sandbox's own container for it. When the microVM cannot follow, the
// kubelet refuses the resize with the reason.
func (f *proxy) UpdatePodSandboxResources(ctx context.Context, req *cri.UpdatePodSandboxResourcesRequest) (*cri.UpdatePodSandboxResourcesResponse, error) {
	if f.streams.guests.has(req.GetPodSandboxId()) {
		update, err := sandboxUpdate(req)
		if err != nil {
			return nil, err
		}
		if _, err := f.tasks.Update(metadata.AppendToOutgoingContext(ctx, namespaceHeader, contract.CRINamespace), update); err != nil {
			return nil, err // a status, with the shim's words
		}
	}
	return f.upstream.UpdatePodSandboxResources(outgoing(ctx), req)
}

// sandboxUpdate is the Pod's size in the runtime specification's form; what the kubelet leaves out stays.
func sandboxUpdate(req *cri.UpdatePodSandboxResourcesRequest) (*tasks.UpdateTaskRequest, error) {
	to := req.GetResources()
	parts := map[string]any{}
	if limit := to.GetMemoryLimitInBytes(); limit > 0 {
		parts["memory"] = map[string]int64{"limit": limit}
	}
	if to.GetCpuQuota() > 0 && to.GetCpuPeriod() > 0 {
		parts["cpu"] = map[string]int64{"quota": to.GetCpuQuota(), "period": to.GetCpuPeriod()}
	}
	raw, err := json.Marshal(parts)
	if err != nil {
		return nil, fmt.Errorf("encode size of sandbox %s: %w", req.GetPodSandboxId(), err)
	}
	return &tasks.UpdateTaskRequest{ContainerID: req.GetPodSandboxId(), Resources: &anypb.Any{TypeUrl: resourcesType, Value: raw}}, nil
}

// cpuPeriod is in which a quota of CPU time is counted, in microseconds: the kubelet's own.
const cpuPeriod = 100_000

// open gives the microVM of a Pod that keeps its own figures what the Pod's limits do not say: at least its spec's CPUs, and its memory
// where a container may use all there is.
func open(config *cri.PodSandboxConfig) {
	follows := config.GetAnnotations()[contract.Sizing]
	if follows != contract.SizingLimits && follows != contract.SizingOpen || config.GetLinux() == nil {
		return
	}
	size, err := podsize.ParseSize(config.Annotations[contract.Spec], config.Annotations[contract.SpecType])
	if err != nil {
		return // written by something newer than this
	}
	if config.Linux.Resources == nil {
		config.Linux.Resources = &cri.LinuxContainerResources{}
	}
	r := config.Linux.Resources
	if quota := size.CPU * cpuPeriod / 1000; r.CpuPeriod <= 0 || r.CpuQuota <= 0 || r.CpuQuota*cpuPeriod < quota*r.CpuPeriod {
		r.CpuQuota, r.CpuPeriod = quota, cpuPeriod
	}
	if follows == contract.SizingOpen {
		r.MemoryLimitInBytes = max(r.MemoryLimitInBytes, size.Memory)
	}
}
