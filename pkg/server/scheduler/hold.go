package scheduler

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	resourcehelper "k8s.io/component-helpers/resource"
	fwk "k8s.io/kube-scheduler/framework"
	schedruntime "k8s.io/kubernetes/pkg/scheduler/framework/runtime"

	"github.com/nodeless/nodeless/pkg/api"
	"github.com/nodeless/nodeless/pkg/bill"
	"github.com/nodeless/nodeless/pkg/podsize"
)

const (
	// holdName is how the scheduler's configuration knows the plugin.
	holdName = "HoldCapacity"
	// gpuResource is what a Pod asks for GPUs by.
	gpuResource = "nvidia.com/gpu"
)

// Held gives the reservations for which a place is kept free.
type Held func(context.Context) ([]bill.Reservation, error)

// hold keeps a place for each reservation that asks for it and that no Pod uses. Any other Pod finds no room where the place would be
// lost. Which host a place is on is not settled before it is used: there only have to be as many as before.
type hold struct {
	held  Held
	hosts fwk.SharedLister
	log   *slog.Logger
}

var (
	_ fwk.PreFilterPlugin   = (*hold)(nil)
	_ fwk.FilterPlugin      = (*hold)(nil)
	_ fwk.EnqueueExtensions = (*hold)(nil)
)

func newHold(held Held, log *slog.Logger) schedruntime.PluginFactory {
	return func(_ context.Context, _ runtime.Object, handle fwk.Handle) (fwk.Plugin, error) {
		return &hold{held, handle.SnapshotSharedLister(), log}, nil
	}
}

// Name is "HoldCapacity".
func (*hold) Name() string { return holdName }

// kept are the reservations that no Pod uses yet, as PreFilter finds them for Filter.
type kept []bill.Reservation

// Clone gives k: nothing changes it.
func (k kept) Clone() fwk.StateData { return k }

// PreFilter finds the places to keep. Reservations that cannot be read keep none: Pods are scheduled all the same.
func (h *hold) PreFilter(ctx context.Context, state fwk.CycleState, _ *corev1.Pod, _ []fwk.NodeInfo) (*fwk.PreFilterResult, *fwk.Status) {
	reservations, err := h.held(ctx)
	if err != nil {
		h.log.Error("Pods are scheduled as if no reservation kept a place free; see that the file of bills can be read", "error", err)
	}
	if len(reservations) == 0 {
		return nil, fwk.NewStatus(fwk.Skip)
	}
	hosts, err := h.hosts.NodeInfos().List()
	if err != nil {
		return nil, fwk.AsStatus(fmt.Errorf("list hosts: %w", err))
	}
	var running []bill.Usage
	for _, host := range hosts {
		for _, pod := range host.GetPods() {
			running = append(running, usage(pod.GetPod(), host.Node().Name))
		}
	}
	left := bill.Unused(reservations, running)
	if len(left) == 0 {
		return nil, fwk.NewStatus(fwk.Skip)
	}
	state.Write(holdName, kept(left))
	return nil, nil
}

// PreFilterExtensions gives none: what preemption tries, Filter sees on the host.
func (*hold) PreFilterExtensions() fwk.PreFilterExtensions { return nil }

// Filter refuses a host to a Pod that would take the last room of a place from it. A Pod that a reservation fits takes its place.
func (h *hold) Filter(_ context.Context, state fwk.CycleState, pod *corev1.Pod, host fwk.NodeInfo) *fwk.Status {
	data, err := state.Read(holdName)
	if err != nil {
		return fwk.AsStatus(err)
	}
	left := bill.Unused(data.(kept), []bill.Usage{usage(pod, host.Node().Name)})
	hosts, err := h.hosts.NodeInfos().List()
	if err != nil {
		return fwk.AsStatus(fmt.Errorf("list hosts: %w", err))
	}
	var before, after []room
	for _, other := range hosts {
		if other.Node().Name == host.Node().Name {
			other = host // as preemption leaves it
		}
		if other.Node().Spec.Unschedulable {
			continue
		}
		r := roomOf(other)
		before = append(before, r)
		if other == host {
			r = r.without(asks(pod))
		}
		after = append(after, r)
	}
	extra := pod.Spec.Overhead.Memory().Value() // what a Pod's class takes besides its spec, of these as of any
	if lost := placed(left, before, extra) - placed(left, after, extra); lost > 0 {
		return fwk.NewStatus(fwk.Unschedulable, fmt.Sprintf("%d place(s) kept free for reservations", lost))
	}
	return nil
}

// EventsToRegister says what may make room. The end of a reservation is no event of the scheduler's: it tries again within five minutes.
func (*hold) EventsToRegister(context.Context) ([]fwk.ClusterEventWithHint, error) {
	return roomEvents(), nil
}

// usage is a Pod as reservations see it.
func usage(pod *corev1.Pod, node string) bill.Usage {
	u := bill.Usage{ID: string(pod.UID), Namespace: pod.Namespace, Node: node, Spot: isSpot(pod)}
	// A Pod without a spec has no size, and no reservation fits it.
	u.Size, _ = podsize.ParseSize(pod.Annotations[api.Spec], pod.Annotations[api.SpecType])
	return u
}

// room is what is free on a host.
type room struct {
	node, kind        string // the kind of its CPUs
	cpu, memory, gpus int64  // thousandths of a core, bytes
}

func roomOf(host fwk.NodeInfo) room {
	has, used := host.GetAllocatable(), host.GetRequested()
	return room{
		host.Node().Name, host.Node().Labels[api.CPUTypeLabel], has.GetMilliCPU() - used.GetMilliCPU(), has.GetMemory() - used.GetMemory(),
		has.GetScalarResources()[gpuResource] - used.GetScalarResources()[gpuResource],
	}
}

func asks(pod *corev1.Pod) (cpu, memory, gpus int64) {
	r := resourcehelper.PodRequests(pod, resourcehelper.PodResourcesOptions{})
	gpu := r[gpuResource]
	return r.Cpu().MilliValue(), r.Memory().Value(), gpu.Value()
}

func (r room) without(cpu, memory, gpus int64) room {
	r.cpu, r.memory, r.gpus = r.cpu-cpu, r.memory-memory, r.gpus-gpus
	return r
}

// takes says whether a Pod of a reservation's spec finds room.
func (r room) takes(c bill.Reservation, extra int64) bool {
	u := bill.Usage{Namespace: c.Namespace, Node: r.node, Size: c.Size}
	if c.Size.GPU == 0 {
		u.Size.Type = r.kind
	}
	return c.Fits(u) && r.cpu >= c.Size.CPU && r.memory >= c.Size.Memory+extra && r.gpus >= c.Size.GPU
}

// placed counts the reservations that find room at once, each in the first host that takes it. Those of one host come first, then the
// large ones.
func placed(reservations []bill.Reservation, rooms []room, extra int64) int {
	rooms = slices.Clone(rooms)
	reservations = slices.SortedStableFunc(slices.Values(reservations), func(a, b bill.Reservation) int {
		return cmp.Or(-cmp.Compare(a.Node, b.Node), -cmp.Compare(a.Size.GPU, b.Size.GPU), -cmp.Compare(a.Size.Memory, b.Size.Memory), -cmp.Compare(a.Size.CPU, b.Size.CPU))
	})
	n := 0
	for _, c := range reservations {
		if at := slices.IndexFunc(rooms, func(r room) bool { return r.takes(c, extra) }); at >= 0 {
			rooms[at] = rooms[at].without(c.Size.CPU, c.Size.Memory+extra, c.Size.GPU)
			n++
		}
	}
	return n
}
