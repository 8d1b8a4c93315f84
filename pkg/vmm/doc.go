// Package vmm lets Kata Containers run its microVMs on QEMU: it answers the Cloud Hypervisor REST API
// that Kata's "clh" driver speaks and turns each call into QEMU's command line or its machine protocol.
// cmd/nodeless-vmm is one process of it per Pod; pkg/worker writes the HostConfig it reads, and
// pkg/vmm/probe uses it to find out whether KVM can be trusted.
//
// A process of it lives exactly as long as its microVM: it ends with QEMU, it takes QEMU along when it
// is told to stop or dies, and it goes when the shim that started it goes. What it makes on the host
// (the scratch disk, two sockets) goes with it.
//
// QEMU runs in a jail (pkg/jail), as a user of its own, and opens nothing of a Pod: nodeless-vmm hands it descriptors.
// Devices of the host it opens itself: those that the microVM is made with, which are then in its jail (pkg/vfio).
//
// It needs root, for the jail, the bundle (QEMU, guest kernel, initrd, scratch template) and, with accel=kvm, /dev/kvm.
package vmm
