package admission

import (
	"testing"

	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/kubernetes/pkg/apis/core"

	"github.com/nodeless/nodeless/pkg/api"
)

// TestAnExportedPodIsSizedAnew: what admission wrote into a Pod is not its author's wish when the author gets it, changes it, and creates
// it again. What the author asked for stays.
func TestAnExportedPodIsSizedAnew(t *testing.T) {
	s := plugin(t)
	create := func(pod *core.Pod) *core.Pod {
		t.Helper()
		if _, err := sizing(t, s, pod, nil, admission.Create, "", "alice"); err != nil {
			t.Fatal(err)
		}
		if err := change(t, &storage{}, pod); err != nil {
			t.Fatal(err)
		}
		return pod
	}
	withDir := func() *core.Pod {
		pod := microVM(box("4 8Gi", ""))
		pod.Spec.Volumes = []core.Volume{{Name: "tmp", VolumeSource: core.VolumeSource{EmptyDir: &core.EmptyDirVolumeSource{}}}}
		return pod
	}
	whole := func() *core.Pod {
		pod := microVM(box("250m 512Mi", ""))
		r := box("4 8Gi", "4 8Gi").Resources
		pod.Spec.Resources = &r
		return pod
	}
	lower := func(pod *core.Pod) {
		for name, q := range box("250m 512Mi", "").Resources.Requests {
			pod.Spec.Containers[0].Resources.Requests[name] = q
		}
	}
	disk := func(n string) func(*core.Pod) {
		return func(pod *core.Pod) { with(pod, map[string]string{api.RootDiskSize: n}) }
	}
	for _, tt := range []struct {
		name string
		pod  *core.Pod
		edit func(*core.Pod)
		spec string
		disk string // of the first container, in all
	}{
		{"as it is", withDir(), func(*core.Pod) {}, "4C8Gi", "41024Mi"},
		{"with lower requests", withDir(), lower, "0.25C0.5Gi", "41024Mi"},
		{"with a larger disk", withDir(), disk("50"), "4C8Gi", "102464Mi"},
		{"with a smaller disk", with(withDir(), map[string]string{api.RootDiskSize: "50"}), disk("20"), "4C8Gi", "41024Mi"},
		{"asked for as a whole", whole(), func(*core.Pod) {}, "4C8Gi", "20544Mi"},
		{"asked for as a whole, then resized by hand", withDir(), func(pod *core.Pod) {
			r := box("8 16Gi", "8 16Gi").Resources
			pod.Spec.Resources = &r
			lower(pod)
		}, "8C16Gi", "41024Mi"},
		{"with huge pages", func() *core.Pod {
			pod := withDir()
			pod.Spec.Resources = &core.ResourceRequirements{Limits: core.ResourceList{"hugepages-2Mi": resource.MustParse("2Mi")}}
			return pod
		}(), lower, "0.25C0.5Gi", "41024Mi"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			exported := create(tt.pod).DeepCopy()
			tt.edit(exported)
			again := create(exported)
			if got := again.Annotations[api.Spec]; got != tt.spec {
				t.Errorf("created again it is a %s, want %s", got, tt.spec)
			}
			if got := again.Spec.Containers[0].Resources.Limits.StorageEphemeral(); got.Cmp(resource.MustParse(tt.disk)) != 0 {
				t.Errorf("created again it may write %s, want %s", got, tt.disk)
			}
			if _, huge := again.Spec.Resources.Limits["hugepages-2Mi"]; huge != (tt.name == "with huge pages") {
				t.Errorf("resources %v", again.Spec.Resources)
			}
		})
	}
}

// change has another plugin change a new Pod.
func change(t *testing.T, p admission.MutationInterface, pod *core.Pod) error {
	t.Helper()
	return p.Admit(t.Context(), podRequest(pod), nil)
}
