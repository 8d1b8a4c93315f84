package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"

	taskapi "github.com/containerd/containerd/api/runtime/task/v2"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/nodeless/nodeless/pkg/contract"
)

// Kata boots a microVM of its Pod's size and leaves it at that (static_sandbox_resource_mgmt). What a container is given
// later is ours to back: the microVM grows first, then Kata has the guest raise the limit (docs/adr/0018).

// limits are what a container may use; zero is no limit.
type limits struct {
	memory int64 // bytes
	cpu    int64 // thousandths of a CPU
}

func (a limits) plus(b limits) limits { return limits{a.memory + b.memory, a.cpu + b.cpu} }
func (a limits) max(b limits) limits  { return limits{max(a.memory, b.memory), max(a.cpu, b.cpu)} }
func (a limits) covers(b limits) bool { return a.max(b) == a }
func (a limits) vcpus() int           { return int(max(1, (a.cpu+999)/1000)) }
func cpuLimit(quota, period int64) int64 {
	if quota <= 0 || period <= 0 {
		return 0
	}
	return (quota*1000 + period - 1) / period
}

// resources is the part of the runtime specification's LinuxResources that sizes a microVM.
type resources struct {
	Memory *struct {
		Limit *int64 `json:"limit"`
	} `json:"memory"`
	CPU *struct {
		Quota  *int64 `json:"quota"`
		Period *int64 `json:"period"`
	} `json:"cpu"`
}

// over gives the limits that result when r is applied to those before; what r does not name stays.
func (r resources) over(before limits) limits {
	if r.Memory != nil && r.Memory.Limit != nil {
		before.memory = max(0, *r.Memory.Limit)
	}
	if r.CPU != nil && r.CPU.Quota != nil && r.CPU.Period != nil {
		before.cpu = cpuLimit(*r.CPU.Quota, *r.CPU.Period)
	}
	return before
}

// description is what we read of a container's config.json.
type description struct {
	Annotations map[string]string `json:"annotations"`
	Linux       struct {
		Resources   resources `json:"resources"`
		CgroupsPath string    `json:"cgroupsPath"`
	} `json:"linux"`
}

func readDescription(bundle string) (d description, err error) {
	raw, err := os.ReadFile(filepath.Join(bundle, "config.json"))
	if err != nil {
		return d, err
	}
	if err := json.Unmarshal(raw, &d); err != nil {
		return d, fmt.Errorf("parse %s/config.json: %w", bundle, err)
	}
	return d, nil
}

// booted is what containerd says of the whole Pod in the annotations of its sandbox, by which Kata sizes the microVM.
func (d description) booted() limits {
	const mib = 1 << 20 // Kata counts whole ones
	q := d.quota()
	return limits{memory: max(0, d.number("memory")) / mib * mib, cpu: cpuLimit(q.quota, q.period)}
}

// quota is the CPU time of the whole Pod.
func (d description) quota() quota { return quota{d.number("cpu-quota"), d.number("cpu-period")} }

func (d description) number(key string) int64 {
	n, err := strconv.ParseInt(d.Annotations[contract.CRISandbox+key], 10, 64)
	if err != nil {
		return 0 // Kata takes it as unset too
	}
	return n
}

// sized tells that the Pod has a size as a whole, which is the microVM's whatever the limits of the Pod's containers add up to.
func (d description) sized() bool { return d.Annotations[contract.Spec] != "" && !d.native() }

// native tells that the Pod keeps its own figures, and the microVM follows the limits of its containers.
func (d description) native() bool {
	follows := d.Annotations[contract.Sizing]
	return follows != "" && follows != contract.SizingWhole
}

// sizer keeps the microVM at its Pod's spec, or, where the Pod has none, as large as its containers' limits add up to.
// vCPUs are never taken away: the limit bounds their use.
type sizer struct {
	machine machine
	fixed   bool // the Pod has a spec; set before there is any container

	mu         sync.Mutex
	base       int64             // memory beside the containers' limits, once it is known; guarded by mu
	granted    limits            // the microVM has room for; guarded by mu
	containers map[string]limits // guarded by mu
}

// machine is the microVM as it is now.
type machine interface {
	size(ctx context.Context) (memory int64, vcpus int, err error)
	// resize returns when the guest uses what it is given, or has handed back what it has too much. spec is the Pod's new one, zero if
	// it has none.
	resize(ctx context.Context, memory int64, vcpus int, spec limits) error
}

// set notes the limits a container is to have, and makes room for them.
func (s *sizer) set(ctx context.Context, id string, change func(limits) limits) (undo func(), err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	before, known := s.containers[id]
	s.containers[id] = change(before)
	back := func() {
		if s.containers[id] = before; !known {
			delete(s.containers, id)
		}
	}
	if want := s.sum(); !s.fixed && !s.granted.covers(want) {
		if err := s.resize(ctx, want.max(s.granted)); err != nil {
			back()
			return nil, err
		}
	}
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		back()
	}, nil
}

