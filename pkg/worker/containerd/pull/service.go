package pull

import (
	"context"
	"fmt"

	transfertypes "github.com/containerd/containerd/api/types/transfer"
	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/containerd/v2/core/transfer"
	"github.com/containerd/containerd/v2/core/transfer/registry"
	"github.com/containerd/typeurl/v2"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/nodeless/nodeless/pkg/registries"
)

// Service is containerd's transfer service with the operator's registries.
type Service struct {
	transfer.Transferrer
	certs string
	known registries.Config
}

var _ transfer.Transferrer = (*Service)(nil)

// Transfer pulls by the operator's registries where CRI asks, and leaves everything else to containerd.
func (s *Service) Transfer(ctx context.Context, src, dst any, opts ...transfer.Opt) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if asked, ok := src.(*registry.OCIRegistry); ok {
		ours, err := s.remote(ctx, asked)
		if err != nil {
			return fmt.Errorf("find registry of %s: %w", asked.Image(), err)
		}
		if ours != nil {
			src = ours
		}
	}
	return s.Transferrer.Transfer(ctx, src, dst, opts...)
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
	h := hosts{ctx: ctx, known: s.known, certs: s.certs, secrets: secrets}
	return &remote{reference: spec.Reference, resolver: docker.NewResolver(docker.ResolverOptions{Hosts: h.of})}, nil
}

// remote is an image in a registry.
type remote struct {
	reference string
	resolver  remotes.Resolver
}

var (
	_ transfer.ImageFetcher              = (*remote)(nil)
	_ transfer.ImageResolverOptionSetter = (*remote)(nil)
)

func (r *remote) String() string { return "image " + r.reference }

func (r *remote) Resolve(ctx context.Context) (string, ocispec.Descriptor, error) {
	return r.resolver.Resolve(ctx, r.reference)
}

func (r *remote) Fetcher(ctx context.Context, ref string) (transfer.Fetcher, error) {
	return r.resolver.Fetcher(ctx, ref)
}

func (r *remote) SetResolverOptions(options ...transfer.ImageResolverOption) {
	if able, ok := r.resolver.(remotes.ResolverWithOptions); ok {
		able.SetOptions(options...)
	}
}
