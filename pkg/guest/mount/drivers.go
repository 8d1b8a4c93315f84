package mount

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// ErrUnsupported says that there is no driver of that name.
var ErrUnsupported = errors.New("unsupported storage driver")

// createDirectory is the option that asks for an overlay's upper and work directories.
const createDirectory = "io.katacontainers.volume.overlayfs.create_directory="

// Drivers that are not Kata's: pkg/guest/agent asks for them itself, and no host does.
const (
	DriverMemory = "memory" // a tmpfs that outlives its containers
	DriverWatch  = "watch"  // a copy of what the kubelet rewrites
	DriverPart   = "part"   // a part of a volume, whose path is the one driver option

	// OptionCreate has DriverPart make the part if it is not there.
	OptionCreate = "create"
)

type driver func(ctx context.Context, s Storage) (source string, err error)

// Drivers names the storage drivers, for the agent's self-description.
func Drivers() []string {
	return []string{"blk", "ephemeral", "local", "overlayfs", "virtio-fs", "watchable-bind", "bind"}
}

func (t *Table) driver(name string) (driver, error) {
	switch name {
	case "virtio-fs", "9p":
		return t.shared, nil
	case DriverMemory:
		return t.memory, nil
	case DriverWatch:
		return t.watch, nil
	case DriverPart:
		return t.part, nil
	case "bind":
		return t.bind, nil
	case "watchable-bind":
		return alias, nil
	case "ephemeral":
		return t.ephemeral, nil
	case "local":
		return t.directory, nil
	case "blk":
		return t.disk, nil
	case "overlayfs":
		return t.overlay, nil
	}
	return nil, fmt.Errorf("%w %q", ErrUnsupported, name)
}

// shared mounts a directory of the host.
func (t *Table) shared(_ context.Context, s Storage) (string, error) {
	flags, data := Flags(s.Options)
	if err := t.do.Mount(s.Source, s.MountPoint, s.FSType, flags, data); err != nil {
		return "", err
	}
	return s.MountPoint, t.do.Share(s.MountPoint)
}

func (t *Table) bind(_ context.Context, s Storage) (string, error) {
	flags, _ := Flags(s.Options)
	return s.MountPoint, t.do.Mount(s.Source, s.MountPoint, "", flags|unix.MS_BIND, "")
}

// alias mounts nothing: the container's mount is pointed at the shared directory itself, so that it
// sees updates at once. The host's separate mount point is only for agents that poll and copy.
func alias(_ context.Context, s Storage) (string, error) {
	return s.Source, nil
}

// ephemeral mounts a tmpfs or hugetlbfs that lives as long as the sandbox: an emptyDir survives its containers.
func (t *Table) ephemeral(_ context.Context, s Storage) (string, error) {
	gid, options := take(s.Options, "fsgid")
	flags, data := Flags(options)
	if s.FSType == "hugetlbfs" {
		if err := reservePages(data); err != nil {
			return "", err
		}
	}
	if err := t.do.Mount(s.Source, s.MountPoint, s.FSType, flags, data); err != nil {
		return "", err
	}
	t.Keep(s.MountPoint)
	return s.MountPoint, setGroup(s.MountPoint, gid)
}

// reservePages makes the kernel put aside the huge pages a hugetlbfs with these options may hold.
func reservePages(data string) error {
	page, rest := take([]string{data}, "pagesize")
	size, _ := take(rest, "size")
	pageBytes, err := strconv.ParseUint(page, 10, 64)
	if err != nil {
		return fmt.Errorf("parse huge page size %q: %w", page, err)
	}
	if pageBytes < 1<<10 {
		return fmt.Errorf("huge page size %q: no such pages", page)
	}
	bytes, err := strconv.ParseUint(size, 10, 64)
	if err != nil {
		return fmt.Errorf("parse huge page volume size %q: %w", size, err)
	}
	file := fmt.Sprintf("/sys/kernel/mm/hugepages/hugepages-%dkB/nr_hugepages", pageBytes>>10)
	raw, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("read reserved huge pages: %w", err)
	}
	have, err := strconv.ParseUint(strings.TrimSpace(string(raw)), 10, 64)
	if err != nil {
		return fmt.Errorf("read reserved huge pages: %w", err)
	}
	want := strconv.FormatUint(have+bytes/pageBytes, 10)
	if err := os.WriteFile(file, []byte(want), 0o644); err != nil {
		return fmt.Errorf("reserve huge pages: %w", err)
	}
	return nil
}