// settle takes back memory that no container may use any more, before the kubelet lowers the host's limit on the Pod:
// it would count against that as soon as the guest touched it. A container without a limit may use all there is.
func (s *sizer) settle(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fixed {
		return nil
	}
	for _, l := range s.containers {
		if l.memory == 0 {
			return nil
		}
	}
	if want := s.sum(); want.memory < s.granted.memory {
		return s.resize(ctx, limits{want.memory, s.granted.cpu})
	}
	return nil
}

// become gives the microVM another spec.
func (s *sizer) become(ctx context.Context, change func(limits) limits) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	want := change(s.granted)
	if want == s.granted {
		return nil
	}
	return s.resize(ctx, want)
}

// sum is what the containers may use together; mu is held.
func (s *sizer) sum() (all limits) {
	for _, l := range s.containers {
		all = all.plus(l)
	}
	return all
}

// resize makes room for want; mu is held.
func (s *sizer) resize(ctx context.Context, want limits) error {
	memory, vcpus, err := s.machine.size(ctx)
	if err != nil {
		return err
	}
	if s.base == 0 {
		s.base = memory - s.granted.memory
	}
	spec := limits{}
	if s.fixed {
		spec = want
	}
	if err := s.machine.resize(ctx, s.base+want.memory, max(vcpus, want.vcpus()), spec); err != nil {
		return err
	}
	s.granted = want
	return nil
}

// all are the containers that there are, besides the sandbox's own.
func (s *sizer) all() (ids []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id := range s.containers {
		ids = append(ids, id)
	}
	return ids
}

func (s *sizer) forget(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.containers, id)
}

// Create makes room for a container that is larger than it was when its Pod began: one that restarts with new limits.
func (s service) Create(ctx context.Context, r *taskapi.CreateTaskRequest) (*taskapi.CreateTaskResponse, error) {
	if err := s.volumes.prepare(r.Bundle); err != nil {
		return nil, err
	}
	d, err := readDescription(r.Bundle)
	if err != nil {
		return nil, fmt.Errorf("create container %s: %w", r.ID, err)
	}
	if r.ID == s.sandbox.id {
		s.sizer.granted, s.sizer.fixed = d.booted(), d.sized() // nobody else is here yet
		return s.createSandbox(ctx, r, d)
	}
	undo, err := s.sizer.set(ctx, r.ID, d.Linux.Resources.over)
	if err != nil {
		return nil, fmt.Errorf("create container %s: %w", r.ID, err)
	}
	ctx, giveUp := context.WithCancel(ctx)
	defer giveUp()
	s.unstarted.making(r.ID, giveUp)
	reply, err := s.Shim.Create(ctx, r)
	if err != nil {
		s.unstarted.forget(r.ID)
		undo()
		return nil, err
	}
	s.unstarted.made(r.ID)
	return reply, nil
}

// createSandbox boots the microVM.
func (s service) createSandbox(ctx context.Context, r *taskapi.CreateTaskRequest, d description) (*taskapi.CreateTaskResponse, error) {
	limit := d.quota()
	if d.native() {
		s.boost.atLeast(limit)
		limit = quota{} // the host's limit, if there is one, is what the containers' add up to
	}
	s.boost.begin(s.sandbox.root, r.Bundle, d.Linux.CgroupsPath, limit)
	reply, err := s.Shim.Create(ctx, r)
	if err != nil {
		s.boost.end()
		return nil, err
	}
	s.boost.booted()
	return reply, nil
}

// Update changes a running container's limits, with room for them in the microVM.
func (s service) Update(ctx context.Context, r *taskapi.UpdateTaskRequest) (*emptypb.Empty, error) {
	var to resources
	if err := json.Unmarshal(r.GetResources().GetValue(), &to); err != nil {
		return nil, fmt.Errorf("update container %s: parse resources: %w", r.ID, err)
	}
	if r.ID == s.sandbox.id {
		return s.updateSandbox(ctx, to)
	}
	undo, err := s.sizer.set(ctx, r.ID, to.over)
	if err != nil {
		return nil, fmt.Errorf("update container %s: %w", r.ID, err)
	}
	reply, err := s.Shim.Update(ctx, r)
	if err != nil {
		undo()
		return nil, err
	}
	if err := s.sizer.settle(ctx); err != nil {
		return nil, fmt.Errorf("update container %s: %w", r.ID, err)
	}
	s.boost.hold(s.sandbox.root)
	return reply, nil
}

// updateSandbox gives the Pod another spec. pkg/worker/cri calls it for a Pod that is resized as a whole.
func (s service) updateSandbox(ctx context.Context, to resources) (*emptypb.Empty, error) {
	if !s.sizer.fixed {
		return &emptypb.Empty{}, nil // it follows its containers
	}
	if err := s.sizer.become(ctx, to.over); err != nil {
		return nil, fmt.Errorf("resize the microVM: %w", err)
	}
	return &emptypb.Empty{}, nil
}

// Delete forgets what a container was allowed to use.
func (s service) Delete(ctx context.Context, r *taskapi.DeleteRequest) (*taskapi.DeleteResponse, error) {
	if r.ExecID != "" {
		return s.Shim.Delete(ctx, r)
	}
	reply, err := s.deleteContainer(ctx, r)
	if err == nil {
		s.sizer.forget(r.ID)
		s.doomed.forget(r.ID)
	}
	return reply, err
}
