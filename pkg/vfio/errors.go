package vfio

import (
	"errors"
	"fmt"

	"github.com/nodeless/nodeless/pkg/hint"
)

// Kinds of reasons why a device cannot be passed through.
var (
	ErrNotPCI    = errors.New("it is not the path of a PCI device")
	ErrNoDevice  = errors.New("the host has no such device")
	ErrTwice     = errors.New("it is asked for twice")
	ErrTooMany   = errors.New("too many devices")
	ErrNoIOMMU   = errors.New("no IOMMU guards it")
	ErrUnbound   = errors.New("it is not bound to " + Driver)
	ErrNotViable = errors.New("its IOMMU group is shared")
	ErrInUse     = errors.New("another microVM or program has it")
)

// remedies are what an operator does about the reasons.
var remedies = map[error]string{
	ErrNotPCI:   "name devices as /sys/bus/pci/devices/0000:41:00.0; `lspci -D` lists them",
	ErrNoDevice: "`lspci -D` lists the devices that the host has",
	ErrTwice:    "name each device once",
	ErrNoIOMMU: "switch the IOMMU on in the firmware (VT-d, AMD-Vi) and boot the host's kernel with intel_iommu=on iommu=pt (Intel) or " +
		"iommu=pt (AMD); `ls /sys/kernel/iommu_groups` shows groups then",
	ErrInUse: "wait until what has the device has ended, or ask for another one; `ps -ww -eo pid,args | grep vfio-pci,host=` shows microVMs with devices",
}

// fault is the error of one device.
func fault(on string, why error) error {
	return &hint.Error{Op: "pass through", On: on, Err: why, Do: remedies[why]}
}

// unbound is the error of a device that another driver has, or none.
func unbound(name, driver string) error {
	err := fmt.Errorf("%w: no driver has it", ErrUnbound)
	if driver != "" {
		err = fmt.Errorf("%w: %s has it", ErrUnbound, driver)
	}
	return &hint.Error{Op: "pass through", On: name, Err: err, Do: bind(name, driver)}
}

// shared is the error of a group with a stranger in it.
func shared(group int, name, driver, what string) error {
	do := bind(name, driver) + "; or use a slot whose bridges have ACS"
	if !address.MatchString(name) {
		do = "use a slot whose bridges have ACS"
	}
	return &hint.Error{Op: "pass through", On: fmt.Sprintf("IOMMU group %d", group), Err: fmt.Errorf("%w: %s %s", ErrNotViable, name, what), Do: do}
}

// bind is how a device comes to vfio-pci.
func bind(name, driver string) string {
	dir := "/sys/bus/pci/devices/" + name
	text := "hand " + name + " to " + Driver + ": modprobe " + Driver + "; echo " + Driver + " > " + dir + "/driver_override; "
	if driver != "" {
		text += "echo " + name + " > " + dir + "/driver/unbind; "
	}
	return text + "echo " + name + " > /sys/bus/pci/drivers_probe"
}
