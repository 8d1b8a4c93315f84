package pull

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/containerd/v2/core/remotes/docker/config"
	"github.com/containerd/errdefs"

	"github.com/nodeless/nodeless/pkg/netdev"
	"github.com/nodeless/nodeless/pkg/registries"
)

// dialTimeout is for a name's resolution and a connection. A registry that needs longer is as good as away; the kubelet
// tries again anyway.
const dialTimeout = 10 * time.Second

const (
	// resolveTimeout is for all of what precedes the first download: the name's resolution, tokens, the manifest's digest.
	resolveTimeout = 2 * time.Minute
	// maxHeaders and maxAnswer bound what a registry may say beside an image's parts: tokens and errors.
	maxHeaders = 1 << 20
	maxAnswer  = maxDocument + 1
)

// hosts finds where the images of a registry are, for one pull.
type hosts struct {
	ctx     context.Context
	known   registries.Config
	certs   string
	secrets *secrets
}

// of lists the places of a registry's images in the order in which they are tried.
func (h *hosts) of(registry string) ([]docker.RegistryHost, error) {
	switch _, err := config.HostDirFromRoot(h.certs)(registry); {
	case err == nil:
		return config.ConfigureHosts(h.ctx, config.HostOptions{HostDir: config.HostDirFromRoot(h.certs), Credentials: h.secrets.of, UpdateClient: bind})(registry)
	case !errdefs.IsNotFound(err):
		return nil, err
	}
	var all []docker.RegistryHost
	for _, e := range h.known.Endpoints(registry) {
		host, err := h.host(e)
		if err != nil {
			return nil, fmt.Errorf("registry %s: %w", e.URL.Host, err)
		}
		all = append(all, host)
	}
	return all, nil
}

// bind has the bounds hold for a client that containerd has made by an operator's hosts.toml. It may be called twice.
func bind(client *http.Client) error {
	if plain, ok := client.Transport.(*http.Transport); ok {
		restrict(plain, true) // the operator has named it
		client.Transport = &bounded{next: plain}
	}
	return nil
}

// restrict bounds what a registry may have of this host besides an image's parts. One that is here may be at a loopback address.
func restrict(plain *http.Transport, here bool) {
	plain.DialContext = dialer(dialTimeout, here)
	plain.ForceAttemptHTTP2, plain.TLSNextProto = false, map[string]func(string, *tls.Conn) http.RoundTripper{} // a stream of HTTP/2 may have megabytes waiting
	plain.MaxResponseHeaderBytes = maxHeaders
}

func (h *hosts) host(e registries.Endpoint) (docker.RegistryHost, error) {
	tlsConfig, err := e.Host.TLS.Config()
	if err != nil {
		return docker.RegistryHost{}, err
	}
	plain := docker.DefaultHTTPTransport(tlsConfig)
	restrict(plain, e.Here)
	var transport http.RoundTripper = plain
	if e.Guessed {
		tlsConfig.InsecureSkipVerify = true
		transport = docker.NewHTTPFallback(plain)
	}
	if len(e.Rewrites) > 0 {
		transport = &rewriter{next: transport, host: e.URL.Host, path: repositoryPath(e.URL.Path), rewrites: e.Rewrites}
	}
	client := &http.Client{Transport: &bounded{next: transport}}
	host := docker.RegistryHost{
		Client: client, Scheme: e.URL.Scheme, Host: e.URL.Host, Path: e.URL.Path,
		Capabilities: docker.HostCapabilityPull | docker.HostCapabilityResolve | docker.HostCapabilityReferrers,
		Authorizer:   docker.NewDockerAuthorizer(docker.WithAuthClient(client), docker.WithAuthCreds(h.credentials(e))),
	}
	return host, nil
}

// credentials are those of the Pod, or else the operator's. At a mirror the operator's go first: what a Pod knows is meant
// for the registry itself.
func (h *hosts) credentials(e registries.Endpoint) func(string) (string, string, error) {
	return func(host string) (string, string, error) {
		own := e.Host.Auth
		if e.Mirror && own != (registries.Auth{}) {
			return own.Username, own.Password + own.Token, nil
		}
		name, secret, err := h.secrets.of(host)
		if err == nil && name == "" && secret == "" {
			name, secret = own.Username, own.Password+own.Token // it has one of the two
		}
		return name, secret, err
	}
}

