package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	pb "github.com/kata-containers/kata-containers/src/runtime/virtcontainers/pkg/agent/protocols/grpc"
	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/nodeless/nodeless/pkg/contract"
	"github.com/nodeless/nodeless/pkg/guest/container"
	"github.com/nodeless/nodeless/pkg/guest/mount"
	guestnet "github.com/nodeless/nodeless/pkg/guest/net"
)

// pauseMarks are the annotations by which a container runtime marks the pause container.
var pauseMarks = [...]string{"io.kubernetes.cri.container-type", "io.kubernetes.cri-o.ContainerType"}

func isPause(spec *specs.Spec) bool {
	for _, mark := range pauseMarks {
		if spec.Annotations[mark] == "sandbox" {
			return true
		}
	}
	return false
}

// CreateContainer mounts the container's storages and makes it. The pause container is only kept in the
// agent's state; its image is not even mounted.
func (a *Agent) CreateContainer(ctx context.Context, req *pb.CreateContainerRequest) (*emptypb.Empty, error) {
	id := req.GetContainerId()
	ctx, created, err := a.creating(ctx, id)
	if err != nil {
		return nil, err
	}
	err = a.create(ctx, id, req)
	return empty(errors.Join(err, created()))
}

func (a *Agent) create(ctx context.Context, id string, req *pb.CreateContainerRequest) (err error) {
	spec := container.SpecFromProto(req.GetOCI())
	if isPause(spec) {
		return a.cfg.Containers.Create(container.Request{ID: id, Spec: spec, Pause: true})
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, a.release(id))
		}
	}()
	sources, err := a.mountAll(ctx, id, req.GetStorages())
	if err != nil {
		return err
	}
	redirectMounts(spec.Mounts, sources)
	if err := a.placeVolumes(ctx, id, spec.Mounts); err != nil {
		return err
	}
	if err := a.addDevices(ctx, spec, req.GetDevices()); err != nil {
		return err
	}
	return a.cfg.Containers.Create(container.Request{
		ID: id, Spec: spec, SharedPID: req.GetSandboxPidns(), PIDTarget: spec.Annotations[contract.PIDTarget],
		NoInput: req.GetStdinPort() == contract.NoInput,
	})
}

// creation is a container that is being created.
type creation struct {
	giveUp   context.CancelFunc // ends what it waits for
	over     chan struct{}      // closed when it has ended, well or not
	unwanted bool               // removed meanwhile; guarded by Agent.mu
}

// creating refuses a container whose name is none or that is there, or on its way: undoing what was begun for it would undo that one.
// created is called when it has ended, and removes what nobody wants any more.
func (a *Agent) creating(ctx context.Context, id string) (_ context.Context, created func() error, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	_, there := a.mounted[id]
	if there || a.creations[id] != nil {
		return nil, nil, fmt.Errorf("container %s: %w", id, container.ErrExists)
	}
	if err := container.CheckID(id); err != nil {
		return nil, nil, err
	}
	ctx, giveUp := context.WithCancel(ctx)
	c := &creation{giveUp: giveUp, over: make(chan struct{})}
	a.creations[id] = c
	return ctx, func() error {
		defer close(c.over)
		giveUp()
		a.mu.Lock()
		delete(a.creations, id)
		unwanted := c.unwanted
		a.mu.Unlock()
		if !unwanted {
			return nil
		}
		gone := fmt.Errorf("container %s was removed while it was being created: %w", id, container.ErrNotFound)
		return errors.Join(gone, a.remove(context.WithoutCancel(ctx), id))
	}, nil
}

// unwant tells that a container is to be removed, and waits if it is just being created.
func (a *Agent) unwant(ctx context.Context, id string) error {
	a.mu.Lock()
	c := a.creations[id]
	if c == nil {
		a.mu.Unlock()
		return nil
	}
	c.unwanted = true
	a.mu.Unlock()
	c.giveUp()
	select {
	case <-c.over:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("remove container %s, which is still being created: %w", id, ctx.Err())
	}
}

// mountAll mounts a container's storages and returns where the content of each mount point is.
func (a *Agent) mountAll(ctx context.Context, id string, storages []*pb.Storage) (map[string]string, error) {
	sources := map[string]string{}
	for _, s := range storages {
		st := storage(s)
		source, err := a.mount(ctx, id, st)
		if err != nil {
			return nil, err
		}
		if source != st.MountPoint {
			sources[st.MountPoint] = source
		}
	}
	return sources, nil
}

