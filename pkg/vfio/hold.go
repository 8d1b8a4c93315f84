package vfio

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/nodeless/nodeless/pkg/hint"
)

// Nodes of the host's /dev.
const (
	// Container is the device by which groups are joined and memory is mapped for them.
	Container = "/dev/vfio/vfio"
	nodeDir   = "/dev/vfio"
)

// Node is the device of an IOMMU group.
func Node(group int) string { return filepath.Join(nodeDir, strconv.Itoa(group)) }

// Holder holds IOMMU groups, so that no other microVM is started with them. The kernel lets go of them when the process ends.
type Holder struct {
	Sys string // /sys
	Dev string // the folder of the groups' nodes, /dev/vfio
}

// Host is the Holder of this host.
func Host() Holder { return Holder{Sys: "/sys", Dev: nodeDir} }

// Hold holds groups until the files are closed. One that another Holder has, or whose device a program has open, is ErrInUse: without the
// first, two microVMs that are started at once would find out when the second one's QEMU fails.
func (h Holder) Hold(groups []int) (held []*os.File, err error) {
	defer func() {
		if err != nil {
			for _, f := range held {
				_ = f.Close() // only locks
			}
			held = nil
		}
	}()
	for _, group := range groups {
		f, err := os.Open(filepath.Join(h.Sys, groupDir, strconv.Itoa(group)))
		if err != nil {
			return held, fmt.Errorf("hold IOMMU group %d: %w", group, err)
		}
		held = append(held, f)
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); errors.Is(err, unix.EWOULDBLOCK) {
			return held, fault(fmt.Sprintf("IOMMU group %d", group), ErrInUse)
		} else if err != nil {
			return held, fmt.Errorf("hold IOMMU group %d: %w", group, err)
		}
		if err := h.free(group); err != nil {
			return held, err
		}
	}
	return held, nil
}

// free tells whether nobody has the device of a group open: the kernel lets one at a time.
func (h Holder) free(group int) error {
	node := filepath.Join(h.Dev, strconv.Itoa(group))
	f, err := os.OpenFile(node, os.O_RDWR, 0)
	switch {
	case errors.Is(err, unix.EBUSY):
		return fault(fmt.Sprintf("IOMMU group %d", group), ErrInUse)
	case errors.Is(err, fs.ErrNotExist):
		return &hint.Error{Op: "open", On: node, Err: err, Do: "load the kernel module vfio-pci (modprobe vfio-pci) and let udev make the device (udevadm settle)"}
	case err != nil:
		return fmt.Errorf("open the device of IOMMU group %d: %w", group, err)
	}
	return f.Close()
}
