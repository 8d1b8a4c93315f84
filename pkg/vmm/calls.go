package vmm

import (
	"golang.org/x/sys/unix"

	"github.com/nodeless/nodeless/pkg/jail"
)

// qemuCalls are the system calls that QEMU has use for, from its loader's first on. They were found by what it calls as microVMs boot, are
// given and lose disks, NICs, memory, vCPUs and volumes, and end; and by what its libraries fall back to. QEMU takes away more when it has
// started (-sandbox), running programs among it.
func qemuCalls() jail.Calls {
	var c jail.Calls
	for _, part := range [][]uint32{memoryCalls, fileCalls, waitCalls, socketCalls, threadCalls, factCalls} {
		c.Allow = append(c.Allow, part...)
	}
	c.Only = []jail.Only{
		jail.Threads,
		{Call: unix.SYS_SOCKETPAIR, Arg: 0, Values: []uint32{unix.AF_UNIX}}, // a channel of virtiofs
		{Call: unix.SYS_PRCTL, Arg: 0, Values: []uint32{
			unix.PR_SET_NAME, unix.PR_GET_NAME, unix.PR_SET_NO_NEW_PRIVS, unix.PR_GET_NO_NEW_PRIVS, unix.PR_SET_SECCOMP, unix.PR_GET_SECCOMP,
			unix.PR_SET_TIMERSLACK, unix.PR_SET_VMA, unix.PR_MCE_KILL, unix.PR_CAPBSET_READ,
		}},
	}
	c.Absent = []uint32{unix.SYS_CLONE3} // what it asks for cannot be seen; the C library calls clone then
	return c
}

var memoryCalls = []uint32{
	unix.SYS_BRK, unix.SYS_MMAP, unix.SYS_MUNMAP, unix.SYS_MREMAP, unix.SYS_MPROTECT, unix.SYS_MADVISE, unix.SYS_MINCORE, unix.SYS_MSYNC,
	unix.SYS_MLOCK, unix.SYS_MUNLOCK, unix.SYS_MBIND, unix.SYS_GET_MEMPOLICY, unix.SYS_MEMFD_CREATE,
}

var fileCalls = []uint32{
	unix.SYS_READ, unix.SYS_WRITE, unix.SYS_READV, unix.SYS_WRITEV, unix.SYS_PREAD64, unix.SYS_PWRITE64, unix.SYS_PREADV, unix.SYS_PWRITEV,
	unix.SYS_PREADV2, unix.SYS_PWRITEV2, unix.SYS_LSEEK, unix.SYS_FDATASYNC, unix.SYS_FSYNC, unix.SYS_FALLOCATE, unix.SYS_FTRUNCATE,
	unix.SYS_COPY_FILE_RANGE,
	unix.SYS_IO_SETUP, unix.SYS_IO_SUBMIT, unix.SYS_IO_GETEVENTS, unix.SYS_IO_CANCEL, unix.SYS_IO_DESTROY,
	unix.SYS_OPEN, unix.SYS_OPENAT, unix.SYS_CLOSE, unix.SYS_CLOSE_RANGE, unix.SYS_DUP, unix.SYS_DUP2, unix.SYS_DUP3, unix.SYS_FCNTL, unix.SYS_IOCTL,
	unix.SYS_STAT, unix.SYS_FSTAT, unix.SYS_LSTAT, unix.SYS_NEWFSTATAT, unix.SYS_STATX, unix.SYS_STATFS, unix.SYS_FSTATFS,
	unix.SYS_ACCESS, unix.SYS_FACCESSAT, unix.SYS_FACCESSAT2, unix.SYS_READLINK, unix.SYS_READLINKAT, unix.SYS_GETDENTS64, unix.SYS_GETCWD,
	unix.SYS_PIPE, unix.SYS_PIPE2, unix.SYS_EVENTFD2, unix.SYS_SIGNALFD4,
}

var waitCalls = []uint32{
	unix.SYS_POLL, unix.SYS_PPOLL, unix.SYS_SELECT, unix.SYS_PSELECT6, unix.SYS_EPOLL_CREATE1, unix.SYS_EPOLL_CTL,
	unix.SYS_EPOLL_WAIT, unix.SYS_EPOLL_PWAIT, unix.SYS_EPOLL_PWAIT2, unix.SYS_NANOSLEEP, unix.SYS_CLOCK_NANOSLEEP,
	unix.SYS_TIMERFD_CREATE, unix.SYS_TIMERFD_SETTIME, unix.SYS_TIMERFD_GETTIME,
	unix.SYS_FUTEX, unix.SYS_RESTART_SYSCALL,
}

// Of sockets that it has. None is made, and none is listened on.
var socketCalls = []uint32{
	unix.SYS_SENDMSG, unix.SYS_RECVMSG, unix.SYS_SHUTDOWN,
	unix.SYS_GETSOCKNAME, unix.SYS_GETPEERNAME, unix.SYS_GETSOCKOPT, unix.SYS_SETSOCKOPT,
}

var threadCalls = []uint32{
	unix.SYS_EXECVE, // of QEMU by this filter's maker; QEMU forbids it to itself
	unix.SYS_EXIT, unix.SYS_EXIT_GROUP, unix.SYS_SET_TID_ADDRESS, unix.SYS_SET_ROBUST_LIST, unix.SYS_RSEQ,
	unix.SYS_ARCH_PRCTL, unix.SYS_SECCOMP, unix.SYS_MEMBARRIER, unix.SYS_SCHED_YIELD, unix.SYS_SCHED_GETAFFINITY,
	unix.SYS_SCHED_GETSCHEDULER, unix.SYS_GETCPU,
	unix.SYS_TGKILL, unix.SYS_RT_SIGACTION, unix.SYS_RT_SIGPROCMASK, unix.SYS_RT_SIGRETURN, unix.SYS_RT_SIGTIMEDWAIT,
	unix.SYS_SIGALTSTACK,
}

var factCalls = []uint32{
	unix.SYS_GETPID, unix.SYS_GETPPID, unix.SYS_GETTID, unix.SYS_GETUID, unix.SYS_GETEUID, unix.SYS_GETGID, unix.SYS_GETEGID,
	unix.SYS_UNAME, unix.SYS_SYSINFO, unix.SYS_GETRANDOM, unix.SYS_GETTIMEOFDAY, unix.SYS_CLOCK_GETTIME,
	unix.SYS_CLOCK_GETRES, unix.SYS_GETRUSAGE, unix.SYS_GETRLIMIT, unix.SYS_PRLIMIT64,
}
