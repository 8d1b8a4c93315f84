// Package vfio tells whether PCI devices of the host can be passed through to a microVM: what they are, which driver has them, and who else
// is in their IOMMU groups. pkg/vmm asks it before a microVM with devices is made, and holds their groups for as long as it runs.
//
// It reads /sys through the fs.FS that it is given, and changes nothing there: to hand devices to vfio-pci, and back, is for the operator.
package vfio
