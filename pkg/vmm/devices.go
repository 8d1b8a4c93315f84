package vmm

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"slices"

	"github.com/nodeless/nodeless/pkg/hint"
	"github.com/nodeless/nodeless/pkg/vfio"
)

const (
	// maxCards is how many cards of the host a microVM can have. Each takes a slot, and the Pod's images and volumes need some as well; a
	// host with eight GPUs and four switches between them takes twelve.
	maxCards = 16
	// maxFillThreads is how many threads fill a guest's memory before its devices are given it.
	maxFillThreads = 16
	// emulatedPhysBits is how many bits an address of an emulated guest with cards has. QEMU's default, 40, ends at 1 TiB: of eight BARs of
	// 256 GiB the guest's kernel takes none then (TestWindowsOfCards).
	emulatedPhysBits = 46
)

var (
	errHotPlug = errors.New("QEMU's jail shows the devices that it was made with, and no others")
	// errNotPlaced says that a guest cannot use a device though it has it.
	errNotPlaced = errors.New("the guest has given it no addresses")
)

// hostSide is what a microVM needs of the host.
type hostSide struct {
	launching
	sys    fs.FS       // /sys
	groups vfio.Holder // of the devices that are passed through
	held   []*os.File  // their groups; guarded by bootMu
}

// HostDevice is one PCI function of the host that the guest has from its boot on.
type HostDevice struct {
	vfio.Device
	Port     int  // slot of the root port that its card is behind
	Slot     int  // function behind that port
	Together bool // others are behind the port as well
}

// takeDevices finds the devices that are asked for and holds their groups.
func (v *vm) takeDevices(asked []deviceConfig) ([]HostDevice, error) {
	var paths []string
	for _, c := range asked {
		if c.Iommu {
			return nil, &hint.Error{Op: "pass through", On: fmt.Sprintf("%.100q", c.Path), Err: errors.New("the guest has no IOMMU"), Do: "ask for the device with iommu: false"}
		}
		paths = append(paths, c.Path)
	}
	found, err := vfio.Find(v.sys, paths)
	if err != nil {
		return nil, err
	}
	devices, err := arrange(found)
	if err != nil {
		return nil, err
	}
	if v.held, err = v.groups.Hold(vfio.Groups(found)); err != nil {
		return nil, err
	}
	return devices, nil
}

// given are the devices of the host that the microVM is made with.
func (v *vm) given() []HostDevice {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.spec.Devices
}

// letGo lets others have the devices. QEMU has ended.
func (v *vm) letGo() {
	closeFiles(v.held)
	v.held = nil
}

// arrange puts each card behind a root port of its own, its functions beside each other as they are on the host. Where the card's first
// function is missing the others move up: a guest looks for the first before it looks for others.
func arrange(found []vfio.Device) ([]HostDevice, error) {
	var cards []string
	first, many := map[string]int{}, map[string]int{}
	for _, d := range found {
		if many[d.Card]++; many[d.Card] == 1 {
			cards = append(cards, d.Card)
			first[d.Card] = d.Function
		}
		first[d.Card] = min(first[d.Card], d.Function)
	}
	if len(cards) > maxCards {
		return nil, &hint.Error{Op: "pass through", On: fmt.Sprintf("%d cards", len(cards)), Err: errNoSlot, Do: fmt.Sprintf("ask for %d cards at most", maxCards)}
	}
	ports := portSlots(len(cards))
	var devices []HostDevice
	for _, d := range found {
		devices = append(devices, HostDevice{Device: d, Port: ports[slices.Index(cards, d.Card)], Slot: d.Function - first[d.Card], Together: many[d.Card] > 1})
	}
	return devices, nil
}

// cards is how many root ports the guest's devices take.
func (s Spec) cards() int {
	ports := map[int]bool{}
	for _, d := range s.Devices {
		ports[d.Port] = true
	}
	return len(ports)
}

// fillThreads is how many threads fill the memory of a microVM with devices: the host maps and locks all of it for them before QEMU says a
// word, page by page in one thread unless it has been filled before.
func fillThreads(devices []HostDevice) int {
	if len(devices) == 0 {
		return 0
	}
	return min(maxFillThreads, runtime.NumCPU())
}

func hostDevices(s Spec) []string {
	var a []string
	for i, d := range s.Devices {
		arg := fmt.Sprintf("vfio-pci,host=%s,id=%s,bus=%s,addr=%02x.%d", d.Address, hostID(i), portID(d.Port), 0, d.Slot)
		if d.Together && d.Slot == 0 {
			arg += ",multifunction=on"
		}
		a = append(a, "-device", arg)
	}
	return a
}

func hostID(i int) string { return fmt.Sprintf("host%d", i) }

// addDevice refuses what would be plugged into a running guest. Its jail would have to show the device; and its root port to keep twice the
// largest BAR free from the boot on, or the device is there and cannot be used.
func (v *vm) addDevice(c deviceConfig) (deviceInfo, error) {
	return deviceInfo{}, &hint.Error{Op: "plug in", On: fmt.Sprintf("%.100q", c.Path), Err: errHotPlug, Do: "ask for the device when the microVM is made: devices in vm.create"}
}

// explain adds what to do to the error of a QEMU that ended before it said a word, when it was to have devices.
func explain(err error, devices int) error {
	if err == nil || devices == 0 {
		return err
	}
	return &hint.Error{Op: "start QEMU", On: fmt.Sprintf("with %d devices of the host", devices), Err: err,
		Do: "look what the host's kernel has against it (dmesg | grep -i -e vfio -e iommu -e DMAR -e AMD-Vi): no interrupt remapping, a device that cannot be reset, " +
			"or memory that may not be locked, as in a container without CAP_SYS_RESOURCE"}
}

// pciBus is what QEMU tells of a bus.
type pciBus struct {
	Devices []struct {
		ID      string `json:"qdev_id"`
		Regions []struct {
			BAR     int    `json:"bar"`
			Type    string `json:"type"`
			Address int64  `json:"address"` // -1 for none
			Size    int64  `json:"size"`
		} `json:"regions"`
		Bridge *pciBus `json:"pci_bridge"`
	} `json:"devices"`
}

// placed adds the BARs in memory that have an address, by the device and their number.
func (b pciBus) placed(in map[string]map[int]int64) {
	for _, d := range b.Devices {
		bars := map[int]int64{}
		for _, r := range d.Regions {
			if r.Type == "memory" && r.Address > 0 {
				bars[r.BAR] = r.Size
			}
		}
		in[d.ID] = bars
		if d.Bridge != nil {
			d.Bridge.placed(in)
		}
	}
}

// checkPlaced makes sure that every BAR of the guest's devices has an address: the guest has booted, so firmware and kernel have placed
// them, or never will.
func (v *vm) checkPlaced(ctx context.Context) error {
	devices := v.given()
	if len(devices) == 0 {
		return nil
	}
	client, err := v.client()
	if err != nil {
		return err
	}
	var buses []pciBus
	if err := client.Execute(ctx, "query-pci", nil, &buses); err != nil {
		return err
	}
	have := map[string]map[int]int64{}
	for _, b := range buses {
		b.placed(have)
	}
	var errs []error
	for i, d := range devices {
		for _, bar := range d.BARs {
			if size := have[hostID(i)][bar.Number]; size < bar.Size {
				errs = append(errs, &hint.Error{Op: "pass through", On: d.Address, Err: fmt.Errorf("%w: BAR %d, %d MiB", errNotPlaced, bar.Number, bar.Size/mib),
					Do: "ask for fewer cards in one Pod, or use a host whose CPU has longer addresses"})
			}
		}
	}
	return errors.Join(errs...)
}
