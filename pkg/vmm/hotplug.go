package vmm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"strings"
	"time"

	"github.com/nodeless/nodeless/pkg/vmm/qmp"
)

// step is one QMP command.
type step struct {
	name string
	args map[string]any
	file *os.File // that comes with it; closed after it
}

// addDisk plugs in a file or a block device node.
func (v *vm) addDisk(ctx context.Context, c diskConfig) (deviceInfo, error) {
	f, mode, err := openDisk(c)
	if err != nil {
		return deviceInfo{}, fmt.Errorf("add disk: %w", err)
	}
	d, err := v.reserve("disk")
	if err != nil {
		return deviceInfo{}, errors.Join(fmt.Errorf("add disk %s: %w", c.Path, err), f.Close())
	}
	serial := c.Serial
	if serial == "" {
		serial = d.id
	}
	v.mu.Lock()
	vcpus := v.spec.VCPUs
	v.mu.Unlock()
	set := map[string]any{"fdset-id": scratchSet + d.number}
	d.undo = []step{{name: "remove-fd", args: set}, {name: "blockdev-del", args: map[string]any{"node-name": d.id}}}
	info, err := v.plug(ctx, d, hotplugBudget,
		step{"add-fd", set, f},
		step{name: "blockdev-add", args: Disk(v.cfg.Disk).throttled(blockNode(d.id, scratchSet+d.number, c, mode))},
		v.deviceAdd(d, map[string]any{"driver": "virtio-blk-pci", "drive": d.id, "serial": serial, "num-queues": min(vcpus, 4)}))
	if err != nil {
		return deviceInfo{}, fmt.Errorf("add disk %s: %w", c.Path, err)
	}
	return info, nil
}

// blockNode describes how QEMU uses a disk that it has a descriptor of: a device node by its own driver, directly where asked.
func blockNode(id string, set int, c diskConfig, mode os.FileMode) map[string]any {
	file := map[string]any{"driver": "file", "filename": setPath(set), "locking": "off", "aio": "threads"}
	if mode&os.ModeDevice != 0 {
		file["driver"] = "host_device"
	}
	if c.Direct {
		file["cache"] = map[string]any{"direct": true}
		file["aio"] = "native"
	}
	node := map[string]any{"driver": "raw", "node-name": id, "read-only": c.Readonly, "file": file}
	if !c.Readonly {
		node["discard"] = "unmap"
	}
	return node
}

// addNet takes a tap: kept until boot, or plugged into a running guest.
func (v *vm) addNet(ctx context.Context, c netConfig, files []*os.File) (deviceInfo, error) {
	if len(files) == 0 {
		return deviceInfo{}, fmt.Errorf("add NIC %s: no tap descriptor came with it", c.Mac)
	}
	if hw, err := net.ParseMAC(c.Mac); err != nil || len(hw) != 6 {
		closeFiles(files)
		return deviceInfo{}, &statusError{400, fmt.Errorf("add NIC: %q is not an Ethernet address", c.Mac)}
	}
	v.mu.Lock()
	have, known := v.nics[c.Mac]
	n := len(v.nets)
	full := v.state == stateCreated && n == maxNets
	if !known && v.state == stateCreated && !full {
		have, known = deviceInfo{ID: fmt.Sprintf("net%d", n), Bdf: bdf(slotNet + n)}, true
		v.nets = append(v.nets, pendingNet{mac: c.Mac, files: files})
		v.nics[c.Mac] = have
		files = nil // kept
	}
	v.mu.Unlock()
	defer closeFiles(files)
	if known {
		return have, nil // Kata sends all its NICs again with each new one
	}
	if full {
		return deviceInfo{}, fmt.Errorf("add NIC %s: at most %d fit at boot", c.Mac, maxNets)
	}
	info, err := v.plugNet(ctx, c, files)
	if err != nil {
		return deviceInfo{}, fmt.Errorf("add NIC %s: %w", c.Mac, err)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.nics[c.Mac] = info
	return info, nil
}

func (v *vm) plugNet(ctx context.Context, c netConfig, files []*os.File) (deviceInfo, error) {
	d, err := v.reserve("nic")
	if err != nil {
		return deviceInfo{}, err
	}
	vhost := openVhost(v.cfg.Accel, vhostNet, len(files))
	defer closeFiles(vhost)
	netdev := map[string]any{"type": "tap", "id": d.id}
	props := map[string]any{"driver": "virtio-net-pci", "netdev": d.id, "mac": c.Mac, "romfile": ""}
	if len(files) > 1 {
		props["mq"], props["vectors"] = true, 2*len(files)+2
	}
	for kind, list := range map[string][]*os.File{"fds": files, "vhostfds": vhost} {
		names, err := v.sendFiles(ctx, d.id+kind, list)
		if err != nil {
			v.release(d)
			return deviceInfo{}, err
		}
		if len(names) > 0 {
			netdev[kind] = strings.Join(names, ":")
		}
	}
	if len(vhost) > 0 {
		netdev["vhost"] = true
	}
	d.undo = []step{{name: "netdev_del", args: map[string]any{"id": d.id}}}
	return v.plug(ctx, d, hotplugBudget, step{name: "netdev_add", args: netdev}, v.deviceAdd(d, props))
}

// sendFiles hands descriptors to QEMU and returns the names it knows them by.
func (v *vm) sendFiles(ctx context.Context, prefix string, files []*os.File) ([]string, error) {
	client, err := v.client()
	if err != nil {
		return nil, err
	}
	var names []string
	for i, f := range files {
		name := fmt.Sprintf("%s-%d", prefix, i)
		if err := client.SendFile(ctx, name, f); err != nil {
			return nil, err
		}
		names = append(names, name)
	}
	return names, nil
}

// reserve takes a slot and a name for a device.
func (v *vm) reserve(kind string) (*device, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.state != stateRunning {
		return nil, errState
	}
	slot, err := v.slots.take()
	if err != nil {
		return nil, err
	}
	v.nextID++
	d := newDevice(fmt.Sprintf("%s%d", kind, v.nextID), slot)
	d.number = v.nextID
	v.devices[d.id] = d
	return d, nil
}

// deviceAdd is the step that puts the device into its slot.
func (v *vm) deviceAdd(d *device, props map[string]any) step {
	props["id"] = d.id
	maps.Copy(props, v.slots.place(d.slot))
	return step{name: "device_add", args: props}
}

// release forgets a device that QEMU does not have, or does not have any more. The slot is free from then on, and others may be in it.
func (v *vm) release(d *device) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.devices[d.id] != d {
		return
	}
	v.slots.free(d.slot)
	delete(v.devices, d.id)
}

