package testbed

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// InPIDNamespace tells whether a process, by its folder in /proc, is in the pid namespace that the link home names, or in one that was made
// in there: each QEMU has one of its own.
func InPIDNamespace(dir, home string) bool {
	fd, err := unix.Open(dir+"/ns/pid", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	for err == nil {
		link, bad := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
		if bad != nil || link == home {
			_ = unix.Close(fd)
			return bad == nil
		}
		outer, bad := unix.IoctlRetInt(fd, unix.NS_GET_PARENT) // refused beyond the namespace of this process
		_ = unix.Close(fd)
		fd, err = outer, bad
	}
	return false
}
