package agent

import (
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ioctl calls ioctl(2) with a pointer to a 64-bit value.
func ioctl(f *os.File, request uintptr, value *uint64) error {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), request, uintptr(unsafe.Pointer(value)))
	if errno != 0 {
		return os.NewSyscallError("ioctl", errno)
	}
	return nil
}
