package pull

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/containerd/v2/core/transfer"
	"github.com/containerd/containerd/v2/core/transfer/registry"
	"github.com/containerd/containerd/v2/core/unpack"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/nodeless/nodeless/pkg/registries"
	"github.com/nodeless/nodeless/tests/attack"
	"github.com/nodeless/nodeless/tests/testregistry"
)

// fetchAll is a transfer service that only reads what it is to pull: its manifest's digest.
type fetchAll struct{ got digest.Digest }

func (f *fetchAll) Transfer(ctx context.Context, src, _ any, _ ...transfer.Opt) error {
	image := src.(transfer.ImageFetcher)
	name, desc, err := image.Resolve(ctx)
	if err != nil {
		return err
	}
	fetcher, err := image.Fetcher(ctx, name)
	if err != nil {
		return err
	}
	content, err := fetcher.Fetch(ctx, desc)
	if err != nil {
		return err
	}
	defer content.Close()
	raw, err := io.ReadAll(content)
	f.got = digest.FromBytes(raw)
	return err
}

// secret is what CRI knows of a Pod's credentials; it is for every host.
type secret struct{ name, password string }

func (s secret) GetCredentials(context.Context, string, string) (registry.Credentials, error) {
	if s.name == "broken" {
		return registry.Credentials{}, errors.New("not base64")
	}
	return registry.Credentials{Username: s.name, Secret: s.password}, nil
}

// listen serves a registry on a port of this machine and returns host:port.
func listen(t *testing.T, r *testregistry.Registry, plain bool) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r.Serve(l, plain)
	return l.Addr().String()
}

// serve is a registry with an image hub/box:1, which "me" with password "secret" may read.
func serve(t *testing.T) (r *testregistry.Registry, host string, want digest.Digest) {
	t.Helper()
	r, err := testregistry.New("127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	r.AddUser("me", "secret")
	want, err = r.Push("hub/box", "1", testregistry.Image{Layers: []testregistry.Layer{{Tar: testregistry.Tar()}}})
	if err != nil {
		t.Fatal(err)
	}
	return r, listen(t, r, false), want
}

// pull pulls as CRI does, by a registries file in which HOST and CA are put in.
func pull(t *testing.T, ref, file string, s secret, ca []byte, host string) (digest.Digest, error) {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "ca.pem"), ca, 0o600); err != nil {
		t.Fatal(err)
	}
	file = strings.NewReplacer("HOST", host, "CA", filepath.Join(dir, "ca.pem")).Replace(file)
	path := filepath.Join(dir, "registries.yaml")
	if err := os.WriteFile(path, []byte(file), 0o600); err != nil {
		t.Fatal(err)
	}
	known, err := registries.Load(path, true)
	if err != nil {
		t.Fatal(err)
	}
	certs := filepath.Join(dir, "certs.d")
	asked, err := registry.NewOCIRegistry(t.Context(), ref, registry.WithCredentials(s), registry.WithHostDir(certs))
	if err != nil {
		t.Fatal(err)
	}
	var f fetchAll
	service := &Service{
		certs: certs, known: known, reach: newReach(nil, nil), places: newPlaces(DefaultLimits()), locks: &tenantLocks{locks: map[string]*tenantLock{}},
		transferrer: func(unpack.KeyedLocker) transfer.Transferrer { return &f },
	}
	err = service.Transfer(t.Context(), asked, nil)
	return f.got, err
}

const trusted = "tls: {ca_file: \"CA\"}"

