package mount

import (
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// extResize is EXT4_IOC_RESIZE_FS of Linux' fs/ext4/ext4.h. It takes the new size in blocks.
	extResize = 0x40086610
	extBlock  = 4096 // all that mke2fs makes beyond 512 MiB
)

// GrowExt4 grows a mounted ext4 file system to so many bytes. One that is as large already is left as it is.
func GrowExt4(dir string, size int64) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("grow file system: %w", err)
	}
	defer d.Close()
	blocks := uint64(size) / extBlock
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, d.Fd(), extResize, uintptr(unsafe.Pointer(&blocks))); errno != 0 {
		return fmt.Errorf("grow file system %s to %d bytes: %w", dir, size, errno)
	}
	return nil
}
