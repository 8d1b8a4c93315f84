package registries_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io/fs"
	"math/big"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nodeless/nodeless/pkg/hint"
	"github.com/nodeless/nodeless/pkg/registries"
)

// write puts a file below dir and returns its path. DIR in the text stands for dir.
func write(t *testing.T, dir, name, text string, mode fs.FileMode) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, []byte(strings.ReplaceAll(text, "DIR", dir)), mode); err != nil {
		t.Fatal(err)
	}
	return path
}

// certificate writes DIR/cert.pem and DIR/key.pem.
func certificate(t *testing.T, dir string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	self := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, self, self, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	write(t, dir, "cert.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), 0o600)
	write(t, dir, "key.pem", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw})), 0o600)
}

const example = `
mirrors:
  docker.io:
    endpoint: [https://mirror.example.com:5000, "plain.example.com/api/v2/", "http://127.0.0.1:5000"]
    rewrite:
      "^library/(.*)$": "hub/$1"
      "(?P<all>.*)": "other/${all}"
  "*":
    endpoint: ["localhost:5001"]
  quay.io:
configs:
  mirror.example.com:5000:
    auth: {username: me, password: secret}
    tls: {ca_file: DIR/cert.pem, cert_file: DIR/cert.pem, key_file: DIR/key.pem}
  registry-1.docker.io:
    auth: {auth: "bWU6c2VjcmV0"}
  ghcr.io:
    auth: {identity_token: abc}
  "*":
    tls: {insecure_skip_verify: true}
`

// shown is an endpoint without its certificates and patterns.
type shown struct {
	URL                   string
	Mirror, Guessed, Skip bool
	Auth                  registries.Auth
	CA                    bool
	Rewritten             string // what becomes of library/busybox
}

func TestEndpoints(t *testing.T) {
	dir := t.TempDir()
	certificate(t, dir)
	cfg, err := registries.Load(write(t, dir, "registries.yaml", example, 0o600), true)
	if err != nil {
		t.Fatal(err)
	}
	me := registries.Auth{Username: "me", Password: "secret"}
	for registry, want := range map[string][]shown{
		"docker.io": {
			{URL: "https://mirror.example.com:5000/v2", Mirror: true, Auth: me, CA: true, Rewritten: "hub/busybox"},
			{URL: "https://plain.example.com/api/v2", Mirror: true, Skip: true, Rewritten: "hub/busybox"},
			{URL: "http://127.0.0.1:5000/v2", Mirror: true, Skip: true, Rewritten: "hub/busybox"},
			{URL: "https://registry-1.docker.io/v2", Auth: me, Rewritten: "library/busybox"},
		},
		"ghcr.io": {
			{URL: "http://localhost:5001/v2", Mirror: true, Skip: true, Rewritten: "library/busybox"},
			{URL: "https://ghcr.io/v2", Auth: registries.Auth{Token: "abc"}, Rewritten: "library/busybox"},
		},
		"quay.io": {{URL: "https://quay.io/v2", Skip: true, Rewritten: "library/busybox"}},
	} {
		var got []shown
		for _, e := range cfg.Endpoints(registry) {
			got = append(got, shown{
				URL: e.URL.String(), Mirror: e.Mirror, Guessed: e.Guessed, Skip: e.Host.TLS.SkipVerify, Auth: e.Host.Auth, CA: e.Host.TLS.CA != "",
				Rewritten: registries.Apply(e.Rewrites, "library/busybox"),
			})
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("endpoints of %s (-want +got):\n%s", registry, diff)
		}
	}
	tlsConfig, err := cfg.Endpoints("docker.io")[0].Host.TLS.Config()
	if err != nil || len(tlsConfig.Certificates) != 1 || tlsConfig.RootCAs == nil || tlsConfig.InsecureSkipVerify {
		t.Errorf("TLS of the mirror = %+v, %v", tlsConfig, err)
	}
}

