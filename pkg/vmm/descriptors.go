package vmm

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// QEMU opens no file of a Pod itself: it is given descriptors, in sets that it knows as /dev/fdset/N. Of a set it takes the one that is
// open as it would open it: to read only, or to read and write; and from 9.1 on, directly or not. scratchSet is the writable disk's; those
// of hot-plugged disks follow.
const scratchSet = 1

func setPath(set int) string { return fmt.Sprintf("/dev/fdset/%d", set) }

// lockedByte is the byte of a disk by which two microVMs that would use it tell each other: QEMU's own locks, at 100 and 200, need a
// /dev/null.
const lockedByte = 300

// errInUse says that a disk would be written to by two, or read while another writes.
var errInUse = errors.New("another microVM uses it")

// openDisk opens a file or device for QEMU, as much as Kata asks for.
func openDisk(c diskConfig) (_ *os.File, mode os.FileMode, err error) {
	st, err := os.Stat(c.Path) // first: to open what is no disk might take for ever
	if err != nil {
		return nil, 0, err
	}
	if mode = st.Mode(); !mode.IsRegular() && mode&os.ModeDevice == 0 {
		return nil, 0, fmt.Errorf("%s is neither a file nor a device", c.Path)
	}
	flag, kind := os.O_RDWR, unix.F_WRLCK
	if c.Readonly {
		flag, kind = os.O_RDONLY, unix.F_RDLCK
	}
	if c.Direct {
		flag |= unix.O_DIRECT
	}
	f, err := os.OpenFile(c.Path, flag, 0)
	if err != nil {
		return nil, 0, err
	}
	// The lock is the open file's, and lasts as long as QEMU has it. Not every file system knows locks.
	err = unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: int16(kind), Whence: io.SeekStart, Start: lockedByte, Len: 1})
	if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EACCES) {
		return nil, 0, errors.Join(fmt.Errorf("open %s: %w", c.Path, errInUse), f.Close())
	}
	return f, mode, nil
}

// duplicate gives another descriptor of an open file.
func duplicate(f *os.File) (*os.File, error) {
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}

// connect connects to a unix socket.
func connect(path string) (*os.File, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), path)
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: path}); err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", path, err), f.Close())
	}
	return f, nil
}
