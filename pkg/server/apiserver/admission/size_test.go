package admission

import (
	"context"
	"maps"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/warning"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/kubernetes/pkg/apis/core"

	"github.com/nodeless/nodeless/pkg/api"
	"github.com/nodeless/nodeless/pkg/podsize"
)

// plugin sizes Pods where there are only hosts with Intel CPUs.
func plugin(t testing.TB) *size {
	t.Helper()
	catalog, err := podsize.DefaultCatalog()
	if err != nil {
		t.Fatal(err)
	}
	s := &size{waiting: newWaiting(SizeName, nil, admission.Create, admission.Update), catalog: catalog, grace: 120, tellers: []string{"teller"}}
	client := fake.NewClientset()
	factory := informers.NewSharedInformerFactory(client, 0)
	s.SetExternalKubeInformerFactory(factory)
	s.SetExternalKubeClientSet(client)
	if err := s.ValidateInitialization(); err != nil {
		t.Fatal(err)
	}
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "host", Labels: map[string]string{api.CPUTypeLabel: "intel"}}}
	s.synced = nil // the store is filled by hand
	if err := factory.Core().V1().Nodes().Informer().GetStore().Add(node); err != nil {
		t.Fatal(err)
	}
	return s
}

// warnings collects what a client is told.
type warnings struct {
	mu   sync.Mutex
	said []string // guarded by mu
}

func (w *warnings) AddWarning(_, text string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.said = append(w.said, text)
}

// sizing calls the plugin as the apiserver does.
func sizing(t *testing.T, s *size, pod, old *core.Pod, op admission.Operation, subresource, who string) ([]string, error) {
	t.Helper()
	var before runtime.Object
	if old != nil {
		before = old
	}
	var w warnings
	a := admission.NewAttributesRecord(pod, before, core.Kind("Pod").WithVersion("v1"), "default", pod.Name,
		core.Resource("pods").WithVersion("v1"), subresource, op, nil, false, &user.DefaultInfo{Name: who, Groups: map[string][]string{"kubelet": {user.NodesGroup}}[who]})
	err := s.Admit(warning.WithWarningRecorder(context.Background(), &w), a, nil)
	for i, text := range w.said {
		about := strings.HasPrefix(text, "Pod default/"+pod.Name+": ")
		if w.said[i] = strings.TrimPrefix(text, "Pod default/"+pod.Name+": "); !about {
			t.Errorf("warning %q does not name the Pod", text)
		}
	}
	return w.said, err
}

func microVM(containers ...core.Container) *core.Pod {
	class := RuntimeClass
	return &core.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Spec: core.PodSpec{RuntimeClassName: &class, Containers: containers}}
}

// box is a container with requests and limits such as "2 4Gi"; empty for none.
func box(requests, limits string) core.Container {
	list := func(text string) core.ResourceList {
		l := core.ResourceList{}
		for i, f := range strings.Fields(text) {
			l[[]core.ResourceName{core.ResourceCPU, core.ResourceMemory}[i]] = resource.MustParse(f)
		}
		return l
	}
	return core.Container{Resources: core.ResourceRequirements{Requests: list(requests), Limits: list(limits)}}
}

func with(pod *core.Pod, annotations map[string]string) *core.Pod {
	if pod.Annotations == nil {
		pod.Annotations = map[string]string{}
	}
	maps.Copy(pod.Annotations, annotations)
	return pod
}

// wholeOf is the Pod's resources in short: "cpu memory" of the requests, and the limits if they differ.
func wholeOf(pod *core.Pod) string {
	if pod.Spec.Resources == nil {
		return ""
	}
	text := func(l core.ResourceList) string { return l.CPU().String() + " " + l.Memory().String() }
	requests, limits := text(pod.Spec.Resources.Requests), text(pod.Spec.Resources.Limits)
	if requests != limits {
		return requests + " / " + limits
	}
	return requests
}

