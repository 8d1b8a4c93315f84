package kubelet

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/kubernetes/pkg/features"
)

// TestKindsOfVolumes: what the kubelet can mount, by the plugins' own names. Each one more is one more thing that an object can have done to the host.
func TestKindsOfVolumes(t *testing.T) {
	var got []string
	for _, p := range volumePlugins() {
		got = append(got, p.GetPluginName())
	}
	slices.Sort(got)
	want := []string{"kubernetes.io/configmap", "kubernetes.io/csi", "kubernetes.io/downward-api", "kubernetes.io/empty-dir", "kubernetes.io/host-path",
		"kubernetes.io/image", "kubernetes.io/local-volume", "kubernetes.io/nfs", "kubernetes.io/projected", "kubernetes.io/secret"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("plugins (-want +got):\n%s", diff)
	}
}

// TestFilesOfContainersAreNotRead: by the kubelet, for the variables of another container.
func TestFilesOfContainersAreNotRead(t *testing.T) {
	server, err := settings(testConfig(), hostFacts{})
	if err != nil {
		t.Fatal(err)
	}
	if on, said := server.FeatureGates[string(features.EnvFiles)]; on || !said {
		t.Errorf("gate EnvFiles is %t, said %t", on, said)
	}
}