// directory makes a directory on the guest's own disk. The mount point the host names lies inside the
// shared directory, where an emptyDir would end up on the host.
func (t *Table) directory(_ context.Context, s Storage) (string, error) {
	gid, options := take(s.Options, "fsgid")
	mode, _ := take(options, "mode")
	perm, err := strconv.ParseUint(mode, 8, 12)
	if err != nil {
		perm = 0o777
	}
	dir := filepath.Join(t.local, filepath.Base(s.MountPoint))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("make local directory: %w", err)
	}
	if err := os.Chmod(dir, fs.FileMode(perm)); err != nil {
		return "", fmt.Errorf("open up local directory: %w", err)
	}
	t.Keep(s.MountPoint)
	return dir, setGroup(dir, gid)
}

// mountDisk mounts a disk that has just appeared. The kernel shows a disk in sysfs, then makes its node (ENOENT until it has),
// then lets it be opened (ENXIO; device_add_disk). On a busy host those moments are long. The mount point is there: Mount makes it.
func (t *Table) mountDisk(ctx context.Context, node string, s Storage, flags uintptr, data string) error {
	_, err := await(ctx, func() (struct{}, error) {
		err := t.do.Mount(node, s.MountPoint, s.FSType, flags, data)
		if errors.Is(err, unix.ENXIO) || errors.Is(err, unix.ENOENT) {
			err = fmt.Errorf("%w: %w", ErrNoDevice, err)
		}
		return struct{}{}, err
	})
	return err
}

// disk mounts a hot-plugged disk. A raw mount point ("bind") is the device node itself.
func (t *Table) disk(ctx context.Context, s Storage) (string, error) {
	d, err := WaitDisk(ctx, t.sys, s.Source)
	if err != nil {
		return "", err
	}
	if s.FSType == "bind" {
		return d.Path(), nil
	}
	flags, data := Flags(s.Options)
	if err := t.mountDisk(ctx, d.Path(), s, flags, data); err != nil {
		return "", err
	}
	if s.Group == nil {
		return s.MountPoint, nil
	}
	if err := s.Group.own(s.MountPoint); err != nil {
		return "", errors.Join(err, t.do.Unmount(s.MountPoint))
	}
	return s.MountPoint, nil
}

func (t *Table) overlay(_ context.Context, s Storage) (string, error) {
	for _, o := range s.DriverOptions {
		if dir, ok := strings.CutPrefix(o, createDirectory); ok {
			if err := os.MkdirAll(dir, 0o755); err != nil {
				return "", fmt.Errorf("make overlay directory: %w", err)
			}
		}
	}
	flags, data := Flags(s.Options)
	return s.MountPoint, t.do.Mount("overlay", s.MountPoint, "overlay", flags, data)
}

// setGroup gives a directory to a group the way Kubernetes does for an fsGroup.
func setGroup(dir, gid string) error {
	if gid == "" {
		return nil
	}
	id, err := strconv.ParseUint(gid, 10, 31)
	if err != nil {
		return fmt.Errorf("parse group %q: %w", gid, err)
	}
	if err := os.Chown(dir, -1, int(id)); err != nil {
		return fmt.Errorf("give volume to group %d: %w", id, err)
	}
	info, err := os.Stat(dir)
	if err != nil {
		return fmt.Errorf("give volume to group %d: %w", id, err)
	}
	return os.Chmod(dir, info.Mode()|fs.ModeSetgid|0o070)
}

// own gives a volume and all in it to the group, never following a symbolic link out of it.
func (g *Group) own(dir string) error {
	info, err := os.Stat(dir)
	if err != nil {
		return fmt.Errorf("give volume to group %d: %w", g.ID, err)
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if g.OnMismatch && ok && st.Gid == g.ID && info.Mode()&fs.ModeSetgid != 0 {
		return nil
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return fmt.Errorf("give volume to group %d: %w", g.ID, err)
	}
	defer root.Close()
	return fs.WalkDir(root.FS(), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if err := root.Lchown(name, -1, int(g.ID)); err != nil {
			return err
		}
		if d.Type()&fs.ModeSymlink != 0 {
			return nil
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		mode := info.Mode() | 0o060
		if d.IsDir() {
			mode |= fs.ModeSetgid | 0o010
		}
		return root.Chmod(name, mode)
	})
}
