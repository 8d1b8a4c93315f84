// Package boot makes a container host of the bare kernel the guest agent is started on as /init. Only
// cmd/nodeless-guest calls it.
//
// It must run as PID 1 in an initramfs: it moves the root, mounts the kernel's file systems, loads the
// modules the initrd carries, sets kernel parameters and finds the agent's port and the scratch disk.
package boot
