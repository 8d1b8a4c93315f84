// Package mount brings the storages a host describes into the guest's file system: shared
// directories, hot-plugged disks, overlays, tmpfs. pkg/guest/agent calls it when a sandbox or a
// container is created and when one is removed; pkg/guest/boot mounts the scratch disk with it.
//
// It needs root and /sys. Paths come from the host and are trusted; what containers leave inside a
// volume is not, and is never followed through a symbolic link.
package mount
