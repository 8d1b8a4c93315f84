package admission

import (
	"context"
	"math"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/kubernetes/pkg/apis/core"

	"github.com/nodeless/nodeless/pkg/api"
)

// stored is what the plugin makes of a Pod, as text: limits and requests of each container, sizes of emptyDirs, the shares.
type stored struct {
	Limits, Requests, Dirs []string
	Shares                 string
}

func storedOf(pod *core.Pod) (s stored) {
	for _, c := range append(pod.Spec.Containers, pod.Spec.InitContainers...) {
		s.Limits = append(s.Limits, c.Resources.Limits.StorageEphemeral().String())
		s.Requests = append(s.Requests, c.Resources.Requests.StorageEphemeral().String())
	}
	for _, v := range pod.Spec.Volumes {
		if v.EmptyDir != nil && v.EmptyDir.SizeLimit != nil {
			s.Dirs = append(s.Dirs, v.Name+"="+v.EmptyDir.SizeLimit.String())
		}
	}
	s.Shares = pod.Annotations[api.DiskShares]
	return s
}

func withStorage(name, request, limit string) core.Container {
	c := core.Container{Name: name}
	for list, text := range map[*core.ResourceList]string{&c.Resources.Requests: request, &c.Resources.Limits: limit} {
		if text != "" {
			*list = core.ResourceList{core.ResourceEphemeralStorage: resource.MustParse(text)}
		}
	}
	return c
}

func emptyDir(name, size string, medium core.StorageMedium) core.Volume {
	dir := &core.EmptyDirVolumeSource{Medium: medium}
	if size != "" {
		q := resource.MustParse(size)
		dir.SizeLimit = &q
	}
	return core.Volume{Name: name, VolumeSource: core.VolumeSource{EmptyDir: dir}}
}

func TestStorage(t *testing.T) {
	tests := []struct {
		name  string
		spec  core.PodSpec
		notes map[string]string
		want  stored
	}{
		{
			name: "a Pod that says nothing has its disk and its log",
			spec: core.PodSpec{Containers: []core.Container{{Name: "app"}}},
			want: stored{Limits: []string{"20544Mi"}, Requests: []string{"64Mi"}, Shares: "app=21541945344"},
		},
		{
			name: "emptyDirs count, and have limits",
			spec: core.PodSpec{
				Containers: []core.Container{{Name: "app"}, {Name: "log"}},
				Volumes:    []core.Volume{emptyDir("any", "", ""), emptyDir("none", "0", ""), emptyDir("some", "1Gi", ""), emptyDir("memory", "", core.StorageMediumMemory)},
			},
			want: stored{Limits: []string{"62592Mi", "0"}, Requests: []string{"64Mi", "0"}, Dirs: []string{"any=20Gi", "none=20Gi", "some=1Gi"}, Shares: "app=65632468992"},
		},
		{
			name:  "a larger disk",
			notes: map[string]string{api.RootDisk: "50"},
			spec:  core.PodSpec{Containers: []core.Container{{Name: "app"}}, Volumes: []core.Volume{emptyDir("any", "", "")}},
			want:  stored{Limits: []string{"102464Mi"}, Requests: []string{"64Mi"}, Dirs: []string{"any=50Gi"}, Shares: "app=107441291264"},
		},
		{
			name: "what the author says stays",
			spec: core.PodSpec{Containers: []core.Container{withStorage("app", "1Gi", "2Gi"), withStorage("log", "", "1Gi"), {Name: "free"}}},
			want: stored{Limits: []string{"2Gi", "1Gi", "0"}, Requests: []string{"1Gi", "0", "0"}, Shares: "app=2147483648,log=1073741824"},
		},
		{
			name: "a request stays, and is below the limit",
			spec: core.PodSpec{Containers: []core.Container{withStorage("app", "30Gi", "")}},
			want: stored{Limits: []string{"30Gi"}, Requests: []string{"30Gi"}, Shares: "app=32212254720"},
		},
		{
			name:  "shares cannot be forged",
			notes: map[string]string{api.DiskShares: "free=1"},
			spec:  core.PodSpec{Containers: []core.Container{withStorage("app", "", "1Gi"), {Name: "free"}}},
			want:  stored{Limits: []string{"1Gi", "0"}, Requests: []string{"0", "0"}, Shares: "app=1073741824"},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			pod := &core.Pod{Spec: tt.spec}
			pod.Annotations = tt.notes
			for range 2 { // after a webhook it is called again
				if err := (&storage{}).Admit(context.Background(), podRequest(pod), nil); err != nil {
					t.Fatal(err)
				}
			}
			if diff := cmp.Diff(tt.want, storedOf(pod)); diff != "" {
				t.Errorf("storage (-want +got):\n%s", diff)
			}
			if err := (&storage{}).Validate(context.Background(), podRequest(pod), nil); err != nil {
				t.Errorf("Validate = %v", err)
			}
		})
	}
}

func TestStorageWithoutLimitsIsRefused(t *testing.T) {
	limitless := &core.Pod{Spec: core.PodSpec{Containers: []core.Container{{Name: "app"}}}}
	boundless := &core.Pod{Spec: core.PodSpec{Containers: []core.Container{withStorage("app", "", "1Gi")}, Volumes: []core.Volume{emptyDir("any", "", "")}}}
	for _, pod := range []*core.Pod{limitless, boundless} { // as a webhook may leave them
		if err := (&storage{}).Validate(context.Background(), podRequest(pod), nil); err == nil {
			t.Errorf("%+v is let through", storedOf(pod))
		}
	}
	if got := add(math.MaxInt64-1, 2); got != math.MaxInt64 {
		t.Errorf("a sum of sizes is %d", got)
	}
}

// TestNativePodsGetNoStorage: where Pods keep their own figures, an emptyDir is bounded and a container is not.
func TestNativePodsGetNoStorage(t *testing.T) {
	pod := &core.Pod{Spec: core.PodSpec{Containers: []core.Container{{Name: "app"}}, Volumes: []core.Volume{emptyDir("any", "", "")}}}
	s := &storage{native: true}
	for _, call := range []func(context.Context, admission.Attributes, admission.ObjectInterfaces) error{s.Admit, s.Validate} {
		if err := call(t.Context(), podRequest(pod), nil); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff(stored{Limits: []string{"0"}, Requests: []string{"0"}, Dirs: []string{"any=20Gi"}}, storedOf(pod)); diff != "" {
		t.Errorf("the Pod (-want +got):\n%s", diff)
	}
	unbound := &core.Pod{Spec: core.PodSpec{Containers: []core.Container{{Name: "app"}}, Volumes: []core.Volume{emptyDir("any", "", "")}}}
	if err := s.Validate(t.Context(), podRequest(unbound), nil); err == nil {
		t.Error("an emptyDir without a bound is let through")
	}
}
