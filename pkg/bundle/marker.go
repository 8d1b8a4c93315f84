package bundle

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/nodeless/nodeless/pkg/atomicfile"
)

// markerName is the file that an unpacked bundle has when it is whole. It notes size and time of every file, so
// that a later start sees in a millisecond that nobody touched one.
const markerName = ".unpacked"

// errUnmarked means that a folder is missing, or holds a tree that Unpack did not finish.
var errUnmarked = errors.New("not unpacked completely")

// errTouched means that a file's size or time is not what it was when the tree was unpacked or last verified.
var errTouched = errors.New("changed since it was unpacked")

// writeMarker declares the tree at dir whole.
func writeMarker(dir string, m Manifest) error {
	var lines strings.Builder
	for _, name := range append(m.paths(), ManifestName) {
		info, err := os.Lstat(filepath.Join(dir, name))
		if err != nil {
			return fmt.Errorf("mark bundle: %w", err)
		}
		fmt.Fprintf(&lines, "%d %d %s\n", info.Size(), info.ModTime().UnixNano(), name)
	}
	return atomicfile.Write(filepath.Join(dir, markerName), []byte(lines.String()), 0o644)
}

// checkMarker compares the tree at dir with its marker: nil, errUnmarked, or an error that names the changed file.
func checkMarker(dir string) error {
	raw, err := os.ReadFile(filepath.Join(dir, markerName))
	if errors.Is(err, fs.ErrNotExist) {
		return errUnmarked
	}
	if err != nil {
		return fmt.Errorf("read bundle marker: %w", err)
	}
	for line := range strings.Lines(string(raw)) {
		size, rest, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		mtime, name, _ := strings.Cut(rest, " ")
		info, err := os.Lstat(filepath.Join(dir, name))
		if err != nil {
			return err
		}
		if size != strconv.FormatInt(info.Size(), 10) || mtime != strconv.FormatInt(info.ModTime().UnixNano(), 10) {
			return fmt.Errorf("%s: %w", name, errTouched)
		}
	}
	return nil
}

func (m Manifest) paths() []string {
	paths := make([]string, 0, len(m.Files)+1)
	for _, f := range m.Files {
		paths = append(paths, f.Path)
	}
	return paths
}
