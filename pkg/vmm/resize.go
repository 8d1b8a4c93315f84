package vmm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nodeless/nodeless/pkg/contract"
	"github.com/nodeless/nodeless/pkg/vmm/qmp"
)

const (
	// resizeTimeout is how long a guest may take to get used to more memory. A busy one under emulation needs seconds.
	resizeTimeout = 30 * time.Second
	// balloonTimeout is how long a guest may take to hand back memory. What it still uses it hands back later.
	balloonTimeout = 10 * time.Second
	balloonPause   = 20 * time.Millisecond
)

// resize gives the guest the size asked for and returns when the guest has taken the memory in or handed it back; its agent then
// brings vCPUs up, or takes them down. The shim calls it (cmd/kata-shim); Kata itself, whose
// patience is one second, never does with static resource management. To repeat a call does no harm.
func (v *vm) resize(ctx context.Context, c contract.Resize) error {
	v.resizeMu.Lock()
	defer v.resizeMu.Unlock()
	client, err := v.client()
	if err != nil {
		return fmt.Errorf("resize VM: %w", err)
	}
	if err := v.checkSize(c); err != nil {
		return fmt.Errorf("resize VM: %w", err)
	}
	// A caller that hangs up must not leave half a DIMM.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), resizeTimeout)
	defer cancel()
	if c.VCPUs > 0 {
		v.resizeVCPUs(c.VCPUs)
	}
	if c.Memory > 0 {
		err = v.resizeMemory(ctx, client, c.Memory)
	}
	if err == nil && c.Memory > 0 {
		err = v.inflate(ctx, client, c.Memory)
	}
	if err == nil {
		err = v.recordResize(c)
	}
	if err != nil {
		return fmt.Errorf("resize VM: %w", err)
	}
	return nil
}

// checkSize tells all that is too much before anything is changed.
func (v *vm) checkSize(c contract.Resize) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	var errs []error
	if most := max(v.spec.VCPUs, v.spec.MaxVCPUs); c.VCPUs > most {
		errs = append(errs, fmt.Errorf("%d vCPUs: this microVM was started for at most %d; start the Pod anew for more", c.VCPUs, most))
	}
	if most := max(v.spec.Memory, v.spec.MaxMemory); v.grow(c.Memory) > most-v.spec.Memory {
		errs = append(errs, fmt.Errorf("%d MiB of memory: this microVM was started for at most %d MiB; start the Pod anew for more", c.Memory/mib, most/mib))
	}
	return errors.Join(errs...)
}

// grow is by how much memory has to grow to reach want, in whole blocks; mu is held.
func (v *vm) grow(want int64) int64 {
	return max(0, (want-v.spec.Memory+dimmBlock-1)/dimmBlock*dimmBlock)
}

// resizeVCPUs notes how many of its vCPUs the guest is to use: it has all from the boot, and its agent brings them up and takes them down.
func (v *vm) resizeVCPUs(want int) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.spec.VCPUs = want
	v.setConfig("cpus", "boot_vcpus", int64(want))
}

