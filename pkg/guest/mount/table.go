package mount

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// Storage describes something to mount, as the host sends it.
type Storage struct {
	Driver        string
	DriverOptions []string
	Source        string
	FSType        string
	Options       []string
	MountPoint    string
	Group         *Group
}

// Group asks that a volume belongs to a group.
type Group struct {
	ID         uint32
	OnMismatch bool // only when the volume's root does not belong to it yet
}

// Table mounts storages and counts who uses them: a host repeats the message for a layer shared by
// several containers, and takes the disk away when the last of them has gone.
type Table struct {
	sys   fs.FS
	local string // where directories local to the guest live
	do    system

	mu      sync.Mutex
	entries map[string]*entry // by mount point, guarded by mu

	watchMu sync.Mutex
	watches []*watched // guarded by watchMu
}

// system is what a Table does to the guest.
type system interface {
	Mount(source, target, fstype string, flags uintptr, data string) error
	Unmount(target string) error
	BindPart(volume, sub, target string) error
	Share(target string) error
	Memory() uint64
}

type entry struct {
	refs int // guarded by Table.mu

	mu     sync.Mutex // held while mounting
	ready  bool       // guarded by mu
	source string     // guarded by mu
}

// NewTable returns an empty Table. Directories of the "local" driver are made below local.
func NewTable(sys fs.FS, local string) *Table {
	return newTable(sys, local, kernel{})
}

func newTable(sys fs.FS, local string, do system) *Table {
	return &Table{sys: sys, local: local, do: do, entries: map[string]*entry{}}
}

// Mount makes the storage available, or counts one more user of it. It returns where its content is
// found: the mount point, or another directory when nothing had to be mounted.
func (t *Table) Mount(ctx context.Context, s Storage) (source string, err error) {
	drive, err := t.driver(s.Driver)
	if err != nil {
		return "", err
	}
	t.mu.Lock()
	e := t.entries[s.MountPoint]
	if e == nil {
		e = &entry{}
		t.entries[s.MountPoint] = e
	}
	e.refs++
	t.mu.Unlock()
	defer func() {
		if err != nil {
			err = errors.Join(err, t.Release(s.MountPoint))
		}
	}()
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.ready {
		return e.source, nil
	}
	if e.source, err = drive(ctx, s); err != nil {
		return "", fmt.Errorf("mount %s storage %s on %s: %w", s.Driver, s.Source, s.MountPoint, err)
	}
	e.ready = true
	return e.source, nil
}

// Release counts one user less and unmounts after the last one. Releasing what is not mounted is success.
func (t *Table) Release(mountPoint string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	e := t.entries[mountPoint]
	if e == nil {
		return nil
	}
	if e.refs--; e.refs > 0 {
		return nil
	}
	delete(t.entries, mountPoint)
	if err := t.do.Unmount(mountPoint); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("unmount %s: %w", mountPoint, err)
	}
	return nil
}

// Keep makes a storage outlive its users: it counts one that never leaves.
func (t *Table) Keep(mountPoint string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if e := t.entries[mountPoint]; e != nil {
		e.refs++
	}
}

// kernel is the real system.
type kernel struct{}

// Mount is mount(2) on a directory made if missing. A bind mount takes its other flags by a second call.
func (kernel) Mount(source, target, fstype string, flags uintptr, data string) error {
	if err := os.MkdirAll(target, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(source, target, fstype, flags, data); err != nil {
		return os.NewSyscallError("mount", err)
	}
	const plain = unix.MS_BIND | unix.MS_REC | unix.MS_REMOUNT
	if flags&unix.MS_BIND == 0 || flags&^plain == 0 {
		return nil
	}
	err := unix.Mount("", target, "", flags&^unix.MS_REC|unix.MS_REMOUNT, "")
	return os.NewSyscallError("remount", err)
}

// Unmount detaches at once; the disk below is free when its last file is closed.
func (kernel) Unmount(target string) error {
	err := unix.Unmount(target, unix.UMOUNT_NOFOLLOW)
	if errors.Is(err, unix.EBUSY) {
		err = unix.Unmount(target, unix.UMOUNT_NOFOLLOW|unix.MNT_DETACH)
	}
	return err
}
