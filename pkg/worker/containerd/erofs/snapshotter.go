package erofs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"

	"github.com/nodeless/nodeless/pkg/atomicfile"
	"github.com/nodeless/nodeless/pkg/erofs"
)

const (
	layerFile = "layer.erofs" // the name Kata looks for
	mergedDir = "merged"      // beside the layer of the chain's top snapshot, so that it goes with it
)

// snapshotter is containerd's EROFS snapshotter, but for what it hands out to run a container: one merged layer.
type snapshotter struct {
	snapshots.Snapshotter

	mu      sync.Mutex
	merging map[string]*sync.Mutex // by merged file; guarded by mu
}

func newSnapshotter(inner snapshots.Snapshotter) *snapshotter {
	return &snapshotter{Snapshotter: inner, merging: map[string]*sync.Mutex{}}
}

// Prepare makes a writable snapshot. One that a layer will be unpacked into keeps its parents as they are: nobody
// mounts them, and merging after each layer of an image would be work for nothing.
func (s *snapshotter) Prepare(ctx context.Context, key, parent string, opts ...snapshots.Opt) ([]mount.Mount, error) {
	mounts, err := s.Snapshotter.Prepare(ctx, key, parent, opts...)
	if err != nil {
		return nil, err
	}
	var info snapshots.Info
	for _, opt := range opts {
		if err := opt(&info); err != nil {
			return nil, err
		}
	}
	if unpacking(info) {
		return mounts, nil
	}
	return s.oneLayer(ctx, mounts)
}

// View makes a read-only snapshot.
func (s *snapshotter) View(ctx context.Context, key, parent string, opts ...snapshots.Opt) ([]mount.Mount, error) {
	mounts, err := s.Snapshotter.View(ctx, key, parent, opts...)
	if err != nil {
		return nil, err
	}
	return s.oneLayer(ctx, mounts)
}

// Mounts says how to mount an existing snapshot.
func (s *snapshotter) Mounts(ctx context.Context, key string) ([]mount.Mount, error) {
	mounts, err := s.Snapshotter.Mounts(ctx, key)
	if err != nil {
		return nil, err
	}
	info, err := s.Snapshotter.Stat(ctx, key)
	if err != nil {
		return nil, err
	}
	if unpacking(info) {
		return mounts, nil
	}
	return s.oneLayer(ctx, mounts)
}

// Cleanup passes on the wish to free what removed snapshots held.
func (s *snapshotter) Cleanup(ctx context.Context) error {
	if c, ok := s.Snapshotter.(snapshots.Cleaner); ok {
		return c.Cleanup(ctx)
	}
	return nil
}

// unpacking tells a snapshot that containerd's unpacker fills from one that a container runs on.
func unpacking(info snapshots.Info) bool { return info.Labels[snapshots.LabelSnapshotRef] != "" }

// oneLayer replaces the EROFS mounts of a chain, the top layer first, by one of their merger. The rest is the overlay
// over them, whose template names its lower layers by their index.
func (s *snapshotter) oneLayer(ctx context.Context, mounts []mount.Mount) ([]mount.Mount, error) {
	n := 0
	for n < len(mounts) && mounts[n].Type == "erofs" {
		n++
	}
	if n < 2 {
		return mounts, nil
	}
	merged, err := s.merge(ctx, mounts[:n])
	if err != nil {
		return nil, err
	}
	lower := mount.Mount{Type: "erofs", Source: merged, Options: mounts[0].Options}
	if n == len(mounts) || !writable(mounts[n]) {
		return []mount.Mount{lower}, nil
	}
	top := mounts[n]
	top.Options = append([]string(nil), top.Options...)
	for i, o := range top.Options {
		if strings.HasPrefix(o, "lowerdir=") {
			top.Options[i] = "lowerdir={{ mount 0 }}"
		}
	}
	return []mount.Mount{lower, top}, nil
}

func writable(m mount.Mount) bool {
	for _, o := range m.Options {
		if strings.HasPrefix(o, "upperdir=") {
			return true
		}
	}
	return false
}

// merge returns the merged file of the layers, made if it is not there. A crash leaves at most a temporary file in the
// folder of the chain's top snapshot.
func (s *snapshotter) merge(ctx context.Context, layers []mount.Mount) (string, error) {
	target := filepath.Join(filepath.Dir(layers[0].Source), mergedDir, layerFile)
	lock := s.lock(target)
	lock.Lock()
	defer lock.Unlock()
	if _, err := os.Stat(target); err == nil {
		return target, nil
	} else if !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	if err := writeMerged(ctx, target, layers); err != nil {
		return "", fmt.Errorf("merge %d layers: %w", len(layers), err)
	}
	return target, nil
}

func (s *snapshotter) lock(target string) *sync.Mutex {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.merging[target] == nil {
		s.merging[target] = &sync.Mutex{}
	}
	return s.merging[target]
}

func writeMerged(ctx context.Context, target string, layers []mount.Mount) (err error) {
	dir := filepath.Dir(target)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	var files []*os.File // the lowest first
	defer func() {
		for _, f := range files {
			err = errors.Join(err, f.Close())
		}
	}()
	for i := len(layers) - 1; i >= 0; i-- {
		f, err := os.Open(layers[i].Source)
		if err != nil {
			return err
		}
		files = append(files, f)
	}
	return replace(target, func(out *os.File) error { return erofs.Merge(ctx, files, out, erofs.DefaultLimits()) })
}

// replace writes target through a temporary file beside it, so that a half-written image never has the name.
func replace(target string, write func(*os.File) error) (err error) {
	dir := filepath.Dir(target)
	out, err := os.CreateTemp(dir, ".new-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, out.Close(), os.Remove(out.Name()))
		}
	}()
	if err = write(out); err != nil {
		return err
	}
	if err = out.Sync(); err != nil {
		return err
	}
	if err = os.Rename(out.Name(), target); err != nil {
		return err
	}
	if cerr := out.Close(); cerr != nil {
		return cerr
	}
	return atomicfile.SyncDir(dir)
}
