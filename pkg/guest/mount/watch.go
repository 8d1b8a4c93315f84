package mount

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A volume that the kubelet writes (ConfigMap, Secret, projected, downward API) has all its content in one folder, to which
// a link points; to change it the kubelet makes another folder and replaces the link in one step:
//
//	..2026_11_24_22_09_44.123/colour    the content
//	..data -> ..2026_11_24_22_09_44.123
//	colour -> ..data/colour
//
// Through the shared directory that step is not one: the guest remembers for a second where the link led, while the folder
// there is already gone; and no notice of a change reaches a program that waits for one (inotify). So containers get a copy
// in the guest's memory, which is brought up to date in the same way.
const (
	dataLink = "..data"
	newLink  = "..data_tmp"

	watchPause = 2 * time.Second // the kubelet itself looks once a minute
	firstWait  = 10 * time.Second
)

// errChanging says that the kubelet was at work while a volume was read.
var errChanging = errors.New("volume is being changed")

// watched is a volume and its copy.
type watched struct {
	source, copy string
	current      string // where the source's link led when the copy was made
}

// watch copies a volume and keeps the copy up to date from then on.
func (t *Table) watch(ctx context.Context, s Storage) (string, error) {
	// In memory: a Secret must not reach a disk.
	if err := t.do.Mount("tmpfs", s.MountPoint, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0755"); err != nil {
		return "", err
	}
	w := &watched{source: s.Source, copy: s.MountPoint}
	if err := w.first(ctx); err != nil {
		return "", errors.Join(err, t.do.Unmount(s.MountPoint))
	}
	t.Keep(s.MountPoint)
	t.watchMu.Lock()
	defer t.watchMu.Unlock()
	t.watches = append(t.watches, w)
	if len(t.watches) == 1 {
		go t.follow(time.Tick(watchPause))
	}
	return s.MountPoint, nil
}

// follow brings all copies up to date at each tick, as long as the guest lives.
func (t *Table) follow(ticks <-chan time.Time) {
	for range ticks {
		t.watchMu.Lock()
		all := t.watches
		t.watchMu.Unlock()
		for _, w := range all {
			_ = w.sync() // what could not be read now is read at the next tick
		}
	}
}

// first makes the copy, whatever the kubelet is doing.
func (w *watched) first(ctx context.Context) error {
	if err := sameOwner(w.source, w.copy); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, firstWait)
	defer cancel()
	_, err := repeat(ctx, func() (struct{}, error) { return struct{}{}, w.sync() }, func(err error) bool {
		return errors.Is(err, errChanging) || errors.Is(err, fs.ErrNotExist)
	})
	return err
}

// sync makes the copy equal to the source if the source has changed. Like the kubelet it first makes the new content, then
// moves the link, then adds and removes names, then the old content.
func (w *watched) sync() error {
	target, err := os.Readlink(filepath.Join(w.source, dataLink))
	if errors.Is(err, fs.ErrNotExist) && w.current == "" {
		return nil // an optional source that is not there yet
	}
	if err != nil || target == w.current {
		return err
	}
	if !filepath.IsLocal(target) || strings.Contains(target, "/") {
		return fmt.Errorf("volume %s: its content is at %q", w.source, target)
	}
	fresh := filepath.Join(w.copy, target)
	if err := copyTree(filepath.Join(w.source, target), fresh); err != nil {
		return errors.Join(err, os.RemoveAll(fresh))
	}
	if again, err := os.Readlink(filepath.Join(w.source, dataLink)); err != nil || again != target {
		return errors.Join(errChanging, err, os.RemoveAll(fresh))
	}
	tmp := filepath.Join(w.copy, newLink)
	if err := os.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Symlink(target, tmp); err != nil {
		return err
	}
	if err := os.Rename(tmp, filepath.Join(w.copy, dataLink)); err != nil {
		return err
	}
	old := w.current
	w.current = target
	if err := w.names(fresh); err != nil || old == "" {
		return err
	}
	return os.RemoveAll(filepath.Join(w.copy, old))
}

// names makes the names that users see be those of the content.
func (w *watched) names(content string) error {
	wanted, err := os.ReadDir(content)
	if err != nil {
		return err
	}
	have, err := os.ReadDir(w.copy)
	if err != nil {
		return err
	}
	obsolete := map[string]bool{}
	for _, e := range have {
		if e.Type()&fs.ModeSymlink != 0 && e.Name() != dataLink {
			obsolete[e.Name()] = true
		}
	}
	for _, e := range wanted {
		if obsolete[e.Name()] {
			delete(obsolete, e.Name())
			continue
		}
		if err := os.Symlink(filepath.Join(dataLink, e.Name()), filepath.Join(w.copy, e.Name())); err != nil {
			return err
		}
	}
	for name := range obsolete {
		if err := os.Remove(filepath.Join(w.copy, name)); err != nil {
			return err
		}
	}
	return nil
}

// copyTree copies directories and files with their owners and permissions; the kubelet puts nothing else there.
func copyTree(from, to string) error {
	info, err := os.Lstat(from)
	if err != nil {
		return err
	}
	if info.Mode().IsRegular() {
		if err := copyFile(from, to); err != nil {
			return err
		}
		return sameOwner(from, to)
	}
	if !info.IsDir() {
		return nil
	}
	if err := os.Mkdir(to, 0o700); err != nil {
		return err
	}
	entries, err := os.ReadDir(from)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := copyTree(filepath.Join(from, e.Name()), filepath.Join(to, e.Name())); err != nil {
			return err
		}
	}
	return sameOwner(from, to)
}

func copyFile(from, to string) (err error) {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	_, err = io.Copy(out, in)
	return err
}

// sameOwner gives a copy the owner and permissions of what it is a copy of.
func sameOwner(from, to string) error {
	info, err := os.Stat(from)
	if err != nil {
		return err
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		if err := os.Chown(to, int(st.Uid), int(st.Gid)); err != nil {
			return err
		}
	}
	return os.Chmod(to, info.Mode())
}
