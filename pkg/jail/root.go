package jail

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Where the devices of a jail are, and its processes.
const (
	deviceDir = "/dev"
	procDir   = "/proc"
)

// Attributes of mounts.
const (
	plain    = unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC
	readOnly = unix.MOUNT_ATTR_RDONLY
)

// tree is a mount that has no place yet.
type tree struct {
	fd   int
	path string // where it goes
	dir  bool
}

// enterRoot makes the jail's root the root of this process and lets go of the host's.
func (p Plan) enterRoot() error {
	// Nothing that is mounted here reaches the host. The other way is left open for what is shown with its mounts.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return fmt.Errorf("keep mounts to itself: %w", err)
	}
	unix.Umask(0)
	var shown []tree
	for _, s := range p.Shown {
		t, err := s.take()
		if err != nil {
			return err
		}
		shown = append(shown, t)
	}
	nodes, err := readDevices(p.Devices)
	if err != nil {
		return err
	}
	root, err := newFolder(plain)
	if err != nil {
		return err
	}
	if err := unix.MoveMount(root, "", unix.AT_FDCWD, "/", unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("mount a root: %w", err)
	}
	if err := unix.Fchdir(root); err != nil {
		return fmt.Errorf("go to the new root: %w", err)
	}
	for _, t := range shown {
		if err := t.place(); err != nil {
			return fmt.Errorf("show %s: %w", t.path, err)
		}
	}
	if err := p.makeLinks(); err != nil {
		return err
	}
	if err := p.makeDevices(nodes); err != nil {
		return err
	}
	if p.Proc {
		if err := mountProc(); err != nil {
			return err
		}
	}
	if err := unix.MountSetattr(root, "", unix.AT_EMPTY_PATH, &unix.MountAttr{Attr_set: readOnly}); err != nil {
		return fmt.Errorf("make the root read-only: %w", err)
	}
	unix.Umask(0o077)
	return leaveOldRoot()
}

// take opens what is shown as a mount of its own, with as few rights as it needs.
func (s Shown) take() (tree, error) {
	below, from := uint(0), uint64(unix.MS_PRIVATE)
	if s.Mounts {
		below, from = unix.AT_RECURSIVE, unix.MS_SLAVE
	}
	fd := s.Tree
	if fd == 0 {
		var err error
		if fd, err = unix.OpenTree(unix.AT_FDCWD, s.Path, unix.OPEN_TREE_CLONE|unix.O_CLOEXEC|below); err != nil {
			return tree{}, fmt.Errorf("show %s: %w", s.Path, err)
		}
	}
	attr := uint64(plain | readOnly)
	if s.Programs {
		attr &^= unix.MOUNT_ATTR_NOEXEC
	}
	if s.Writable {
		attr &^= readOnly
	}
	var st unix.Stat_t
	if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH|below, &unix.MountAttr{Attr_set: attr, Propagation: from}); err != nil {
		return tree{}, fmt.Errorf("take rights from %s: %w", s.Path, err)
	}
	if err := unix.Fstat(fd, &st); err != nil {
		return tree{}, fmt.Errorf("show %s: %w", s.Path, err)
	}
	return tree{fd: fd, path: s.Path, dir: st.Mode&unix.S_IFMT == unix.S_IFDIR}, nil
}

// place mounts a tree below the working folder, at the path that it has on the host.
func (t tree) place() error {
	at := strings.TrimPrefix(t.path, "/")
	parent := filepath.Dir(at)
	if t.dir {
		parent = at
	}
	if err := os.MkdirAll(parent, 0o755); err != nil {
		return err
	}
	if !t.dir {
		if err := os.WriteFile(at, nil, 0o444); err != nil {
			return err
		}
	}
	if err := unix.MoveMount(t.fd, "", unix.AT_FDCWD, at, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return err
	}
	return unix.Close(t.fd)
}

// newFolder is an empty file system in memory that has no place yet. It holds folders and names only.
func newFolder(attr int) (int, error) {
	fs, err := unix.Fsopen("tmpfs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return 0, fmt.Errorf("make an empty file system: %w", err)
	}
	defer unix.Close(fs) //nolint:errcheck // only a handle
	for _, option := range [][2]string{{"mode", "0755"}, {"size", "64k"}, {"nr_inodes", "256"}} {
		if err := unix.FsconfigSetString(fs, option[0], option[1]); err != nil {
			return 0, fmt.Errorf("make an empty file system: %s: %w", option[0], err)
		}
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return 0, fmt.Errorf("make an empty file system: %w", err)
	}
	fd, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, attr)
	if err != nil {
		return 0, fmt.Errorf("make an empty file system: %w", err)
	}
	return fd, nil
}

