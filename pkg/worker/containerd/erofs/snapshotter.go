package erofs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"syscall"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/storage"
	disk "github.com/containerd/continuity/fs"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
)

// Snapshotter keeps layers as EROFS images and hands containers one merged image each.
type Snapshotter struct {
	files
	db *storage.MetaStore

	mu      sync.Mutex
	merging map[string]chan struct{} // chains being merged, by the topmost id; guarded by mu
}

var _ snapshots.Snapshotter = (*Snapshotter)(nil)

// newSnapshotterIn opens the snapshotter whose files are below root, and sweeps away what a crash has left there.
func newSnapshotterIn(ctx context.Context, root string, mem *memory) (*Snapshotter, error) {
	if err := os.MkdirAll(filepath.Join(root, snapshotsDir), 0o700); err != nil {
		return nil, fmt.Errorf("create snapshotter directory: %w", err)
	}
	db, err := storage.NewMetaStore(filepath.Join(root, "metadata.db"))
	if err != nil {
		return nil, fmt.Errorf("open snapshot metadata: %w", err)
	}
	s := &Snapshotter{files: files{root, mem}, db: db, merging: map[string]chan struct{}{}}
	known, err := s.known(ctx)
	if err == nil {
		err = s.sweep(known)
	}
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return s, nil
}

// Close closes the metadata.
func (s *Snapshotter) Close() error { return s.db.Close() }

// known maps the ids of all snapshots to whether they are committed.
func (s *Snapshotter) known(ctx context.Context) (map[string]bool, error) {
	known := map[string]bool{}
	err := s.db.WithTransaction(ctx, false, func(ctx context.Context) error {
		ids, err := storage.IDMap(ctx)
		if err != nil {
			return ignoreNotFound(err) // nothing was ever stored
		}
		for id, key := range ids {
			_, info, _, err := storage.GetInfo(ctx, key)
			if err != nil {
				return err
			}
			known[id] = info.Kind == snapshots.KindCommitted
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list snapshots: %w", err)
	}
	return known, nil
}

func ignoreNotFound(err error) error {
	if errdefs.IsNotFound(err) {
		return nil
	}
	return err
}

// Prepare creates an active snapshot: for a layer to be unpacked into, or for a container to write to.
func (s *Snapshotter) Prepare(ctx context.Context, key, parent string, opts ...snapshots.Opt) ([]mount.Mount, error) {
	return s.create(ctx, snapshots.KindActive, key, parent, opts)
}

// View creates a read-only snapshot.
func (s *Snapshotter) View(ctx context.Context, key, parent string, opts ...snapshots.Opt) ([]mount.Mount, error) {
	return s.create(ctx, snapshots.KindView, key, parent, opts)
}

func (s *Snapshotter) create(ctx context.Context, kind snapshots.Kind, key, parent string, opts []snapshots.Opt) (_ []mount.Mount, err error) {
	dir, err := s.files.create(kind == snapshots.KindActive)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(dir))
		}
	}()
	var snap storage.Snapshot
	var info snapshots.Info
	err = s.db.WithTransaction(ctx, true, func(ctx context.Context) error {
		if snap, err = storage.CreateSnapshot(ctx, kind, key, parent, opts...); err != nil {
			return fmt.Errorf("create snapshot %s: %w", key, err)
		}
		if _, info, _, err = storage.GetInfo(ctx, key); err != nil {
			return err
		}
		final := s.snapshot(snap.ID)
		if err := os.Rename(dir, final); err != nil {
			return fmt.Errorf("name snapshot directory: %w", err)
		}
		dir = final
		return nil
	})
	if err != nil {
		return nil, err
	}
	mounts, err := s.mountsOf(ctx, snap, info)
	if err != nil {
		return nil, errors.Join(err, s.Remove(context.WithoutCancel(ctx), key))
	}
	return mounts, nil
}

