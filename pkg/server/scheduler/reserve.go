package scheduler

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	fwk "k8s.io/kube-scheduler/framework"
	schedruntime "k8s.io/kubernetes/pkg/scheduler/framework/runtime"

	"github.com/nodeless/nodeless/pkg/api"
	"github.com/nodeless/nodeless/pkg/podsize"
)

// reserveName is how the scheduler's configuration knows the plugin.
const reserveName = "SpotReserve"

// reserve keeps spot Pods from the last part of a host: ordinary Pods find room there without having to push a spot Pod out, and
// pkg/server/spot gives notice to those that are in it once it is needed.
type reserve struct{ percent int64 }

var (
	_ fwk.FilterPlugin      = (*reserve)(nil)
	_ fwk.EnqueueExtensions = (*reserve)(nil)
)

func newReserve(percent int) schedruntime.PluginFactory {
	return func(context.Context, runtime.Object, fwk.Handle) (fwk.Plugin, error) {
		return &reserve{int64(percent)}, nil
	}
}

// Name is "SpotReserve".
func (*reserve) Name() string { return reserveName }

// Filter refuses a host to a spot Pod that would leave less than the reserve free.
func (r *reserve) Filter(_ context.Context, _ fwk.CycleState, pod *corev1.Pod, host fwk.NodeInfo) *fwk.Status {
	if !isSpot(pod) {
		return nil
	}
	cpu, memory, _ := asks(pod)
	has, used := host.GetAllocatable(), host.GetRequested()
	if podsize.BeyondReserve(has.GetMilliCPU(), used.GetMilliCPU()+cpu, r.percent) ||
		podsize.BeyondReserve(has.GetMemory(), used.GetMemory()+memory, r.percent) {
		return fwk.NewStatus(fwk.Unschedulable, fmt.Sprintf("spot Pods leave %d percent of a host free", r.percent))
	}
	return nil
}

func isSpot(pod *corev1.Pod) bool { return pod.Annotations[api.ChargeType] == api.ChargeSpot }

// EventsToRegister says what may make room.
func (*reserve) EventsToRegister(context.Context) ([]fwk.ClusterEventWithHint, error) {
	return roomEvents(), nil
}

// roomEvents are Pods that go or shrink, and hosts that come or grow.
func roomEvents() []fwk.ClusterEventWithHint {
	return []fwk.ClusterEventWithHint{
		{Event: fwk.ClusterEvent{Resource: fwk.AssignedPod, ActionType: fwk.Delete | fwk.UpdatePodScaleDown}},
		{Event: fwk.ClusterEvent{Resource: fwk.Node, ActionType: fwk.Add | fwk.UpdateNodeAllocatable}},
	}
}
