package boot

import (
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ioctl calls ioctl(2) with a buffer.
func ioctl(f *os.File, request uintptr, buf []byte) error {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), request, uintptr(unsafe.Pointer(unsafe.SliceData(buf))))
	runtime.KeepAlive(buf)
	if errno != 0 {
		return os.NewSyscallError("ioctl", errno)
	}
	return nil
}
