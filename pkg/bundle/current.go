package bundle

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/nodeless/nodeless/pkg/hint"
)

// Names beside the unpacked bundles.
const (
	currentName  = "current"
	previousName = "previous"
	lockName     = ".lock"
)

// lock makes the folder and keeps other processes from changing it. The kernel drops the lock with the process.
func lock(bundles string) (unlock func(), err error) {
	if err := makeParents(bundles); err != nil {
		return nil, unwritable(bundles, err)
	}
	f, err := os.OpenFile(filepath.Join(bundles, lockName), os.O_CREATE|os.O_RDWR|syscall.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, unwritable(bundles, err)
	}
	for {
		err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX)
		if !errors.Is(err, syscall.EINTR) {
			break
		}
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", bundles, err), f.Close())
	}
	return func() { _ = f.Close() }, nil
}

// makeParents makes the data folder closed to other users, as the server does, and the bundles in it readable.
func makeParents(bundles string) error {
	if err := os.MkdirAll(filepath.Dir(bundles), 0o700); err != nil {
		return err
	}
	if err := os.Mkdir(bundles, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}

func unwritable(bundles string, err error) error {
	return &hint.Error{Op: "unpack bundle into", On: bundles, Err: err, Do: "run as root, or choose a folder that you can write with --data-dir"}
}

func isCurrent(bundles, hash string) bool {
	target, err := os.Readlink(filepath.Join(bundles, currentName))
	return err == nil && target == hash
}

// makeCurrent points `current` to hash and `previous` to what was current before.
func makeCurrent(bundles, hash string) error {
	old, err := os.Readlink(filepath.Join(bundles, currentName))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("read current bundle: %w", err)
	}
	if old == hash {
		return nil
	}
	if old != "" {
		if err := relink(bundles, previousName, old); err != nil {
			return err
		}
	}
	return relink(bundles, currentName, hash)
}

// relink replaces a link in one step.
func relink(bundles, name, target string) error {
	fresh := filepath.Join(bundles, tmpPrefix+name)
	if err := os.Remove(fresh); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("clear link: %w", err)
	}
	if err := os.Symlink(target, fresh); err != nil {
		return fmt.Errorf("make link: %w", err)
	}
	if err := os.Rename(fresh, filepath.Join(bundles, name)); err != nil {
		return fmt.Errorf("switch link: %w", err)
	}
	return nil
}

// RemoveUnused removes the bundles beside the current one from which no process runs any more, and names them: Pods outlive an upgrade of
// the server, and the bundle of before goes when its last Pod has gone. A folder that no Unpack has made is left alone.
func RemoveUnused(bundles string) (removed []string, err error) {
	if _, err := os.Readlink(filepath.Join(bundles, currentName)); err != nil {
		return nil, nil // a tree that was put there by other means, such as a build's
	}
	unlock, err := lock(bundles)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if removed, err = prune(bundles, ""); err != nil {
		return removed, err
	}
	before, err := previous(bundles)
	if err == nil && slices.Contains(removed, before) {
		err = os.Remove(filepath.Join(bundles, previousName))
	}
	return removed, err
}

// prune removes what killed processes left half-done, and bundles that are neither current nor kept, unless one has a running program.
func prune(bundles, kept string) (removed []string, err error) {
	entries, err := os.ReadDir(bundles)
	if err != nil {
		return nil, fmt.Errorf("list bundles: %w", err)
	}
	var running []string // filled when a bundle is to be removed
	for _, e := range entries {
		name := e.Name()
		half := strings.HasPrefix(name, tmpPrefix)
		if !e.IsDir() || name == kept || isCurrent(bundles, name) || (!half && !isHash(name)) {
			continue
		}
		dir := filepath.Join(bundles, name)
		if !half {
			if running == nil {
				running = runningFiles()
			}
			if anyBelow(running, dir) {
				continue
			}
		}
		if err := os.RemoveAll(dir); err != nil {
			return removed, fmt.Errorf("remove old bundle: %w", err)
		}
		removed = append(removed, name)
	}
	return removed, nil
}

// previous is the bundle that was current before, "" when there was none.
func previous(bundles string) (string, error) {
	name, err := os.Readlink(filepath.Join(bundles, previousName))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("read previous bundle: %w", err)
	}
	return name, nil
}

// isHash tells whether a name can be that of a bundle.
func isHash(name string) bool {
	_, err := hex.DecodeString(name)
	return err == nil && len(name) == hashLen
}

// runningFiles lists the executable of every process.
func runningFiles() []string {
	links, err := filepath.Glob("/proc/[0-9]*/exe")
	if err != nil {
		return nil
	}
	var files []string
	for _, link := range links {
		if file, err := os.Readlink(link); err == nil {
			files = append(files, file)
		}
	}
	return files
}

func anyBelow(files []string, dir string) bool {
	if real, err := filepath.EvalSymlinks(dir); err == nil {
		dir = real
	}
	for _, f := range files {
		if strings.HasPrefix(f, dir+"/") {
			return true
		}
	}
	return false
}
