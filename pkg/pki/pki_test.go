package pki_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nodeless/nodeless/pkg/hint"
	"github.com/nodeless/nodeless/pkg/pki"
	"github.com/nodeless/nodeless/tests/attack"
)

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

func newHost(t *testing.T) pki.Host {
	t.Helper()
	dir := t.TempDir()
	return pki.Host{
		TLSDir: dir, AgentTLSDir: dir, NodeName: "node1", NodeIPs: []net.IP{net.IPv4(192, 0, 2, 7)},
		ServiceIP: net.IPv4(10, 43, 0, 1), ClusterDomain: "cluster.local",
	}
}

func storeOf(h pki.Host, now func() time.Time) *pki.Store {
	return pki.New(pki.Config{Dir: h.TLSDir, Leaves: h.Leaves(), LeafLife: 30 * time.Minute, AuthorityLife: 24 * time.Hour, Now: now}, quiet())
}

func ensure(t *testing.T, s *pki.Store) []string {
	t.Helper()
	changed, _, err := s.Ensure()
	if err != nil {
		t.Fatal(err)
	}
	return changed
}

// snapshot reads every file of a folder.
func snapshot(t *testing.T, dir string) map[string]string {
	t.Helper()
	files := make(map[string]string)
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		files[filepath.Base(path)] = string(data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func leafOf(t *testing.T, l pki.Leaf) *x509.Certificate {
	t.Helper()
	pair, err := tls.LoadX509KeyPair(l.CertFile(), l.KeyFile())
	if err != nil {
		t.Fatal(err)
	}
	return pair.Leaf
}

func TestFirstStartMakesEverythingAndRestartKeepsIt(t *testing.T) {
	h := newHost(t)
	if got, want := len(ensure(t, storeOf(h, nil))), 3+len(h.Leaves()); got != want {
		t.Errorf("wrote %d certificates, want %d", got, want)
	}
	before := snapshot(t, h.TLSDir)
	for name := range before {
		info, err := os.Stat(filepath.Join(h.TLSDir, name))
		if err != nil {
			t.Fatal(err)
		}
		if filepath.Ext(name) == ".key" && info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v, want 0600", name, info.Mode().Perm())
		}
	}
	if changed := ensure(t, storeOf(h, nil)); len(changed) != 0 {
		t.Errorf("a restart rewrote %v", changed)
	}
	if diff := cmp.Diff(before, snapshot(t, h.TLSDir)); diff != "" {
		t.Errorf("a restart changed files (-before +after):\n%s", diff)
	}
}

func TestCertificatesAreAcceptedForTheirUseOnly(t *testing.T) {
	h := newHost(t)
	h.ExtraSANs = []string{"api.example.com", "198.51.100.1"}
	s := storeOf(h, nil)
	ensure(t, s)
	pool := func(a pki.Authority) *x509.CertPool {
		data, err := os.ReadFile(s.CAFile(a))
		if err != nil {
			t.Fatal(err)
		}
		p := x509.NewCertPool()
		p.AppendCertsFromPEM(data)
		return p
	}
	server, client := x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth
	tests := []struct {
		name  string
		leaf  string
		roots pki.Authority
		dns   string
		usage x509.ExtKeyUsage
		ok    bool
	}{
		{name: "service address", leaf: pki.APIServer, roots: pki.ServerCA, dns: "10.43.0.1", usage: server, ok: true},
		{name: "service name", leaf: pki.APIServer, roots: pki.ServerCA, dns: "kubernetes.default.svc.cluster.local", usage: server, ok: true},
		{name: "node address", leaf: pki.APIServer, roots: pki.ServerCA, dns: "192.0.2.7", usage: server, ok: true},
		{name: "loopback", leaf: pki.APIServer, roots: pki.ServerCA, dns: "127.0.0.1", usage: server, ok: true},
		{name: "extra name", leaf: pki.APIServer, roots: pki.ServerCA, dns: "api.example.com", usage: server, ok: true},
		{name: "extra address", leaf: pki.APIServer, roots: pki.ServerCA, dns: "198.51.100.1", usage: server, ok: true},
		{name: "foreign name", leaf: pki.APIServer, roots: pki.ServerCA, dns: "evil.example.com", usage: server},
		{name: "kubelet serves its address", leaf: pki.KubeletServing, roots: pki.ServerCA, dns: "192.0.2.7", usage: server, ok: true},
		{name: "serving certificate is no identity", leaf: pki.KubeletServing, roots: pki.ClientCA, usage: client},
		{name: "serving certificate is no client of its own authority", leaf: pki.KubeletServing, roots: pki.ServerCA, usage: client},
		{name: "administrator", leaf: pki.Admin, roots: pki.ClientCA, usage: client, ok: true},
		{name: "administrator is no front proxy", leaf: pki.Admin, roots: pki.FrontProxyCA, usage: client},
		{name: "front proxy", leaf: pki.FrontProxy, roots: pki.FrontProxyCA, usage: client, ok: true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := leafOf(t, h.Leaf(tt.leaf)).Verify(x509.VerifyOptions{Roots: pool(tt.roots), DNSName: tt.dns, KeyUsages: []x509.ExtKeyUsage{tt.usage}})
			if (err == nil) != tt.ok {
				t.Errorf("verify: %v, want ok=%v", err, tt.ok)
			}
		})
	}
}

