package podsize

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// named is a container with requests and limits such as "250m 512Mi"; empty for none.
func named(name, requests, limits string) corev1.Container {
	list := func(text string) corev1.ResourceList {
		l := corev1.ResourceList{}
		for i, f := range strings.Fields(text) {
			l[[]corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory}[i]] = resource.MustParse(f)
		}
		return l
	}
	return corev1.Container{Name: name, Resources: corev1.ResourceRequirements{Requests: list(requests), Limits: list(limits)}}
}

// TestWhyIsTrue: what is named as the reason for a spec is one, since without it the Pod would get less.
func TestWhyIsTrue(t *testing.T) {
	always := corev1.ContainerRestartPolicyAlways
	sidecar := named("side", "500m 1Gi", "")
	sidecar.RestartPolicy = &always
	catalog, err := DefaultCatalog()
	if err != nil {
		t.Fatal(err)
	}
	older := catalog
	older.Rules.Init2026 = false
	whole := named("", "2 4Gi", "2 4Gi").Resources
	for _, tt := range []struct {
		name              string
		catalog           Catalog
		inits, containers []corev1.Container
		whole             *corev1.ResourceRequirements
		got, want         string
		without           string
	}{
		{name: "requests", containers: []corev1.Container{named("web", "300m 700Mi", "300m 700Mi")}, got: "0.5C1Gi"},
		{name: "nothing", containers: []corev1.Container{named("web", "", "")}, got: "1C2Gi"},
		{name: "nothing, and an init container that sets nothing", inits: []corev1.Container{named("wait", "", "")}, containers: []corev1.Container{named("web", "", "")}, got: "1C2Gi"},
		{name: "an init container that sets nothing", inits: []corev1.Container{named("wait", "", "")}, containers: []corev1.Container{named("web", "250m 512Mi", "")}, got: "1C2Gi",
			want: "init container wait sets nothing, which counts as 1C2Gi", without: "0.25C0.5Gi"},
		{name: "two of them", inits: []corev1.Container{named("wait", "", ""), named("copy", "", "")}, containers: []corev1.Container{named("web", "250m 512Mi", "")}, got: "1C2Gi",
			want: "init containers wait, copy set nothing, which counts as 1C2Gi", without: "0.25C0.5Gi"},
		{name: "one that sets nothing counts for nothing by the older rule", catalog: older, inits: []corev1.Container{named("wait", "", "")},
			containers: []corev1.Container{named("web", "50m 64Mi", "")}, got: "0.25C0.5Gi"},
		{name: "one that is small beside what runs after it", inits: []corev1.Container{named("wait", "", "")}, containers: []corev1.Container{named("web", "1 2Gi", "")}, got: "1C2Gi"},
		{name: "one that asks for much", inits: []corev1.Container{named("build", "2 4Gi", ""), named("wait", "", "")}, containers: []corev1.Container{named("web", "250m 512Mi", "")}, got: "2C4Gi",
			want: "init containers build, wait need that", without: "0.25C0.5Gi"},
		{name: "limits", containers: []corev1.Container{named("web", "100m 128Mi", "4 8Gi"), named("log", "10m 16Mi", "100m 64Mi")}, got: "4C8Gi",
			want: "limits count as well as requests, here those of container web", without: "0.25C0.5Gi"},
		{name: "limits without requests are requests", containers: []corev1.Container{named("web", "", "4 8Gi")}, got: "4C8Gi"},
		{name: "limits that cost nothing", containers: []corev1.Container{named("web", "100m 128Mi", "250m 512Mi")}, got: "0.25C0.5Gi"},
		{name: "limits and an init container, each of which would do", inits: []corev1.Container{named("wait", "", "")}, containers: []corev1.Container{named("web", "250m 512Mi", "1 2Gi")},
			got: "1C2Gi", want: "limits and init containers count", without: "0.25C0.5Gi"},
		{name: "the Pod as a whole", whole: &whole, containers: []corev1.Container{named("web", "250m 512Mi", "")}, got: "2C4Gi",
			want: "spec.resources asks for more than the containers do", without: "0.25C0.5Gi"},
		{name: "beside a sidecar", inits: []corev1.Container{sidecar, named("wait", "700m 1Gi", "")}, containers: []corev1.Container{named("web", "100m 64Mi", "")}, got: "2C4Gi",
			want: "an init container runs while sidecars do", without: "1C2Gi"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := catalog
			if tt.catalog.cpu != nil {
				c = tt.catalog
			}
			pod := &corev1.PodSpec{InitContainers: tt.inits, Containers: tt.containers, Resources: tt.whole}
			got, err := c.Fit(DemandOf(pod, c.Rules))
			if err != nil || got.String() != tt.got {
				t.Fatalf("the Pod gets %s, %v, want %s", got, err, tt.got)
			}
			text, without := c.Why(pod, Wish{}, got)
			if text != tt.want || text != "" && without.String() != tt.without {
				t.Errorf("Why = %q, %s without it, want %q, %s", text, without, tt.want, tt.without)
			}
		})
	}
}

// TestWhatIsAskedForIsNotNothing when an init container asks for more than what is usual.
func TestWhatIsAskedForIsNotNothing(t *testing.T) {
	d := DemandOf(&corev1.PodSpec{InitContainers: []corev1.Container{named("build", "2 4Gi", "")}, Containers: []corev1.Container{named("web", "", "")}}, DefaultRules())
	if d.String() != "2 cores, 4 GiB" {
		t.Errorf("it asks for %s", d)
	}
}
