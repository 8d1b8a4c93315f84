package cis_test

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"io/fs"
	"math/big"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"testing/fstest"
	"time"

	"github.com/nodeless/nodeless/pkg/preflight"
	"github.com/nodeless/nodeless/pkg/preflight/cis"
)

func text(mode fs.FileMode, s string) *fstest.MapFile {
	return &fstest.MapFile{Data: []byte(s), Mode: mode, Sys: &syscall.Stat_t{}}
}

func folder() *fstest.MapFile {
	return &fstest.MapFile{Mode: fs.ModeDir | 0o700, Sys: &syscall.Stat_t{}}
}

// now is when the tests look.
var now = time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)

// issued is a certificate for so long from yesterday, of a member of the group.
func issued(group string, life time.Duration) []byte {
	half, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		panic(err)
	}
	start := now.Add(-24 * time.Hour)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{Organization: []string{group}}, NotBefore: start, NotAfter: start.Add(life)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, half, key)
	if err != nil {
		panic(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// kubeconfig is an administrator's, with the certificate in it.
func kubeconfig(certificate []byte) string {
	return "users:\n- user:\n    client-certificate-data: " + base64.StdEncoding.EncodeToString(certificate) + "\n"
}

const year = 365 * 24 * time.Hour

// good is a server as it should be.
func good() cis.Facts {
	f := cis.Facts{
		Now: now,
		Root: fstest.MapFS{
			"data/db":                          folder(),
			"data/db/state.db":                 text(0o600, "x"),
			"data/tls":                         folder(),
			"data/tls/client-ca.crt":           text(0o644, string(issued("", year))),
			"data/tls/supervisor.crt":          text(0o600, string(issued("system:masters", 25*time.Hour))),
			"data/tls/client-ca.key":           text(0o600, "x"),
			"data/cred":                        folder(),
			"data/cred/scheduler.kubeconfig":   text(0o600, "x"),
			"data/cred/kube-proxy.kubeconfig":  text(0o600, "x"),
			"data/cred/encryption.yaml":        text(0o600, `{"resources":[{"resources":["secrets"],"providers":[{"secretbox":{}}]}]}`),
			"data/cred/authentication.yaml":    text(0o600, "anonymous:\n  enabled: true\n  conditions:\n  - path: /livez\n"),
			"run/cni/10.conf":                  text(0o600, "x"),
			"etc/kubeconfig":                   text(0o600, kubeconfig(issued("", year))),
			"etc/systemd/nodeless.service":     text(0o644, "x"),
			"etc/systemd/nodeless.service.env": text(0o600, "x"),
		},
		Files: cis.Files{
			Datastore: "/data/db", Kubeconfig: "/etc/kubeconfig", TLS: []string{"/data/tls"}, Cred: "/data/cred", Encryption: "/data/cred/encryption.yaml",
			CNI: []string{"/run/cni"}, Unit: []string{"/etc/systemd/nodeless.service"},
		},
		APIServer: cis.ParseFlags(strings.Fields(`--authentication-config=/data/cred/authentication.yaml --authorization-mode=Node,RBAC
			--enable-admission-plugins=NodeRestriction,DenyServiceExternalIPs,EventRateLimit --kubelet-client-certificate=x --kubelet-client-key=x
			--kubelet-certificate-authority=x --profiling=false --audit-log-path=x --audit-policy-file=x --audit-log-maxage=30 --audit-log-maxbackup=10
			--audit-log-maxsize=100 --service-account-key-file=x --tls-cert-file=x --tls-private-key-file=x --client-ca-file=x
			--encryption-provider-config=x --service-account-extend-token-expiration=false`)),
		ControllerManager: cis.ParseFlags(strings.Fields(`--terminated-pod-gc-threshold=1000 --profiling=false --use-service-account-credentials=true
			--service-account-private-key-file=x --root-ca-file=x --secure-port=0`)),
		Scheduler:    cis.ParseFlags([]string{"--secure-port=0"}),
		Proxy:        cis.ParseFlags([]string{"--metrics-bind-address=127.0.0.1:10249"}),
		Kubelet:      cis.Kubelet{StreamingIdle: "4h0m0s", ImageCredentials: "NeverVerifyPreloadedImages", EventRecordQPS: 50, TLSCertFile: "x", TLSPrivateKeyFile: "x"},
		Cluster:      &cis.Cluster{TenantNamespaces: 1},
		OwnDatastore: true,
	}
	f.Kubelet.Authentication.Webhook.Enabled, f.Kubelet.Authorization.Mode, f.Kubelet.Authentication.X509.ClientCAFile = true, "Webhook", "x"
	return f
}

// expected are the recommendations that this product does not meet, whatever its operator does.
var expected = regexp.MustCompile(`^(3\.1\.1|5\.3\.1-5\.3\.2) `)

func TestGoodServer(t *testing.T) {
	r := cis.Run(good())
	if len(r.Results) < 60 {
		t.Errorf("%d answers", len(r.Results))
	}
	seen := map[string]bool{}
	for _, res := range r.Results {
		if seen[res.Name] {
			t.Errorf("%s is answered twice", res.Name)
		}
		seen[res.Name] = true
		if res.Status == preflight.Warn && !expected.MatchString(res.Name) || res.Status == preflight.Fail {
			t.Errorf("%s: %s %q", res.Name, res.Status, res.Detail)
		}
		if res.Detail == "" || res.Status == preflight.Warn && res.Do == "" {
			t.Errorf("%s: %s says neither why nor what to do: %q, %q", res.Name, res.Status, res.Detail, res.Do)
		}
	}
}

// TestEveryNumber: no recommendation of the benchmark is left out without a word.
func TestEveryNumber(t *testing.T) {
	answered := map[string]bool{}
	for _, res := range cis.Run(good()).Results {
		number, _, _ := strings.Cut(res.Name, " ")
		for _, span := range strings.Split(strings.TrimSuffix(number, ","), ",") {
			mark(answered, span)
		}
		if strings.HasPrefix(res.Name, "5.2.2-5.2.6, 5.2.8-5.2.10") {
			mark(answered, "5.2.8-5.2.10")
		}
	}
	for group, last := range map[string]int{"1.1": 21, "1.2": 30, "1.3": 7, "1.4": 2, "2": 7, "3.1": 3, "3.2": 2, "4.1": 10, "4.2": 15, "4.3": 1, "5.1": 13, "5.2": 13, "5.3": 2, "5.4": 2, "5.5": 1, "5.6": 4} {
		for n := 1; n <= last; n++ {
			if number := group + "." + itoa(n); !answered[number] {
				t.Errorf("%s is not answered", number)
			}
		}
	}
}

// mark enters "1.2.3" or each of "1.2.3-1.2.5".
func mark(answered map[string]bool, span string) {
	first, last, many := strings.Cut(span, "-")
	answered[first] = true
	group, n := split(first)
	for ; many && first != last; first = group + "." + itoa(n) {
		answered[first], answered[last] = true, true
		n++
	}
}

func split(number string) (group string, n int) {
	i := strings.LastIndexByte(number, '.')
	for _, c := range number[i+1:] {
		n = n*10 + int(c-'0')
	}
	return number[:i], n
}

func itoa(n int) string {
	if n >= 10 {
		return itoa(n/10) + itoa(n%10)
	}
	return string(rune('0' + n))
}

// api gives the apiserver more arguments.
func api(args ...string) func(*cis.Facts) {
	return func(f *cis.Facts) {
		for name, values := range cis.ParseFlags(args) {
			f.APIServer[name] = append(f.APIServer[name], values...)
		}
	}
}

func file(name string, f *fstest.MapFile) func(*cis.Facts) {
	return func(facts *cis.Facts) { facts.Root.(fstest.MapFS)[name] = f }
}

func foreign(mode fs.FileMode) *fstest.MapFile {
	return &fstest.MapFile{Data: []byte("x"), Mode: mode, Sys: &syscall.Stat_t{Uid: 1000}}
}

func TestWhatIsFound(t *testing.T) {
	tests := []struct {
		name   string
		change func(*cis.Facts)
		number string
		want   preflight.Status
		detail string // contained
	}{
		{"a key that all can read", file("data/tls/client-ca.key", text(0o644, "x")), "1.1.21", preflight.Warn, "/data/tls/client-ca.key (0644, uid 0)"},
		{"a key of somebody else", file("data/tls/x.key", foreign(0o600)), "1.1.21", preflight.Warn, "uid 1000"},
		{"a certificate that all can write", file("data/tls/x.crt", text(0o666, string(issued("", year)))), "1.1.20", preflight.Warn, "0666"},
		{"an open database", file("data/db/snapshots/1.db", text(0o640, "x")), "1.1.12", preflight.Warn, "/data/db/snapshots/1.db"},
		{"an open folder of the database", file("data/db", &fstest.MapFile{Mode: fs.ModeDir | 0o755}), "1.1.11", preflight.Warn, "0755"},
		{"an administrator's kubeconfig for all", file("etc/kubeconfig", text(0o644, kubeconfig(issued("", year)))), "1.1.13-1.1.14", preflight.Warn, "0644"},
		{"no server has run", func(f *cis.Facts) { f.Root = fstest.MapFS{} }, "1.1.21", preflight.NotApplicable, "no such file"},
		{"no server has run, so nothing is said of its files", func(f *cis.Facts) { f.Root = fstest.MapFS{} }, "1.2.28", preflight.NotApplicable, "no such file"},
		{"a certificate out of date", file("data/tls/kubelet-serving.crt", text(0o600, string(issued("", time.Hour)))), "4.2.10-4.2.11", preflight.Warn, "kubelet-serving.crt"},
		{"an administrator for ever", file("etc/kubeconfig", text(0o600, kubeconfig(issued("system:masters", year)))), "5.1.7", preflight.Warn, "/etc/kubeconfig"},
		{"a damaged certificate", file("data/tls/x.crt", text(0o600, "x")), "5.1.7", preflight.Warn, "no certificate"},
		{"any image that is here", func(f *cis.Facts) { f.Kubelet.ImageCredentials = "NeverVerify" }, "1.2.11", preflight.Warn, "any image"},
		{"no service", func(f *cis.Facts) { f.Files.Unit = nil }, "4.1.1-4.1.2", preflight.NotApplicable, "install.sh"},
		{"a unit that others can write", file("etc/systemd/nodeless.service", text(0o664, "x")), "4.1.1-4.1.2", preflight.Warn, "0664"},
		{"strangers by argument", func(f *cis.Facts) { delete(f.APIServer, "authentication-config") }, "1.2.1", preflight.Warn, "anonymous-auth=true"},
		{"strangers see objects", file("data/cred/authentication.yaml", text(0o600, "anonymous:\n  enabled: true\n  conditions: [{path: /api}]\n")), "1.2.1", preflight.Warn, "/api"},
		{"strangers see everything", file("data/cred/authentication.yaml", text(0o600, "anonymous: {enabled: true}\n")), "1.2.1", preflight.Warn, "strangers"},
		{"a file that says nothing of strangers", file("data/cred/authentication.yaml", text(0o600, "jwt: []\n")), "1.2.1", preflight.Warn, "does not say"},
		{"passwords in a file", api("--token-auth-file=/x"), "1.2.2", preflight.Warn, "given"},
		{"everything is allowed beside RBAC", api("--authorization-mode=AlwaysAllow"), "1.2.6", preflight.Warn, "AlwaysAllow"},
		{"a plugin that is turned off again", api("--disable-admission-plugins=NodeRestriction"), "1.2.14", preflight.Warn, "off"},
		{"a plugin of upstream's that is turned off", api("--disable-admission-plugins=ServiceAccount"), "1.2.12", preflight.Warn, "off"},
		{"profiles served by the last word", api("--profiling=true"), "1.2.15", preflight.Warn, "true"},
		{"no audit log", func(f *cis.Facts) { delete(f.APIServer, "audit-log-path") }, "1.2.17", preflight.Warn, "no audit log"},
		{"a short audit log", api("--audit-log-maxage=3"), "1.2.17", preflight.Warn, "3"},
		{"a request without end", api("--request-timeout=24h"), "1.2.20", preflight.Warn, "24h"},
		{"Secrets in the clear are read", file("data/cred/encryption.yaml", text(0o600, `{"resources":[{"providers":[{"secretbox":{}},{"identity":{}}]}]}`)), "1.2.28", preflight.Warn, "identity"},
		{"a weak cipher", api("--tls-cipher-suites=TLS_RSA_WITH_AES_128_GCM_SHA256"), "1.2.29", preflight.Warn, "TLS_RSA"},
		{"an old TLS", api("--tls-min-version=VersionTLS10"), "1.2.29", preflight.Warn, "VersionTLS10"},
		{"a datastore elsewhere without TLS", func(f *cis.Facts) { f.OwnDatastore = false }, "1.2.23", preflight.Warn, "etcd-certfile"},
		{"controllers with a port", func(f *cis.Facts) { f.ControllerManager["secure-port"] = []string{"10257"} }, "1.3.7", preflight.Warn, "bind-address"},
		{"kubelet lets strangers in", func(f *cis.Facts) { f.Kubelet.Authentication.Anonymous.Enabled = true }, "4.2.1", preflight.Warn, "strangers"},
		{"kubelet's open port", func(f *cis.Facts) { f.Kubelet.ReadOnlyPort = 10255 }, "4.2.4", preflight.Warn, "open"},
		{"streams without end", func(f *cis.Facts) { f.Kubelet.StreamingIdle = "0s" }, "4.2.5", preflight.Warn, "never"},
		{"figures for all", func(f *cis.Facts) { f.Proxy = cis.ParseFlags([]string{"--metrics-bind-address=0.0.0.0:10249"}) }, "4.3.1", preflight.Warn, "0.0.0.0"},
		{"no kube-proxy", func(f *cis.Facts) { f.Proxy = nil }, "4.3.1", preflight.NotApplicable, "left out"},
		{"administrators", func(f *cis.Facts) { f.Cluster.ClusterAdmins = []string{"a", "b", "c", "d", "e", "f"} }, "5.1.1", preflight.Warn, "a, b, c, d and 2 more"},
		{"no quota", func(f *cis.Facts) { f.Cluster.WithoutQuota = []string{"shop"} }, "5.6.1", preflight.Warn, "shop"},
		{"no cluster", func(f *cis.Facts) { f.Cluster = nil }, "5.6.4", preflight.Warn, "no server"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := good()
			tt.change(&f)
			for _, res := range cis.Run(f).Results {
				if !strings.HasPrefix(res.Name, tt.number+" ") {
					continue
				}
				if res.Status != tt.want || !strings.Contains(res.Detail, tt.detail) {
					t.Errorf("%s: %s %q, want %s with %q", res.Name, res.Status, res.Detail, tt.want, tt.detail)
				}
				return
			}
			t.Errorf("no answer %s", tt.number)
		})
	}
}
