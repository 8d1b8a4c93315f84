package vmm

import (
	"slices"

	"golang.org/x/sys/unix"

	"github.com/nodeless/nodeless/pkg/contract/rights"
)

// ownRights are the capabilities that nodeless-vmm, root on the host, has use for while a guest runs: it stops virtiofsd, which is another
// user's, to hold its volumes back (KILL), reads how much that has written, and what QEMU's jail has (SYS_PTRACE), ranks QEMU for the
// kernel's memory killer (DAC_OVERRIDE, SYS_RESOURCE), and opens disks whoever they belong to (DAC_OVERRIDE).
var ownRights = []uintptr{unix.CAP_KILL, unix.CAP_SYS_PTRACE, unix.CAP_DAC_OVERRIDE, unix.CAP_SYS_RESOURCE}

// jailRights are those that it has use for besides until QEMU runs, to make the jail: namespaces and mounts (SYS_ADMIN), a device node for
// QEMU's user (MKNOD, CHOWN), that user (SETUID, SETGID), and nothing left of all this in the end (SETPCAP).
var jailRights = []uintptr{unix.CAP_SYS_ADMIN, unix.CAP_MKNOD, unix.CAP_CHOWN, unix.CAP_SETUID, unix.CAP_SETGID, unix.CAP_SETPCAP}

// confine takes all else from this process, and what no part of a microVM has use for.
func confine() error {
	if err := rights.Keep(slices.Concat(jailRights, ownRights)...); err != nil {
		return err
	}
	return rights.NoNewOnes(rights.Denied())
}

// settle takes what was for the jail, before the guest has said anything.
func settle() error { return rights.Keep(ownRights...) }
