package vmm

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/nodeless/nodeless/pkg/contract"
)

const (
	// diskGroup is the throttle group of all disks of a Pod: what it may do, it may do in all with them.
	diskGroup = "pod"
	// scratchID is the device of the writable disk, scratchPath the part of it that has to do with blocks.
	scratchID   = "scratch"
	scratchPath = "/machine/peripheral/" + scratchID + "/virtio-backend"
)

// Disk bounds what a Pod may do to the host's disks: the bounds of the contract, and what follows from them.
type Disk contract.Disk

func (d Disk) validate() error {
	var errs []error
	if d.BytesPerSecond < 0 || d.OpsPerSecond < 0 {
		errs = append(errs, fmt.Errorf("disk: %d bytes and %d operations a second: less than none", d.BytesPerSecond, d.OpsPerSecond))
	}
	if d.ReservePercent < 0 || d.ReservePercent > 90 {
		errs = append(errs, fmt.Errorf("disk.reservePercent: %d is not between 0 and 90", d.ReservePercent))
	}
	return errors.Join(errs...)
}

// limited tells whether there is a bound on what is read and written.
func (d Disk) limited() bool { return d.BytesPerSecond > 0 || d.OpsPerSecond > 0 }

// group declares the throttle group to QEMU.
func (d Disk) group() []string {
	if !d.limited() {
		return nil
	}
	limits := map[string]int64{}
	for name, most := range map[string]int64{"bps": d.BytesPerSecond, "iops": d.OpsPerSecond} {
		if most > 0 {
			limits[name+"-read"], limits[name+"-write"] = most, most
		}
	}
	object, err := json.Marshal(map[string]any{"qom-type": "throttle-group", "id": diskGroup, "limits": limits})
	if err != nil {
		return nil // strings and numbers always encode; QEMU refuses disks of a group that is not there
	}
	return []string{"-object", string(object)}
}

// throttled puts the node of a disk that is plugged in below the group, by the name that the node had.
func (d Disk) throttled(node map[string]any) map[string]any {
	if !d.limited() {
		return node
	}
	outer := map[string]any{"driver": "throttle", "throttle-group": diskGroup, "file": node}
	for _, option := range []string{"node-name", "read-only", "discard"} {
		if value, ok := node[option]; ok {
			outer[option] = value
		}
	}
	delete(node, "node-name")
	return outer
}
