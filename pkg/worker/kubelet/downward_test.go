package kubelet

import (
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/kubernetes/pkg/volume"
	volumetesting "k8s.io/kubernetes/pkg/volume/testing"
)

// TestFilesSayTheLimitsOfThePod: in a volume of the downward API and in a projected one, of a container with limits and of two without.
func TestFilesSayTheLimitsOfThePod(t *testing.T) {
	size := func(cpu, memory string) corev1.ResourceList {
		return corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpu), corev1.ResourceMemory: resource.MustParse(memory)}
	}
	var items []corev1.DownwardAPIVolumeFile
	for _, container := range []string{"first", "plain", "limited"} {
		for _, of := range []string{"limits.cpu", "limits.memory", "requests.cpu"} {
			items = append(items, corev1.DownwardAPIVolumeFile{Path: container + "-" + of,
				ResourceFieldRef: &corev1.ResourceFieldSelector{ContainerName: container, Resource: of}})
		}
	}
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "a", Namespace: "default", UID: "uid"},
		Spec: corev1.PodSpec{
			Resources:      &corev1.ResourceRequirements{Limits: size("1", "2Gi"), Requests: size("1", "2Gi")},
			InitContainers: []corev1.Container{{Name: "first"}},
			Containers:     []corev1.Container{{Name: "plain"}, {Name: "limited", Resources: corev1.ResourceRequirements{Limits: size("2", "1Gi"), Requests: size("2", "1Gi")}}},
		},
	}
	want := map[string]string{
		"first-limits.cpu": "1", "first-limits.memory": "2147483648", "first-requests.cpu": "0",
		"plain-limits.cpu": "1", "plain-limits.memory": "2147483648", "plain-requests.cpu": "0",
		"limited-limits.cpu": "2", "limited-limits.memory": "1073741824", "limited-requests.cpu": "2",
	}
	for kind, source := range map[string]corev1.VolumeSource{
		"kubernetes.io/downward-api": {DownwardAPI: &corev1.DownwardAPIVolumeSource{Items: items}},
		"kubernetes.io/projected": {Projected: &corev1.ProjectedVolumeSource{
			Sources: []corev1.VolumeProjection{{DownwardAPI: &corev1.DownwardAPIProjection{Items: items}}}}},
	} {
		t.Run(kind, func(t *testing.T) {
			// Other plugins need more of a host.
			plugins := slices.DeleteFunc(volumePlugins(t.Context(), slog.New(slog.DiscardHandler)), func(p volume.VolumePlugin) bool {
				return p.GetPluginName() != kind && p.GetPluginName() != "kubernetes.io/empty-dir"
			})
			host := volumetesting.NewFakeKubeletVolumeHost(t, t.TempDir(), fake.NewClientset(), plugins)
			plugin, err := host.GetPluginMgr().FindPluginByName(kind)
			if err != nil {
				t.Fatal(err)
			}
			mode := int32(0o644)
			if source.DownwardAPI != nil {
				source.DownwardAPI.DefaultMode = &mode
			} else {
				source.Projected.DefaultMode = &mode
			}
			mounter, err := plugin.NewMounter(volume.NewSpecFromVolume(&corev1.Volume{Name: "v", VolumeSource: source}), pod)
			if err != nil {
				t.Fatal(err)
			}
			if err := mounter.SetUp(volume.MounterArgs{}); err != nil {
				t.Fatal(err)
			}
			got := map[string]string{}
			for name := range want {
				content, err := os.ReadFile(filepath.Join(mounter.GetPath(), name))
				if err != nil {
					t.Fatal(err)
				}
				got[name] = string(content)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("files (-want +got):\n%s", diff)
			}
		})
	}
}
