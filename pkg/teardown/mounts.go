package teardown

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// mountsBelow lists the mount points at or below the folders, in the order in which they can be unmounted.
func mountsBelow(root string, dirs ...string) ([]string, error) {
	f, err := os.Open(filepath.Join(root, "proc/self/mountinfo"))
	if err != nil {
		return nil, fmt.Errorf("list mounts: %w", err)
	}
	defer f.Close()
	mounts, err := mountinfo.GetMountsFromReader(f, nil)
	if err != nil {
		return nil, fmt.Errorf("list mounts: %w", err)
	}
	var points []string
	for _, m := range slices.Backward(mounts) { // what was mounted later goes first
		point := m.Mountpoint
		if slices.ContainsFunc(dirs, func(dir string) bool { return dir != "" && (point == dir || strings.HasPrefix(point, dir+"/")) }) {
			points = append(points, point)
		}
	}
	return points, nil
}

// unmountBelow detaches them all. One that vanished meanwhile, with what it stood on, is fine.
func unmountBelow(root string, unmount func(path string, flags int) error, dirs ...string) error {
	points, err := mountsBelow(root, dirs...)
	if err != nil {
		return err
	}
	return unmountAll(unmount, points)
}

func unmountAll(unmount func(path string, flags int) error, points []string) error {
	var errs []error
	for _, point := range points {
		err := unmount(point, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		if err != nil && !errors.Is(err, syscall.EINVAL) && !errors.Is(err, syscall.ENOENT) {
			errs = append(errs, fmt.Errorf("unmount %s: %w", point, err))
		}
	}
	return errors.Join(errs...)
}
