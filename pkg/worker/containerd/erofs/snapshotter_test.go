package erofs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/storage"
	"github.com/containerd/containerd/v2/core/snapshots/testsuite"
	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
)

func TestSnapshotterSuite(t *testing.T) {
	needMounts(t)
	testsuite.SnapshotterSuite(t, "erofs", func(ctx context.Context, root string) (snapshots.Snapshotter, func() error, error) {
		s, err := newSnapshotterIn(ctx, root, works(0))
		if err != nil {
			return nil, nil, err
		}
		return s, s.Close, nil
	})
}

func open(t *testing.T, root string) *Snapshotter {
	t.Helper()
	s, err := newSnapshotterIn(t.Context(), root, works(0))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// newSnapshotter returns a snapshotter below a path that Kata would accept.
func newSnapshotter(t *testing.T) *Snapshotter {
	t.Helper()
	s := open(t, filepath.Join(t.TempDir(), "io.containerd.snapshotter.v1.erofs"))
	t.Cleanup(func() { s.Close() })
	return s
}

// commit makes a layer with the given files, as an unpacker with a foreign differ would.
func commit(t *testing.T, s *Snapshotter, name, parent string, files map[string]string) {
	t.Helper()
	mounts, err := s.Prepare(t.Context(), "extract-"+name, parent, snapshots.WithLabels(map[string]string{snapshots.LabelSnapshotRef: name}))
	if err != nil {
		t.Fatal(err)
	}
	dir, err := snapshotDir(mounts)
	if err != nil {
		t.Fatal(err)
	}
	for file, content := range files {
		if err := os.WriteFile(filepath.Join(dir, upperDir, file), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Commit(t.Context(), name, "extract-"+name); err != nil {
		t.Fatal(err)
	}
}

// chain makes layers l0 … l<n-1> and returns the name of the top.
func chain(t *testing.T, s *Snapshotter, n int) string {
	t.Helper()
	parent := ""
	for i := range n {
		name := fmt.Sprintf("l%d", i)
		commit(t, s, name, parent, map[string]string{name: name, "top": name})
		parent = name
	}
	return parent
}

func prepare(t *testing.T, s *Snapshotter, key, parent string) []mount.Mount {
	t.Helper()
	mounts, err := s.Prepare(t.Context(), key, parent)
	if err != nil {
		t.Fatal(err)
	}
	return mounts
}

func TestAContainerGetsOneImageHoweverManyLayers(t *testing.T) {
	for _, layers := range []int{1, 2, 60} {
		t.Run(fmt.Sprint(layers), func(t *testing.T) {
			s := newSnapshotter(t)
			top := chain(t, s, layers)
			mounts := prepare(t, s, "container", top)
			if len(mounts) != 2 {
				t.Fatalf("got %d mounts, want an image and an overlay: %v", len(mounts), mounts)
			}
			// What the stock Kata shim looks at.
			if img := mounts[0]; img.Type != "erofs" || filepath.Base(img.Source) != "layer.erofs" {
				t.Errorf("first mount is %v", img)
			}
			overlay := mounts[1]
			here := func(o string) bool {
				return strings.HasPrefix(o, "upperdir=") && strings.Contains(o, "io.containerd.snapshotter.v1.erofs")
			}
			if !strings.HasSuffix(overlay.Type, "/overlay") || !slices.ContainsFunc(overlay.Options, here) || !slices.Contains(overlay.Options, "lowerdir={{ mount 0 }}") {
				t.Errorf("second mount is %v", overlay)
			}
			again, err := s.Mounts(t.Context(), "container")
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(mounts, again); diff != "" {
				t.Errorf("Mounts differs from Prepare (-prepare +mounts):\n%s", diff)
			}
			view, err := s.View(t.Context(), "view", top)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(mounts[:1], view); diff != "" {
				t.Errorf("View differs from the image of Prepare (-prepare +view):\n%s", diff)
			}
		})
	}
}

func TestUnpackingMergesNothing(t *testing.T) {
	s := newSnapshotter(t)
	chain(t, s, 5)
	merged, err := filepath.Glob(filepath.Join(s.root, snapshotsDir, "*", mergedDir))
	if err != nil || len(merged) != 0 {
		t.Errorf("unpacking left %v, %v", merged, err)
	}
}

func TestTheMergedImageIsSharedCountedAndRemoved(t *testing.T) {
	s := newSnapshotter(t)
	ctx := t.Context()
	top := chain(t, s, 3)
	before, err := s.Usage(ctx, top)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	sources := make([]string, 8)
	for i := range sources {
		wg.Go(func() {
			mounts, err := s.Prepare(ctx, fmt.Sprint("c", i), top)
			if err != nil {
				t.Error(err)
				return
			}
			sources[i] = mounts[0].Source
		})
	}
	wg.Wait()
	if len(slices.Compact(slices.Clone(sources))) != 1 {
		t.Errorf("containers of one image got different files: %v", sources)
	}
	after, err := s.Usage(ctx, top)
	if err != nil {
		t.Fatal(err)
	}
	if after.Size <= before.Size || after.Inodes != before.Inodes+1 {
		t.Errorf("usage is %v after the merge, %v before", after, before)
	}
	if err := s.Remove(ctx, top); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("removing a layer in use: got error %v", err)
	}
	for i := range sources {
		if err := s.Remove(ctx, fmt.Sprint("c", i)); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Remove(ctx, top); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(sources[0]); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the merged image outlives its chain: %v", err)
	}
}

func TestAFailedMergeLeavesNoSnapshot(t *testing.T) {
	s := newSnapshotter(t)
	top := chain(t, s, 2)
	layers, err := filepath.Glob(filepath.Join(s.root, snapshotsDir, "*", layerFile))
	if err != nil || len(layers) != 2 {
		t.Fatalf("layers: %v, %v", layers, err)
	}
	if err := os.Chmod(layers[0], 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(layers[0], []byte("damaged"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Prepare(t.Context(), "c", top); err == nil {
		t.Fatal("a damaged layer was merged")
	}
	if _, err := s.Stat(t.Context(), "c"); !errdefs.IsNotFound(err) {
		t.Errorf("the snapshot is still there: %v", err)
	}
	temporary, err := filepath.Glob(filepath.Join(s.root, snapshotsDir, "*", "*", tmpPrefix+"*"))
	if err != nil || len(temporary) != 0 {
		t.Errorf("left over: %v, %v", temporary, err)
	}
}

func TestParentAtCommit(t *testing.T) {
	s := newSnapshotter(t)
	ctx := t.Context()
	commit(t, s, "base", "", map[string]string{"a": "a"})
	if _, err := s.Prepare(ctx, "extract-x", "", snapshots.WithLabels(map[string]string{snapshots.LabelSnapshotRef: "x"})); err != nil {
		t.Fatal(err)
	}
	if err := s.Commit(ctx, "x", "extract-x", snapshots.WithParent("base")); err != nil {
		t.Fatal(err)
	}
	if mounts := prepare(t, s, "c", "x"); filepath.Base(filepath.Dir(mounts[0].Source)) != mergedDir {
		t.Errorf("the layer has not got its parent: %v", mounts)
	}
}

// A kill between any two steps leaves files that the next start must not trust.
func TestStartSweepsWhatACrashLeft(t *testing.T) {
	root := filepath.Join(t.TempDir(), "io.containerd.snapshotter.v1.erofs")
	s := open(t, root)
	top := chain(t, s, 2)
	prepare(t, s, "c", top)
	ids := map[string]string{}
	for _, key := range []string{"l0", "l1", "c"} {
		err := s.db.WithTransaction(t.Context(), false, func(ctx context.Context) (err error) {
			ids[key], _, _, err = storage.GetInfo(ctx, key)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	left := []string{
		s.snapshot("new-123", upperDir),                 // killed while a snapshot was made
		s.snapshot("99", upperDir),                      // killed while one was removed
		s.snapshot(ids["l0"], upperDir),                 // killed after a commit
		s.snapshot(ids["l0"], tmpPrefix+"9"),            // killed while a layer was converted
		s.snapshot(ids["l1"], mergedDir, tmpPrefix+"8"), // killed while layers were merged
	}
	for _, path := range left {
		if err := os.MkdirAll(path, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, root)
	defer s.Close()
	for _, path := range left {
		if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is still there: %v", path, err)
		}
	}
	for _, path := range []string{s.layer(ids["l0"]), s.merged(ids["l1"]), s.snapshot(ids["c"], upperDir)} {
		if _, err := os.Stat(path); err != nil {
			t.Errorf("swept away: %v", err)
		}
	}
}

// A commit that was killed before it was recorded is done again with what is there then.
func TestCommitAgainAfterACrash(t *testing.T) {
	s := newSnapshotter(t)
	ctx := t.Context()
	mounts := prepare(t, s, "work", "")
	dir, err := snapshotDir(mounts)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.finishLayer(ctx, filepath.Base(dir)); err != nil {
		t.Fatal(err)
	}
	stale, err := os.ReadFile(filepath.Join(dir, layerFile))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, upperDir, "later"), []byte("later"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := s.Commit(ctx, "layer", "work"); err != nil {
		t.Fatal(err)
	}
	fresh, err := os.ReadFile(filepath.Join(dir, layerFile))
	if err != nil {
		t.Fatal(err)
	}
	if slices.Equal(stale, fresh) {
		t.Error("the layer of the first attempt was committed")
	}
}
