package container

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/configs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// keepExecs is how many ended exec processes a container remembers: probes make thousands in its life,
// and Kata never says that it is done with one.
const keepExecs = 64

// container is one container; the pause container has no lc.
type container struct {
	id    string
	lc    *libcontainer.Container
	init  *process // the first one
	ready bool     // created completely, lc and init stay as they are; guarded by Manager.mu

	mu     sync.Mutex
	procs  map[string]*process // by exec id, guarded by mu
	recent []string            // exec ids, oldest first, guarded by mu

	settings sync.Mutex // orders changes of the cgroup
	quota    *int64     // of CPU time, which the container gets when it starts; nil afterwards; guarded by settings
}

// holdQuota takes the limit of CPU time out of the limits by which a container is created: making it is none of its work, and would
// take minutes with a small one.
func (c *container) holdQuota(r *cgroups.Resources) {
	quota := r.CpuQuota
	r.CpuQuota, c.quota = 0, &quota
}

// setQuota sets it, just before the container's own program runs.
func (c *container) setQuota() error {
	c.settings.Lock()
	defer c.settings.Unlock()
	if c.quota == nil {
		return nil
	}
	if quota := *c.quota; quota != 0 {
		if err := c.change(func(r *cgroups.Resources) { r.CpuQuota = quota }); err != nil {
			return err
		}
	}
	c.quota = nil
	return nil
}

// update changes limits; settings is not held. A container that has not started gets its new limit of CPU time with the start.
func (c *container) update(limits *specs.LinuxResources) error {
	c.settings.Lock()
	defer c.settings.Unlock()
	return c.change(func(r *cgroups.Resources) {
		applyResources(r, limits)
		if c.quota != nil {
			if limits.CPU != nil && limits.CPU.Quota != nil {
				*c.quota = *limits.CPU.Quota
			}
			r.CpuQuota = 0
		}
	})
}

// change alters the limits in the cgroup; settings is held.
func (c *container) change(how func(*cgroups.Resources)) error {
	config := c.lc.Config()
	cg := *config.Cgroups
	resources := *cg.Resources
	how(&resources)
	cg.Resources = &resources
	config.Cgroups = &cg
	return c.lc.Set(config)
}

// process finds a process; the first one goes by the container's id or none.
func (c *container) process(execID string) (*process, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.procs[execID]
	if execID == "" || execID == c.id {
		p = c.init
	}
	if p == nil {
		return nil, fmt.Errorf("process %q of container %s: %w", execID, c.id, ErrNotFound)
	}
	return p, nil
}

// reserve records a process and forgets the oldest ended ones beyond keepExecs.
func (c *container) reserve(execID string, p *process) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.procs[execID] != nil || execID == "" || execID == c.id {
		return fmt.Errorf("process %q of container %s: %w", execID, c.id, ErrExists)
	}
	c.procs[execID] = p
	c.recent = append(c.recent, execID)
	for i := 0; i < len(c.recent) && len(c.recent) > keepExecs; {
		old := c.recent[i]
		if !c.procs[old].ended() {
			i++
			continue
		}
		c.procs[old].io.close()
		delete(c.procs, old)
		c.recent = slices.Delete(c.recent, i, i+1)
	}
	return nil
}

func (c *container) forget(execID string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.procs, execID)
	c.recent = slices.DeleteFunc(c.recent, func(id string) bool { return id == execID })
}

// cgroup is the directory of the container's cgroup.
func (c *container) cgroup() string {
	return cgroupRoot + c.lc.Config().Cgroups.Path
}

// signalPause plays the pause process: it ends on the signals that end a process, and on no others.
func (c *container) signalPause(sig unix.Signal) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.init.ended() {
		return nil
	}
	switch sig {
	case unix.SIGKILL:
		c.init.finish(128 + int32(sig))
	case unix.SIGTERM, unix.SIGINT:
		c.init.finish(0)
	}
	return nil
}

// initEnded kills what the first process leaves behind in a shared PID namespace; in a namespace of
// its own the kernel has done so.
func (c *container) initEnded() {
	ns := c.lc.Config().Namespaces
	if !ns.IsPrivate(configs.NEWPID) {
		_ = c.lc.Signal(unix.SIGKILL)
	}
}

// kill ends all processes and waits for the first one, so that the cgroup is empty.
func (c *container) kill(ctx context.Context) error {
	if !c.init.ended() {
		if err := c.lc.Signal(unix.SIGKILL); err != nil && !errors.Is(err, libcontainer.ErrNotRunning) {
			return fmt.Errorf("kill container %s: %w", c.id, err)
		}
	}
	_, err := c.init.await(ctx)
	return err
}

// destroy removes the container's cgroup and state.
func (c *container) destroy() error {
	err := c.lc.Destroy()
	if errors.Is(err, libcontainer.ErrRunning) || errors.Is(err, libcontainer.ErrPaused) {
		_ = c.lc.Signal(unix.SIGKILL)
		_ = c.lc.Resume()
		err = c.lc.Destroy()
	}
	if err != nil {
		return fmt.Errorf("destroy container %s: %w", c.id, err)
	}
	return nil
}

func (c *container) closeStreams() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.init.io.close()
	for _, p := range c.procs {
		p.io.close()
	}
}
