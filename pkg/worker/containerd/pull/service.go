package pull

import (
	"context"
	"errors"
	"fmt"

	transfertypes "github.com/containerd/containerd/api/types/transfer"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/containerd/v2/core/transfer"
	"github.com/containerd/containerd/v2/core/transfer/registry"
	"github.com/containerd/containerd/v2/core/unpack"
	"github.com/containerd/typeurl/v2"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/nodeless/nodeless/pkg/registries"
	"github.com/nodeless/nodeless/pkg/worker/containerd/tenant"
)

// Service is containerd's transfer service with the operator's registries.
type Service struct {
	transfer.Transferrer // for whom we do not pull
	certs                string
	known                registries.Config
	store                content.Store
	reach                *reach
	places               *places
	locks                *tenantLocks
	transferrer          func(unpack.KeyedLocker) transfer.Transferrer // what pulls
}

var _ transfer.Transferrer = (*Service)(nil)

// Transfer pulls by the operator's registries where CRI asks, and leaves everything else to containerd.
func (s *Service) Transfer(ctx context.Context, src, dst any, opts ...transfer.Opt) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	asked, ok := src.(*registry.OCIRegistry)
	if !ok {
		return s.Transferrer.Transfer(ctx, src, dst, opts...)
	}
	ours, err := s.remote(ctx, asked)
	if err != nil {
		return fmt.Errorf("find registry of %s: %w", asked.Image(), err)
	}
	if ours == nil {
		return s.Transferrer.Transfer(ctx, src, dst, opts...)
	}
	return s.pull(ctx, ours, dst, opts...)
}

// pull pulls for the namespace of a Pod, within the limits.
func (s *Service) pull(ctx context.Context, src *remote, dst any, opts ...transfer.Opt) error {
	p, err := newPull(src, tenant.Of(ctx), s.store)
	if err != nil {
		return err
	}
	src.pull = p
	if storer, ok := dst.(transfer.ImageStorer); ok {
		dst = &target{ImageStorer: storer, pull: p}
	}
	ctx = context.WithValue(ctx, pullKey{}, p)
	if limit := s.places.limits.Timeout; limit > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, limit, fmt.Errorf("more than %s: %w", limit, ErrTooLong))
		defer cancel()
	}
	lock, done := s.locks.of(p.tenant)
	defer done()
	err = s.transferrer(lock).Transfer(ctx, src, dst, opts...)
	if why := context.Cause(ctx); errors.Is(why, ErrTooLong) && !errors.Is(err, ErrTooLong) && err != nil {
		return fmt.Errorf("%w: %w", why, err)
	}
	return err
}

// remote is the registry that takes the place of CRI's; nil if it is not CRI who asks.
func (s *Service) remote(ctx context.Context, asked *registry.OCIRegistry) (*remote, error) {
	secrets := &secrets{}
	raw, err := asked.MarshalAny(ctx, secrets)
	if err != nil {
		return nil, err
	}
	var spec transfertypes.OCIRegistry
	if err := typeurl.UnmarshalTo(raw, &spec); err != nil {
		return nil, err
	}
	if spec.Resolver.GetHostDir() != s.certs {
		return nil, nil
	}
	secrets.reference = spec.Reference
	h := hosts{ctx: ctx, known: s.known, certs: s.certs, secrets: secrets, reach: s.reach}
	return &remote{reference: spec.Reference, resolver: docker.NewResolver(docker.ResolverOptions{Hosts: h.of}), places: s.places}, nil
}

// remote is an image in a registry.
type remote struct {
	reference string
	resolver  remotes.Resolver
	places    *places
	pull      *pulling
}

var (
	_ transfer.ImageFetcher              = (*remote)(nil)
	_ transfer.ImageResolverOptionSetter = (*remote)(nil)
)

func (r *remote) String() string { return "image " + r.reference }

// Resolve asks the registry for the image. That it answers shows that this pull may read the repository.
func (r *remote) Resolve(ctx context.Context) (string, ocispec.Descriptor, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, resolveTimeout, fmt.Errorf("no answer within %s: %w", resolveTimeout, ErrTooSlow))
	defer cancel()
	name, desc, err := r.resolver.Resolve(ctx, r.reference)
	if err != nil {
		if why := context.Cause(ctx); errors.Is(why, ErrTooSlow) {
			err = fmt.Errorf("%w: %w", why, err)
		}
		return name, desc, err
	}
	r.pull.mu.Lock()
	r.pull.resolved = true
	r.pull.mu.Unlock()
	return name, desc, nil
}

func (r *remote) Fetcher(ctx context.Context, ref string) (transfer.Fetcher, error) {
	from, err := r.resolver.Fetcher(ctx, ref)
	if err != nil {
		return nil, err
	}
	return &fetcher{Fetcher: from, places: r.places, tenant: r.pull.tenant}, nil
}

// has asks the registry whether a part is in the repository, for who pulls.
func (r *remote) has(ctx context.Context, part digest.Digest) bool {
	from, err := r.resolver.Fetcher(ctx, r.reference)
	if err != nil {
		return false
	}
	byDigest, ok := from.(remotes.FetcherByDigest)
	if !ok {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, resolveTimeout)
	defer cancel()
	opened, _, err := byDigest.FetchByDigest(ctx, part)
	if err != nil {
		return false
	}
	return opened.Close() == nil
}

func (r *remote) SetResolverOptions(options ...transfer.ImageResolverOption) {
	if able, ok := r.resolver.(remotes.ResolverWithOptions); ok {
		able.SetOptions(options...)
	}
}
