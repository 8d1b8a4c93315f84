package main

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// mountPoint is a line of /proc/self/mountinfo.
type mountPoint struct {
	device string // major:minor
	root   string // of the mount, within its file system
	point  string // where it is mounted
	fstype string
}

func hostMounts() ([]mountPoint, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return parseMounts(f)
}

// parseMounts reads lines such as "36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue".
func parseMounts(r io.Reader) ([]mountPoint, error) {
	var table []mountPoint
	scan := bufio.NewScanner(r)
	scan.Buffer(nil, 1<<20) // an overlay's options name all its layers
	for scan.Scan() {
		place, kind, ok := strings.Cut(scan.Text(), " - ")
		fields := strings.Fields(place)
		if !ok || len(fields) < 5 {
			continue
		}
		fstype, _, _ := strings.Cut(kind, " ")
		table = append(table, mountPoint{device: fields[2], root: unescape.Replace(fields[3]), point: unescape.Replace(fields[4]), fstype: fstype})
	}
	return table, scan.Err()
}

// unescape undoes what the kernel does to characters that would break a line apart.
var unescape = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)

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
