// Package rights takes away from a process of root's what it has no use for. The shim and nodeless-vmm call it when they start, and
// nodeless-vmm once more when its QEMU runs. What is kept is theirs to say.
package rights

import (
	"errors"
	"fmt"
	"runtime"
	"slices"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Keep leaves every thread of this process, and what it starts, those of its capabilities that are named, and no way to others. It works in
// programs without C only.
func Keep(capabilities ...uintptr) error {
	for c := uintptr(0); c <= unix.CAP_LAST_CAP; c++ {
		if slices.Contains(capabilities, c) {
			continue
		}
		if err := onAll(unix.SYS_PRCTL, unix.PR_CAPBSET_DROP, c); err != nil && !errors.Is(err, unix.EINVAL) { // a kernel may know fewer
			return fmt.Errorf("drop capability %d: %w", c, err)
		}
	}
	head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var sets [2]unix.CapUserData // 32 capabilities each
	if err := unix.Capget(&head, &sets[0]); err != nil {
		return fmt.Errorf("read capabilities: %w", err)
	}
	var keep [2]uint32
	for _, c := range capabilities {
		keep[c/32] |= 1 << (c % 32)
	}
	for i := range sets {
		sets[i].Permitted &= keep[i] // those that it has
		sets[i].Effective, sets[i].Inheritable = sets[i].Permitted, 0
	}
	if err := onAll(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&head)), uintptr(unsafe.Pointer(&sets[0]))); err != nil {
		return fmt.Errorf("give up capabilities: %w", err)
	}
	runtime.KeepAlive(&sets)
	return nil
}

// onAll makes a call on every thread, also on those that come later.
func onAll(call, a, b uintptr) error {
	if _, _, errno := syscall.AllThreadsSyscall(call, a, b, 0); errno != 0 {
		return errno
	}
	return nil
}

// NoNewOnes forbids every thread of this process, and what it starts, to gain rights by running a program, and to make the calls of a list:
// they fail with EPERM. Those by the numbers of another architecture end the process.
func NoNewOnes(denied []uint32) error {
	if runtime.GOARCH != "amd64" {
		return fmt.Errorf("deny system calls: not for %s yet", runtime.GOARCH)
	}
	if err := onAll(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1); err != nil {
		return fmt.Errorf("forbid new privileges: %w", err)
	}
	filter := compile(denied)
	prog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	_, _, errno := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&prog)))
	runtime.KeepAlive(filter)
	if errno != 0 {
		return fmt.Errorf("deny system calls: %w", errno)
	}
	return nil
}

// Where the kernel puts what a filter looks at (struct seccomp_data), and the first number of the x32 calls, which are of the same
// architecture to a filter.
const (
	numberAt     = 0
	archAt       = 4
	firstForeign = 0x40000000
)

// compile writes the filter as the kernel takes it.
func compile(denied []uint32) []unix.SockFilter {
	const (
		load = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
		same = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
		from = unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K
		ret  = unix.BPF_RET | unix.BPF_K
	)
	filter := []unix.SockFilter{
		{Code: load, K: archAt},
		{Code: same, Jt: 1, K: unix.AUDIT_ARCH_X86_64},
		{Code: ret, K: unix.SECCOMP_RET_KILL_PROCESS},
		{Code: load, K: numberAt},
		{Code: from, Jf: 1, K: firstForeign},
		{Code: ret, K: unix.SECCOMP_RET_KILL_PROCESS},
	}
	for _, call := range denied {
		filter = append(filter, unix.SockFilter{Code: same, Jf: 1, K: call}, unix.SockFilter{Code: ret, K: unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)})
	}
	return append(filter, unix.SockFilter{Code: ret, K: unix.SECCOMP_RET_ALLOW})
}

// Denied are the calls that neither the shim, nor nodeless-vmm, nor what they start have any use for, and by which root would have the
// kernel run its code, take the machine down, look into other processes, or get at files and keys past their owners. bpf(2) is not among
// them: where cgroups are of version 2 a Pod's devices are bounded by it.
func Denied() []uint32 {
	return []uint32{
		unix.SYS_INIT_MODULE, unix.SYS_FINIT_MODULE, unix.SYS_DELETE_MODULE, unix.SYS_KEXEC_LOAD, unix.SYS_KEXEC_FILE_LOAD,
		unix.SYS_REBOOT, unix.SYS_SWAPON, unix.SYS_SWAPOFF, unix.SYS_ACCT, unix.SYS_SYSLOG, unix.SYS_VHANGUP,
		unix.SYS_SETTIMEOFDAY, unix.SYS_CLOCK_SETTIME, unix.SYS_ADJTIMEX, unix.SYS_CLOCK_ADJTIME, unix.SYS_SETDOMAINNAME,
		unix.SYS_IOPL, unix.SYS_IOPERM, unix.SYS_MODIFY_LDT, unix.SYS_PERF_EVENT_OPEN, unix.SYS_USERFAULTFD,
		unix.SYS_PTRACE, unix.SYS_PROCESS_VM_READV, unix.SYS_PROCESS_VM_WRITEV, unix.SYS_PROCESS_MADVISE, unix.SYS_KCMP, unix.SYS_PIDFD_GETFD,
		unix.SYS_OPEN_BY_HANDLE_AT, unix.SYS_KEYCTL, unix.SYS_ADD_KEY, unix.SYS_REQUEST_KEY, unix.SYS_QUOTACTL, unix.SYS_QUOTACTL_FD,
		unix.SYS_FANOTIFY_INIT, unix.SYS_LOOKUP_DCOOKIE, unix.SYS_USELIB, unix.SYS_NFSSERVCTL, unix.SYS__SYSCTL,
		unix.SYS_IO_URING_SETUP, unix.SYS_IO_URING_ENTER, unix.SYS_IO_URING_REGISTER,
	}
}
