package erofs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/diff"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/nodeless/nodeless/pkg/converter"
	image "github.com/nodeless/nodeless/pkg/erofs"
)

// Differ applies layers by converting them. It compares nothing: that is left to containerd's walking differ.
type Differ struct {
	store content.Provider
	mem   *memory
}

var (
	_ diff.Applier  = (*Differ)(nil)
	_ diff.Comparer = (*Differ)(nil)
)

func newDiffer(store content.Provider, mem *memory) *Differ { return &Differ{store, mem} }

// Compare is not implemented, so that the next differ is asked.
func (d *Differ) Compare(context.Context, []mount.Mount, []mount.Mount, ...diff.Opt) (ocispec.Descriptor, error) {
	return ocispec.Descriptor{}, errdefs.ErrNotImplemented
}

// Apply converts a layer, compressed or not, into the snapshot that the mounts are of, and returns the descriptor of the
// uncompressed tar. For a snapshot or a kind of layer that is not its business it answers ErrNotImplemented.
func (d *Differ) Apply(ctx context.Context, desc ocispec.Descriptor, mounts []mount.Mount, _ ...diff.ApplyOpt) (ocispec.Descriptor, error) {
	dir, err := snapshotDir(mounts)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	if compression, err := images.DiffCompression(ctx, desc.MediaType); err != nil || compression == "" && strings.Contains(desc.MediaType, "+") {
		return ocispec.Descriptor{}, fmt.Errorf("layer of type %s: %w", desc.MediaType, errdefs.ErrNotImplemented)
	}
	ra, err := d.store.ReaderAt(ctx, desc)
	if err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("read layer %s: %w", desc.Digest, err)
	}
	defer ra.Close()
	var got converter.Result
	err = d.mem.within(ctx, func(limits image.Limits) error {
		return writeImage(filepath.Join(dir, appliedFile), func(out *os.File) (err error) {
			got, err = d.mem.converter.Convert(ctx, content.NewReader(ra), out, limits)
			return err
		})
	})
	if err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("convert layer %s: %w", desc.Digest, err)
	}
	return ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Size: got.Size, Digest: got.Digest}, nil
}

// snapshotDir finds the directory of the active snapshot that the mounts are of.
func snapshotDir(mounts []mount.Mount) (string, error) {
	if len(mounts) == 0 {
		return "", fmt.Errorf("no mounts: %w", errdefs.ErrNotImplemented)
	}
	top := mounts[len(mounts)-1]
	if top.ReadOnly() {
		return "", fmt.Errorf("snapshot is read-only: %w", errdefs.ErrFailedPrecondition)
	}
	upper := ""
	switch {
	case top.Type == "bind":
		upper = top.Source
	case strings.HasSuffix(top.Type, "overlay"):
		for _, option := range top.Options {
			if dir, ok := strings.CutPrefix(option, "upperdir="); ok {
				upper = dir
			}
		}
	}
	dir := filepath.Dir(upper)
	if _, err := os.Stat(filepath.Join(dir, markerFile)); upper == "" || errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("not a snapshot of the erofs snapshotter: %w", errdefs.ErrNotImplemented)
	} else if err != nil {
		return "", err
	}
	return dir, nil
}