func TestPull(t *testing.T) {
	r, host, want := serve(t)
	for name, tt := range map[string]struct {
		ref, file string
		secret    secret
		fault     string // empty: the image arrives
	}{
		"the operator's credentials":                {"HOST/hub/box:1", "configs: {HOST: {auth: {username: me, password: secret}, " + trusted + "}}", secret{}, ""},
		"the operator's, in base64":                 {"HOST/hub/box:1", "configs: {HOST: {auth: {auth: bWU6c2VjcmV0}, " + trusted + "}}", secret{}, ""},
		"the Pod's go first at the registry":        {"HOST/hub/box:1", "configs: {HOST: {auth: {username: me, password: no}, " + trusted + "}}", secret{"me", "secret"}, ""},
		"the operator's go first at a mirror":       {"docker.io/hub/box:1", "mirrors: {docker.io: {endpoint: [\"https://HOST\"]}}\nconfigs: {HOST: {auth: {username: me, password: secret}, " + trusted + "}}", secret{"me", "docker's"}, ""},
		"a mirror and a rewritten name":             {"docker.io/library/box:1", "mirrors: {docker.io: {endpoint: [\"https://HOST\"], rewrite: {\"^library/(.*)$\": hub/$1}}}\nconfigs: {HOST: {" + trusted + "}}", secret{"me", "secret"}, ""},
		"a mirror of everything, by digest":         {"ghcr.io/hub/box@" + want.String(), "mirrors: {\"*\": {endpoint: [\"https://HOST\"]}}\nconfigs: {HOST: {" + trusted + "}}", secret{"me", "secret"}, ""},
		"the second mirror, as the first is not up": {"docker.io/hub/box:1", "mirrors: {docker.io: {endpoint: [\"https://127.0.0.1:1\", \"https://HOST\"]}}\nconfigs: {HOST: {" + trusted + "}}", secret{"me", "secret"}, ""},
		"no look at the certificate":                {"HOST/hub/box:1", "configs: {HOST: {tls: {insecure_skip_verify: true}}}", secret{"me", "secret"}, ""},
		"a registry of this host needs its name":    {"HOST/hub/box:1", "configs: {HOST: }", secret{"me", "secret"}, ""},
		"a registry of this host without it":        {"HOST/hub/box:1", "", secret{"me", "secret"}, "names its host and port under configs in registries.yaml"},
		"wrong password":                            {"HOST/hub/box:1", "configs: {HOST: {" + trusted + "}}", secret{"me", "no"}, "401 Unauthorized"},
		"no password":                               {"HOST/hub/box:1", "configs: {HOST: {" + trusted + "}}", secret{}, "access denied"},
		"an authority that nobody knows":            {"127.0.0.1:1/hub/box:1", "mirrors: {\"127.0.0.1:1\": {endpoint: [\"https://HOST\"]}}", secret{"me", "secret"}, "unknown authority"},
		"no such image":                             {"HOST/hub/none:1", "configs: {HOST: {" + trusted + "}}", secret{"me", "secret"}, "not found"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := pull(t, strings.Replace(tt.ref, "HOST", host, 1), tt.file, tt.secret, r.CA, host)
			switch {
			case tt.fault == "" && (err != nil || got != want):
				t.Errorf("got %s, %v; want %s", got, err, want)
			case tt.fault != "" && (err == nil || !strings.Contains(err.Error(), tt.fault)):
				t.Errorf("got %s, %v; want an error with %q", got, err, tt.fault)
			}
			if err != nil && strings.Contains(err.Error(), "secret") {
				t.Errorf("the error shows a password: %v", err)
			}
		})
	}
}

func TestPlainRegistryOfThisHost(t *testing.T) {
	r, _, want := serve(t)
	host := listen(t, r, true)
	if got, err := pull(t, host+"/hub/box:1", "mirrors: {HOST: {}}", secret{"me", "secret"}, r.CA, host); err != nil || got != want {
		t.Errorf("got %s, %v; want %s", got, err, want)
	}
}

// TestSecretThatCannotBeRead: containerd says nothing then, and a pull must not wait for it for ever.
func TestSecretThatCannotBeRead(t *testing.T) {
	r, host, _ := serve(t)
	_, err := pull(t, host+"/hub/box:1", "configs: {HOST: {"+trusted+"}}", secret{name: "broken"}, r.CA, host)
	if !errors.Is(err, errBadSecret) {
		t.Errorf("error = %v, want %v", err, errBadSecret)
	}
}

func all(string) bool { return true }

// TestAHostThatDoesNotAnswerIsTriedOnce: its error must not look like one that is worth another try.
func TestAHostThatDoesNotAnswerIsTriedOnce(t *testing.T) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := errors.Join(unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}), unix.Listen(fd, 0)); err != nil {
		t.Fatal(err)
	}
	bound, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	addr := fmt.Sprintf("127.0.0.1:%d", bound.(*unix.SockaddrInet4).Port)
	// Nobody accepts, and there is room for one or two who wait.
	for range 5 {
		var conn net.Conn
		if conn, err = newReach(nil, nil).dialer(100*time.Millisecond, all)(t.Context(), "tcp", addr); err != nil {
			break
		}
		defer conn.Close()
	}
	if err == nil || !strings.Contains(err.Error(), addr) || !strings.Contains(err.Error(), "timeout") {
		t.Fatalf("error = %v, want a timeout that names the address", err)
	}
	var kind net.Error
	if errors.As(&url.Error{Op: "Head", Err: err}, &kind) && kind.Timeout() {
		t.Errorf("%v would be tried again", err)
	}
}

// TestAttackAnImageAtTheMetadataService: it is the host that pulls, and the host's cloud knows it by that address.
func TestAttackAnImageAtTheMetadataService(t *testing.T) {
	attack.Try(t, "T3", "an image whose registry is the host's metadata service", func(t *testing.T) attack.Outcome {
		for _, address := range []string{"169.254.169.254:80", "[fe80::1%lo]:443", "[::ffff:169.254.169.254]:80", "100.100.100.200:80", "168.63.129.16:80", "192.0.0.192:80"} {
			if _, err := newReach(nil, nil).dialer(time.Second, all)(t.Context(), "tcp", address); !errors.Is(err, errMetadata) {
				t.Errorf("%s: %v, want %v", address, err, errMetadata)
			}
		}
		return attack.Refused
	})
}

