package pull

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/containerd/v2/core/transfer"
	"github.com/containerd/containerd/v2/pkg/archive/compression"
	"github.com/containerd/containerd/v2/pkg/labels"
	"github.com/containerd/containerd/v2/pkg/reference"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/nodeless/nodeless/pkg/api"
)

// ErrNotShown marks an image of which something is on the host that its registry did not hand out.
var ErrNotShown = errors.New("the registry does not have what the image names")

// maxLayers bounds the layers of an image. Tools stop at 127.
const maxLayers = 512

// pulling is one pull of an image for a namespace, and what its registry has shown of it. A digest is no password: who knows that of a
// stranger's layer, manifest or configuration must not get the content because it happens to be on the host. So each part of an image
// that is there already has to be shown by the registry of this pull. It does so in one of three ways. It has let us resolve the image in
// the repository that the part once came from. Or it is the registry that the part came from, and answers for this repository. Or it
// sends the part again.
type pulling struct {
	tenant           string
	host, repository string
	store            store
	remote           *remote

	mu       sync.Mutex
	resolved bool                   // guarded by mu
	shown    map[digest.Digest]bool // guarded by mu
}

type pullKey struct{}

func pullOf(ctx context.Context) *pulling {
	p, _ := ctx.Value(pullKey{}).(*pulling)
	return p
}

func newPull(r *remote, tenant string, s content.Store) (*pulling, error) {
	spec, err := reference.Parse(r.reference)
	if err != nil {
		return nil, err
	}
	return &pulling{
		tenant: tenant, host: spec.Hostname(), repository: strings.TrimPrefix(spec.Locator, spec.Hostname()+"/"),
		store: store{s}, remote: r, shown: map[digest.Digest]bool{},
	}, nil
}

// ref is the name of what is half there. The sign is in no namespace.
func (p *pulling) ref(name string) string { return p.tenant + "|" + name }

func (p *pulling) show(d digest.Digest) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.shown[d] = true
}

// mayHave tells whether content that is there is the pull's to use.
func (p *pulling) mayHave(ctx context.Context, info content.Info) bool {
	p.mu.Lock()
	shown, resolved := p.shown[info.Digest], p.resolved
	p.mu.Unlock()
	if shown {
		return true
	}
	repositories, known := p.seenIn(info)
	if !known || !resolved {
		return false
	}
	if !slices.Contains(repositories, p.repository) {
		if !p.remote.has(ctx, info.Digest) {
			return false
		}
		p.remember(ctx, info)
	}
	p.show(info.Digest)
	return true
}

// shownBy begins the label of a part with the registry's host and port that has shown it. Its value is the repositories. containerd's
// own label for this leaves the port out, behind which there may be somebody else's registry.
const shownBy = api.Own + "shown-by."

// maxShownBy bounds the labels of one part; of what is more, the registry is asked again.
const maxShownBy = 64

// seenIn are the repositories of the pull's registry that have shown a part.
func (p *pulling) seenIn(info content.Info) (repositories []string, known bool) {
	value, known := info.Labels[shownBy+p.host]
	return strings.Split(value, ","), known
}

// remember notes that the registry has a part. What is not noted is asked or fetched again.
func (p *pulling) remember(ctx context.Context, info content.Info) {
	key, value := shownBy+p.host, p.repository
	if have, known := p.seenIn(info); slices.Contains(have, p.repository) {
		return
	} else if known {
		value = strings.Join(append(have, value), ",")
	} else if len(info.Labels) >= maxShownBy {
		return
	}
	err := labels.Validate(key, value)
	if err == nil {
		_, err = p.store.Update(ctx, content.Info{Digest: info.Digest, Labels: map[string]string{key: value}}, "labels."+key)
	}
	if err != nil {
		log.G(ctx).WithError(err).WithField("digest", info.Digest).Debug("not noted who has it")
	}
}

// target is where a pulled image goes. It is stored when all of it was shown.
type target struct {
	transfer.ImageStorer
	pull *pulling
}

var (
	_ transfer.ImageFilterer = (*target)(nil)
	_ transfer.ImageUnpacker = (*target)(nil)
)

// ImageFilter chooses what of an image is fetched.
func (t *target) ImageFilter(h images.HandlerFunc, cs content.Store) images.HandlerFunc {
	if filter, ok := t.ImageStorer.(transfer.ImageFilterer); ok {
		return filter.ImageFilter(h, cs)
	}
	return h
}

// UnpackPlatforms says what is unpacked.
func (t *target) UnpackPlatforms() []transfer.UnpackConfiguration {
	if unpacker, ok := t.ImageStorer.(transfer.ImageUnpacker); ok {
		return unpacker.UnpackPlatforms()
	}
	return nil
}

