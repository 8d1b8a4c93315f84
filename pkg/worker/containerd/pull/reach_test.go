package pull

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/remotes/docker"

	"github.com/nodeless/nodeless/pkg/registries"
	"github.com/nodeless/nodeless/tests/attack"
)

func prefixes(texts ...string) (all []netip.Prefix) {
	for _, text := range texts {
		all = append(all, netip.MustParsePrefix(text))
	}
	return all
}

// somewhere is a host at 192.0.2.7 that has Pods, and a network that they do not reach.
func somewhere() *reach {
	r := newReach(prefixes("10.0.0.0/8"), prefixes("10.42.0.0/16", "172.30.0.0/16"))
	r.own = func(at netip.Addr) (bool, error) {
		return at.IsLoopback() || at.IsUnspecified() || at.String() == "192.0.2.7", nil
	}
	return r
}

func TestReach(t *testing.T) {
	for at, want := range map[string]struct{ stranger, named error }{
		"192.0.2.8": {}, "2001:db8::8": {},
		"127.0.0.1": {errOwn, nil}, "::1": {errOwn, nil}, "::ffff:127.0.0.1": {errOwn, nil}, "0.0.0.0": {errOwn, nil}, "192.0.2.7": {errOwn, nil},
		"10.1.2.3": {errDenied, nil}, "::ffff:10.1.2.3": {errDenied, nil}, "10.42.0.1": {errCluster, nil}, "172.30.0.1": {errCluster, nil},
		"169.254.1.1": {errMetadata, errMetadata}, "fe80::1%lo": {errMetadata, errMetadata}, "100.100.100.200": {errMetadata, errMetadata},
	} {
		for named, want := range map[bool]error{false: want.stranger, true: want.named} {
			if err := somewhere().check(netip.MustParseAddr(at), named); !errors.Is(err, want) {
				t.Errorf("%s, named %v: %v, want %v", at, named, err, want)
			}
		}
	}
	r := somewhere()
	r.own = func(netip.Addr) (bool, error) { return false, os.ErrPermission }
	if err := r.check(netip.MustParseAddr("192.0.2.8"), false); !errors.Is(err, os.ErrPermission) {
		t.Errorf("an address of which the kernel says nothing: %v", err)
	}
}

// TestReachByProxy: the operator's proxy is asked wherever it is, for others. It is nobody's registry, and leads nobody where he may not
// go.
func TestReachByProxy(t *testing.T) {
	r := somewhere()
	r.proxy = func(u *url.URL) (*url.URL, error) {
		if u.Hostname() == "direct.example.com" || u.Hostname() == "127.0.0.1" { // as by NO_PROXY, and always
			return nil, nil
		}
		return &url.URL{Scheme: "http", Host: "127.0.0.1:1"}, nil
	}
	for target, want := range map[string]struct{ by, fault string }{
		"https://example.com/v2/": {by: "127.0.0.1:1"}, "https://direct.example.com/v2/": {}, "https://192.0.2.8/v2/": {by: "127.0.0.1:1"},
		"https://10.1.2.3/v2/": {fault: "--pod-deny-cidr"}, "https://[::1]:5000/v2/": {fault: "of this host"}, "http://127.0.0.1:1/v2/": {fault: "host's proxy"},
	} {
		req := httptest.NewRequestWithContext(t.Context(), http.MethodGet, target, nil)
		proxy, err := r.through(nobody)(req)
		if (proxy == nil) != (want.by == "") || proxy != nil && proxy.Host != want.by || (err == nil) != (want.fault == "") || err != nil && !strings.Contains(err.Error(), want.fault) {
			t.Errorf("%s: by %v, %v, want by %q, %q", target, proxy, err, want.by, want.fault)
		}
	}
	if _, err := r.dialer(time.Second, nobody)(t.Context(), "tcp", "127.0.0.1:1"); err == nil || errors.Is(err, errOwn) {
		t.Errorf("the proxy itself: %v, want that nobody listens", err)
	}
}

// lead is a server that sends whoever asks elsewhere.
func lead(t *testing.T, redirect bool, to string) string {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if redirect {
			http.Redirect(w, r, to, http.StatusTemporaryRedirect)
			return
		}
		w.Header().Set("WWW-Authenticate", `Bearer realm="`+to+`",service="x"`)
		w.WriteHeader(http.StatusUnauthorized)
	}))
	t.Cleanup(s.Close)
	return s.URL
}

// denying is a host that is reached at any address but those of this machine, which are as in a network that Pods do not reach.
func denying() *reach {
	r := newReach(prefixes("127.0.0.0/8", "::1/128"), nil)
	r.own = func(netip.Addr) (bool, error) { return false, nil }
	return r
}

