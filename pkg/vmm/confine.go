package vmm

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// kept is the one capability that QEMU has use for: to pin memory that a passed-through device reads. It opens nothing that is not root's,
// and NICs come to it open.
const kept = unix.CAP_IPC_LOCK

// confine takes from the calling thread, and thus from QEMU, which it starts, every right that QEMU has no need of. Root gets all of the
// bounding set when it starts a program, so that is where capabilities are taken away. The thread must start nothing else.
func confine() error {
	for c := uintptr(0); c <= unix.CAP_LAST_CAP; c++ {
		if c == kept {
			continue
		}
		// A kernel may know fewer; a process that may not do this has not got the capabilities either.
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.EPERM) {
			return fmt.Errorf("confine QEMU: drop capability %d: %w", c, err)
		}
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("confine QEMU: forbid new privileges: %w", err)
	}
	return nil
}

// noDumps keeps the memory of this process, and of those that it starts, out of files: a guest's Secrets are in it.
func noDumps() error {
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return fmt.Errorf("forbid core dumps: %w", err)
	}
	return nil
}