func TestPodsGetASpec(t *testing.T) {
	for _, tt := range []struct {
		name    string
		pod     *core.Pod
		want    string // of the Pod as a whole
		spec    string
		warning string
	}{
		{"exactly what there is", microVM(box("1 2Gi", "1 2Gi")), "1 2Gi", "1C2Gi", ""},
		{"the cloud's second example", microVM(box("2 4Gi", "4 4Gi"), box("1 2Gi", "1 2Gi")), "4 8Gi", "4C8Gi", "the Pod gets the spec 4C8Gi (intel): it asks for 4 cores, 6 GiB"},
		{"nothing", microVM(box("", "")), "1 2Gi", "1C2Gi", "the Pod gets the spec 1C2Gi (intel): it asks for nothing"},
		{"little", microVM(box("10m 16Mi", "")), "250m 512Mi", "0.25C0.5Gi", "the Pod gets the spec 0.25C0.5Gi (intel): it asks for 0.01 cores, 0.015625 GiB"},
		{"a named spec", with(microVM(box("10m 16Mi", "")), map[string]string{api.CPU: "2", api.Memory: "5Gi"}), "2 5Gi", "2C5Gi", ""},
		{"less than the containers want", with(microVM(box("2 4Gi", "4 8Gi"), box("1 1Gi", "")), map[string]string{api.CPU: "1", api.Memory: "2Gi"}), "1 2Gi", "1C2Gi",
			"annotations eks.tke.cloud.tencent.com/cpu and eks.tke.cloud.tencent.com/mem name the spec 1C2Gi: what containers ask for beyond it (cpu, memory) is left out"},
		{"a type that is not here, then one that is", with(microVM(box("1 2Gi", "")), map[string]string{api.CPUType: "amd,intel"}), "1 2Gi", "1C2Gi", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			said, err := sizing(t, plugin(t), tt.pod, nil, admission.Create, "", "alice")
			if err != nil {
				t.Fatal(err)
			}
			if got := wholeOf(tt.pod); got != tt.want {
				t.Errorf("the Pod has %s, want %s", got, tt.want)
			}
			if got := tt.pod.Annotations[api.Spec]; got != tt.spec || tt.pod.Annotations[api.SpecType] != "intel" {
				t.Errorf("annotations %v, want %s of intel", tt.pod.Annotations, tt.spec)
			}
			if got := strings.Join(said, "\n"); got != tt.warning {
				t.Errorf("warning %q, want %q", got, tt.warning)
			}
		})
	}
}

func TestWhatANamedSpecLeavesOut(t *testing.T) {
	pod := with(microVM(box("2 1Gi", "4 8Gi"), box("100m 512Mi", "")), map[string]string{api.CPU: "1", api.Memory: "2Gi"})
	if _, err := sizing(t, plugin(t), pod, nil, admission.Create, "", "alice"); err != nil {
		t.Fatal(err)
	}
	first, second := pod.Spec.Containers[0].Resources, pod.Spec.Containers[1].Resources
	if first.Limits.CPU().String() != "1" || first.Limits.Memory().String() != "2Gi" || !first.Requests.CPU().IsZero() || first.Requests.Memory().String() != "1Gi" {
		t.Errorf("the first container has %+v", first)
	}
	if !second.Requests.CPU().IsZero() || second.Requests.Memory().String() != "512Mi" {
		t.Errorf("the second container has %+v", second)
	}
}

func TestTypesBindToHosts(t *testing.T) {
	for types, want := range map[string]string{"": "", "intel": "intel", "amd,intel": "intel", "amd": "amd", "SA5,amd": "amd"} {
		pod := microVM(box("1 2Gi", ""))
		if types != "" {
			with(pod, map[string]string{api.CPUType: types})
		}
		if _, err := sizing(t, plugin(t), pod, nil, admission.Create, "", "alice"); err != nil {
			t.Fatal(err)
		}
		if got := pod.Spec.NodeSelector[api.CPUTypeLabel]; got != want {
			t.Errorf("cpu-type %q binds to %q, want %q", types, got, want)
		}
	}
}

func TestWrongSizesAreRefusedWithEverythingThatIsWrong(t *testing.T) {
	for _, tt := range []struct {
		name string
		pod  *core.Pod
		want []string
	}{
		{"no such spec", with(microVM(box("", "")), map[string]string{api.CPU: "3", api.Memory: "4Gi"}),
			[]string{"spec.containers", "3C4Gi is no such spec; there are 0.25, 0.5, 1, 2, 4, 8, 12, 16 cores"}},
		{"memory without CPU", with(microVM(box("", "")), map[string]string{api.Memory: "4Gi"}), []string{"metadata.annotations[eks.tke.cloud.tencent.com/mem]", "add eks.tke.cloud.tencent.com/cpu"}},
		{"G for Gi, and a wrong switch", with(microVM(box("", "")), map[string]string{api.CPU: "1", api.Memory: "4G", api.SpecAutoUpgrade: "yes"}),
			[]string{"metadata.annotations[eks.tke.cloud.tencent.com/mem]", `want memory of a spec in GiB, such as "4Gi"`, "spec-auto-upgrade", `want "true" or "false"`}},
		{"a GPU that is not in the catalog", with(microVM(box("", "")), map[string]string{api.GPUCount: "1", api.GPUType: "H100"}), []string{`type "H100"`, "the types are V100"}},
		{"more than the largest", microVM(box("65 1Gi", "")), []string{"65C1Gi is more than the largest spec, 16C64Gi"}},
		{"an absurd disk", with(microVM(box("", "")), map[string]string{api.RootDiskSize: "-5"}), []string{"root-cbs-size", "want a whole number from 20 to 2048"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := sizing(t, plugin(t), tt.pod, nil, admission.Create, "", "alice")
			if !apierrors.IsInvalid(err) {
				t.Fatalf("error %v, want an invalid Pod", err)
			}
			for _, part := range tt.want {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("error %q does not say %q", err, part)
				}
			}
		})
	}
}

