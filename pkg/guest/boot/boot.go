package boot

import (
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/nodeless/nodeless/pkg/contract"
	"github.com/nodeless/nodeless/pkg/guest/mount"
	guestnet "github.com/nodeless/nodeless/pkg/guest/net"
)

const openFiles = 1 << 20

// Run prepares the guest. What a sandbox can do without is logged, not returned.
func Run(log *slog.Logger) error {
	if err := limits(); err != nil {
		return err
	}
	if err := loadModules("/modules"); err != nil {
		return err
	}
	if err := enableControllers(); err != nil {
		return err
	}
	if disk, err := mountScratch(); err != nil {
		log.Warn("writable layers stay in memory", "err", err)
	} else if err := growScratch(disk); err != nil {
		return err // the Pod would have less than it asked for
	}
	for _, err := range setParameters() {
		log.Warn("kernel parameter is not set", "err", err)
	}
	return guestnet.LoopbackUp()
}

// limits gives containers what they expect of a container host: many open files, and as many processes
// for each user as their cgroup lets them have.
func limits() error {
	files := &unix.Rlimit{Cur: openFiles, Max: openFiles}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, files); err != nil {
		return fmt.Errorf("raise open files limit: %w", err)
	}
	processes := &unix.Rlimit{Cur: unix.RLIM_INFINITY, Max: unix.RLIM_INFINITY}
	if err := unix.Setrlimit(unix.RLIMIT_NPROC, processes); err != nil {
		return fmt.Errorf("raise limit of processes: %w", err)
	}
	return nil
}

// mountScratch mounts the scratch disk. It is attached from the start, so there is nothing to wait for once its driver is loaded.
func mountScratch() (mount.Disk, error) {
	if err := os.MkdirAll(contract.GuestRoot, 0o755); err != nil {
		return mount.Disk{}, err
	}
	disk, err := mount.FindDisk(os.DirFS("/sys"), contract.ScratchSerial)
	if err != nil {
		return mount.Disk{}, err
	}
	// Nothing on this disk outlives the VM: barriers are not worth their time. It reads as zeros: inode tables need none.
	err = unix.Mount(disk.Path(), contract.GuestRoot, "ext4", unix.MS_NOATIME, "noauto_da_alloc,nobarrier,noinit_itable")
	if err != nil {
		return mount.Disk{}, fmt.Errorf("mount %s on %s: %w", disk.Path(), contract.GuestRoot, err)
	}
	return disk, nil
}

// growScratch grows the file system, which is of the least size, to its disk.
func growScratch(disk mount.Disk) error {
	size, err := sizeOf(disk)
	if err != nil {
		return fmt.Errorf("grow the scratch disk: %w", err)
	}
	return mount.GrowExt4(contract.GuestRoot, size)
}

// sizeOf is a disk's size in bytes.
func sizeOf(d mount.Disk) (int64, error) {
	f, err := os.Open(d.Path())
	if err != nil {
		return 0, err
	}
	defer f.Close()
	return f.Seek(0, io.SeekEnd)
}

// Debug says whether the kernel command line asks for debug logging.
func Debug() bool {
	raw, err := os.ReadFile("/proc/cmdline")
	return err == nil && strings.Contains(" "+strings.TrimSpace(string(raw))+" ", " nodeless.debug=1 ")
}
