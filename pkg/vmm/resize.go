package vmm

import (
	"context"
	"errors"
	"fmt"

	"github.com/nodeless/nodeless/pkg/vmm/qmp"
)

// resize grows the guest. Kata waits one second and reads the new sizes from vm.info, so they are set
// before the guest has taken them in; its agent brings CPUs and memory online.
func (v *vm) resize(ctx context.Context, c resizeConfig) error {
	client, err := v.client()
	if err != nil {
		return fmt.Errorf("resize VM: %w", err)
	}
	err, late := within(context.WithoutCancel(ctx), resizeBudget, func(ctx context.Context) error {
		if c.DesiredVcpus > 0 {
			if err := v.resizeVCPUs(ctx, client, c.DesiredVcpus); err != nil {
				return err
			}
		}
		if c.DesiredRAM > 0 {
			return v.resizeMemory(ctx, client, c.DesiredRAM)
		}
		return nil
	})
	if late != nil {
		go v.logLate("resize", "", late)
	}
	if err != nil {
		return fmt.Errorf("resize VM: %w", err)
	}
	return nil
}

// hotpluggableCPU is one place for a vCPU.
type hotpluggableCPU struct {
	Type    string         `json:"type"`
	Props   map[string]any `json:"props"`
	QOMPath string         `json:"qom-path"` // empty while the place is
}

func (v *vm) resizeVCPUs(ctx context.Context, client *qmp.Client, want int) error {
	v.mu.Lock()
	have, most := v.spec.VCPUs, v.spec.MaxVCPUs
	v.mu.Unlock()
	if want > most {
		return fmt.Errorf("set %d vCPUs: at most %d are possible", want, most)
	}
	var places []hotpluggableCPU
	if want > have {
		if err := client.Execute(ctx, "query-hotpluggable-cpus", nil, &places); err != nil {
			return err
		}
	}
	for i := len(places) - 1; i >= 0 && have < want; i-- { // QEMU lists the highest first
		if places[i].QOMPath != "" {
			continue
		}
		args := map[string]any{"driver": places[i].Type, "id": fmt.Sprintf("vcpu%d", have)}
		for k, p := range places[i].Props {
			args[k] = p
		}
		if err := client.Execute(ctx, "device_add", args, nil); err != nil {
			return err
		}
		have++
	}
	for ; have > want; have-- {
		err := client.Execute(ctx, "device_del", map[string]any{"id": fmt.Sprintf("vcpu%d", have-1)}, nil)
		var refused *qmp.Error
		if errors.As(err, &refused) {
			break // one of those it was booted with: they stay
		}
		if err != nil {
			return err
		}
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.spec.VCPUs = have
	v.setConfig("cpus", "boot_vcpus", int64(have))
	return nil
}

// resizeMemory adds one DIMM. Memory is never taken away again: a guest seldom can.
func (v *vm) resizeMemory(ctx context.Context, client *qmp.Client, want int64) error {
	v.mu.Lock()
	spec := v.spec
	v.nextID++
	id := fmt.Sprintf("dimm%d", v.nextID)
	v.mu.Unlock()
	grow := (want - spec.Memory + dimmBlock - 1) / dimmBlock * dimmBlock
	if grow <= 0 {
		return nil
	}
	if spec.Memory+grow > spec.MaxMemory {
		return fmt.Errorf("grow memory to %d MiB: at most %d MiB are possible", want/mib, spec.MaxMemory/mib)
	}
	backend := map[string]any{"qom-type": "memory-backend-ram", "id": id, "size": grow}
	if spec.SharedMemory || spec.HugePages {
		backend["qom-type"], backend["share"] = "memory-backend-memfd", true
	}
	if spec.HugePages {
		backend["hugetlb"] = true
	}
	if err := client.Execute(ctx, "object-add", backend, nil); err != nil {
		return err
	}
	err := client.Execute(ctx, "device_add", map[string]any{"driver": "pc-dimm", "id": "d" + id, "memdev": id}, nil)
	if err != nil {
		return errors.Join(err, client.Execute(ctx, "object-del", map[string]any{"id": id}, nil))
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.spec.Memory += grow
	v.setConfig("memory", "size", v.spec.Memory)
	return nil
}