func TestNobodyElseSetsWhatAPodIsBilledBy(t *testing.T) {
	s := plugin(t)
	forged := map[string]string{api.Spec: "0.25C0.5Gi", api.ChargeType: "SPOT", api.Workload: "Deployment/other", api.AskedWhole: "true"}
	pod := with(microVM(box("4 8Gi", "")), forged)
	if _, err := sizing(t, s, pod, nil, admission.Create, "", "alice"); err != nil {
		t.Fatal(err)
	}
	want := map[string]string{api.Spec: "4C8Gi", api.SpecType: "intel", api.ChargeType: "POSTPAID_BY_HOUR", api.Workload: "Pod/p"}
	if diff := cmp.Diff(want, pod.Annotations); diff != "" {
		t.Errorf("annotations of a new Pod (-want +got):\n%s", diff)
	}
	now := pod.DeepCopy()
	now.Annotations[api.Spec] = "1C2Gi"
	if _, err := sizing(t, s, now, pod, admission.Update, "", "teller"); err != nil || now.Annotations[api.Spec] != "1C2Gi" {
		t.Errorf("the component that tells of resizes: %v, annotations %v", err, now.Annotations)
	}
	for _, subresource := range []string{"", "status", "ephemeralcontainers"} {
		for name, change := range map[string]map[string]string{"forged": forged, "gone": nil} {
			now := pod.DeepCopy()
			now.Annotations = maps.Clone(change)
			if _, err := sizing(t, s, now, pod, admission.Update, subresource, "alice"); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, now.Annotations); diff != "" {
				t.Errorf("%s through %q (-want +got):\n%s", name, subresource, diff)
			}
		}
	}
}

func TestResizeFindsTheSpecAnew(t *testing.T) {
	s := plugin(t)
	made := func(pod *core.Pod) *core.Pod {
		if _, err := sizing(t, s, pod, nil, admission.Create, "", "alice"); err != nil {
			t.Fatal(err)
		}
		return pod
	}
	for _, tt := range []struct {
		name   string
		old    *core.Pod
		change func(*core.Pod)
		want   string
	}{
		{"a container grows", made(microVM(box("1 2Gi", "1 2Gi"))), func(p *core.Pod) { p.Spec.Containers[0] = box("2 3Gi", "2 3Gi") }, "2 4Gi"},
		{"and shrinks", made(microVM(box("2 4Gi", ""))), func(p *core.Pod) { p.Spec.Containers[0] = box("500m 1Gi", "") }, "500m 1Gi"},
		{"the Pod as a whole", made(microVM(box("250m 512Mi", ""))), func(p *core.Pod) {
			r := box("900m 2Gi", "900m 2Gi").Resources
			p.Spec.Resources = &r
		}, "1 2Gi"},
		{"a named spec stays", made(with(microVM(box("250m 512Mi", "")), map[string]string{api.CPU: "2", api.Memory: "4Gi"})), func(p *core.Pod) { p.Spec.Containers[0] = box("1 1Gi", "") }, "2 4Gi"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			now := tt.old.DeepCopy()
			tt.change(now)
			if _, err := sizing(t, s, now, tt.old, admission.Update, "resize", "alice"); err != nil {
				t.Fatal(err)
			}
			if got := wholeOf(now); got != tt.want {
				t.Errorf("the Pod has %s, want %s", got, tt.want)
			}
		})
	}
	t.Run("as a whole, then a container", func(t *testing.T) {
		old := made(microVM(box("250m 512Mi", "")))
		for _, step := range []struct {
			change func(*core.Pod)
			want   string
		}{
			{func(p *core.Pod) {
				p.Spec.Resources = &core.ResourceRequirements{Requests: box("2 4Gi", "").Resources.Requests}
			}, "2 4Gi"},
			{func(p *core.Pod) { p.Spec.Containers[0] = box("500m 512Mi", "") }, "2 4Gi"},
			{func(p *core.Pod) {
				p.Spec.Resources = &core.ResourceRequirements{Requests: box("500m 1Gi", "").Resources.Requests}
			}, "500m 1Gi"},
			{func(p *core.Pod) { p.Spec.Containers[0] = box("250m 512Mi", "") }, "250m 512Mi"}, // the whole was what its container had got it
		} {
			now := old.DeepCopy()
			step.change(now)
			if _, err := sizing(t, s, now, old, admission.Update, "resize", "alice"); err != nil {
				t.Fatal(err)
			}
			if got := wholeOf(now); got != step.want {
				t.Errorf("the Pod has %s, want %s", got, step.want)
			}
			old = now
		}
	})
	now := made(microVM(box("1 2Gi", "")))
	more := now.DeepCopy()
	more.Spec.Containers[0] = box("100 2Gi", "")
	if _, err := sizing(t, s, more, now, admission.Update, "resize", "alice"); !apierrors.IsInvalid(err) {
		t.Errorf("more than the largest spec: %v, want it refused", err)
	}
}

