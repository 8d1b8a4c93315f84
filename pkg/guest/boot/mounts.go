package boot

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// newRoot is where the root file system is mounted once more.
const newRoot = "/root"

type fileSystem struct {
	source, target, fstype string
	flags                  uintptr
	data                   string
}

const safe = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC

// kernelFileSystems are mounted in this order.
var kernelFileSystems = [...]fileSystem{
	{"proc", "/proc", "proc", safe, ""},
	{"sysfs", "/sys", "sysfs", safe, ""},
	{"dev", "/dev", "devtmpfs", unix.MS_NOSUID, "mode=0755"},
	{"devpts", "/dev/pts", "devpts", unix.MS_NOSUID | unix.MS_NOEXEC, "gid=5,mode=0620,ptmxmode=0666"},
	{"tmpfs", "/dev/shm", "tmpfs", safe, "mode=1777"},
	{"tmpfs", "/run", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=0755"},
	{"tmpfs", "/tmp", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=1777"},
	{"cgroup2", "/sys/fs/cgroup", "cgroup2", safe, "nsdelegate"},
}

// Mounts mounts the kernel's file systems, after it has made the root one that containers can pivot
// away from. It must come first: without it there is neither /proc nor a console.
func Mounts() error {
	if err := moveRoot(); err != nil {
		return err
	}
	for _, f := range kernelFileSystems {
		if err := os.MkdirAll(f.target, 0o755); err != nil {
			return fmt.Errorf("mount %s: %w", f.target, err)
		}
		if err := unix.Mount(f.source, f.target, f.fstype, f.flags, f.data); err != nil && !errors.Is(err, unix.EBUSY) {
			return fmt.Errorf("mount %s: %w", f.target, err)
		}
	}
	if err := os.MkdirAll("/etc", 0o755); err != nil {
		return fmt.Errorf("make /etc: %w", err)
	}
	for link, target := range map[string]string{
		"/dev/fd": "/proc/self/fd", "/dev/stdin": "/proc/self/fd/0",
		"/dev/stdout": "/proc/self/fd/1", "/dev/stderr": "/proc/self/fd/2",
	} {
		if err := os.Symlink(target, link); err != nil && !errors.Is(err, os.ErrExist) {
			return fmt.Errorf("link %s: %w", link, err)
		}
	}
	return nil
}

// moveRoot mounts the root over itself. pivot_root(2) refuses to leave the initramfs, since nothing lies
// below it; with a bind mount of it on top, containers get a real pivot_root instead of a chroot.
func moveRoot() error {
	if err := os.MkdirAll(newRoot, 0o700); err != nil {
		return fmt.Errorf("move root: %w", err)
	}
	if err := unix.Mount("/", newRoot, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("move root: bind: %w", err)
	}
	if err := unix.Chdir(newRoot); err != nil {
		return fmt.Errorf("move root: %w", err)
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("move root: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return fmt.Errorf("move root: chroot: %w", err)
	}
	return unix.Chdir("/")
}

// enableControllers hands all controllers of the root cgroup to its children.
func enableControllers() error {
	const root = "/sys/fs/cgroup"
	raw, err := os.ReadFile(root + "/cgroup.controllers")
	if err != nil {
		return fmt.Errorf("list cgroup controllers: %w", err)
	}
	var on strings.Builder
	for c := range strings.FieldsSeq(string(raw)) {
		on.WriteString(" +" + c)
	}
	if err := os.WriteFile(root+"/cgroup.subtree_control", []byte(on.String()), 0o644); err != nil {
		return fmt.Errorf("enable cgroup controllers: %w", err)
	}
	return nil
}
