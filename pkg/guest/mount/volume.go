package mount

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"
)

// memory mounts the tmpfs of a Pod's volume, which outlives its containers. A size beyond the guest's memory, which the kubelet
// gives a volume without a limit in a Pod without one, becomes the kernel's default of half of it.
func (t *Table) memory(_ context.Context, s Storage) (string, error) {
	size, options := take(s.Options, "size")
	n, err := strconv.ParseUint(size, 10, 64)
	if err != nil {
		return "", fmt.Errorf("parse size of tmpfs %q: %w", size, err)
	}
	if n < t.do.Memory() {
		options = append(options, "size="+size)
	}
	flags, data := Flags(options)
	if err := t.do.Mount(s.Source, s.MountPoint, s.FSType, flags, data); err != nil {
		return "", err
	}
	t.Keep(s.MountPoint)
	return s.MountPoint, t.do.Share(s.MountPoint)
}

// part mounts a part of a volume, a directory or a file. The volume is in the hands of containers, which may put a link where
// the directory was, so no link is followed on the way to it.
func (t *Table) part(_ context.Context, s Storage) (string, error) {
	if len(s.DriverOptions) != 1 {
		return "", errors.New("part of a volume without its path")
	}
	sub := s.DriverOptions[0]
	if slices.Contains(s.Options, OptionCreate) {
		if err := createPart(s.Source, sub); err != nil {
			return "", err
		}
	}
	return s.MountPoint, t.do.BindPart(s.Source, sub, s.MountPoint)
}

// createPart makes a directory of a volume, and those above, as the kubelet would: with the volume's own permissions.
func createPart(volume, sub string) error {
	root, err := os.OpenRoot(volume)
	if err != nil {
		return err
	}
	defer root.Close()
	if _, err := root.Lstat(sub); err == nil {
		return nil // what a container has put there may also be a file
	}
	info, err := root.Stat(".")
	if err != nil {
		return err
	}
	if err := root.MkdirAll(sub, 0o755); err != nil {
		return err
	}
	for dir := sub; dir != "."; dir = path.Dir(dir) {
		if err := root.Chmod(dir, info.Mode()&(fs.ModePerm|fs.ModeSetgid)); err != nil {
			return err
		}
	}
	return nil
}

// BindPart mounts volume/sub on target.
func (kernel) BindPart(volume, sub, target string) error {
	base, err := unix.Open(volume, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: volume, Err: err}
	}
	defer unix.Close(base)
	part, err := unix.Openat2(base, sub, &unix.OpenHow{
		Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS,
	})
	if err != nil {
		return &os.PathError{Op: "open", Path: filepath.Join(volume, sub), Err: err}
	}
	defer unix.Close(part)
	var st unix.Stat_t
	if err := unix.Fstat(part, &st); err != nil {
		return os.NewSyscallError("stat", err)
	}
	if err := makePoint(target, st.Mode&unix.S_IFMT == unix.S_IFDIR); err != nil {
		return err
	}
	err = unix.Mount("/proc/self/fd/"+strconv.Itoa(part), target, "", unix.MS_BIND|unix.MS_REC, "")
	return os.NewSyscallError("mount", err)
}

// makePoint makes what a directory or a file can be mounted on.
func makePoint(target string, dir bool) error {
	if dir {
		return os.MkdirAll(target, 0o755)
	}
	if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
		return err
	}
	f, err := os.OpenFile(target, os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	return f.Close()
}

// Share lets mounts that one container makes in a volume appear in the others, if both ask for it.
func (kernel) Share(target string) error {
	return os.NewSyscallError("mount", unix.Mount("", target, "", unix.MS_SHARED, ""))
}

// Memory is how much the guest has.
func (kernel) Memory() uint64 {
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) != nil {
		return 0
	}
	return info.Totalram * uint64(info.Unit)
}
