package vmm

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nodeless/nodeless/pkg/vmm/qmp"
)

// patience is how long devices are waited for.
type patience struct {
	answer time.Duration // until a removal is answered; it goes on in the background
	again  time.Duration // until the guest is asked once more: one that was not listening yet drops the request
	limit  time.Duration // until asking ends, and the device counts as lost
}

func usualPatience() patience { return patience{hotplugBudget, time.Second, time.Minute} }

// Kinds of failure of a removal.
var (
	errNoDevice = errors.New("there is no such device")
	// errHeld says that QEMU still has the device, and with it what it was made of.
	errHeld = errors.New("the guest has not released it")
)

// deviceState is what becomes of a hot-plugged device. One that QEMU does not have is not in vm.devices.
type deviceState int

const (
	plugging   deviceState = iota // QEMU is being told
	plugged                       // QEMU has it
	unplugging                    // the guest is being asked to let go of it
	lost                          // the guest did not; it may yet, or be asked again
)

// device is a hot-plugged device and its slot.
type device struct {
	id      string
	number  int // in id; no other device of this microVM has it
	slot    int
	undo    []step        // what to take away after the device, last first
	settled chan struct{} // closed when it is plugged, or cannot be
	gone    chan struct{} // closed when QEMU has told that it is gone

	state    deviceState // guarded by vm.mu
	deleted  bool        // gone is closed; guarded by vm.mu
	removing *removal    // while it is unplugging; guarded by vm.mu
}

// noSlot is that of memory, whose place is QEMU's business.
const noSlot = -1

func newDevice(id string, slot int) *device {
	return &device{id: id, slot: slot, settled: make(chan struct{}), gone: make(chan struct{})}
}

// removal is one attempt to remove a device; all who want it removed wait for the same.
type removal struct {
	done chan struct{} // closed when it has ended
	err  error         // how; read it after done
}

func (v *vm) setState(d *device, s deviceState) {
	v.mu.Lock()
	defer v.mu.Unlock()
	d.state = s
}

// remove has the guest let go of a device. It succeeds when QEMU has let go of it as well, and of what it was made of. When that takes
// long it says so, and goes on in the background. A device that has gone before is success.
func (v *vm) remove(ctx context.Context, id string) error {
	r, err := v.removal(ctx, id)
	if err != nil || r == nil {
		return err
	}
	timer := time.NewTimer(v.patience.answer)
	defer timer.Stop()
	select {
	case <-r.done:
		err = r.err
	case <-timer.C:
		v.log.Warn("guest takes long to release a device", "device", id)
		err = fmt.Errorf("%w within %s; it is asked again until it does", errHeld, v.patience.answer)
	}
	if err != nil {
		return fmt.Errorf("remove device %s: %w", id, err)
	}
	return nil
}

// removal gives the attempt to remove a device that is under way, or begins one; nil if the device has gone.
func (v *vm) removal(ctx context.Context, id string) (*removal, error) {
	client, err := v.client()
	if err != nil {
		return nil, fmt.Errorf("remove device %s: %w", id, err)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	d, ok := v.devices[id]
	if !ok {
		if v.handedOut(id) {
			return nil, nil
		}
		return nil, &statusError{404, fmt.Errorf("remove device %q: %w", id, errNoDevice)}
	}
	if d.removing == nil {
		d.removing = &removal{done: make(chan struct{})}
		go v.carryOut(context.WithoutCancel(ctx), client, d, d.removing)
	}
	return d.removing, nil
}

// handedOut tells whether a device has had the name; mu is held.
func (v *vm) handedOut(id string) bool {
	for _, kind := range []string{"disk", "nic"} {
		var n int
		if _, err := fmt.Sscanf(id, kind+"%d", &n); err == nil && n > 0 && n <= v.nextID && id == fmt.Sprintf("%s%d", kind, n) {
			return true
		}
	}
	return false
}

// carryOut removes a device, once it is there. Nobody else does at the time: its slot is freed once.
func (v *vm) carryOut(ctx context.Context, client *qmp.Client, d *device, r *removal) {
	defer close(r.done)
	ctx, cancel := context.WithTimeout(ctx, v.patience.limit+qmpTimeout)
	defer cancel()
	if r.err = v.unplug(ctx, client, d); r.err != nil {
		v.mu.Lock()
		d.removing = nil
		late := d.deleted // it went after all
		if d.state == unplugging {
			d.state = lost
		}
		v.mu.Unlock()
		if !errors.Is(r.err, qmp.ErrClosed) {
			v.log.Error("a device is not removed, and keeps its slot", "device", d.id, "err", r.err)
		}
		if late {
			v.buryLost(d)
		}
		return
	}
	v.undo(ctx, client, d, len(d.undo))
	v.release(d)
}

// unplug repeats the request until the device has gone.
func (v *vm) unplug(ctx context.Context, client *qmp.Client, d *device) error {
	limit := time.NewTimer(v.patience.limit)
	defer limit.Stop()
	select {
	case <-d.settled:
	case <-limit.C:
		return errors.New("it is still being attached")
	case <-client.Done():
		return qmp.ErrClosed
	}
	v.setState(d, unplugging)
	again := time.NewTicker(v.patience.again)
	defer again.Stop()
	for first := true; ; first = false {
		err := client.Execute(ctx, "device_del", map[string]any{"id": d.id}, nil)
		var refused *qmp.Error
		switch {
		case errors.As(err, &refused) && refused.Class == qmp.ClassDeviceNotFound:
			return nil
		case err != nil && (first || !errors.As(err, &refused)):
			return err // a repetition may be refused because the first is still under way
		}
		select {
		case <-d.gone:
			return nil
		case <-again.C:
		case <-limit.C:
			return errHeld
		case <-client.Done():
			return qmp.ErrClosed
		}
	}
}

// deviceGone takes note that QEMU has let go of a device; mu is held.
func (v *vm) deviceGone(id string) {
	d := v.devices[id]
	if d == nil || d.deleted {
		return
	}
	d.deleted = true
	close(d.gone)
	if d.state == lost {
		go v.buryLost(d)
	}
}

// buryLost takes away what is left of a device that the guest let go of when nobody waited for it any more.
func (v *vm) buryLost(d *device) {
	v.mu.Lock()
	begin := v.devices[d.id] == d && d.removing == nil
	v.mu.Unlock()
	if begin {
		_, _ = v.removal(context.Background(), d.id) // QEMU answers that there is no such device, which is its end
	}
}