// These answer an image that names, or whose registry sends the host to, an address where the host is somebody: the metadata service of its
// cloud, or its own programs that listen to itself alone. It is the host who asks, and what is said there it may pass on to the registry.
var (
	errMetadata = errors.New("an image's registry is not at the address of a cloud's metadata service")
	errLoopback = errors.New("a registry at a loopback address is one that the image names so, or that the operator's registries.yaml names")
)

// allowed looks at the address itself, whatever name it had.
func allowed(here bool) func(context.Context, string, string, syscall.RawConn) error {
	denied := netdev.MetadataServices()
	return func(_ context.Context, _, address string, _ syscall.RawConn) error {
		addr, err := netip.ParseAddrPort(address)
		if err != nil {
			return err
		}
		at := addr.Addr().Unmap().WithZone("")
		switch {
		case at.IsLinkLocalUnicast(), slices.ContainsFunc(denied, func(p netip.Prefix) bool { return p.Contains(at) }):
			return errMetadata
		case !here && (at.IsLoopback() || at.IsUnspecified()):
			return errLoopback
		}
		return nil
	}
}

// dialer connects. That a host did not answer in time is final: containerd would try five times what times out.
func dialer(limit time.Duration, here bool) func(ctx context.Context, network, addr string) (net.Conn, error) {
	d := net.Dialer{Timeout: limit, KeepAlive: 30 * time.Second, ControlContext: allowed(here)}
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := d.DialContext(ctx, network, addr)
		var timeout net.Error
		if errors.As(err, &timeout) && timeout.Timeout() && ctx.Err() == nil {
			return nil, errors.New(err.Error()) // a kind that containerd does not know
		}
		return conn, err
	}
}

// rewriter changes the names of repositories in requests to one mirror.
type rewriter struct {
	next     http.RoundTripper
	host     string
	path     *regexp.Regexp
	rewrites []registries.Rewrite
}

// repositoryPath matches the paths of a registry's API that name a repository, with what is before it, it, and what is behind.
func repositoryPath(base string) *regexp.Regexp {
	return regexp.MustCompile(`^(` + regexp.QuoteMeta(base) + `/)(.+)(/(?:manifests|blobs|referrers|tags)/.*)$`)
}

func (r *rewriter) RoundTrip(req *http.Request) (*http.Response, error) {
	parts := r.path.FindStringSubmatch(req.URL.Path)
	if parts == nil || req.URL.Host != r.host || req.Response != nil { // it has a Response if the mirror itself sends us there
		return r.next.RoundTrip(req)
	}
	req = req.Clone(req.Context())
	req.URL.Path, req.URL.RawPath = parts[1]+registries.Apply(r.rewrites, parts[2])+parts[3], ""
	return r.next.RoundTrip(req)
}

// bounded cuts off answers that are no part of an image. containerd reads tokens and errors to their end.
type bounded struct{ next http.RoundTripper }

func (b *bounded) RoundTrip(req *http.Request) (*http.Response, error) {
	res, err := b.next.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	asked := req
	for asked.Response != nil { // a registry may send us on
		asked = asked.Response.Request
	}
	if !strings.Contains(asked.URL.Path, "/blobs/") || res.StatusCode >= http.StatusMultipleChoices {
		res.Body = &short{ReadCloser: res.Body, left: maxAnswer}
	}
	return res, nil
}

// short is a body that must end soon.
type short struct {
	io.ReadCloser
	left int64
}

func (s *short) Read(p []byte) (int, error) {
	if s.left <= 0 {
		return 0, fmt.Errorf("read answer of registry: more than %d bytes: %w", maxAnswer, ErrTooLarge)
	}
	n, err := s.ReadCloser.Read(p[:min(int64(len(p)), s.left)])
	s.left -= int64(n)
	return n, err
}
