package main

import (
	"golang.org/x/sys/unix"

	"github.com/nodeless/nodeless/pkg/contract/rights"
)

// kept are the capabilities that the shim, root on the host, has use for, itself or for what it starts.
var kept = []uintptr{
	// Volumes are mounted, a Pod's network is entered, cgroups are bounded, virtiofsd and QEMU have namespaces of their own.
	unix.CAP_SYS_ADMIN,
	unix.CAP_NET_ADMIN, // the tap in the Pod's network, and the filters that join it to the Pod's NIC
	// Files of the Pod's users are found and mounted, whoever they belong to. virtiofsd, where it has to be root, acts for them with these.
	unix.CAP_DAC_OVERRIDE, unix.CAP_CHOWN, unix.CAP_FOWNER, unix.CAP_FSETID,
	// virtiofsd and QEMU become other users, who have nothing that is not named.
	unix.CAP_SETUID, unix.CAP_SETGID, unix.CAP_SETPCAP,
	// They are ended, and looked at. (The kernel asks for SYS_PTRACE to tell of another user's process what it has open or written.)
	unix.CAP_KILL, unix.CAP_SYS_PTRACE,
	unix.CAP_MKNOD,        // /dev/kvm in QEMU's jail
	unix.CAP_SYS_RESOURCE, // limits, and ranks for the kernel's memory killer
}

// confine takes all else from this process and from what it starts.
func confine() error {
	if err := rights.Keep(kept...); err != nil {
		return err
	}
	return rights.NoNewOnes(rights.Denied())
}
