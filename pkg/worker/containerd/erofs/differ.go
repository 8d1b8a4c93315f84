package erofs

import (
	"context"
	"fmt"
	"io"
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

	"github.com/nodeless/nodeless/pkg/erofs"
)

// layerMark is the file by which the snapshotter says: what is unpacked here becomes an EROFS layer.
const layerMark = ".erofslayer"

// differ unpacks OCI layers straight into EROFS images.
type differ struct{ store content.Store }

var (
	_ diff.Applier  = (*differ)(nil)
	_ diff.Comparer = (*differ)(nil)
)

// Compare is left to the next differ of the diff service.
func (d *differ) Compare(context.Context, []mount.Mount, []mount.Mount, ...diff.Opt) (ocispec.Descriptor, error) {
	return ocispec.Descriptor{}, fmt.Errorf("compare: %w", errdefs.ErrNotImplemented)
}

// Apply converts the layer that desc names into the snapshot that mounts belong to, and returns the descriptor of the
// uncompressed layer, whose digest containerd compares with the image's.
func (d *differ) Apply(ctx context.Context, desc ocispec.Descriptor, mounts []mount.Mount, opts ...diff.ApplyOpt) (_ ocispec.Descriptor, err error) {
	dir, err := layerDir(mounts)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	if _, err := images.DiffCompression(ctx, desc.MediaType); err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("layer of media type %q: %w", desc.MediaType, errdefs.ErrNotImplemented)
	}
	var config diff.ApplyConfig
	for _, o := range opts {
		if err := o(ctx, desc, &config); err != nil {
			return ocispec.Descriptor{}, err
		}
	}
	blob, err := d.store.ReaderAt(ctx, desc)
	if err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("open layer %s: %w", desc.Digest, err)
	}
	defer blob.Close()
	stream, err := uncompressed(ctx, desc.MediaType, content.NewReader(blob), config)
	if err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("open layer %s: %w", desc.Digest, err)
	}
	defer stream.Close()

	sum := digest.Canonical.Digester()
	counted := &counter{r: io.TeeReader(stream, sum.Hash())}
	err = replace(filepath.Join(dir, layerFile), func(out *os.File) error {
		if err := erofs.Convert(ctx, counted, out, erofs.DefaultLimits()); err != nil {
			return err
		}
		_, err := io.Copy(io.Discard, counted) // what follows the tar's end belongs to the digest
		return err
	})
	if err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("unpack layer %s: %w", desc.Digest, err)
	}
	return ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Size: counted.n, Digest: sum.Digest()}, nil
}

// uncompressed runs the layer through containerd's stream processors until it is a plain tar.
func uncompressed(ctx context.Context, mediaType string, r io.Reader, config diff.ApplyConfig) (diff.StreamProcessor, error) {
	p := diff.NewProcessorChain(mediaType, r)
	for {
		next, err := diff.GetProcessor(ctx, p, config.ProcessorPayloads)
		if err != nil {
			return nil, err
		}
		p = next
		if p.MediaType() == ocispec.MediaTypeImageLayer {
			return p, nil
		}
	}
}

// layerDir finds the folder of the snapshot behind the mounts: the parent of the upper layer, or of the bound folder
// when the snapshot has no parent. Mounts of another snapshotter are for the next differ.
func layerDir(mounts []mount.Mount) (string, error) {
	if len(mounts) == 0 {
		return "", fmt.Errorf("no mounts: %w", errdefs.ErrInvalidArgument)
	}
	last := mounts[len(mounts)-1]
	upper := last.Source
	if strings.HasSuffix(last.Type, "overlay") {
		upper = ""
		for _, o := range last.Options {
			if dir, ok := strings.CutPrefix(o, "upperdir="); ok {
				upper = dir
			}
		}
	}
	dir := filepath.Dir(upper)
	if _, err := os.Stat(filepath.Join(dir, layerMark)); upper == "" || err != nil {
		return "", fmt.Errorf("mount of type %q is not of the EROFS snapshotter: %w", last.Type, errdefs.ErrNotImplemented)
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