// mount mounts a storage and notes that the container uses it.
func (a *Agent) mount(ctx context.Context, id string, s mount.Storage) (source string, err error) {
	if source, err = a.cfg.Mounts.Mount(ctx, s); err != nil {
		return "", err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.mounted[id] = append(a.mounted[id], s.MountPoint)
	return source, nil
}

// redirectMounts points mounts at where the content of their sources is. A "local" mount, which is
// Kata's word and not the kernel's, becomes a bind mount.
func redirectMounts(mounts []specs.Mount, sources map[string]string) {
	for i := range mounts {
		m := &mounts[i]
		for point, source := range sources {
			if rest, ok := strings.CutPrefix(m.Source, point); ok && (rest == "" || rest[0] == '/') {
				m.Source = source + rest
				break
			}
		}
		if m.Type != "local" {
			continue
		}
		m.Type = "bind"
		if !slices.Contains(m.Options, "bind") && !slices.Contains(m.Options, "rbind") {
			m.Options = append(m.Options, "rbind")
		}
	}
}

// release unmounts a container's storages, the last mounted first, and removes its writable layer.
func (a *Agent) release(id string) error {
	a.mu.Lock()
	points := a.mounted[id]
	delete(a.mounted, id)
	a.mu.Unlock()
	var errs []error
	for i := len(points) - 1; i >= 0; i-- {
		errs = append(errs, a.cfg.Mounts.Release(points[i]))
	}
	if err := errors.Join(errs...); err != nil || len(points) == 0 {
		return err
	}
	if err := os.RemoveAll(filepath.Join(contract.GuestRoot, filepath.Base(id))); err != nil {
		return fmt.Errorf("remove writable layer of container %s: %w", id, err)
	}
	return nil
}

// StartContainer lets the container's process run.
func (a *Agent) StartContainer(_ context.Context, req *pb.StartContainerRequest) (*emptypb.Empty, error) {
	return empty(a.cfg.Containers.Start(req.GetContainerId()))
}

// RemoveContainer ends and forgets a container.
func (a *Agent) RemoveContainer(ctx context.Context, req *pb.RemoveContainerRequest) (*emptypb.Empty, error) {
	if t := req.GetTimeout(); t != 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Duration(t)*time.Second)
		defer cancel()
	}
	if err := a.unwant(ctx, req.GetContainerId()); err != nil {
		return nil, err
	}
	return empty(a.remove(ctx, req.GetContainerId()))
}

func (a *Agent) remove(ctx context.Context, id string) error {
	if err := a.cfg.Containers.Remove(ctx, id); err != nil {
		return err
	}
	return a.release(id)
}

// UpdateContainer changes limits.
func (a *Agent) UpdateContainer(_ context.Context, req *pb.UpdateContainerRequest) (*emptypb.Empty, error) {
	return empty(a.cfg.Containers.Update(req.GetContainerId(), container.ResourcesFromProto(req.GetResources())))
}

// PauseContainer freezes a container.
func (a *Agent) PauseContainer(_ context.Context, req *pb.PauseContainerRequest) (*emptypb.Empty, error) {
	return empty(a.cfg.Containers.Pause(req.GetContainerId()))
}

// ResumeContainer thaws it.
func (a *Agent) ResumeContainer(_ context.Context, req *pb.ResumeContainerRequest) (*emptypb.Empty, error) {
	return empty(a.cfg.Containers.Resume(req.GetContainerId()))
}

// StatsContainer returns the container's figures and the sandbox's traffic.
func (a *Agent) StatsContainer(_ context.Context, req *pb.StatsContainerRequest) (*pb.StatsContainerResponse, error) {
	s, err := a.cfg.Containers.Stats(req.GetContainerId())
	if err != nil {
		return nil, err
	}
	counters, err := guestnet.Counters()
	if err != nil {
		return nil, err
	}
	out := &pb.StatsContainerResponse{CgroupStats: s}
	for _, c := range counters {
		out.NetworkStats = append(out.NetworkStats, &pb.NetworkStats{
			Name:    c.Name,
			RxBytes: c.RxBytes, RxPackets: c.RxPackets, RxErrors: c.RxErrors, RxDropped: c.RxDropped,
			TxBytes: c.TxBytes, TxPackets: c.TxPackets, TxErrors: c.TxErrors, TxDropped: c.TxDropped,
		})
	}
	return out, nil
}

// GetOOMEvent waits for a container to run out of memory.
func (a *Agent) GetOOMEvent(ctx context.Context, _ *pb.GetOOMEventRequest) (*pb.OOMEvent, error) {
	id, err := a.cfg.Containers.NextOOM(ctx)
	if err != nil {
		return nil, err
	}
	return &pb.OOMEvent{ContainerId: id}, nil
}
