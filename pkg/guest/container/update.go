package container

import (
	"errors"
	"fmt"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// Update changes the limits of a container; what is not set stays. The pause container has none.
func (m *Manager) Update(id string, r *specs.LinuxResources) error {
	c, err := m.find(id)
	if err != nil || c.lc == nil {
		return err
	}
	m.cgroup.follow()
	if err := c.update(r); err != nil {
		return fmt.Errorf("update container %s: %w", id, err)
	}
	return nil
}

func applyResources(to *cgroups.Resources, r *specs.LinuxResources) {
	if m := r.Memory; m != nil {
		if m.Limit != nil {
			to.Memory, to.MemorySwap = *m.Limit, 0 // an old swap limit may lie below the new one
		}
		set(&to.MemorySwap, m.Swap)
		set(&to.MemoryReservation, m.Reservation)
	}
	if c := r.CPU; c != nil {
		set(&to.CpuQuota, c.Quota)
		set(&to.CpuPeriod, c.Period)
		if c.Shares != nil {
			to.CpuShares = *c.Shares
			to.CpuWeight = cgroups.ConvertCPUSharesToCgroupV2Value(*c.Shares)
		}
		if c.Cpus != "" {
			to.CpusetCpus = c.Cpus
		}
		if c.Mems != "" {
			to.CpusetMems = c.Mems
		}
	}
	if r.Pids != nil {
		to.PidsLimit = r.Pids.Limit
	}
}

func set[T any](to *T, v *T) {
	if v != nil {
		*to = *v
	}
}

// Pause freezes all processes of a container.
func (m *Manager) Pause(id string) error {
	return m.freeze(id, "pause", (*libcontainer.Container).Pause)
}

// Resume thaws them.
func (m *Manager) Resume(id string) error {
	return m.freeze(id, "resume", (*libcontainer.Container).Resume)
}

func (m *Manager) freeze(id, verb string, do func(*libcontainer.Container) error) error {
	c, err := m.find(id)
	if err != nil || c.lc == nil {
		return err
	}
	if err := do(c.lc); err != nil && !(verb == "resume" && errors.Is(err, libcontainer.ErrNotPaused)) {
		return fmt.Errorf("%s container %s: %w", verb, id, err)
	}
	return nil
}
