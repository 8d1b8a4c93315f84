package credentials_test

import (
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nodeless/nodeless/pkg/kube"
	"github.com/nodeless/nodeless/pkg/pki"
	"github.com/nodeless/nodeless/pkg/server/credentials"
)

func newConfig(t *testing.T) credentials.Config {
	t.Helper()
	dir := t.TempDir()
	return credentials.Config{
		TLSDir: dir, AgentTLSDir: dir, CredDir: dir, AdminFile: filepath.Join(dir, "etc", "kubeconfig"), NodeName: "node1",
		NodeIPs: []netip.Addr{netip.MustParseAddr("192.0.2.7")}, ServiceIP: netip.MustParseAddr("10.43.0.1"),
		ClusterDomain: "cluster.local", BindAddress: netip.IPv4Unspecified(), Port: 6443,
	}
}

func TestPrepareTwiceKeepsEverything(t *testing.T) {
	cfg := newConfig(t)
	cred, err := credentials.Prepare(cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	read := func() map[string]string {
		files, err := filepath.Glob(filepath.Join(cfg.CredDir, "*.*"))
		if err != nil {
			t.Fatal(err)
		}
		content := make(map[string]string)
		for _, f := range append(files, cfg.AdminFile) {
			data, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			content[f] = string(data)
		}
		return content
	}
	before := read()
	if _, err := credentials.Prepare(cfg, slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, read()); diff != "" {
		t.Errorf("the second start changed files (-first +second):\n%s", diff)
	}
	for _, path := range []string{cfg.AdminFile, cred.EncryptionFile(), cred.Kubeconfig(pki.Scheduler)} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v; want mode 0600", path, info, err)
		}
	}
}

func TestLocateAgreesWithPrepare(t *testing.T) {
	cfg := newConfig(t)
	located := credentials.Locate(cfg)
	if _, err := credentials.Prepare(cfg, slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{pki.KubeletClient, pki.KubeProxy, pki.DNS, pki.Scheduler, pki.ControllerManager} {
		rest, err := kube.FromKubeconfig(located.Kubeconfig(name))
		if err != nil {
			t.Fatal(err)
		}
		if want := located.Access(name); rest.CertFile != want.CertFile || rest.Host != "https://127.0.0.1:6443" {
			t.Errorf("%s: certificate %s at %s, want %s at loopback", name, rest.CertFile, rest.Host, want.CertFile)
		}
	}
	for _, file := range []string{located.Leaf(pki.KubeletServing).CertFile(), located.CAFile(pki.ClientCA), located.ServiceAccountKeyFile()} {
		if _, err := os.Stat(file); err != nil {
			t.Error(err)
		}
	}
}

func TestServerAddress(t *testing.T) {
	tests := map[string]string{"0.0.0.0": "https://127.0.0.1:6443", "192.0.2.7": "https://192.0.2.7:6443", "::": "https://127.0.0.1:6443", "2001:db8::1": "https://[2001:db8::1]:6443"}
	for bind, want := range tests {
		cfg := newConfig(t)
		cfg.BindAddress = netip.MustParseAddr(bind)
		if got := credentials.Locate(cfg).Server(); got != want {
			t.Errorf("bound to %s: %s, want %s", bind, got, want)
		}
	}
}