func TestOtherPodsAreLeftAlone(t *testing.T) {
	runc := "runc"
	fromFile := func() *core.Pod {
		return with(microVM(box("", "")), map[string]string{"kubernetes.io/config.mirror": "x"})
	}
	for _, tt := range []struct {
		name, user string
		pod        *core.Pod
		sized      bool
	}{
		{"of another runtime", "alice", &core.Pod{Spec: core.PodSpec{RuntimeClassName: &runc}}, false},
		{"of a file of a kubelet", "kubelet", fromFile(), false},
		{"that claims to be of a file", "alice", fromFile(), true},
	} {
		if _, err := sizing(t, plugin(t), tt.pod, nil, admission.Create, "", tt.user); err != nil || (tt.pod.Spec.Resources != nil) != tt.sized {
			t.Errorf("a Pod %s: %v, resources %v", tt.name, err, tt.pod.Spec.Resources)
		}
	}
}

func TestGPUsOfAnAnnotationAreAskedFor(t *testing.T) {
	annotated := func(containers ...core.Container) *core.Pod {
		return with(microVM(containers...), map[string]string{api.GPUCount: "2", api.GPUType: "V100"})
	}
	asking := box("", "")
	asking.Resources.Requests[gpus], asking.Resources.Limits[gpus] = resource.MustParse("2"), resource.MustParse("2")
	for name, tt := range map[string]struct {
		pod  *core.Pod
		want []int64
	}{
		"by nobody":           {annotated(box("1 2Gi", ""), box("", "")), []int64{2, 0}},
		"by the second":       {annotated(box("1 2Gi", ""), asking), []int64{0, 2}},
		"without the wish":    {microVM(box("1 2Gi", "")), []int64{0}},
		"without any figures": {annotated(core.Container{}), []int64{2}},
	} {
		if _, err := sizing(t, plugin(t), tt.pod, nil, admission.Create, "", "alice"); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		for i, want := range tt.want {
			got := tt.pod.Spec.Containers[i].Resources.Requests[gpus]
			if got.Value() != want {
				t.Errorf("%s: container %d asks for %s GPUs, want %d", name, i, got.String(), want)
			}
		}
	}
}

// TestSpotPodsEndInTime: one that may take a year to end would never give way.
func TestSpotPodsEndInTime(t *testing.T) {
	year, short := int64(365*24*3600), int64(5)
	for name, spot := range map[string]string{"a spot Pod": "true", "another": "false"} {
		probed := box("1 2Gi", "1 2Gi")
		own, after, quick := year, year, short
		probed.Name, probed.LivenessProbe, probed.StartupProbe = "c", &core.Probe{TerminationGracePeriodSeconds: &after}, &core.Probe{TerminationGracePeriodSeconds: &quick}
		pod := with(microVM(probed), map[string]string{api.SpotPod: spot})
		pod.Spec.TerminationGracePeriodSeconds = &own
		said, err := sizing(t, plugin(t), pod, nil, admission.Create, "", "alice")
		if err != nil {
			t.Fatal(err)
		}
		want, warned := []int64{year, year, short}, []string(nil)
		if spot == "true" {
			want = []int64{120, 120, short}
			warned = []string{"a spot Pod has 120 seconds to end in (terminationGracePeriodSeconds 31536000, that of a probe of container c 31536000)"}
		}
		if diff := cmp.Diff(want, []int64{own, after, quick}); diff != "" {
			t.Errorf("%s: graces (-want +got):\n%s", name, diff)
		}
		if diff := cmp.Diff(warned, said); diff != "" {
			t.Errorf("%s: warnings (-want +got):\n%s", name, diff)
		}
	}
}