func TestWithoutAFile(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "registries.yaml")
	cfg, err := registries.Load(missing, false)
	if err != nil {
		t.Fatal(err)
	}
	for registry, want := range map[string]string{"docker.io": "https://registry-1.docker.io/v2", "a.example:5000": "https://a.example:5000/v2"} {
		if got := cfg.Endpoints(registry); len(got) != 1 || got[0].URL.String() != want || got[0].Mirror || got[0].Guessed {
			t.Errorf("endpoints of %s = %+v, want %s only", registry, got, want)
		}
	}
	if got := cfg.Endpoints("127.0.0.1:5000"); len(got) != 1 || !got[0].Guessed {
		t.Errorf("endpoints of a registry of this host = %+v, want one that may speak plain HTTP", got)
	}
	if _, err := registries.Load(missing, true); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a file that was asked for and is missing: %v", err)
	}
}

// TestTheRegistryAmongItsMirrors: who names the registry itself decides when it is asked, and that nobody comes after it.
func TestTheRegistryAmongItsMirrors(t *testing.T) {
	path := write(t, t.TempDir(), "registries.yaml", `
mirrors:
  docker.io: {endpoint: ["https://docker.io"], rewrite: {"^a$": b}}
`, 0o644)
	cfg, err := registries.Load(path, true)
	if err != nil {
		t.Fatal(err)
	}
	got := cfg.Endpoints("docker.io")
	if len(got) != 1 || got[0].URL.Host != "registry-1.docker.io" || got[0].Mirror || registries.Apply(got[0].Rewrites, "a") != "b" {
		t.Errorf("endpoints = %+v, want Docker's registry once, with the rewriting", got)
	}
}

func TestFaultsAreNamed(t *testing.T) {
	dir := t.TempDir()
	certificate(t, dir)
	for name, tt := range map[string]struct{ file, where, want, do string }{
		"unknown key":               {"mirrors: {}\nconfig: {}", ":2", `unknown key "config"`, `"configs"`},
		"unknown key below":         {"configs:\n  a.example:\n    tls: {insecure_skip_verfy: true}", ":3", `"insecure_skip_verfy"`, `"insecure_skip_verify"`},
		"unknown key, nothing near": {"mirrors: {docker.io: {zzzzzz: 1}}", ":1", `"zzzzzz"`, "endpoint, rewrite"},
		"key twice":                 {"mirrors:\n  docker.io:\n  docker.io:", ":3", "line 2", "remove"},
		"not YAML":                  {"mirrors: [", "", "yaml", "mirrors and configs"},
		"list of mirrors":           {"mirrors: [docker.io]", ":1", "not a list of keys", "key: value"},
		"endpoint is no list":       {"mirrors: {docker.io: {endpoint: https://a.example}}", ":1", "not a list", "https://"},
		"endpoint is no URL":        {`mirrors: {docker.io: {endpoint: ["ftp://a.example"]}}`, ":1", "ftp://a.example", "https://"},
		"endpoint with a password":  {`mirrors: {docker.io: {endpoint: ["https://me:hunter2@a.example"]}}`, ":1", "…@a.example", "https://"},
		"endpoint twice":            {`mirrors: {docker.io: {endpoint: ["https://a.example", "a.example/v2"]}}`, ":1", "twice", "remove"},
		"registry with a path":      {"mirrors: {docker.io/library: {}}", ":1", "docker.io/library", "docker.io"},
		"pattern":                   {`mirrors: {docker.io: {rewrite: {"(": x}}}`, ":1", "missing closing", "regular expression"},
		"group that is not there":   {`mirrors: {docker.io: {rewrite: {"^a$": "b/$1"}}}`, ":1", `group "1"`, "brackets"},
		"group by accident":         {`mirrors: {docker.io: {rewrite: {"^(a)$": "$1_b"}}}`, ":1", `group "1_b"`, "${1}x"},
		"host with a scheme":        {"configs: {\"https://a.example\": {}}", ":1", "https://a.example", "without https://"},
		"password for everybody":    {`configs: {"*": {auth: {token: x}}}`, ":1", "everybody", "name the host"},
		"name without password":     {"configs: {a.example: {auth: {username: me}}}", ":1", "belong together", "both"},
		"two ways to say it":        {"configs: {a.example: {auth: {username: me, password: x, token: y}}}", ":1", "more than one way", "one of"},
		"auth is not base64":        {"configs: {a.example: {auth: {auth: \"me:x\"}}}", ":1", "base64", "docker login"},
		"empty password":            {"configs: {a.example: {auth: {username: me, password: }}}", ":1", "no plain value", "quotes"},
		"certificate without key":   {"configs: {a.example: {tls: {cert_file: DIR/cert.pem}}}", ":1", "belong together", "both"},
		"CA is missing":             {"configs: {a.example: {tls: {ca_file: DIR/none.pem}}}", ":1", "none.pem", "PEM"},
		"CA is no certificate":      {"configs: {a.example: {tls: {ca_file: DIR/key.pem}}}", ":1", "no certificate", "PEM"},
		"relative path":             {"configs: {a.example: {tls: {ca_file: ca.pem}}}", ":1", "not an absolute path", "full path"},
		"not a truth":               {`configs: {a.example: {tls: {insecure_skip_verify: "yes"}}}`, ":1", `"yes"`, "true or false"},
	} {
		t.Run(name, func(t *testing.T) {
			path := write(t, t.TempDir(), "registries.yaml", strings.ReplaceAll(tt.file, "DIR", dir), 0o600)
			_, err := registries.Load(path, true)
			if err == nil {
				t.Fatal("it was accepted")
			}
			for _, want := range []string{path + tt.where, tt.want} {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error %q lacks %q", err, want)
				}
			}
			if do := strings.Join(hint.Of(err), "\n"); !strings.Contains(do, tt.do) {
				t.Errorf("hint %q lacks %q", do, tt.do)
			}
			if strings.Contains(err.Error(), "hunter2") {
				t.Errorf("error %q shows a password", err)
			}
		})
	}
}