func TestIdentities(t *testing.T) {
	h := newHost(t)
	ensure(t, storeOf(h, nil))
	tests := map[string][2]string{
		pki.KubeletClient:     {"system:node:node1", "system:nodes"},
		pki.Supervisor:        {"nodeless:supervisor", "system:masters"},
		pki.ControllerManager: {"system:kube-controller-manager", ""},
		pki.Scheduler:         {"system:kube-scheduler", ""},
		pki.DNS:               {pki.UserDNS, ""},
		pki.CronScaler:        {pki.UserCronScaler, ""},
	}
	for name, want := range tests {
		subject := leafOf(t, h.Leaf(name)).Subject
		group := ""
		if len(subject.Organization) > 0 {
			group = subject.Organization[0]
		}
		if got := [2]string{subject.CommonName, group}; got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
}

// TestAttackOldAdministrator: a copy of the administrator's kubeconfig is stolen. Its name is bound to cluster-admin and in no group that
// cannot be unbound; with a new key the administrator has another name, so the old one can be left without rights.
func TestAttackOldAdministrator(t *testing.T) {
	attack.Try(t, "T17", "use a stolen administrator's certificate after its key was replaced", func(t *testing.T) attack.Outcome {
		h := newHost(t)
		ensure(t, storeOf(h, nil))
		admin := h.Leaf(pki.Admin)
		stolen := leafOf(t, admin).Subject
		if !strings.HasPrefix(stolen.CommonName, pki.UserAdmin+":") || len(stolen.Organization) > 0 {
			t.Errorf("the administrator is %s, want a name of its own and no group", stolen)
		}
		if again := ensure(t, storeOf(h, nil)); len(again) != 0 {
			t.Errorf("a restart re-issued %v", again)
		}
		if err := os.Remove(admin.KeyFile()); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([]string{pki.Admin}, ensure(t, storeOf(h, nil))); diff != "" {
			t.Errorf("re-issued (-want +got):\n%s", diff)
		}
		user, err := admin.User()
		if err != nil {
			t.Fatal(err)
		}
		if user == stolen.CommonName {
			return attack.Succeeded
		}
		return attack.Contained
	})
}

// TestSupervisorLivesShortly: nobody can take rights from system:masters, so its certificate is worth nothing after a day.
func TestSupervisorLivesShortly(t *testing.T) {
	h := newHost(t)
	long := h.Leaves()
	for i := range long {
		long[i].Life = 0 // as they were issued before
	}
	ensure(t, pki.New(pki.Config{Dir: h.TLSDir, Leaves: long}, quiet()))
	if diff := cmp.Diff([]string{pki.Supervisor}, ensure(t, pki.New(pki.Config{Dir: h.TLSDir, Leaves: h.Leaves()}, quiet()))); diff != "" {
		t.Errorf("re-issued (-want +got):\n%s", diff)
	}
	cert := leafOf(t, h.Leaf(pki.Supervisor))
	if life := cert.NotAfter.Sub(cert.NotBefore); life > 24*time.Hour+5*time.Minute {
		t.Errorf("the supervisor's certificate is valid for %s, want a day", life)
	}
}

func TestNewNamesReissueTheLeafOnly(t *testing.T) {
	tests := []struct {
		name   string
		change func(*pki.Host)
		want   []string
	}{
		{name: "another --tls-san", change: func(h *pki.Host) { h.ExtraSANs = []string{"api.example.com"} }, want: []string{pki.APIServer}},
		{name: "another node address", change: func(h *pki.Host) { h.NodeIPs = []net.IP{net.IPv4(192, 0, 2, 8)} }, want: []string{pki.APIServer, pki.KubeletServing}},
		{name: "another node name", change: func(h *pki.Host) { h.NodeName = "node2" }, want: []string{pki.APIServer, pki.KubeletClient, pki.KubeletServing}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h := newHost(t)
			ensure(t, storeOf(h, nil))
			tt.change(&h)
			if diff := cmp.Diff(tt.want, ensure(t, storeOf(h, nil))); diff != "" {
				t.Errorf("re-issued (-want +got):\n%s", diff)
			}
			if again := ensure(t, storeOf(h, nil)); len(again) != 0 {
				t.Errorf("the next start re-issued %v", again)
			}
		})
	}
}

