package teardown

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// mountsBelow lists the mount points at or below the folders, in the order in which they can be unmounted.
func mountsBelow(root string, dirs ...string) ([]string, error) {
	raw, err := os.ReadFile(filepath.Join(root, "proc/self/mountinfo"))
	if err != nil {
		return nil, fmt.Errorf("list mounts: %w", err)
	}
	var points []string
	for line := range strings.Lines(string(raw)) {
		fields := strings.Fields(line)
		if len(fields) < 5 {
			continue
		}
		point := unescape(fields[4])
		for _, dir := range dirs {
			if dir != "" && (point == dir || strings.HasPrefix(point, dir+"/")) {
				points = append([]string{point}, points...) // what was mounted later goes first
				break
			}
		}
	}
	return points, nil
}

// unescape undoes the kernel's octal escapes of space, tab, newline and backslash.
func unescape(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
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
