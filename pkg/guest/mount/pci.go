package mount

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/nodeless/nodeless/pkg/contract"
)

// ErrNoDevice says that a device has not appeared in the guest.
var ErrNoDevice = errors.New("no such device")

const (
	pciRoot     = "devices/pci0000:00"
	deviceWait  = 100 * time.Second // less than the shim waits for a container to be made: the answer says what is missing
	devicePause = 2 * time.Millisecond
	devicePoll  = 25 * time.Millisecond
)

// PCIPath is the way from the root bus to a device: the slot on each bus in turn.
type PCIPath []uint8

// ParsePCIPath reads Kata's form, two hex digits for each bus: "0a" or "0a/00".
func ParsePCIPath(s string) (PCIPath, error) {
	var p PCIPath
	for part := range strings.SplitSeq(s, "/") {
		n, err := strconv.ParseUint(part, 16, 5)
		if err != nil || len(part) != 2 {
			return nil, fmt.Errorf("parse PCI path %q: slot %q is not two hex digits below 20", s, part)
		}
		p = append(p, uint8(n))
	}
	return p, nil
}

// Resolve finds the device's directory below sys (/sys). A path that ends at a bridge means the
// device behind it, slot 0: a root port has one. A single slot that the root bus does not have is one of the plug bridge's
// bus: Kata takes a slot's number from nodeless-vmm, not a path.
func (p PCIPath) Resolve(sys fs.FS) (string, error) {
	dir, err := p.follow(sys)
	if err != nil && len(p) == 1 {
		if plugged, err := (PCIPath{contract.PlugBridge, p[0]}).follow(sys); err == nil {
			return plugged, nil
		}
	}
	return dir, err
}

func (p PCIPath) follow(sys fs.FS) (string, error) {
	dir := pciRoot
	bus := "0000:00"
	for i := 0; ; i++ {
		slot := uint8(0)
		if i < len(p) {
			slot = p[i]
		}
		next := path.Join(dir, fmt.Sprintf("%s:%02x.0", bus, slot))
		if _, err := fs.Stat(sys, next); err != nil {
			return "", fmt.Errorf("%w: %s", ErrNoDevice, next)
		}
		dir = next
		behind, bridge := secondaryBus(sys, dir)
		if i >= len(p)-1 && !bridge {
			return dir, nil
		}
		if behind == "" {
			return "", fmt.Errorf("%w: nothing behind %s", ErrNoDevice, dir)
		}
		bus = behind
	}
}

// pciBus returns the bus in the name of a device directory, "0000:01" of "0000:01:00.0".
func pciBus(name string) (bus string, ok bool) {
	const layout = "0000:00:00.0"
	if len(name) != len(layout) {
		return "", false
	}
	for i := range len(layout) {
		hex := strings.IndexByte("0123456789abcdef", name[i]) >= 0
		if hex != (layout[i] == '0') || !hex && name[i] != layout[i] {
			return "", false
		}
	}
	return name[:len("0000:00")], true
}

// secondaryBus returns the bus behind a bridge and whether dir is one. The bus is empty while nothing is plugged in.
func secondaryBus(sys fs.FS, dir string) (bus string, bridge bool) {
	class, err := fs.ReadFile(sys, path.Join(dir, "class"))
	bridge = err == nil && strings.HasPrefix(string(class), "0x0604")
	if !bridge {
		return "", false
	}
	entries, err := fs.ReadDir(sys, dir)
	if err != nil {
		return "", true
	}
	for _, e := range entries {
		if bus, ok := pciBus(e.Name()); ok {
			return bus, true
		}
	}
	return "", true
}

// Disk is a block device.
type Disk struct {
	Name         string // as in /dev and /sys/block
	Major, Minor uint32
}

// Path is the device node.
func (d Disk) Path() string { return "/dev/" + d.Name }

// diskAt finds the disk of the virtio device in a PCI device's directory.
func diskAt(sys fs.FS, dir string) (Disk, error) {
	found, err := fs.Glob(sys, path.Join(escapeGlob(dir), "virtio*/block/*/dev"))
	if err != nil {
		return Disk{}, fmt.Errorf("look for a disk in %s: %w", dir, err)
	}
	if len(found) == 0 {
		return Disk{}, fmt.Errorf("%w: no disk in %s", ErrNoDevice, dir)
	}
	return readDisk(sys, path.Dir(found[0]))
}

// readDisk reads the name and number of the disk in a sysfs directory.
func readDisk(sys fs.FS, dir string) (Disk, error) {
	d := Disk{Name: path.Base(dir)}
	raw, err := fs.ReadFile(sys, path.Join(dir, "dev"))
	if err != nil {
		return Disk{}, fmt.Errorf("read number of disk %s: %w", d.Name, err)
	}
	if _, err := fmt.Sscanf(string(raw), "%d:%d", &d.Major, &d.Minor); err != nil {
		return Disk{}, fmt.Errorf("read number of disk %s: %w", d.Name, err)
	}
	return d, nil
}

// escapeGlob quotes what path.Match would interpret; PCI names hold none of it but the caller's may.
func escapeGlob(s string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(s)
}

// FindDisk returns the disk with the given virtio serial.
func FindDisk(sys fs.FS, serial string) (Disk, error) {
	found, err := fs.Glob(sys, "block/vd*/serial")
	if err != nil {
		return Disk{}, fmt.Errorf("look for disk %q: %w", serial, err)
	}
	for _, f := range found {
		if raw, err := fs.ReadFile(sys, f); err == nil && strings.TrimSpace(string(raw)) == serial {
			return readDisk(sys, path.Dir(f))
		}
	}
	return Disk{}, fmt.Errorf("%w: disk with serial %q", ErrNoDevice, serial)
}

// WaitDisk waits until the disk at a PCI path has appeared.
func WaitDisk(ctx context.Context, sys fs.FS, pciPath string) (Disk, error) {
	p, err := ParsePCIPath(pciPath)
	if err != nil {
		return Disk{}, err
	}
	return await(ctx, func() (Disk, error) {
		dir, err := p.Resolve(sys)
		if err != nil {
			return Disk{}, err
		}
		return diskAt(sys, dir)
	})
}

// WaitPCI waits until the device at a PCI path has appeared and returns its sysfs directory below sys.
func WaitPCI(ctx context.Context, sys fs.FS, pciPath string) (string, error) {
	p, err := ParsePCIPath(pciPath)
	if err != nil {
		return "", err
	}
	return await(ctx, func() (string, error) { return p.Resolve(sys) })
}

// await repeats find until it finds a device; the pauses grow, as hot-plug is usually done by the
// time the host's message arrives.
func await[T any](ctx context.Context, find func() (T, error)) (T, error) {
	ctx, cancel := context.WithTimeout(ctx, deviceWait)
	defer cancel()
	return repeat(ctx, find, func(err error) bool { return errors.Is(err, ErrNoDevice) })
}

// repeat calls f until its error is not of the kind that passes, or the time is up.
func repeat[T any](ctx context.Context, f func() (T, error), passes func(error) bool) (T, error) {
	for pause := devicePause; ; pause = min(2*pause, devicePoll) {
		found, err := f()
		if err == nil || !passes(err) {
			return found, err
		}
		select {
		case <-ctx.Done():
			return found, err
		case <-time.After(pause):
		}
	}
}
