package converter

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// nobody is who the process is. The image's file is the parent's: it is written by its descriptor.
	nobody = 65534
	// emptyRoot is a folder in which nothing can be made and which shows only what its process has open.
	emptyRoot = "/proc/self/fdinfo"
	// maxImage bounds the file: images have no more (pkg/erofs), and their metadata some more.
	maxImage = 260 << 30
	// addresses is what Go reserves of addresses and does not use, and more.
	addresses = 4 << 30
	// firstToGo has the kernel choose the process rather than a daemon where all memory is short.
	firstToGo = "500"
)

// confine gives up all rights but those to the files that were handed to the process. memory is how much may be mapped to be written.
func confine(memory, handed uint64) error {
	time.AfterFunc(time.Hour, func() {}).Stop() // has Go open the files that it needs itself
	if err := os.WriteFile("/proc/self/oom_score_adj", []byte(firstToGo), 0); err != nil {
		return err
	}
	files, err := closeOthers(handed)
	if err != nil {
		return err
	}
	if os.Geteuid() == 0 {
		if err := drop(); err != nil {
			return err
		}
	}
	if err := noNewPrivileges(); err != nil {
		return err
	}
	for what, most := range map[int]uint64{
		unix.RLIMIT_CORE: 0, unix.RLIMIT_FSIZE: maxImage, unix.RLIMIT_NOFILE: files, unix.RLIMIT_DATA: memory, unix.RLIMIT_AS: memory + addresses,
	} {
		if err := unix.Setrlimit(what, &unix.Rlimit{Cur: most, Max: most}); err != nil {
			return fmt.Errorf("set limit %d: %w", what, err)
		}
	}
	// A change of user takes the signal away. Who died before it was set has closed the pipe of its word.
	return unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0)
}

// drop takes another root, and another user, who has no capability.
func drop() error {
	if err := unix.Chroot(emptyRoot); err != nil {
		return fmt.Errorf("change to an empty root: %w", err)
	}
	if err := unix.Chdir("/"); err != nil {
		return err
	}
	return errors.Join(syscall.Setgroups(nil), syscall.Setresgid(nobody, nobody, nobody), syscall.Setresuid(nobody, nobody, nobody))
}

// noNewPrivileges holds for all threads.
func noNewPrivileges() error {
	_, _, errno := syscall.AllThreadsSyscall6(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0, 0)
	if errno == unix.ENOTSUP { // a test program with C in it
		return unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
	}
	if errno != 0 {
		return errno
	}
	return nil
}

// closeOthers closes what was handed down by mistake. It leaves the files up to handed, and Go's own, which wait for timers. It gives the
// limit of files that leaves no room for another.
func closeOthers(handed uint64) (uint64, error) {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return 0, err
	}
	next := handed
	for _, e := range entries {
		fd, err := strconv.ParseUint(e.Name(), 10, 32)
		if err != nil || fd < handed {
			continue
		}
		switch what, err := os.Readlink("/proc/self/fd/" + e.Name()); {
		case errors.Is(err, os.ErrNotExist): // that of the folder itself
		case err != nil:
			return 0, err
		case what == "anon_inode:[eventpoll]" || what == "anon_inode:[eventfd]":
			next = max(next, fd+1)
		default:
			if err := unix.Close(int(fd)); err != nil {
				return 0, err
			}
		}
	}
	return next, nil
}
