package erofs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/diff"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

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

// NewDiffer returns a differ for layers of the content store.
func NewDiffer(store content.Provider) *Differ { return newDiffer(store, newMemory(processMemory())) }

func newDiffer(store content.Provider, mem *memory) *Differ { return &Differ{store, mem} }

// Compare is not implemented, so that the next differ is asked.
func (d *Differ) Compare(context.Context, []mount.Mount, []mount.Mount, ...diff.Opt) (ocispec.Descriptor, error) {
	return ocispec.Descriptor{}, errdefs.ErrNotImplemented
}

// Apply converts a layer, compressed or not, into the snapshot that the mounts are of, and returns the descriptor of the
// uncompressed tar. For a snapshot or a kind of layer that is not its business it answers ErrNotImplemented.
func (d *Differ) Apply(ctx context.Context, desc ocispec.Descriptor, mounts []mount.Mount, opts ...diff.ApplyOpt) (ocispec.Descriptor, error) {
	dir, err := snapshotDir(mounts)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	if _, err := images.DiffCompression(ctx, desc.MediaType); err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("layer of type %s: %w", desc.MediaType, errdefs.ErrNotImplemented)
	}
	var config diff.ApplyConfig
	for _, opt := range opts {
		if err := opt(ctx, desc, &config); err != nil {
			return ocispec.Descriptor{}, fmt.Errorf("apply layer %s: %w", desc.Digest, err)
		}
	}
	ra, err := d.store.ReaderAt(ctx, desc)
	if err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("read layer %s: %w", desc.Digest, err)
	}
	defer ra.Close()
	plain := diff.NewProcessorChain(desc.MediaType, content.NewReader(ra))
	defer func() { plain.Close() }()
	for plain.MediaType() != ocispec.MediaTypeImageLayer {
		next, err := diff.GetProcessor(ctx, plain, config.ProcessorPayloads)
		if err != nil {
			return ocispec.Descriptor{}, fmt.Errorf("decode layer %s: %w", desc.Digest, err)
		}
		plain = next
	}
	var applied ocispec.Descriptor
	err = d.mem.within(ctx, func(limits image.Limits) (err error) {
		applied, err = convert(ctx, plain, filepath.Join(dir, appliedFile), limits)
		return err
	})
	if err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("convert layer %s: %w", desc.Digest, err)
	}
	return applied, nil
}

// maxTail is how much may follow a tar's end mark. Tools fill up the last record with zeros, 10 KiB as a rule.
const maxTail = 64 << 20

// convert writes the image of a tar and describes the tar. All of the stream is read, what follows the tar's end too,
// for the digest is over all of it.
func convert(ctx context.Context, r io.Reader, path string, limits image.Limits) (ocispec.Descriptor, error) {
	sum := digest.Canonical.Digester()
	counted := &counter{r: io.TeeReader(r, sum.Hash())}
	err := writeImage(path, func(out *os.File) error {
		if err := image.Convert(ctx, counted, out, limits); err != nil {
			return err
		}
		tail, err := io.CopyN(io.Discard, counted, maxTail+1)
		if tail > maxTail {
			return fmt.Errorf("more than %d bytes behind the end of the tar: %w", maxTail, image.ErrTooLarge)
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		return err
	})
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	return ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Size: counted.n, Digest: sum.Digest()}, nil
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

// counter counts what is read through it.
type counter struct {
	r io.Reader
	n int64
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}
