package virtiofsd

import (
	"golang.org/x/sys/unix"

	"github.com/nodeless/nodeless/pkg/jail"
)

// calls are the system calls that virtiofsd has use for, from its loader's first on. It takes away some of them when it has started, the
// running of programs among them.
func calls() jail.Calls {
	var c jail.Calls
	for _, part := range [][]uint32{fileCalls, folderCalls, guestCalls, threadCalls} {
		c.Allow = append(c.Allow, part...)
	}
	c.Only = []jail.Only{
		jail.Threads,
		{Call: unix.SYS_UNSHARE, Arg: 0, Values: []uint32{unix.CLONE_FS}}, // each thread has a working folder of its own
		{Call: unix.SYS_PRCTL, Arg: 0, Values: []uint32{
			unix.PR_SET_NAME, unix.PR_GET_NAME, unix.PR_SET_NO_NEW_PRIVS, unix.PR_GET_NO_NEW_PRIVS, unix.PR_SET_SECCOMP, unix.PR_GET_SECCOMP,
			unix.PR_CAPBSET_READ, unix.PR_CAPBSET_DROP, unix.PR_GET_SECUREBITS, unix.PR_CAP_AMBIENT, unix.PR_SET_VMA,
		}},
	}
	c.Absent = []uint32{unix.SYS_CLONE3, unix.SYS_IO_URING_SETUP}
	return c
}

// Of files that are open, or are being opened.
var fileCalls = []uint32{
	unix.SYS_OPEN, unix.SYS_OPENAT, unix.SYS_OPENAT2, unix.SYS_CLOSE, unix.SYS_CLOSE_RANGE, unix.SYS_DUP, unix.SYS_DUP3, unix.SYS_FCNTL, unix.SYS_IOCTL,
	unix.SYS_READ, unix.SYS_WRITE, unix.SYS_READV, unix.SYS_WRITEV, unix.SYS_PREAD64, unix.SYS_PWRITE64, unix.SYS_PREADV, unix.SYS_PWRITEV,
	unix.SYS_PREADV2, unix.SYS_PWRITEV2, unix.SYS_LSEEK, unix.SYS_FSYNC, unix.SYS_FDATASYNC, unix.SYS_SYNCFS, unix.SYS_FALLOCATE,
	unix.SYS_FTRUNCATE, unix.SYS_COPY_FILE_RANGE, unix.SYS_FLOCK, unix.SYS_FCHMOD, unix.SYS_FCHOWN,
	unix.SYS_FSETXATTR, unix.SYS_FGETXATTR, unix.SYS_FLISTXATTR, unix.SYS_FREMOVEXATTR,
	unix.SYS_FSTAT, unix.SYS_NEWFSTATAT, unix.SYS_STATX, unix.SYS_STAT, unix.SYS_LSTAT, unix.SYS_STATFS, unix.SYS_FSTATFS, unix.SYS_ACCESS, unix.SYS_FACCESSAT, unix.SYS_FACCESSAT2,
}

// Of folders and names.
var folderCalls = []uint32{
	unix.SYS_GETDENTS64, unix.SYS_GETDENTS, unix.SYS_READLINK, unix.SYS_READLINKAT, unix.SYS_GETCWD, unix.SYS_CHDIR, unix.SYS_FCHDIR, unix.SYS_MKDIR, unix.SYS_MKDIRAT, unix.SYS_MKNODAT,
	unix.SYS_LINKAT, unix.SYS_SYMLINKAT, unix.SYS_UNLINKAT, unix.SYS_RENAMEAT, unix.SYS_RENAMEAT2, unix.SYS_FCHMODAT, unix.SYS_FCHMODAT2, unix.SYS_FCHOWNAT,
	unix.SYS_UTIMENSAT, unix.SYS_UMASK, unix.SYS_SETXATTR, unix.SYS_GETXATTR, unix.SYS_LISTXATTR, unix.SYS_REMOVEXATTR, unix.SYS_NAME_TO_HANDLE_AT,
}

// Of the guest's requests: its memory, its socket and what tells of them.
var guestCalls = []uint32{
	unix.SYS_BRK, unix.SYS_MMAP, unix.SYS_MUNMAP, unix.SYS_MREMAP, unix.SYS_MPROTECT, unix.SYS_MADVISE, unix.SYS_MEMFD_CREATE,
	unix.SYS_ACCEPT4, unix.SYS_SENDMSG, unix.SYS_RECVMSG, unix.SYS_SENDTO, unix.SYS_RECVFROM, unix.SYS_SHUTDOWN, unix.SYS_GETSOCKNAME, unix.SYS_GETSOCKOPT, unix.SYS_SETSOCKOPT,
	unix.SYS_EVENTFD2, unix.SYS_EPOLL_CREATE1, unix.SYS_EPOLL_CTL, unix.SYS_EPOLL_WAIT, unix.SYS_EPOLL_PWAIT, unix.SYS_EPOLL_PWAIT2,
	unix.SYS_POLL, unix.SYS_PPOLL, unix.SYS_PIPE2,
}

// Of the process, and of the users that it acts for.
var threadCalls = []uint32{
	unix.SYS_EXECVE, // of virtiofsd by this filter's maker; virtiofsd forbids it to itself
	unix.SYS_EXIT, unix.SYS_EXIT_GROUP, unix.SYS_SET_TID_ADDRESS, unix.SYS_SET_ROBUST_LIST, unix.SYS_RSEQ, unix.SYS_ARCH_PRCTL, unix.SYS_SECCOMP,
	unix.SYS_FUTEX, unix.SYS_MEMBARRIER, unix.SYS_RESTART_SYSCALL, unix.SYS_SCHED_YIELD, unix.SYS_SCHED_GETAFFINITY, unix.SYS_NANOSLEEP, unix.SYS_CLOCK_NANOSLEEP,
	unix.SYS_TGKILL, unix.SYS_TKILL, unix.SYS_RT_SIGACTION, unix.SYS_RT_SIGPROCMASK, unix.SYS_RT_SIGRETURN, unix.SYS_SIGALTSTACK, unix.SYS_SIGNALFD4,
	unix.SYS_GETPID, unix.SYS_GETTID, unix.SYS_GETPPID, unix.SYS_GETUID, unix.SYS_GETEUID, unix.SYS_GETGID, unix.SYS_GETEGID, unix.SYS_GETGROUPS,
	unix.SYS_SETRESUID, unix.SYS_SETRESGID, unix.SYS_SETGROUPS, unix.SYS_SETFSUID, unix.SYS_SETFSGID, unix.SYS_CAPGET, unix.SYS_CAPSET,
	unix.SYS_UNAME, unix.SYS_SYSINFO, unix.SYS_GETRANDOM, unix.SYS_TIME, unix.SYS_GETTIMEOFDAY, unix.SYS_CLOCK_GETTIME, unix.SYS_CLOCK_GETRES, unix.SYS_GETRUSAGE, unix.SYS_PRLIMIT64,
	unix.SYS_GETRLIMIT, unix.SYS_SETRLIMIT,
}