// Mounts says how to mount an active snapshot or a view.
func (s *Snapshotter) Mounts(ctx context.Context, key string) ([]mount.Mount, error) {
	var snap storage.Snapshot
	var info snapshots.Info
	err := s.db.WithTransaction(ctx, false, func(ctx context.Context) (err error) {
		if snap, err = storage.GetSnapshot(ctx, key); err != nil {
			return err
		}
		_, info, _, err = storage.GetInfo(ctx, key)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("get snapshot %s: %w", key, err)
	}
	return s.mountsOf(ctx, snap, info)
}

// mountsOf makes the merged image if the snapshot needs it. One that a layer is unpacked into does not: its upper
// directory is all that the differ wants, and every layer of an image would otherwise be merged with those below.
func (s *Snapshotter) mountsOf(ctx context.Context, snap storage.Snapshot, info snapshots.Info) ([]mount.Mount, error) {
	unpacking := info.Labels[snapshots.LabelSnapshotRef] != ""
	if len(snap.ParentIDs) < 2 || unpacking {
		var lowers []string
		for _, id := range snap.ParentIDs {
			lowers = append(lowers, s.layer(id))
		}
		return s.mounts(snap, lowers), nil
	}
	if err := s.merge(ctx, snap.ParentIDs); err != nil {
		return nil, fmt.Errorf("merge the layers of %s: %w", info.Parent, err)
	}
	return s.mounts(snap, []string{s.merged(snap.ParentIDs[0])}), nil
}

// merge makes the merged image of a chain; of several callers one does the work.
func (s *Snapshotter) merge(ctx context.Context, ids []string) error {
	for {
		s.mu.Lock()
		busy, ok := s.merging[ids[0]]
		if !ok {
			break
		}
		s.mu.Unlock()
		select {
		case <-busy:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	done := make(chan struct{})
	s.merging[ids[0]] = done
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.merging, ids[0])
		close(done)
	}()
	return s.mergeLayers(ctx, ids)
}

// Commit turns an active snapshot into a layer.
func (s *Snapshotter) Commit(ctx context.Context, name, key string, opts ...snapshots.Opt) error {
	var id string
	err := s.db.WithTransaction(ctx, false, func(ctx context.Context) error {
		snap, err := storage.GetSnapshot(ctx, key)
		id = snap.ID
		return err
	})
	if err != nil {
		return fmt.Errorf("get snapshot %s: %w", key, err)
	}
	if err := s.finishLayer(ctx, id); err != nil {
		return fmt.Errorf("commit snapshot %s: %w", key, err)
	}
	usage, err := disk.DiskUsage(ctx, s.layer(id))
	if err != nil {
		return fmt.Errorf("commit snapshot %s: %w", key, err)
	}
	err = s.db.WithTransaction(ctx, true, func(ctx context.Context) error {
		if _, err := storage.CommitActive(ctx, key, name, snapshots.Usage(usage), opts...); err != nil {
			return err
		}
		_, info, _, err := storage.GetInfo(ctx, name)
		if err != nil || info.Parent != "" {
			return err
		}
		return s.standsAlone(id)
	})
	if err != nil {
		return fmt.Errorf("commit snapshot %s: %w", key, err)
	}
	if err := s.dropUpper(id); err != nil { // the next start sweeps it
		log.G(ctx).WithError(err).WithField("snapshot", name).Warn("upper directory of layer not removed")
	}
	return nil
}

// Remove removes a snapshot that no other is based on, with its files.
func (s *Snapshotter) Remove(ctx context.Context, key string) error {
	var id string
	err := s.db.WithTransaction(ctx, true, func(ctx context.Context) (err error) {
		id, _, err = storage.Remove(ctx, key)
		return err
	})
	if err != nil {
		return fmt.Errorf("remove snapshot %s: %w", key, err)
	}
	if err := os.RemoveAll(s.snapshot(id)); err != nil { // it is gone all the same; the next start sweeps it
		log.G(ctx).WithError(err).WithField("snapshot", key).Warn("snapshot directory not removed")
	}
	return nil
}

// Stat describes a snapshot.
func (s *Snapshotter) Stat(ctx context.Context, key string) (info snapshots.Info, err error) {
	err = s.db.WithTransaction(ctx, false, func(ctx context.Context) error {
		_, info, _, err = storage.GetInfo(ctx, key)
		return err
	})
	return info, err
}

// Update changes the labels of a snapshot.
func (s *Snapshotter) Update(ctx context.Context, info snapshots.Info, fieldpaths ...string) (updated snapshots.Info, err error) {
	err = s.db.WithTransaction(ctx, true, func(ctx context.Context) error {
		updated, err = storage.UpdateInfo(ctx, info, fieldpaths...)
		return err
	})
	return updated, err
}

// Walk calls fn for each snapshot that the filters let through.
func (s *Snapshotter) Walk(ctx context.Context, fn snapshots.WalkFunc, filters ...string) error {
	return s.db.WithTransaction(ctx, false, func(ctx context.Context) error {
		return storage.WalkInfo(ctx, fn, filters...)
	})
}

// Usage returns what a snapshot takes on disk: an active one its upper directory, a layer its image and, if it is the top
// of a chain that was merged, the merged image too.
func (s *Snapshotter) Usage(ctx context.Context, key string) (usage snapshots.Usage, err error) {
	var id string
	var info snapshots.Info
	err = s.db.WithTransaction(ctx, false, func(ctx context.Context) error {
		id, info, usage, err = storage.GetInfo(ctx, key)
		return err
	})
	if err != nil {
		return snapshots.Usage{}, err
	}
	switch info.Kind {
	case snapshots.KindActive:
		upper, err := disk.DiskUsage(ctx, s.snapshot(id, upperDir))
		if err != nil {
			return snapshots.Usage{}, fmt.Errorf("measure snapshot %s: %w", key, err)
		}
		return snapshots.Usage(upper), nil
	case snapshots.KindCommitted:
		st, err := os.Stat(s.merged(id))
		if errors.Is(err, fs.ErrNotExist) {
			return usage, nil
		}
		if err != nil {
			return snapshots.Usage{}, fmt.Errorf("measure snapshot %s: %w", key, err)
		}
		if sys, ok := st.Sys().(*syscall.Stat_t); ok {
			usage.Add(snapshots.Usage{Inodes: 1, Size: sys.Blocks * 512})
		}
	}
	return usage, nil
}