func TestLostAndDamagedFiles(t *testing.T) {
	tests := []struct {
		name     string
		file     string
		damage   func(path string) error
		wantHint bool
		want     []string // re-issued, when there is no error
	}{
		{name: "authority key lost", file: "client-ca.key", damage: os.Remove, wantHint: true},
		{name: "authority key damaged", file: "server-ca.key", damage: garble, wantHint: true},
		{name: "service-account key damaged", file: "service-account.key", damage: garble, wantHint: true},
		{name: "authority certificate lost is made again for the same key", file: "server-ca.crt", damage: os.Remove, want: []string{"server-ca"}},
		{name: "leaf key lost is replaced", file: "scheduler.key", damage: os.Remove, want: []string{pki.Scheduler}},
		{name: "leaf key damaged is replaced", file: "scheduler.key", damage: garble, want: []string{pki.Scheduler}},
		{name: "leaf certificate damaged is replaced", file: "dns.crt", damage: garble, want: []string{pki.DNS}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h := newHost(t)
			ensure(t, storeOf(h, nil))
			if err := tt.damage(filepath.Join(h.TLSDir, tt.file)); err != nil {
				t.Fatal(err)
			}
			changed, _, err := storeOf(h, nil).Ensure()
			if got := len(hint.Of(err)) > 0; got != tt.wantHint {
				t.Fatalf("Ensure: %v, want a hint: %v", err, tt.wantHint)
			}
			if diff := cmp.Diff(tt.want, changed); diff != "" {
				t.Errorf("re-issued (-want +got):\n%s", diff)
			}
			for _, name := range changed {
				if l := h.Leaf(name); l.Name != "" {
					leafOf(t, l)
				}
			}
		})
	}
}

func garble(path string) error { return os.WriteFile(path, []byte("not a key"), 0o600) }

func TestOpenKeyIsClosed(t *testing.T) {
	h := newHost(t)
	ensure(t, storeOf(h, nil))
	key := h.Leaf(pki.Admin).KeyFile()
	if err := os.Chmod(key, 0o644); err != nil {
		t.Fatal(err)
	}
	ensure(t, storeOf(h, nil))
	if info, _ := os.Stat(key); info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, want 0600", info.Mode().Perm())
	}
}

// TestRenewerRewritesBeforeExpiry runs the renewer for a day of fake time with certificates that live half an hour.
// A TLS server that loads its certificate from the files at every handshake, as the dynamic certificate controllers
// of Kubernetes do, must at no time show one that is older than two thirds of its life.
func TestRenewerRewritesBeforeExpiry(t *testing.T) {
	h := newHost(t)
	synctest.Test(t, func(t *testing.T) {
		store := storeOf(h, time.Now)
		ensure(t, store)
		ctx, cancel := context.WithCancel(t.Context())
		var renewed []string
		done := make(chan error)
		r := pki.NewRenewer(store, func(names []string) error { renewed = append(renewed, names...); return nil }, quiet())
		go func() { done <- r.Run(ctx) }()

		began := time.Now()
		serials := make(map[string]bool)
		key := snapshot(t, h.TLSDir)["apiserver.key"]
		for time.Since(began) < 25*time.Hour {
			time.Sleep(time.Minute)
			synctest.Wait()
			cert := leafOf(t, h.Leaf(pki.APIServer))
			if age := time.Since(cert.NotBefore); age > 22*time.Minute || time.Now().After(cert.NotAfter) {
				t.Fatalf("after %s the certificate is %s old", time.Since(began), age)
			}
			serials[cert.SerialNumber.String()] = true
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if len(serials) < 60 {
			t.Errorf("saw %d certificates in a day, want one every 20 minutes", len(serials))
		}
		if got := snapshot(t, h.TLSDir)["apiserver.key"]; got != key {
			t.Error("a renewal changed the key: certificate and key could be read apart")
		}
		if !slices.Contains(renewed, string(pki.ServerCA)) || !slices.Contains(renewed, pki.Admin) {
			t.Errorf("told of %d renewals, want the authority and the administrator among them", len(renewed))
		}
	})
}

func TestRenewerKeepsTryingWhenACopyCannotBeWritten(t *testing.T) {
	h := newHost(t)
	synctest.Test(t, func(t *testing.T) {
		calls := 0
		onChanged := func([]string) error {
			if calls++; calls < 3 {
				return fs.ErrPermission
			}
			return nil
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- pki.NewRenewer(storeOf(h, time.Now), onChanged, quiet()).Run(ctx) }()
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		if calls != 3 {
			t.Errorf("told %d times, want 3: two failures and a success", calls)
		}
		cancel()
		<-done
	})
}

func TestEncryptionKeyIsMadeOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "encryption.yaml")
	if err := pki.EnsureEncryption(path); err != nil {
		t.Fatal(err)
	}
	first, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if info, _ := os.Stat(path); info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, want 0600", info.Mode().Perm())
	}
	if err := pki.EnsureEncryption(path); err != nil {
		t.Fatal(err)
	}
	if again, _ := os.ReadFile(path); string(again) != string(first) {
		t.Error("the second start made another key")
	}
	for _, damaged := range []string{"", "{", "{}"} {
		if err := os.WriteFile(path, []byte(damaged), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := pki.EnsureEncryption(path); len(hint.Of(err)) == 0 {
			t.Errorf("content %q: %v, want an error with a hint", damaged, err)
		}
	}
}
