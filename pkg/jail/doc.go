// Package jail starts a program that strangers may take over, such as QEMU, with nothing of the host but what it is given. pkg/vmm starts
// QEMU so. It knows nothing of what it starts.
//
// The program that calls Start runs itself again, in new namespaces. This second stage is Main, and is process 1 of its own pid namespace.
// It builds a root of the few files that are shown, leaves the old root, sets limits, gives up users, groups and capabilities, takes a
// filter of system calls, and becomes the program by exec. So no process is left between the one that called and the program. The program
// dies with the thread that called Start.
//
// What the program works with comes to it as open descriptors. There is no /proc in its root, no /sys, no /dev but for the devices asked
// for, and nothing in it can be changed. Its network has no device but a loopback that is down.
//
// It needs root, and a kernel from 5.12 on.
package jail