// TestNativePodsKeepTheirFigures: with sizing native a Pod has a spec for the bill, and what is written stays as it is.
func TestNativePodsKeepTheirFigures(t *testing.T) {
	asked, requested := box("1 1Gi", "1 1Gi"), box("1 1Gi", "")
	whole, half := microVM(box("", "")), microVM(box("", ""))
	whole.Spec.Resources, half.Spec.Resources = &asked.Resources, &requested.Resources
	for _, tt := range []struct {
		name               string
		pod                *core.Pod
		spec, sizing, said string
	}{
		{"nothing", microVM(box("", "")), "1C2Gi", api.SizingOpen, "the Pod gets the spec 1C2Gi (intel): it asks for nothing"},
		{"a limit of each container", microVM(box("1 2Gi", "1 2Gi"), box("1 2Gi", "1 2Gi")), "2C4Gi", api.SizingLimits, ""},
		{"a container without a limit", microVM(box("1 2Gi", "1 2Gi"), box("", "")), "1C2Gi", api.SizingOpen, ""},
		{"a limit of CPUs alone", microVM(box("1 2Gi", "1")), "1C2Gi", api.SizingOpen, ""},
		{"limits as a whole", whole, "1C1Gi", api.SizingWhole, ""},
		{"requests as a whole", half, "1C1Gi", api.SizingOpen, ""},
		{"a spec that is named, for less", with(microVM(box("2 4Gi", "2 4Gi")), map[string]string{api.CPU: "1", api.Memory: "2Gi"}), "1C2Gi", api.SizingLimits, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := plugin(t)
			s.native = true
			before := tt.pod.DeepCopy()
			said, err := sizing(t, s, tt.pod, nil, admission.Create, "", "alice")
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(before.Spec, tt.pod.Spec); diff != "" {
				t.Errorf("what the Pod asks for has changed (-before +after):\n%s", diff)
			}
			if tt.pod.Annotations[api.Spec] != tt.spec || tt.pod.Annotations[api.Sizing] != tt.sizing || strings.Join(said, "\n") != tt.said {
				t.Errorf("annotations %v and warning %q, want %s, %s and %q", tt.pod.Annotations, said, tt.spec, tt.sizing, tt.said)
			}
			larger := tt.pod.DeepCopy()
			larger.Spec.Containers[0].Resources = box("2 4Gi", "2 4Gi").Resources
			s.native = false // what was made under one setting goes on under another
			if _, err := sizing(t, s, larger, tt.pod, admission.Update, "resize", "alice"); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.pod.Spec.Resources, larger.Spec.Resources); diff != "" {
				t.Errorf("a resize gives the Pod (-before +after):\n%s", diff)
			}
		})
	}
}

// TestQuotasCountNoOverhead: the plugin of quotas sees a microVM's Pod without what that takes besides, and the Pod that is stored has it.
func TestQuotasCountNoOverhead(t *testing.T) {
	pod := microVM(box("1 2Gi", ""))
	pod.Spec.Overhead = core.ResourceList{core.ResourceMemory: resource.MustParse("448Mi")}
	other := pod.DeepCopy()
	name := "runc"
	other.Spec.RuntimeClassName = &name
	var seen recorder
	for _, tt := range []struct {
		plugin string
		pod    *core.Pod
		counts bool
	}{{"ResourceQuota", pod, false}, {"ResourceQuota", other, true}, {"LimitRanger", pod, true}} {
		wrapped, ok := withoutOverhead(&seen, tt.plugin).(admission.ValidationInterface)
		if !ok {
			t.Fatal("it validates nothing")
		}
		a := admission.NewAttributesRecord(tt.pod, tt.pod, core.Kind("Pod").WithVersion("v1"), "default", "p", core.Resource("pods").WithVersion("v1"), "", admission.Update, nil, false, nil)
		if err := wrapped.Validate(t.Context(), a, nil); err != nil {
			t.Fatal(err)
		}
		for _, o := range []runtime.Object{seen.object, seen.old} {
			if got := o.(*core.Pod).Spec.Overhead != nil; got != tt.counts {
				t.Errorf("%s sees an overhead of a Pod of class %s: %v, want %v", tt.plugin, *tt.pod.Spec.RuntimeClassName, got, tt.counts)
			}
		}
		if tt.pod.Spec.Overhead == nil {
			t.Error("the Pod has lost its overhead")
		}
	}
}

// recorder is a plugin that keeps what it is shown.
type recorder struct{ object, old runtime.Object }

func (*recorder) Handles(admission.Operation) bool { return true }
func (r *recorder) Validate(_ context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	r.object, r.old = a.GetObject(), a.GetOldObject()
	return nil
}
