package registries

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/nodeless/nodeless/pkg/hint"
)

// anyRegistry is the registry that stands for all which the file does not name.
const anyRegistry = "*"

// Config is the file's content. The zero value is no file: every registry is asked itself, by nobody in particular.
type Config struct {
	Mirrors map[string]Mirror // by registry, such as "docker.io"
	Hosts   map[string]Host   // by host, such as "registry.example.com:5000"
}

// Mirror is where the images of a registry are looked for before the registry itself is asked.
type Mirror struct {
	Endpoints []url.URL // with a path, in the order in which they are tried
	Rewrites  []Rewrite
}

// Host is how to talk to a registry or a mirror.
type Host struct {
	Auth Auth
	TLS  TLS
}

// Auth is what a registry asks for: name and password, or a token that buys others.
type Auth struct{ Username, Password, Token string }

// TLS names the files that prove who is who.
type TLS struct {
	CA, Cert, Key string
	SkipVerify    bool
}

// Rewrite changes a repository's name on its way to a mirror.
type Rewrite struct {
	Pattern *regexp.Regexp
	Replace string
}

// Endpoint is one place where the images of a registry may be had.
type Endpoint struct {
	URL      url.URL // scheme, host and the path of the API, such as /v2
	Mirror   bool    // not the registry itself
	Guessed  bool    // nobody said whether it speaks TLS: try that first, and do not look at the certificate
	Named    bool    // the operator's file names it: it may be where no other registry may
	Host     Host
	Rewrites []Rewrite
}

// Load reads the file. One that does not exist is an empty one, unless somebody asked for it.
func Load(path string, asked bool) (Config, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) && !asked {
		return Config{}, nil
	}
	if err != nil {
		return Config{}, &hint.Error{Op: "read registries file", On: path, Err: cause(err), Do: "give a file that can be read with --private-registry"}
	}
	cfg, err := parse(path, data)
	if err != nil {
		return Config{}, err
	}
	return cfg, cfg.checkMode(path)
}

// checkMode refuses passwords that everybody on the host can read.
func (c Config) checkMode(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return fmt.Errorf("read registries file: %w", err)
	}
	for _, h := range c.Hosts {
		if h.Auth != (Auth{}) && info.Mode().Perm()&0o077 != 0 {
			return &hint.Error{Op: "read registries file", On: path, Err: fmt.Errorf("it holds passwords and has mode %04o", info.Mode().Perm()), Do: "chmod 600 " + path}
		}
	}
	return nil
}

// Endpoints lists where the images of a registry are looked for, in order. The registry itself comes last.
func (c Config) Endpoints(registry string) []Endpoint {
	mirror, ok := c.Mirrors[registry]
	if !ok {
		mirror = c.Mirrors[anyRegistry]
	}
	own := Endpoint{URL: url.URL{Scheme: "https", Host: apiHost(registry), Path: "/v2"}}
	own.Host, own.Guessed, own.Named = c.host(own.URL.Host), isLocal(registry), c.Names(withPort(own.URL.Host, "443"))
	if own.Host.TLS != (TLS{}) {
		own.Guessed = false
	}
	var all []Endpoint
	for _, u := range mirror.Endpoints {
		all = append(all, Endpoint{URL: u, Mirror: u.Host != own.URL.Host, Named: true, Host: c.host(u.Host), Rewrites: mirror.Rewrites})
		if u == own.URL {
			return all // what would come after it was meant to be left out
		}
	}
	return append(all, own)
}

// host finds what is known of a host; Docker's registry answers to two names.
func (c Config) host(name string) Host {
	for _, n := range []string{name, registryOf(name), anyRegistry} {
		if h, ok := c.Hosts[n]; ok {
			return h
		}
	}
	return Host{}
}

// Names tells whether the file names a host with its port, as an endpoint, under configs, or as a registry that has mirrors. What has no
// port in the file is at both of HTTP's.
func (c Config) Names(hostPort string) bool {
	is := func(host string) bool {
		return strings.EqualFold(withPort(host, "443"), hostPort) || strings.EqualFold(withPort(host, "80"), hostPort)
	}
	for host := range c.Hosts {
		if is(apiHost(host)) {
			return true
		}
	}
	for registry, mirror := range c.Mirrors {
		if is(apiHost(registry)) || slices.ContainsFunc(mirror.Endpoints, func(u url.URL) bool { return is(u.Host) }) {
			return true
		}
	}
	return false
}

// withPort adds a port to a host without one.
func withPort(host, port string) string {
	if _, _, err := net.SplitHostPort(host); err == nil {
		return host
	}
	return net.JoinHostPort(strings.Trim(host, "[]"), port)
}

const (
	dockerRegistry = "docker.io"
	dockerHost     = "registry-1.docker.io"
)

func apiHost(registry string) string {
	if registry == dockerRegistry {
		return dockerHost
	}
	return registry
}

func registryOf(host string) string {
	if host == dockerHost {
		return dockerRegistry
	}
	return host
}

// isLocal tells whether a registry is one of this host on a port of its own, which by custom need not speak TLS.
func isLocal(host string) bool {
	_, port, err := net.SplitHostPort(host)
	return err == nil && port != "443" && isLoopback(host)
}

// isLoopback tells whether a registry is one of this host by its name.
func isLoopback(host string) bool {
	name := strings.Trim(host, "[]")
	if h, _, err := net.SplitHostPort(host); err == nil {
		name = h
	}
	ip := net.ParseIP(name)
	return name == "localhost" || ip != nil && ip.IsLoopback()
}

// Apply gives the name that a mirror knows a repository by. The first pattern that fits counts.
func Apply(rewrites []Rewrite, repository string) string {
	for _, r := range rewrites {
		if r.Pattern.MatchString(repository) {
			return r.Pattern.ReplaceAllString(repository, r.Replace)
		}
	}
	return repository
}

// Config loads the certificates.
func (t TLS) Config() (*tls.Config, error) {
	cfg := &tls.Config{InsecureSkipVerify: t.SkipVerify} //nolint:gosec // the operator's wish
	if t.CA != "" {
		pem, err := os.ReadFile(t.CA)
		if err != nil {
			return nil, fmt.Errorf("ca_file: %w", err)
		}
		if cfg.RootCAs, err = x509.SystemCertPool(); err != nil {
			cfg.RootCAs = x509.NewCertPool() // a host without certificates of its own
		}
		if !cfg.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("ca_file: %s holds no certificate in PEM form", t.CA)
		}
	}
	if t.Cert != "" {
		pair, err := tls.LoadX509KeyPair(t.Cert, t.Key)
		if err != nil {
			return nil, fmt.Errorf("cert_file and key_file: %w", err)
		}
		cfg.Certificates = []tls.Certificate{pair}
	}
	return cfg, nil
}

// cause takes the path out of an error that names it anyway.
func cause(err error) error {
	var p *fs.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	return err
}

// isHost tells whether s can stand before the first slash of an image's name.
func isHost(s string) bool {
	u, err := url.Parse("https://" + s)
	return err == nil && u.Host == s && s != "" && !strings.ContainsAny(s, "/@?# ")
}
