package teardown

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/nodeless/nodeless/pkg/contract"
)

// cgroupDirs lists the folder of the cgroup name in each hierarchy below root, with all below it, children first.
// With sandbox only the Kata cgroups of that sandbox are listed.
func cgroupDirs(root, name, sandbox string) []string {
	base := filepath.Join(root, "sys/fs/cgroup")
	tops := []string{filepath.Join(base, name)} // cgroup v2
	if entries, err := os.ReadDir(base); err == nil {
		for _, e := range entries {
			if e.IsDir() {
				tops = append(tops, filepath.Join(base, e.Name(), name)) // one hierarchy of v1
			}
		}
	}
	var dirs []string
	for _, top := range tops {
		_ = filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() && (sandbox == "" || strings.Contains(path, "/"+contract.Cgroup+sandbox)) {
				dirs = append([]string{path}, dirs...)
			}
			return nil // cgroups come and go while we look
		})
	}
	return dirs
}

// removeDirs removes folders that are, or soon will be, empty: a killed process leaves its cgroup only when the
// memory of its microVM is freed.
func removeDirs(dirs []string) error {
	deadline := time.Now().Add(killTimeout)
	var errs []error
	for _, dir := range dirs {
		err := syscall.Rmdir(dir)
		for errors.Is(err, syscall.EBUSY) && time.Now().Before(deadline) {
			time.Sleep(pollInterval)
			err = syscall.Rmdir(dir)
		}
		if err != nil && !errors.Is(err, syscall.ENOENT) {
			errs = append(errs, fmt.Errorf("remove cgroup %s: %w", dir, err))
		}
	}
	return errors.Join(errs...)
}
