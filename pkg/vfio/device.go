package vfio

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Driver is the host's driver that devices have to be bound to.
const Driver = "vfio-pci"

// MostDevices is how many functions a microVM can have: more than fit into its slots.
const MostDevices = 64

// longestPath is more than a path in /sys has.
const longestPath = 1024

// Where PCI devices and IOMMU groups are in /sys.
const (
	deviceDir = "bus/pci/devices"
	groupDir  = "kernel/iommu_groups"
)

// Device is one PCI function of the host that can be passed through.
type Device struct {
	Address string // "0000:41:00.1"
	// Card is what the function is a part of: its slot, "0000:41:00"; of a virtual function its own address, since it goes to somebody
	// else than its neighbours.
	Card     string
	Function int // of the slot
	Group    int // its IOMMU group, which goes to one microVM as a whole
	BARs     []BAR
}

// BAR is one of a function's windows into memory.
type BAR struct {
	Number int
	Size   int64 // bytes
}

var (
	address     = regexp.MustCompile(`^[0-9a-f]{4,8}:[0-9a-f]{2}:[01][0-9a-f]\.[0-7]$`)
	hostBridges = regexp.MustCompile(`^devices/pci[0-9a-f]{4,8}:[0-9a-f]{2}/`)
)

// Find gives the devices at the paths, each as /sys/bus/pci/devices/ADDRESS or where that leads to, if all of them can be passed through to
// one microVM. sys is /sys. The error names every fault, with what to do about it.
func Find(sys fs.FS, paths []string) ([]Device, error) {
	if len(paths) > MostDevices {
		return nil, fmt.Errorf("pass through %d devices: %w: at most %d", len(paths), ErrTooMany, MostDevices)
	}
	var found []Device
	var errs []error
	for _, p := range paths {
		d, err := find(sys, p)
		if err == nil && slices.ContainsFunc(found, func(other Device) bool { return other.Address == d.Address }) {
			err = fault(d.Address, ErrTwice)
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		found = append(found, d)
	}
	for _, group := range Groups(found) {
		errs = append(errs, viable(sys, group))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return found, nil
}

// Groups are the IOMMU groups of the devices, each once, in order.
func Groups(devices []Device) []int {
	var groups []int
	for _, d := range devices {
		groups = append(groups, d.Group)
	}
	slices.Sort(groups)
	return slices.Compact(groups)
}

// find looks at one device.
func find(sys fs.FS, p string) (Device, error) {
	name, err := resolve(sys, p)
	if err != nil {
		return Device{}, err
	}
	dir := path.Join(deviceDir, name)
	d := Device{Address: name, Function: int(name[len(name)-1] - '0'), Card: name[:len(name)-len(".0")]}
	if _, err := fs.ReadLink(sys, dir+"/physfn"); err == nil {
		d.Card = name
	}
	if d.Group, err = groupOf(sys, name); err != nil {
		return Device{}, err
	}
	if driver := driverOf(sys, name); driver != Driver {
		return Device{}, unbound(name, driver)
	}
	if d.BARs, err = barsOf(sys, dir); err != nil {
		return Device{}, fmt.Errorf("pass through %s: %w", name, err)
	}
	return d, nil
}

// resolve gives the address of the device at a path. The path itself, which a stranger may have written, is never opened: it has to be one
// of the two names that /sys has for the device.
func resolve(sys fs.FS, p string) (string, error) {
	name := path.Base(p)
	if len(p) > longestPath || !address.MatchString(name) {
		return "", fault(shorten(p), ErrNotPCI)
	}
	leads, err := fs.ReadLink(sys, path.Join(deviceDir, name))
	real := path.Join(deviceDir, leads)
	switch {
	case errors.Is(err, fs.ErrNotExist) && p == "/sys/"+path.Join(deviceDir, name):
		return "", fault(p, ErrNoDevice)
	case err != nil, p != "/sys/"+path.Join(deviceDir, name) && p != "/sys/"+real, path.Base(real) != name, !hostBridges.MatchString(real):
		return "", fault(shorten(p), ErrNotPCI)
	}
	return name, nil
}

// shorten keeps what a stranger wrote from filling logs.
func shorten(s string) string { return fmt.Sprintf("%.100q", s) }

// groupOf reads the number of a device's IOMMU group.
func groupOf(sys fs.FS, name string) (int, error) {
	link, err := fs.ReadLink(sys, path.Join(deviceDir, name, "iommu_group"))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, fault(name, ErrNoIOMMU)
	}
	if err != nil {
		return 0, fmt.Errorf("pass through %s: %w", name, err)
	}
	group, err := strconv.Atoi(path.Base(link))
	if err != nil || group < 0 {
		return 0, fmt.Errorf("pass through %s: its IOMMU group is %q", name, path.Base(link))
	}
	// vfio's mode without an IOMMU makes groups of its own, in which a guest reaches all of the host's memory.
	if kind, err := fs.ReadFile(sys, path.Join(groupDir, strconv.Itoa(group), "name")); err == nil && strings.HasPrefix(string(kind), "vfio-noiommu") {
		return 0, fault(name, ErrNoIOMMU)
	}
	return group, nil
}

// driverOf is the driver that has a device, or "".
func driverOf(sys fs.FS, name string) string {
	link, err := fs.ReadLink(sys, path.Join(deviceDir, name, "driver"))
	if err != nil {
		return ""
	}
	return path.Base(link)
}

// viable looks for strangers in an IOMMU group: they and the microVM could reach each other's memory.
func viable(sys fs.FS, group int) error {
	members, err := fs.ReadDir(sys, path.Join(groupDir, strconv.Itoa(group), "devices"))
	if err != nil {
		return fmt.Errorf("look at IOMMU group %d: %w", group, err)
	}
	var errs []error
	for _, m := range members {
		name := m.Name()
		if !address.MatchString(name) {
			errs = append(errs, shared(group, name, "", "is not a PCI device"))
			continue
		}
		switch driver := driverOf(sys, name); {
		case driver == Driver:
		case bridge(sys, name) && (driver == "" || driver == "pcieport"): // it only leads to the others
		case driver == "":
			errs = append(errs, shared(group, name, driver, "has no driver"))
		default:
			errs = append(errs, shared(group, name, driver, "belongs to "+driver))
		}
	}
	return errors.Join(errs...)
}

// bridge tells whether a device leads to others: class 06.
func bridge(sys fs.FS, name string) bool {
	class, err := fs.ReadFile(sys, path.Join(deviceDir, name, "class"))
	return err == nil && strings.HasPrefix(string(class), "0x06")
}

// Flags of a line of a device's resource file, from the kernel's include/linux/ioport.h.
const (
	flagMemory = 0x200
	mostBARs   = 6
)

// barsOf reads a device's windows into memory: begin, end and flags, a line each.
func barsOf(sys fs.FS, dir string) ([]BAR, error) {
	raw, err := fs.ReadFile(sys, dir+"/resource")
	if err != nil {
		return nil, fmt.Errorf("read its BARs: %w", err)
	}
	var bars []BAR
	number := 0
	for line := range strings.Lines(string(raw)) {
		var from, to, flags uint64
		if _, err := fmt.Sscanf(line, "0x%x 0x%x 0x%x", &from, &to, &flags); err != nil {
			return nil, fmt.Errorf("read its BARs: %q: %w", line, err)
		}
		if number < mostBARs && flags&flagMemory != 0 && to > from {
			bars = append(bars, BAR{number, int64(to - from + 1)})
		}
		number++
	}
	return bars, nil
}
