package cri

import (
	"context"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodeless/nodeless/pkg/api"
)

// The kubelet evicts Pods by these figures, and holds them to their limits on ephemeral storage. containerd's memory of a Pod is what the
// guest says, and its disk is 0, since containerd made none. So the Pod's own figures of both are the host's here. Those of its
// containers stay the guest's: only the guest can tell them apart, and they are what `kubectl top` shows.

// ListPodSandboxStats answers for every sandbox that runs, also for one of which containerd has nothing because its guest gives no figures.
func (f *proxy) ListPodSandboxStats(ctx context.Context, req *cri.ListPodSandboxStatsRequest) (*cri.ListPodSandboxStatsResponse, error) {
	ctx = outgoing(ctx)
	resp, err := f.upstream.ListPodSandboxStats(ctx, req)
	if err != nil {
		return nil, err
	}
	filter := req.GetFilter()
	sandboxes, err := f.upstream.ListPodSandbox(ctx, &cri.ListPodSandboxRequest{Filter: &cri.PodSandboxFilter{
		Id: filter.GetId(), LabelSelector: filter.GetLabelSelector(), State: &cri.PodSandboxStateValue{State: cri.PodSandboxState_SANDBOX_READY},
	}})
	if err != nil {
		return nil, err
	}
	containers, err := f.running(ctx, filter.GetId())
	if err != nil {
		return nil, err
	}
	known := map[string]*cri.PodSandboxStats{}
	for _, stats := range resp.Stats {
		known[stats.GetAttributes().GetId()] = stats
	}
	for _, sandbox := range sandboxes.Items {
		stats, ok := known[sandbox.Id]
		if !ok {
			if !f.streams.guests.has(sandbox.Id) {
				continue // no microVM
			}
			stats = &cri.PodSandboxStats{Attributes: attributes(sandbox)}
			resp.Stats = append(resp.Stats, stats)
		}
		f.correct(stats, containers[sandbox.Id])
	}
	return resp, nil
}

// PodSandboxStats is the same for one. The kubelet asks for that of no sandbox at its start, to see whether there is such a call.
// containerd would log the question as an error.
func (f *proxy) PodSandboxStats(ctx context.Context, req *cri.PodSandboxStatsRequest) (*cri.PodSandboxStatsResponse, error) {
	if req.GetPodSandboxId() == "" {
		return nil, status.Error(codes.NotFound, "figures of no sandbox")
	}
	ctx = outgoing(ctx)
	resp, err := f.upstream.PodSandboxStats(ctx, req)
	if err != nil {
		return nil, err
	}
	containers, err := f.running(ctx, req.GetPodSandboxId())
	if err != nil {
		return nil, err
	}
	f.correct(resp.GetStats(), containers[req.GetPodSandboxId()])
	return resp, nil
}

// noStream has the kubelet ask by the calls above.
func noStream(method string) error {
	if method == "/runtime.v1.RuntimeService/StreamPodSandboxStats" {
		return status.Error(codes.Unimplemented, "ask by ListPodSandboxStats")
	}
	return nil
}

// running are the running containers of a sandbox, or of all, by sandbox.
func (f *proxy) running(ctx context.Context, sandbox string) (map[string][]*cri.Container, error) {
	resp, err := f.upstream.ListContainers(ctx, &cri.ListContainersRequest{Filter: &cri.ContainerFilter{
		PodSandboxId: sandbox, State: &cri.ContainerStateValue{State: cri.ContainerState_CONTAINER_RUNNING},
	}})
	if err != nil {
		return nil, err
	}
	by := map[string][]*cri.Container{}
	for _, c := range resp.Containers {
		by[c.PodSandboxId] = append(by[c.PodSandboxId], c)
	}
	return by, nil
}

func attributes(s *cri.PodSandbox) *cri.PodSandboxAttributes {
	return &cri.PodSandboxAttributes{Id: s.Id, Metadata: s.Metadata, Labels: s.Labels, Annotations: s.Annotations}
}

// correct puts the host's figures into a Pod's. Of a sandbox that is no microVM containerd knows the host's.
func (f *proxy) correct(stats *cri.PodSandboxStats, running []*cri.Container) {
	id := stats.GetAttributes().GetId()
	if !f.streams.guests.has(id) {
		return
	}
	if stats.Linux == nil {
		stats.Linux = &cri.LinuxPodSandboxStats{}
	}
	now := time.Now().UnixNano()
	// A Pod without a cgroup is being made or taken away, and one without a disk is as well.
	if m, err := f.figures.memory(stats.GetAttributes().GetMetadata().GetUid()); err == nil {
		stats.Linux.Memory = &cri.MemoryUsage{Timestamp: now, UsageBytes: number(m.usage), WorkingSetBytes: number(m.workingSet), RssBytes: number(m.rss)}
	}
	used, err := f.figures.disk(id)
	if err != nil {
		return
	}
	used += f.figures.messages(stats.GetAttributes().GetMetadata().GetUid())
	for i, share := range shares(stats.GetAttributes().GetAnnotations()[api.DiskShares], running, used) {
		own := containerStats(stats.Linux, running[i])
		if own.WritableLayer == nil {
			own.WritableLayer = &cri.FilesystemUsage{Timestamp: now}
		}
		own.WritableLayer.UsedBytes = number(own.WritableLayer.GetUsedBytes().GetValue() + share)
	}
}

func number(n uint64) *cri.UInt64Value { return &cri.UInt64Value{Value: n} }

// containerStats are the figures of a container, made if the guest gave none.
func containerStats(of *cri.LinuxPodSandboxStats, c *cri.Container) *cri.ContainerStats {
	for _, stats := range of.Containers {
		if stats.GetAttributes().GetId() == c.Id {
			return stats
		}
	}
	stats := &cri.ContainerStats{Attributes: &cri.ContainerAttributes{Id: c.Id, Metadata: c.Metadata, Labels: c.Labels, Annotations: c.Annotations}}
	of.Containers = append(of.Containers, stats)
	return stats
}

// shares divides what a Pod's disk takes among its running containers, as admission has written down: in the proportion of their limits on
// ephemeral storage, so that none is over its limit unless the Pod is. It is one disk, and nobody but the guest knows who wrote what.
// Without a running container that has a limit, the first has it all.
func shares(limits string, running []*cri.Container, used uint64) []uint64 {
	if len(running) == 0 {
		return nil
	}
	weights := parseShares(limits)
	var sum float64
	for _, c := range running {
		sum += weights[c.GetMetadata().GetName()]
	}
	out := make([]uint64, len(running))
	if sum == 0 {
		out[0] = used
		return out
	}
	for i, c := range running {
		out[i] = uint64(float64(used) * (weights[c.GetMetadata().GetName()] / sum))
	}
	return out
}

// parseShares reads "name=bytes,name=bytes".
func parseShares(text string) map[string]float64 {
	weights := map[string]float64{}
	for part := range strings.SplitSeq(text, ",") {
		name, value, ok := strings.Cut(part, "=")
		n, err := strconv.ParseInt(value, 10, 64)
		if ok && err == nil && n > 0 {
			weights[name] = float64(n)
		}
	}
	return weights
}