// Store gives the image its name.
func (t *target) Store(ctx context.Context, desc ocispec.Descriptor, to images.Store) ([]images.Image, error) {
	children := t.ImageFilter(images.ChildrenHandler(t.pull.store), t.pull.store)
	if err := t.pull.check(ctx, desc, children); err != nil {
		return nil, fmt.Errorf("check image %s: %w", t.pull.remote.reference, err)
	}
	return t.ImageStorer.Store(ctx, desc, to)
}

// check sees to it that all of an image was shown, and that each layer is the one that the configuration names: a container is made of
// the layers that are unpacked under the names there, whatever the manifest says.
func (p *pulling) check(ctx context.Context, desc ocispec.Descriptor, children images.HandlerFunc) error {
	if err := p.demand(ctx, desc); err != nil {
		return err
	}
	if images.IsManifestType(desc.MediaType) {
		return p.checkManifest(ctx, desc)
	}
	below, err := children(ctx, desc)
	if err != nil {
		return err
	}
	for _, child := range below {
		if err := p.check(ctx, child, children); err != nil {
			return err
		}
	}
	return nil
}

func (p *pulling) checkManifest(ctx context.Context, desc ocispec.Descriptor) error {
	var manifest ocispec.Manifest
	if err := p.read(ctx, desc, &manifest); err != nil {
		return err
	}
	if len(manifest.Layers) > maxLayers {
		return fmt.Errorf("%d layers, more than %d: %w", len(manifest.Layers), maxLayers, ErrTooLarge)
	}
	if err := p.demand(ctx, manifest.Config); err != nil {
		return err
	}
	var config ocispec.Image
	if err := p.read(ctx, manifest.Config, &config); err != nil {
		return err
	}
	ids := config.RootFS.DiffIDs
	if len(ids) > 0 && len(ids) != len(manifest.Layers) {
		return fmt.Errorf("%d layers, and the configuration names %d: %w", len(manifest.Layers), len(ids), ErrNotShown)
	}
	for i, layer := range manifest.Layers {
		if err := p.demand(ctx, layer); err != nil {
			return err
		}
		if len(ids) == 0 {
			continue
		}
		if err := p.matches(ctx, layer, ids[i]); err != nil {
			return err
		}
	}
	return nil
}

// demand has the registry show a part. One that is not there is fetched: its layer was unpacked under another name.
func (p *pulling) demand(ctx context.Context, desc ocispec.Descriptor) error {
	p.mu.Lock()
	shown := p.shown[desc.Digest]
	p.mu.Unlock()
	if shown {
		return nil
	}
	from, err := p.remote.Fetcher(ctx, p.remote.reference)
	if err != nil {
		return err
	}
	if err := remotes.Fetch(ctx, p.store, from, desc); err != nil && !errdefs.IsAlreadyExists(err) {
		return fmt.Errorf("%w: %s: %w", ErrNotShown, desc.Digest, err)
	}
	return nil
}

func (p *pulling) read(ctx context.Context, desc ocispec.Descriptor, into any) error {
	if desc.Size > maxDocument {
		return fmt.Errorf("%s has %d bytes: %w", desc.Digest, desc.Size, ErrTooLarge)
	}
	raw, err := content.ReadBlob(ctx, p.store, desc)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(raw, into); err != nil {
		return fmt.Errorf("read %s: %w", desc.Digest, err)
	}
	return nil
}

// matches compares a layer with the name that the configuration has for it. Unpacking has left that of most.
func (p *pulling) matches(ctx context.Context, layer ocispec.Descriptor, id digest.Digest) error {
	info, err := p.store.Info(ctx, layer.Digest)
	if err != nil {
		return err
	}
	if info.Labels[labels.LabelUncompressed] == id.String() {
		return nil
	}
	if err := id.Validate(); err != nil {
		return err
	}
	ra, err := p.store.ReaderAt(ctx, layer)
	if err != nil {
		return err
	}
	defer ra.Close()
	plain, err := compression.DecompressStream(content.NewReader(ra))
	if err != nil {
		return fmt.Errorf("read layer %s: %w", layer.Digest, err)
	}
	defer plain.Close()
	sum := id.Algorithm().Digester()
	if _, err := io.Copy(sum.Hash(), &until{ctx: ctx, r: plain}); err != nil {
		return fmt.Errorf("read layer %s: %w", layer.Digest, err)
	}
	if got := sum.Digest(); got != id {
		return fmt.Errorf("%w: layer %s is %s, and the configuration calls it %s", ErrNotShown, layer.Digest, got, id)
	}
	return nil
}

// until reads until its context ends.
type until struct {
	ctx context.Context
	r   io.Reader
}

func (u *until) Read(p []byte) (int, error) {
	if u.ctx.Err() != nil {
		return 0, context.Cause(u.ctx)
	}
	return u.r.Read(p)
}
