package pull

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/containerd/v2/core/remotes/docker/config"
	"github.com/containerd/errdefs"

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
	reach   *reach
}

// of lists the places of a registry's images in the order in which they are tried.
func (h *hosts) of(registry string) ([]docker.RegistryHost, error) {
	switch dir, err := config.HostDirFromRoot(h.certs)(registry); {
	case err == nil:
		return h.byHostsToml(registry, filepath.Base(dir) == defaultHosts)
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

// defaultHosts is the folder of an operator's hosts.toml that is for every registry without a folder of its own.
const defaultHosts = "_default"

// byHostsToml lists the places by an operator's hosts.toml. He has named those in it, and the registry by its folder. A stranger's registry
// is among them too, if the file is for all.
func (h *hosts) byHostsToml(registry string, forAll bool) ([]docker.RegistryHost, error) {
	known := map[string]bool{}
	options := config.HostOptions{HostDir: config.HostDirFromRoot(h.certs), Credentials: h.secrets.of, UpdateClient: func(client *http.Client) error {
		// The bounds hold for these clients too. It may be called twice.
		if plain, ok := client.Transport.(*http.Transport); ok {
			h.restrict(plain, func(hostPort string) bool { return known[hostPort] || h.known.Names(hostPort) })
			client.Transport = &bounded{next: plain}
		}
		return nil
	}}
	all, err := config.ConfigureHosts(h.ctx, options)(registry)
	if err != nil {
		return nil, err
	}
	own, err := docker.DefaultHost(registry)
	if err != nil {
		return nil, err
	}
	for _, host := range all {
		if !forAll || host.Host != own {
			known[withPort(&url.URL{Scheme: host.Scheme, Host: host.Host})] = true
		}
	}
	return all, nil
}

// restrict bounds what a registry may have of this host besides an image's parts.
func (h *hosts) restrict(plain *http.Transport, is named) {
	plain.DialContext, plain.Proxy = h.reach.dialer(dialTimeout, is), h.reach.through(is)
	// HTTP/2 is off: one of its streams may have megabytes waiting.
	plain.ForceAttemptHTTP2, plain.TLSNextProto = false, map[string]func(string, *tls.Conn) http.RoundTripper{}
	plain.MaxResponseHeaderBytes = maxHeaders
}

func (h *hosts) host(e registries.Endpoint) (docker.RegistryHost, error) {
	tlsConfig, err := e.Host.TLS.Config()
	if err != nil {
		return docker.RegistryHost{}, err
	}
	plain := docker.DefaultHTTPTransport(tlsConfig)
	is := nobody // whom the operator does not know sends us to nobody whom he knows
	if e.Named {
		is = h.known.Names
	}
	h.restrict(plain, is)
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