// mountProc gives the jail a /proc to read, with no process of the host. What it tells of the host itself (processors, sizes, settings) an
// empty file system could not stand for: virtiofsd does not start without /proc/sys/fs/nr_open.
func mountProc() error {
	fs, err := unix.Fsopen("proc", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return fmt.Errorf("make a /proc: %w", err)
	}
	defer unix.Close(fs) //nolint:errcheck // only a handle
	if err := unix.FsconfigCreate(fs); err != nil {
		return fmt.Errorf("make a /proc: %w", err)
	}
	fd, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, plain|readOnly)
	if err != nil {
		return fmt.Errorf("make a /proc: %w", err)
	}
	return tree{fd: fd, path: procDir, dir: true}.place()
}

// node is a device.
type node struct {
	name   string // below deviceDir
	kind   uint32 // unix.S_IFCHR or unix.S_IFBLK
	number int
}

// readDevices finds out which devices the host has at the paths.
func readDevices(paths []string) ([]node, error) {
	var nodes []node
	for _, path := range paths {
		var st unix.Stat_t
		if err := unix.Stat(path, &st); err != nil {
			return nil, fmt.Errorf("find device %s: %w", path, err)
		}
		kind := st.Mode & unix.S_IFMT
		if kind != unix.S_IFCHR && kind != unix.S_IFBLK {
			return nil, fmt.Errorf("%s is not a device", path)
		}
		nodes = append(nodes, node{name: strings.TrimPrefix(path, deviceDir+"/"), kind: kind, number: int(st.Rdev)})
	}
	return nodes, nil
}

// makeDevices makes nodes for the user alone, in a file system that is the only one of the jail with devices. Whose they are on the host
// does not matter.
func (p Plan) makeDevices(nodes []node) error {
	if len(nodes) == 0 {
		return nil
	}
	dir, err := newFolder(unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NOEXEC)
	if err != nil {
		return err
	}
	for _, n := range nodes {
		if folder, _, nested := strings.Cut(n.name, "/"); nested {
			if err := unix.Mkdirat(dir, folder, 0o755); err != nil && !errors.Is(err, unix.EEXIST) {
				return fmt.Errorf("make a folder of devices: %w", err)
			}
		}
		if err := unix.Mknodat(dir, n.name, n.kind|0o600, n.number); err != nil {
			return fmt.Errorf("make device %s: %w", n.name, err)
		}
		if err := unix.Fchownat(dir, n.name, p.User, p.User, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return fmt.Errorf("give device %s away: %w", n.name, err)
		}
	}
	if err := unix.MountSetattr(dir, "", unix.AT_EMPTY_PATH, &unix.MountAttr{Attr_set: readOnly}); err != nil {
		return fmt.Errorf("make the devices read-only: %w", err)
	}
	if err := (tree{fd: dir, path: deviceDir, dir: true}).place(); err != nil {
		return fmt.Errorf("mount the devices: %w", err)
	}
	return nil
}

// makeLinks makes links below the working folder.
func (p Plan) makeLinks() error {
	for _, l := range p.Links {
		at := strings.TrimPrefix(l.Path, "/")
		err := os.MkdirAll(filepath.Dir(at), 0o755)
		if err == nil {
			err = os.Symlink(l.Target, at)
		}
		if err != nil {
			return fmt.Errorf("make link %s: %w", l.Path, err)
		}
	}
	return nil
}

// leaveOldRoot makes the working folder the root. The old root lies below it for a moment, and is let go of with all that is mounted there.
func leaveOldRoot() error {
	old, err := unix.Open("/", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open the old root: %w", err)
	}
	defer unix.Close(old) //nolint:errcheck // a mere path
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("change the root: %w", err)
	}
	if err := unix.Fchdir(old); err != nil {
		return fmt.Errorf("go to the old root: %w", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("let go of the old root: %w", err)
	}
	if err := unix.Chdir("/"); err != nil {
		return fmt.Errorf("go to the new root: %w", err)
	}
	return nil
}