// resizeMemory adds one DIMM if there is less than wanted, and waits until the guest says that it uses it. DIMMs are never
// taken away again, since a guest can seldom clear one; what is in them is (inflate).
func (v *vm) resizeMemory(ctx context.Context, client *qmp.Client, want int64) error {
	v.mu.Lock()
	grow, spec := v.grow(want), v.spec
	v.nextID++
	id := fmt.Sprintf("dimm%d", v.nextID)
	v.mu.Unlock()
	if grow == 0 {
		return nil
	}
	taken := v.expectDIMM(id)
	defer v.forgetDIMM(id)
	backend := dimmBackend(spec, grow)
	backend["id"] = id + "mem"
	if err := client.Execute(ctx, "object-add", backend, nil); err != nil {
		return err
	}
	err := client.Execute(ctx, "device_add", map[string]any{"driver": "pc-dimm", "id": id, "memdev": id + "mem"}, nil)
	if err != nil {
		return errors.Join(err, client.Execute(ctx, "object-del", map[string]any{"id": id + "mem"}, nil))
	}
	select {
	case err = <-taken:
	case <-ctx.Done():
		err = fmt.Errorf("the guest has not taken in %d MiB of memory: %w", grow/mib, ctx.Err())
	case <-client.Done():
		return qmp.ErrClosed
	}
	if err != nil {
		go v.withdraw(client, id)
		return err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.spec.Memory += grow
	v.setConfig("memory", "size", v.spec.Memory)
	v.rank(v.proc, v.spec.Memory)
	return nil
}

// inflate has the guest's balloon hold what the guest has beyond want, so that the host has it back, or let go of it. A
// guest that uses too much goes on handing back after the time is up: the host's limit on the whole Pod is what binds it.
func (v *vm) inflate(ctx context.Context, client *qmp.Client, want int64) error {
	v.mu.Lock()
	want = min((want+mib-1)/mib*mib, v.spec.Memory) // QEMU counts in pages; part of one would never be reached
	possible := !v.spec.HugePages
	v.mu.Unlock()
	if !possible {
		return nil
	}
	if err := client.Execute(ctx, "balloon", map[string]any{"value": want}, nil); err != nil {
		return err
	}
	limit := time.NewTimer(balloonTimeout)
	defer limit.Stop()
	for {
		var now struct {
			Actual int64 `json:"actual"`
		}
		if err := client.Execute(ctx, "query-balloon", nil, &now); err != nil {
			return err
		}
		if now.Actual == want {
			return nil
		}
		select {
		case <-time.After(balloonPause):
		case <-limit.C:
			v.log.Warn("guest takes long to hand back memory", "has", now.Actual/mib, "want", want/mib)
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// dimmBackend describes memory of the kind the guest was booted with.
func dimmBackend(s Spec, size int64) map[string]any {
	backend := map[string]any{"qom-type": "memory-backend-ram", "size": size}
	if s.SharedMemory || s.HugePages {
		backend["qom-type"], backend["share"] = "memory-backend-memfd", true
	}
	if s.HugePages {
		backend["hugetlb"] = true
	}
	if s.FillThreads > 0 {
		backend["prealloc"], backend["prealloc-threads"] = true, s.FillThreads
	}
	return backend
}

// withdraw takes away a DIMM that the guest did not accept, so that its slot is free for the next try.
func (v *vm) withdraw(client *qmp.Client, id string) {
	d := newDevice(id, noSlot)
	close(d.settled)
	d.undo = []step{{name: "object-del", args: map[string]any{"id": id + "mem"}}}
	d.removing = &removal{done: make(chan struct{})}
	v.mu.Lock()
	v.devices[id] = d
	v.mu.Unlock()
	v.carryOut(context.Background(), client, d, d.removing)
}

// expectDIMM gives what the guest will say of a DIMM that is about to be plugged in.
func (v *vm) expectDIMM(id string) <-chan error {
	v.mu.Lock()
	defer v.mu.Unlock()
	taken := make(chan error, 1)
	v.arriving[id] = taken
	return taken
}

func (v *vm) forgetDIMM(id string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	delete(v.arriving, id)
}

// dimmArrived passes on what the guest's ACPI reports of a new DIMM: status 0 is success. mu is held.
func (v *vm) dimmArrived(data json.RawMessage) {
	var ost struct {
		Info struct {
			Device string `json:"device"`
			Status int    `json:"status"`
		} `json:"info"`
	}
	if json.Unmarshal(data, &ost) != nil {
		return
	}
	taken, ok := v.arriving[ost.Info.Device]
	if !ok {
		return
	}
	delete(v.arriving, ost.Info.Device)
	if ost.Info.Status != 0 {
		taken <- fmt.Errorf("the guest refuses more memory (ACPI status %#x); it may have too little free to manage it", ost.Info.Status)
		return
	}
	taken <- nil
}
