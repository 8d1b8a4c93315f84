package kubelet

import (
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/nodeless/nodeless/pkg/api"
)

const hybrid = `31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu
34 31 0:31 / /sys/fs/cgroup/cpuset rw,relatime - cgroup cgroup rw,cpuset
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
`

func TestParseCgroups(t *testing.T) {
	tests := []struct {
		name, in string
		want     cgroups
	}{
		{name: "hybrid hosts count as v1", in: hybrid, want: cgroups{v1: []string{"/sys/fs/cgroup/cpu", "/sys/fs/cgroup/cpuset"}}},
		{name: "unified", in: "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate", want: cgroups{unified: "/sys/fs/cgroup"}},
		{name: "none", in: "22 1 0:20 / /proc rw - proc proc rw", want: cgroups{}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := parseCgroups(strings.NewReader(tt.in))
			if diff := cmp.Diff(tt.want, got, cmp.AllowUnexported(cgroups{})); diff != "" || err != nil {
				t.Errorf("parseCgroups: %v (-want +got):\n%s", err, diff)
			}
		})
	}
}

func TestPrepareV1FillsCpusetOnEachLevel(t *testing.T) {
	mount := t.TempDir()
	for _, dir := range []string{mount, filepath.Join(mount, "a"), filepath.Join(mount, "a", "b")} { // as cgroupfs would
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		for _, f := range []string{"cpuset.cpus", "cpuset.mems"} {
			if err := os.WriteFile(filepath.Join(dir, f), []byte("\n"), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := os.WriteFile(filepath.Join(mount, "cpuset.cpus"), []byte("0-1\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for range 2 { // it may be repeated
		if err := prepareCgroups(cgroups{v1: []string{mount}}, "/a/b"); err != nil {
			t.Fatalf("prepareCgroups: %v", err)
		}
	}
	for _, dir := range []string{"a", "a/b"} {
		got, err := os.ReadFile(filepath.Join(mount, dir, "cpuset.cpus"))
		if err != nil || string(got) != "0-1" {
			t.Errorf("cpuset.cpus of %s = %q, %v; want 0-1", dir, got, err)
		}
	}
}

func TestHasCapability(t *testing.T) {
	status := []byte("Name:\tx\nCapEff:\t000001ffffffffff\n")
	if !hasCapability(status, 24) {
		t.Error("a full set has no CAP_SYS_RESOURCE")
	}
	if hasCapability([]byte("CapEff:\t000001fffeffffff\n"), 24) {
		t.Error("a set without bit 24 has CAP_SYS_RESOURCE")
	}
}

func TestResolvConf(t *testing.T) {
	tests := []struct {
		name, content string
		wantHost      bool
	}{
		{name: "a server on the network serves Pods", content: "search lan\nnameserver 192.0.2.53\n", wantHost: true},
		{name: "one of two is enough", content: "nameserver 127.0.0.53\nnameserver 192.0.2.53\n", wantHost: true},
		{name: "a resolver on loopback is out of a Pod's reach", content: "nameserver 127.0.0.53\n"},
		{name: "empty", content: ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			host, own := filepath.Join(dir, "host"), filepath.Join(dir, "own")
			if err := os.WriteFile(host, []byte(tt.content), 0o644); err != nil {
				t.Fatal(err)
			}
			got, err := resolvConf(host, own)
			if err != nil {
				t.Fatal(err)
			}
			if tt.wantHost && got != host {
				t.Errorf("resolvConf = %s, want the host's own", got)
			}
			if !tt.wantHost && got == host {
				t.Error("resolvConf = the host's own, want another")
			}
		})
	}
}

func testConfig() Config {
	c := DefaultConfig()
	c.NodeName, c.NodeIP = "node-1", netip.MustParseAddr("192.0.2.7")
	c.RootDir, c.PodLogsDir, c.Socket = "/d/agent/kubelet", "/d/agent/pod-logs", "/run/nodeless/containerd/containerd.sock"
	c.Kubeconfig, c.CertFile, c.KeyFile, c.ClientCAFile = "/d/kubelet.kubeconfig", "/d/kubelet.crt", "/d/kubelet.key", "/d/client-ca.crt"
	c.PodCIDR, c.ClusterDNS = netip.MustParsePrefix("10.42.0.0/24"), netip.MustParseAddr("10.43.0.10")
	c.ResolvConf = "/run/nodeless/resolv.conf"
	return c
}

func TestSettings(t *testing.T) {
	s, err := settings(testConfig(), hostFacts{resolvConf: "/etc/resolv.conf", maxFiles: 4096})
	if err != nil {
		t.Fatalf("settings: %v", err)
	}
	if s.ReadOnlyPort != 0 || s.Authentication.Anonymous.Enabled || s.Authorization.Mode != "Webhook" {
		t.Errorf("the kubelet is open: read-only port %d, anonymous %v, authorization %s", s.ReadOnlyPort, s.Authentication.Anonymous.Enabled, s.Authorization.Mode)
	}
	if s.ContainerRuntimeEndpoint != "unix:///run/nodeless/containerd/containerd.sock" {
		t.Errorf("runtime endpoint = %s", s.ContainerRuntimeEndpoint)
	}
	if s.MaxContainerCount != -1 {
		t.Errorf("the kubelet keeps %d ended containers, and would remove those of Pods that run: pkg/worker/ended has the bound", s.MaxContainerCount)
	}
	for what, path := range map[string]string{"cert dir": s.CertDirectory, "volume plugins": s.VolumePluginDir, "logs": s.PodLogsDir, "root": s.RootDirectory} {
		if !strings.HasPrefix(path, "/d/") {
			t.Errorf("%s is %s, outside of the data folder", what, path)
		}
	}
}

// TestPullsHaveNoQueueHere: one bound for all namespaces would let one of them hold up the others. containerd shares.
func TestPullsHaveNoQueueHere(t *testing.T) {
	s, err := settings(testConfig(), hostFacts{resolvConf: "/etc/resolv.conf", maxFiles: 4096})
	if err != nil {
		t.Fatal(err)
	}
	if s.SerializeImagePulls || s.MaxParallelImagePulls != nil || s.RegistryPullQPS != 0 {
		t.Errorf("pulls one by one: %t, at once at most %v, a second %d", s.SerializeImagePulls, s.MaxParallelImagePulls, s.RegistryPullQPS)
	}
}

func TestMemoryIsKeptBack(t *testing.T) {
	c := testConfig()
	c.KubeReserved, c.SystemReserved = 2<<30, 384<<20
	s, err := settings(c, hostFacts{resolvConf: "/etc/resolv.conf", maxFiles: 4096})
	if err != nil {
		t.Fatal(err)
	}
	if s.KubeReserved["memory"] != "2147483648" || s.SystemReserved["memory"] != "402653184" {
		t.Errorf("kept back are %v and %v", s.KubeReserved, s.SystemReserved)
	}
	c.ExtraArgs = []string{"kube-reserved=memory=1Gi"}
	if s, err = settings(c, hostFacts{resolvConf: "/etc/resolv.conf", maxFiles: 4096}); err != nil || s.KubeReserved["memory"] != "1Gi" {
		t.Errorf("kept back is %v, %v; the operator has said 1Gi", s.KubeReserved, err)
	}
}

func TestExtraArgsWin(t *testing.T) {
	c := testConfig()
	c.ExtraArgs = []string{"no-such-option=1"}
	if _, err := settings(c, hostFacts{}); err == nil {
		t.Error("an option that the kubelet's own flags do not have was taken")
	}
	c.ExtraArgs = []string{"max-pods=7", "--node-labels=rack=7", "feature-gates=EventedPLEG=false"}
	s, err := settings(c, hostFacts{resolvConf: "/etc/resolv.conf", maxFiles: 4096})
	if err != nil {
		t.Fatal(err)
	}
	if s.MaxPods != 7 || s.NodeLabels["rack"] != "7" {
		t.Errorf("max Pods = %d, labels = %v; want 7 and rack=7", s.MaxPods, s.NodeLabels)
	}
	if on, said := s.FeatureGates["EventedPLEG"]; on || !said || !s.FeatureGates["PodAndContainerStatsFromCRI"] {
		t.Errorf("feature gates = %v, want the operator's beside ours", s.FeatureGates)
	}
	c.ExtraArgs = []string{"feature-gates=PodAndContainerStatsFromCRI=false"}
	if s, err = settings(c, hostFacts{resolvConf: "/etc/resolv.conf", maxFiles: 4096}); err != nil || s.FeatureGates["PodAndContainerStatsFromCRI"] {
		t.Errorf("feature gates = %v, %v; the operator has switched ours off", s.FeatureGates, err)
	}
}

func TestValidateReportsAllFaults(t *testing.T) {
	err := Config{CgroupRoot: "/"}.Validate()
	if err == nil {
		t.Fatal("Validate of nothing succeeded")
	}
	for _, want := range []string{"no node name", "no kubeconfig", "cgroup root", "Pod range"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("Validate = %q, want %q in it", err, want)
		}
	}
}

func TestNodesAreDescribed(t *testing.T) {
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "eklet-subnet-1", Annotations: map[string]string{"other": "stays"}}}
	client := fake.NewClientset(node)
	k := New(Config{PodCIDR: netip.MustParsePrefix("10.42.0.0/24"), Annotations: map[string]string{api.SubnetID: "subnet-1"}}, slog.New(slog.DiscardHandler))
	for range 2 {
		if err := k.describe(t.Context(), client, node); err != nil {
			t.Fatal(err)
		}
		var err error
		if node, err = client.CoreV1().Nodes().Get(t.Context(), "eklet-subnet-1", metav1.GetOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	if node.Spec.PodCIDR != "10.42.0.0/24" || node.Annotations[api.SubnetID] != "subnet-1" || node.Annotations["other"] != "stays" {
		t.Errorf("the Node has range %s and annotations %v", node.Spec.PodCIDR, node.Annotations)
	}
	patches := 0
	for _, a := range client.Actions() {
		if a.GetVerb() == "patch" {
			patches++
		}
	}
	if patches != 1 {
		t.Errorf("the Node was written %d times, want once", patches)
	}
}
