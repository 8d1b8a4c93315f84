package server_test

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nodeless/nodeless/pkg/server/apiserver"
	"github.com/nodeless/nodeless/pkg/server/controllermanager"
	"github.com/nodeless/nodeless/pkg/server/scheduler"
)

var update = flag.Bool("update", false, "write the golden files anew")

// TestArgs stands here and not in the three packages so that Kubernetes is linked once.
func TestArgs(t *testing.T) {
	tests := []struct {
		golden string
		args   []string
	}{
		{golden: "apiserver.args", args: apiserver.Args(apiserver.Config{
			Datastore: "unix:///run/kine.sock", BindAddress: "0.0.0.0", Port: 6443, AdvertiseAddress: "192.0.2.7", ServiceCIDR: "10.43.0.0/16",
			NodePorts: "30000-32767", ClusterDomain: "cluster.local", EncryptionFile: "/cred/encryption.yaml", AuthenticationFile: "/cred/authentication.yaml",
			AdmissionFile: "/run/admission.yaml", AuditLog: "/data/audit.log", AuditPolicyFile: "/run/audit-policy.yaml",
			Files: apiserver.Files{
				ServingCert: "/tls/apiserver.crt", ServingKey: "/tls/apiserver.key", ClientCA: "/tls/client-ca.crt", KubeletCA: "/tls/server-ca.crt",
				KubeletCert: "/tls/kubelet.crt", KubeletKey: "/tls/kubelet.key", FrontProxyCA: "/tls/front-proxy-ca.crt", FrontProxyUser: "front-proxy",
				FrontProxyCert: "/tls/front-proxy.crt", FrontProxyKey: "/tls/front-proxy.key", ServiceAccountKey: "/tls/service-account.key",
			},
			ExtraArgs: []string{"max-requests-inflight=800", "--event-ttl=2h"},
		})},
		{golden: "controller-manager.args", args: controllermanager.Args(controllermanager.Config{
			Kubeconfig: "/cred/controller-manager.kubeconfig", ServerCA: "/tls/server-ca.crt", ServerCAKey: "/tls/server-ca.key",
			ClientCA: "/tls/client-ca.crt", ClientCAKey: "/tls/client-ca.key", ServiceAccountKey: "/tls/service-account.key", VolumePlugins: "/run/volume-plugins",
		})},
		{golden: "scheduler.args", args: scheduler.Args(scheduler.Config{Kubeconfig: "/cred/scheduler.kubeconfig", File: "/run/scheduler.yaml"})},
	}
	for _, tt := range tests {
		t.Run(tt.golden, func(t *testing.T) {
			path, got := filepath.Join("testdata", tt.golden), strings.Join(tt.args, "\n")+"\n"
			if *update {
				if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Errorf("arguments (-want +got):\n%s", diff)
			}
		})
	}
}