// resolve asks the registry at a URL for an image. The registry itself is let through if it is open.
func resolve(t *testing.T, at string, known registries.Config, open bool) error {
	t.Helper()
	u, err := url.Parse(at)
	if err != nil {
		t.Fatal(err)
	}
	h := hosts{ctx: t.Context(), known: known, secrets: &secrets{}, reach: denying()}
	e := known.Endpoints(u.Host)[0]
	e.URL.Scheme, e.Guessed = "http", false
	host, err := h.host(e)
	if err != nil {
		t.Fatal(err)
	}
	transport := host.Client.Transport.(*bounded).next.(*http.Transport)
	dial := transport.DialContext
	transport.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		if open && addr == u.Host {
			return (&net.Dialer{}).DialContext(ctx, network, addr)
		}
		return dial(ctx, network, addr)
	}
	resolver := docker.NewResolver(docker.ResolverOptions{Hosts: func(string) ([]docker.RegistryHost, error) { return []docker.RegistryHost{host}, nil }})
	_, _, err = resolver.Resolve(t.Context(), "example.com/hub/box:1")
	return err
}

// naming is an operator's file that names the host of a URL.
func naming(at string) registries.Config {
	return registries.Config{Hosts: map[string]registries.Host{strings.TrimPrefix(at, "http://"): {}}}
}

// within serves what is in a network that Pods do not reach, at a name that resolves to it. Who asks there is told of.
func within(t *testing.T) (at string, asked chan string) {
	asked = make(chan string, 100)
	s := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { asked <- r.URL.Path }))
	t.Cleanup(s.Close)
	return strings.Replace(s.URL, "127.0.0.1", "localhost", 1), asked
}

// TestAttackAnImageInADeniedNetwork: what no Pod reaches, no image has the host reach for a Pod. The name does not help, whatever it
// resolves to, nor does a redirect, nor a place where tokens are to be had.
func TestAttackAnImageInADeniedNetwork(t *testing.T) {
	inside, asked := within(t)
	redirect, token := lead(t, true, inside+"/x"), lead(t, false, inside+"/x")
	for what, tt := range map[string]struct {
		registry string
		known    registries.Config
	}{
		"as its registry":            {registry: inside},
		"by a redirect":              {registry: redirect},
		"as the place of its tokens": {registry: token},
		"by a redirect of a registry that the operator has named":               {registry: redirect, known: naming(redirect)},
		"by a redirect of a stranger to a registry that the operator has named": {registry: redirect, known: naming(inside)},
	} {
		attack.Try(t, "T3", "an image in a network that Pods do not reach, "+what, func(t *testing.T) attack.Outcome {
			err := resolve(t, tt.registry, tt.known, tt.registry != inside)
			if !errors.Is(err, errDenied) || !strings.Contains(err.Error(), "registries.yaml") {
				t.Errorf("the pull ends with %v, want %v and what to do", err, errDenied)
			}
			if len(asked) > 0 {
				return attack.Succeeded
			}
			return attack.Refused
		})
	}
}

// TestTheOperatorsWord: a registry that he names is asked wherever it is.
func TestTheOperatorsWord(t *testing.T) {
	inside, asked := within(t)
	if err := resolve(t, inside, naming(inside), false); len(asked) == 0 {
		t.Errorf("the registry was not asked: %v", err)
	}
}

// TestAttackAnImageAtTheHostItself: an image's name says an address of the host, where programs listen to it alone.
func TestAttackAnImageAtTheHostItself(t *testing.T) {
	asked := make(chan string, 100)
	inside := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { asked <- r.URL.Path }))
	defer inside.Close()
	_, port, _ := strings.Cut(strings.TrimPrefix(inside.URL, "http://"), ":")
	certs := t.TempDir() // for all registries, and so for none by its name
	text := "[host.\"http://127.0.0.1:1\"]\n"
	if err := errors.Join(os.Mkdir(filepath.Join(certs, "_default"), 0o700), os.WriteFile(filepath.Join(certs, "_default", "hosts.toml"), []byte(text), 0o600)); err != nil {
		t.Fatal(err)
	}
	for what, certs := range map[string]string{"": "", ", with a hosts.toml for all": certs} {
		for _, name := range []string{"127.0.0.1", "localhost", "[::1]", "127.1.2.3", "0.0.0.0", "[::ffff:127.0.0.1]"} {
			attack.Try(t, "T3", "an image at "+name+what, func(t *testing.T) attack.Outcome {
				h := hosts{ctx: t.Context(), certs: certs, secrets: &secrets{}, reach: newReach(nil, nil)}
				resolver := docker.NewResolver(docker.ResolverOptions{Hosts: h.of})
				_, _, err := resolver.Resolve(t.Context(), name+":"+port+"/hub/box:1")
				if err == nil || what == "" && !errors.Is(err, errOwn) {
					t.Errorf("the pull ends with %v, want %v", err, errOwn)
				}
				if len(asked) > 0 {
					return attack.Succeeded
				}
				return attack.Refused
			})
		}
	}
}
