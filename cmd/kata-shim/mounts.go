package main

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/moby/sys/mountinfo"
)

// mountPoint is a line of /proc/self/mountinfo.
type mountPoint struct {
	device string // major:minor
	root   string // of the mount, within its file system
	point  string // where it is mounted
	fstype string
	lower  string // of an overlay over a single folder, that folder
}

func hostMounts() ([]mountPoint, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return parseMounts(f)
}

func parseMounts(r io.Reader) ([]mountPoint, error) {
	infos, err := mountinfo.GetMountsFromReader(r, nil)
	if err != nil {
		return nil, err
	}
	table := make([]mountPoint, 0, len(infos))
	for _, m := range infos {
		table = append(table, mountPoint{device: fmt.Sprintf("%d:%d", m.Major, m.Minor), root: m.Root, point: m.Mountpoint, fstype: m.FSType, lower: lowerOf(m)})
	}
	return table, nil
}

// lowerOf is the folder below an overlay, empty if it is none or there are several.
func lowerOf(m *mountinfo.Info) string {
	if m.FSType != "overlay" {
		return ""
	}
	lower := ""
	for option := range strings.SplitSeq(m.VFSOptions, ",") {
		name, value, _ := strings.Cut(option, "=")
		if name != "lowerdir" && name != "lowerdir+" && name != "datadir+" {
			continue
		}
		if lower != "" || strings.ContainsAny(value, ":\\") {
			return "" // several, or a name that is written in another way
		}
		lower = value
	}
	return lower
}

// mountOf finds the mount that a path lies on, the topmost one of several.
func mountOf(table []mountPoint, path string) (found mountPoint, ok bool) {
	for _, m := range table {
		if path != m.point && m.point != "/" && !strings.HasPrefix(path, m.point+"/") {
			continue
		}
		if !ok || len(m.point) >= len(found.point) {
			found, ok = m, true
		}
	}
	return found, ok
}

// filesystemAt is the type of the file system mounted at a path itself, empty if none is.
func filesystemAt(table []mountPoint, path string) string {
	if m, ok := mountOf(table, path); ok && m.point == path {
		return m.fstype
	}
	return ""
}

// hostName names a directory of the host in the shared directory.
func hostName(dir string, ro bool) string {
	sum := sha256.Sum256([]byte(dir))
	name := "host~" + hex.EncodeToString(sum[:8])
	if ro {
		name += "~ro"
	}
	return name
}

// replaceFile writes a file whole or not at all, with the permissions it has.
func replaceFile(path string, content []byte) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	tmp := filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+".new")
	if err := os.WriteFile(tmp, content, info.Mode().Perm()); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}
