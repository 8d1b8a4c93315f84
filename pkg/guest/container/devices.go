package container

import (
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// addGuestDevices gives a privileged container the devices of its guest, as it would have its node's. Those that the
// description has stay as they are there.
func addGuestDevices(s *specs.Spec, dev string) error {
	have := map[string]bool{}
	for _, d := range s.Linux.Devices {
		have[d.Path] = true
	}
	found, err := guestDevices(dev)
	if err != nil {
		return fmt.Errorf("list devices of the guest: %w", err)
	}
	for _, d := range found {
		if !have[d.Path] {
			s.Linux.Devices = append(s.Linux.Devices, d)
		}
	}
	return nil
}

// guestDevices lists the device files below dir, except those that each container has of its own and the agent's port:
// whoever writes to that takes the Pod down.
func guestDevices(dir string) ([]specs.LinuxDevice, error) {
	var out []specs.LinuxDevice
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case e.IsDir() && (e.Name() == "pts" || e.Name() == "shm" || e.Name() == "mqueue"):
			return fs.SkipDir
		case e.Type()&fs.ModeDevice == 0, e.Name() == "console", strings.HasPrefix(e.Name(), "vport"):
			return nil
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		kind, mode := "c", fs.FileMode(st.Mode)&fs.ModePerm
		if st.Mode&unix.S_IFMT == unix.S_IFBLK {
			kind = "b"
		}
		out = append(out, specs.LinuxDevice{
			Path: filepath.Join("/dev", rel), Type: kind, FileMode: &mode, UID: &st.Uid, GID: &st.Gid,
			Major: int64(unix.Major(st.Rdev)), Minor: int64(unix.Minor(st.Rdev)),
		})
		return nil
	})
	return out, err
}
