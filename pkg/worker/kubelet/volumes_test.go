package kubelet

import (
	"log/slog"
	"reflect"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/kubernetes/pkg/features"
	"k8s.io/kubernetes/pkg/volume"
	"k8s.io/kubernetes/pkg/volume/csi"
	"k8s.io/kubernetes/pkg/volume/emptydir"
	"k8s.io/kubernetes/pkg/volume/local"
)

// TestKindsOfVolumes: what the kubelet can mount, by the plugins' own names. Each one more is one more thing that an object can have done
// to the host.
func TestKindsOfVolumes(t *testing.T) {
	var got []string
	for _, p := range volumePlugins(t.Context(), slog.New(slog.DiscardHandler)) {
		got = append(got, p.GetPluginName())
	}
	slices.Sort(got)
	want := []string{"kubernetes.io/configmap", "kubernetes.io/csi", "kubernetes.io/downward-api", "kubernetes.io/empty-dir", "kubernetes.io/host-path",
		"kubernetes.io/image", "kubernetes.io/local-volume", "kubernetes.io/nfs", "kubernetes.io/projected", "kubernetes.io/secret"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("plugins (-want +got):\n%s", diff)
	}
}

// TestPluginsAreWhole: the kubelet finds in a plugin of ours what it finds in upstream's, and no more.
func TestPluginsAreWhole(t *testing.T) {
	given := givers{t.Context(), slog.New(slog.DiscardHandler)}
	for name, plugins := range map[string][2][]volume.VolumePlugin{
		"csi":      {csi.ProbeVolumePlugins(), given.csi(csi.ProbeVolumePlugins())},
		"local":    {local.ProbeVolumePlugins(), given.local(local.ProbeVolumePlugins())},
		"emptyDir": {emptydir.ProbeVolumePlugins(), given.emptyDirs(emptydir.ProbeVolumePlugins())},
	} {
		if reflect.TypeOf(plugins[0][0]) == reflect.TypeOf(plugins[1][0]) {
			t.Errorf("%s is upstream's", name)
		}
		if diff := cmp.Diff(abilities(plugins[0][0]), abilities(plugins[1][0])); diff != "" {
			t.Errorf("%s (-upstream +here):\n%s", name, diff)
		}
	}
}

// abilities are the interfaces that the kubelet looks for.
func abilities(p volume.VolumePlugin) map[string]bool {
	is := map[string]bool{}
	_, is["persistent"] = p.(volume.PersistentVolumePlugin)
	_, is["recyclable"] = p.(volume.RecyclableVolumePlugin)
	_, is["deletable"] = p.(volume.DeletableVolumePlugin)
	_, is["provisionable"] = p.(volume.ProvisionableVolumePlugin)
	_, is["attachable"] = p.(volume.AttachableVolumePlugin)
	_, is["device mountable"] = p.(volume.DeviceMountableVolumePlugin)
	_, is["expandable"] = p.(volume.ExpandableVolumePlugin)
	_, is["node expandable"] = p.(volume.NodeExpandableVolumePlugin)
	_, is["resizable"] = p.(volume.ResizableEphemeralVolumePlugin)
	_, is["block"] = p.(volume.BlockVolumePlugin)
	return is
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
