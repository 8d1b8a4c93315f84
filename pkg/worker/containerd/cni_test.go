package containerd

import (
	"encoding/json"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodeless/nodeless/pkg/cni"
)

// TestBandwidthIsHandedToThePlugin: what a Pod's annotations say of its bandwidth is told to the plugin that makes its link. This one
// notes what it is told and refuses, so that no microVM is started.
func TestBandwidthIsHandedToThePlugin(t *testing.T) {
	told := filepath.Join(t.TempDir(), "told")
	r := startChild(t, func(c *Config) {
		c.CNIDir = t.TempDir()
		plugin := "#!/bin/sh\n[ \"$CNI_COMMAND\" = ADD ] || exit 0\ncat >'" + told + "'\necho '{\"code\": 100, \"msg\": \"seen enough\"}'\nexit 1\n"
		conf, err := cni.ConfList(netip.MustParsePrefix("10.42.0.0/24"), netip.MustParseAddr("10.42.0.1"), "/d", 1500, "nft", false)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.MkdirAll(c.CNIConf, 0o700); err != nil {
			t.Fatal(err)
		}
		for name, file := range map[string]struct {
			text []byte
			mode os.FileMode
		}{filepath.Join(c.CNIDir, cni.Type): {[]byte(plugin), 0o700}, filepath.Join(c.CNIConf, cni.ConfFile): {conf, 0o600}} {
			if err := os.WriteFile(name, file.text, file.mode); err != nil {
				t.Fatal(err)
			}
		}
	})
	_, err := cri.NewRuntimeServiceClient(r.conn).RunPodSandbox(t.Context(), &cri.RunPodSandboxRequest{Config: &cri.PodSandboxConfig{
		Metadata:    &cri.PodSandboxMetadata{Name: "shop", Namespace: "default", Uid: "u"},
		Annotations: map[string]string{"kubernetes.io/egress-bandwidth": "80M", "kubernetes.io/ingress-bandwidth": "160M"},
		Linux:       &cri.LinuxPodSandboxConfig{},
	}})
	if err == nil || !strings.Contains(err.Error(), "seen enough") {
		t.Fatalf("run a sandbox: %v, want the plugin's refusal", err)
	}
	raw, err := os.ReadFile(told)
	if err != nil {
		t.Fatal(err)
	}
	var conf cni.Conf
	if err := json.Unmarshal(raw, &conf); err != nil {
		t.Fatal(err)
	}
	if got := conf.RuntimeConfig.Bandwidth; got.EgressRate != 80_000_000 || got.IngressRate != 160_000_000 {
		t.Errorf("the plugin is told %+v, want 80 and 160 Mbit a second: %s", got, raw)
	}
}
