package erofs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/nodeless/nodeless/pkg/atomicfile"
	image "github.com/nodeless/nodeless/pkg/erofs"
)

const (
	snapshotsDir = "snapshots"
	upperDir     = "fs"
	workDir      = "work"
	mergedDir    = "merged"
	layerFile    = "layer.erofs" // the name is Kata's condition
	appliedFile  = "applied.erofs"
	newPrefix    = "new-"
	tmpPrefix    = ".tmp-"

	// markerFile tells the differ that a directory is one of this snapshotter.
	markerFile = ".erofslayer"
)

// files knows where the snapshotter's files are.
type files struct {
	root string
	mem  *memory
}

func (f files) snapshot(id string, name ...string) string {
	return filepath.Join(append([]string{f.root, snapshotsDir, id}, name...)...)
}

func (f files) layer(id string) string  { return f.snapshot(id, layerFile) }
func (f files) merged(id string) string { return f.snapshot(id, mergedDir, layerFile) }

// create makes the directory of a snapshot that has no number yet. The caller renames or removes it.
func (f files) create(active bool) (dir string, err error) {
	dir, err = os.MkdirTemp(filepath.Join(f.root, snapshotsDir), newPrefix)
	if err != nil {
		return "", fmt.Errorf("create snapshot directory: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(dir))
		}
	}()
	if err = os.Mkdir(filepath.Join(dir, upperDir), 0o755); err != nil {
		return "", err
	}
	if err = os.Chmod(filepath.Join(dir, upperDir), 0o755); err != nil { // whatever the umask is
		return "", err
	}
	if !active {
		return dir, nil
	}
	if err = os.Mkdir(filepath.Join(dir, workDir), 0o711); err != nil {
		return "", err
	}
	return dir, os.WriteFile(filepath.Join(dir, markerFile), nil, 0o644)
}

// writeImage makes an image file: make fills a temporary file beside path, which gets the name when it is safely on disk.
func writeImage(path string, make func(out *os.File) error) (err error) {
	dir := filepath.Dir(path)
	out, err := os.CreateTemp(dir, tmpPrefix)
	if err != nil {
		return fmt.Errorf("create image: %w", err)
	}
	defer func() {
		err = errors.Join(err, out.Close())
		if err != nil {
			err = errors.Join(err, os.Remove(out.Name()))
		}
	}()
	if err = make(out); err != nil {
		return err
	}
	if err = out.Chmod(0o444); err != nil {
		return err
	}
	if err = out.Sync(); err != nil {
		return err
	}
	if err = os.Rename(out.Name(), path); err != nil {
		return err
	}
	return atomicfile.SyncDir(dir)
}

// finishLayer makes the layer file of a snapshot that is about to be committed: what the differ has applied, or else
// what is in the upper directory. Until the commit is recorded it may be called again.
func (f files) finishLayer(ctx context.Context, id string) error {
	layer, applied := f.layer(id), f.snapshot(id, appliedFile)
	_, err := os.Stat(applied)
	if errors.Is(err, fs.ErrNotExist) {
		return f.mem.within(ctx, func(limits image.Limits) error {
			return writeImage(layer, func(out *os.File) error {
				return image.FromDir(ctx, f.snapshot(id, upperDir), out, limits)
			})
		})
	}
	if err != nil {
		return err
	}
	if err := os.Remove(layer); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Link(applied, layer); err != nil {
		return err
	}
	return atomicfile.SyncDir(f.snapshot(id))
}

// dropUpper removes what a committed snapshot needs no more.
func (f files) dropUpper(id string) error {
	var errs []error
	for _, name := range []string{upperDir, workDir, appliedFile, markerFile} {
		errs = append(errs, os.RemoveAll(f.snapshot(id, name)))
	}
	return errors.Join(errs...)
}

// standsAlone refuses an image of a lowest layer that has hard links to files of layers below.
func (f files) standsAlone(id string) error {
	layer, err := os.Open(f.layer(id))
	if err != nil {
		return fmt.Errorf("open layer: %w", err)
	}
	defer layer.Close()
	links, err := image.LinksBelow(layer)
	if err == nil && links {
		err = fmt.Errorf("the lowest layer has a hard link to a file that it lacks: %w", image.ErrFormat)
	}
	return err
}

// mergeLayers makes the merged image of a chain, named by its ids from the top down, if it is not there yet. The caller
// sees to it that no two do so at once.
func (f files) mergeLayers(ctx context.Context, ids []string) (err error) {
	path := f.merged(ids[0])
	if _, err := os.Stat(path); err == nil {
		return nil
	}
	var layers []*os.File
	defer func() {
		for _, layer := range layers {
			err = errors.Join(err, layer.Close())
		}
	}()
	for i := range ids {
		layer, err := os.Open(f.layer(ids[len(ids)-1-i]))
		if err != nil {
			return fmt.Errorf("open layer: %w", err)
		}
		layers = append(layers, layer)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("create directory of merged image: %w", err)
	}
	return f.mem.within(ctx, func(limits image.Limits) error {
		return writeImage(path, func(out *os.File) error {
			return f.mem.converter.Merge(ctx, layers, out, limits)
		})
	})
}

// sweep removes what a crash left behind: directories of snapshots that are not in known, unfinished files, and upper
// directories of committed snapshots. known maps ids to whether the snapshot is committed.
func (f files) sweep(known map[string]bool) error {
	entries, err := os.ReadDir(filepath.Join(f.root, snapshotsDir))
	if err != nil {
		return fmt.Errorf("sweep snapshots: %w", err)
	}
	var errs []error
	for _, entry := range entries {
		id := entry.Name()
		committed, ok := known[id]
		if !ok {
			errs = append(errs, os.RemoveAll(f.snapshot(id)))
			continue
		}
		if committed {
			errs = append(errs, f.dropUpper(id))
		}
		errs = append(errs, sweepTemporary(f.snapshot(id)), sweepTemporary(f.snapshot(id, mergedDir)))
	}
	return errors.Join(errs...)
}

func sweepTemporary(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	errs := []error{err}
	for _, entry := range entries {
		if strings.HasPrefix(entry.Name(), tmpPrefix) {
			errs = append(errs, os.Remove(filepath.Join(dir, entry.Name())))
		}
	}
	return errors.Join(errs...)
}