// plug runs the steps that make d appear. When they outlast the budget, the answer says where the device will be, for which the guest's
// agent waits; a later failure is only logged. A failed step undoes those before it.
func (v *vm) plug(ctx context.Context, d *device, budget time.Duration, steps ...step) (deviceInfo, error) {
	client, err := v.client()
	if err != nil {
		closeStepFiles(steps)
		v.release(d)
		return deviceInfo{}, err
	}
	info := deviceInfo{ID: d.id, Bdf: bdf(d.slot)}
	err, late := within(context.WithoutCancel(ctx), budget, func(ctx context.Context) error {
		defer closeStepFiles(steps)
		for i, s := range steps {
			if err := s.run(ctx, client); err != nil {
				v.undo(ctx, client, d, i)
				v.release(d)
				close(d.settled)
				return err
			}
		}
		v.setState(d, plugged)
		close(d.settled)
		return nil
	})
	if late != nil {
		v.log.Info("device takes long to attach", "device", d.id)
		go v.logLate("attach device", d.id, late)
	}
	return info, err
}

// run has QEMU do it.
func (s step) run(ctx context.Context, client *qmp.Client) error {
	if s.file != nil {
		return client.ExecuteWith(ctx, s.name, s.args, s.file)
	}
	return client.Execute(ctx, s.name, s.args, nil)
}

func closeStepFiles(steps []step) {
	for _, s := range steps {
		if s.file != nil {
			_ = s.file.Close() // QEMU has its own, or none
		}
	}
}

// undo takes away what the first steps made, last first: each but the last step has one that undoes it.
func (v *vm) undo(ctx context.Context, client *qmp.Client, d *device, steps int) {
	for i := min(steps, len(d.undo)) - 1; i >= 0; i-- {
		if err := d.undo[i].run(ctx, client); err != nil {
			v.log.Warn("detach device: back end stays", "device", d.id, "err", err)
		}
	}
}

// within runs work and waits for it up to the budget. When that is over, late delivers the result.
func within(ctx context.Context, budget time.Duration, work func(context.Context) error) (err error, late <-chan error) {
	done := make(chan error, 1)
	go func() {
		ctx, cancel := context.WithTimeout(ctx, 2*qmpTimeout)
		defer cancel()
		done <- work(ctx)
	}()
	timer := time.NewTimer(budget)
	defer timer.Stop()
	select {
	case err := <-done:
		return err, nil
	case <-timer.C:
		return nil, done
	}
}

func (v *vm) logLate(op, id string, late <-chan error) {
	if err := <-late; err != nil && !errors.Is(err, qmp.ErrClosed) {
		v.log.Error("device operation went wrong after it was answered", "op", op, "device", id, "err", err)
	}
}

func (v *vm) client() (*qmp.Client, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.state != stateRunning || v.qmp == nil {
		return nil, errState
	}
	return v.qmp, nil
}

// setConfig brings a number in the repeated configuration up to date; mu is held.
func (v *vm) setConfig(section, key string, value int64) {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(v.config[section], &fields); err != nil {
		return // not as Kata sends it: nothing to bring up to date
	}
	fields[key] = fmt.Appendf(nil, "%d", value)
	if raw, err := json.Marshal(fields); err == nil {
		v.config[section] = raw
	}
}