func TestAllFaultsAtOnce(t *testing.T) {
	path := write(t, t.TempDir(), "registries.yaml", "mirror: {}\nconfigs: {a.example: {auht: {}, tls: {ca_file: x}}}", 0o600)
	_, err := registries.Load(path, true)
	if got := len(hint.Of(err)); got != 3 {
		t.Errorf("%d hints, want 3:\n%v", got, err)
	}
}

func TestPasswordsAreForRootOnly(t *testing.T) {
	secret := "configs: {a.example: {auth: {username: me, password: secret}}}"
	for mode, ok := range map[fs.FileMode]bool{0o600: true, 0o400: true, 0o640: false, 0o604: false} {
		path := write(t, t.TempDir(), "registries.yaml", secret, mode)
		if _, err := registries.Load(path, true); (err == nil) != ok {
			t.Errorf("mode %o: %v", mode, err)
		} else if err != nil && (!strings.Contains(strings.Join(hint.Of(err), ""), "chmod 600 "+path) || strings.Contains(err.Error(), "secret")) {
			t.Errorf("mode %o: %v, hints %q", mode, err, hint.Of(err))
		}
	}
	if _, err := registries.Load(write(t, t.TempDir(), "registries.yaml", "mirrors: {a.example: {endpoint: [b.example]}}", 0o644), true); err != nil {
		t.Errorf("a file without passwords: %v", err)
	}
}

// TestNamed: what an image calls its registry makes it nobody's whom the operator has named.
func TestNamed(t *testing.T) {
	cfg := registries.Config{
		Mirrors: map[string]registries.Mirror{
			"mirrored.example.com": {Endpoints: []url.URL{{Scheme: "https", Host: "near.example.com", Path: "/v2"}}},
			"other.example.com":    {Endpoints: []url.URL{{Scheme: "http", Host: "[::1]:5000", Path: "/v2"}}},
		},
		Hosts: map[string]registries.Host{"named.example.com": {}, "*": {}, "localhost:5001": {}, "docker.io": {}},
	}
	for registry, want := range map[string][]bool{
		"localhost:5000": {false}, "127.0.0.1": {false}, "[::1]": {false}, "127.0.0.1:5001": {false}, "localhost": {false},
		"named.example.com": {true}, "named.example.com:443": {true}, "named.example.com:5000": {false}, "localhost:5001": {true}, "docker.io": {true},
		"near.example.com": {true}, "[::1]:5000": {true}, "example.com": {false}, "mirrored.example.com": {true, true},
	} {
		var got []bool
		for _, e := range cfg.Endpoints(registry) {
			got = append(got, e.Named)
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: named %v, want %v", registry, got, want)
		}
	}
}