// TestAttackARegistryThatSendsTheHostToItself: a registry says where tokens are to be had. The host would ask its own programs there, and
// tell the registry what they say.
func TestAttackARegistryThatSendsTheHostToItself(t *testing.T) {
	asked := make(chan string, 100)
	inside := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked <- r.Method + " " + r.URL.Path
		_, _ = io.WriteString(w, `{"Token":"of-the-host"}`)
	}))
	defer inside.Close()
	told := ""
	outside := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		told += r.Header.Get("Authorization")
		if strings.Contains(r.URL.Path, "/elsewhere/") {
			http.Redirect(w, r, inside.URL+"/secret", http.StatusTemporaryRedirect)
			return
		}
		w.Header().Set("WWW-Authenticate", `Bearer realm="`+inside.URL+`/secret",service="x"`)
		w.WriteHeader(http.StatusUnauthorized)
	}))
	defer outside.Close()
	for what, repository := range map[string]string{"by the place of its tokens": "hub/box", "by a redirect": "elsewhere/box"} {
		attack.Try(t, "T3", "a registry has the host ask its own programs "+what, func(t *testing.T) attack.Outcome {
			h := hosts{ctx: t.Context(), secrets: &secrets{}, reach: newReach(nil, nil)}
			e := registries.Endpoint{URL: url.URL{Scheme: "http", Host: strings.TrimPrefix(outside.URL, "http://"), Path: "/v2"}}
			host, err := h.host(e)
			if err != nil {
				t.Fatal(err)
			}
			// The test's own registry is at a loopback address too.
			host.Client.Transport.(*bounded).next.(*http.Transport).DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
				return h.reach.dialer(time.Second, func(to string) bool { return to == e.URL.Host })(ctx, network, addr)
			}
			resolver := docker.NewResolver(docker.ResolverOptions{Hosts: func(string) ([]docker.RegistryHost, error) { return []docker.RegistryHost{host}, nil }})
			if _, _, err := resolver.Resolve(t.Context(), "example.com/"+repository+":1"); !errors.Is(err, errOwn) {
				t.Errorf("the pull ends with %v, want %v", err, errOwn)
			}
			if len(asked) > 0 || strings.Contains(told, "of-the-host") {
				t.Errorf("the host was asked for %s, and told %q", <-asked, told)
				return attack.Succeeded
			}
			return attack.Refused
		})
	}
}

// TestAttackBoundsByHostsToml: where an operator has a hosts.toml for all registries, a stranger's is one of them.
func TestAttackBoundsByHostsToml(t *testing.T) {
	attack.Try(t, "T8", "have a registry that hosts.toml is for say things without end, or be the metadata service", func(t *testing.T) attack.Outcome {
		certs := t.TempDir()
		if err := os.MkdirAll(filepath.Join(certs, "_default"), 0o700); err != nil {
			t.Fatal(err)
		}
		text := "[host.\"http://169.254.169.254\"]\n[host.\"http://169.254.169.254:81\"]\n  skip_verify = true\n  dial_timeout = \"1s\"\n"
		if err := os.WriteFile(filepath.Join(certs, "_default", "hosts.toml"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		h := hosts{ctx: t.Context(), certs: certs, secrets: &secrets{}, reach: newReach(nil, nil)}
		all, err := h.of("example.com")
		if err != nil || len(all) < 2 {
			t.Fatalf("%d hosts, %v", len(all), err)
		}
		for _, host := range all[:2] {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, host.Scheme+"://"+host.Host+"/v2/", nil)
			if err != nil {
				t.Fatal(err)
			}
			if res, err := host.Client.Do(req); !errors.Is(err, errMetadata) {
				if err == nil {
					_ = res.Body.Close()
				}
				t.Errorf("%s: %v, want %v", host.Host, err, errMetadata)
			}
		}
		if _, ok := all[0].Client.Transport.(*bounded); !ok {
			return attack.Succeeded
		}
		return attack.Contained
	})
}

// TestOthersAreLeftAlone: a client that brings its own idea of a registry, or none, is not CRI.
func TestOthersAreLeftAlone(t *testing.T) {
	asked, err := registry.NewOCIRegistry(t.Context(), "docker.io/library/box:1", registry.WithHostDir("/elsewhere"))
	if err != nil {
		t.Fatal(err)
	}
	var seen any
	s := &Service{Transferrer: transferFunc(func(src any) { seen = src }), certs: "/certs.d"}
	if err := s.Transfer(t.Context(), asked, nil); err != nil || seen != any(asked) {
		t.Errorf("source is %v, %v; want the one that was asked for", seen, err)
	}
}

type transferFunc func(src any)

func (f transferFunc) Transfer(_ context.Context, src, _ any, _ ...transfer.Opt) error {
	f(src)
	return nil
}

func TestKeyedLock(t *testing.T) {
	l := newKeyedLock()
	if err := l.Lock(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	if err := l.Lock(t.Context(), "b"); err != nil { // another key is another lock
		t.Fatal(err)
	}
	got := make(chan error, 1)
	go func() { got <- l.Lock(context.Background(), "a") }()
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if err := l.Lock(ctx, "a"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a held lock was given away: %v", err)
	}
	l.Unlock("a")
	if err := <-got; err != nil {
		t.Error(err)
	}
	l.Unlock("a")
	l.Unlock("b")
	if len(l.locks) != 0 {
		t.Errorf("%d locks are left", len(l.locks))
	}
}
