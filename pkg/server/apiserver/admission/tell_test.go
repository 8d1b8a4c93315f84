package admission

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/warning"
	"k8s.io/client-go/kubernetes/fake"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/kubernetes/pkg/apis/apps"
	"k8s.io/kubernetes/pkg/apis/autoscaling"
	"k8s.io/kubernetes/pkg/apis/core"
	"k8s.io/kubernetes/pkg/apis/networking"

	"github.com/nodeless/nodeless/pkg/admission/rules"
	"github.com/nodeless/nodeless/pkg/api"
	"github.com/nodeless/nodeless/pkg/podsize"
)

// told has the plugin judge a new object, or a changed one, and gives the warnings, each of which the apiserver must be able to send.
func (r *ruling) told(t *testing.T, namespace, kind, resource string, object runtime.Object, old ...runtime.Object) []string {
	t.Helper()
	meta, ok := object.(metav1.Object)
	if !ok {
		t.Fatalf("%T has no metadata", object)
	}
	of := map[string]string{"Deployment": "apps", "DaemonSet": "apps", "Scale": "apps", "Ingress": "networking.k8s.io"}[kind]
	resource, sub, _ := strings.Cut(resource, "/")
	operation, before := admission.Create, runtime.Object(nil)
	if len(old) > 0 && old[0] != nil {
		operation, before = admission.Update, old[0]
	}
	a := admission.NewAttributesRecord(object, before, schema.GroupVersionKind{Group: of, Version: "v1", Kind: kind}, namespace, meta.GetName(),
		schema.GroupVersionResource{Group: of, Version: "v1", Resource: resource}, sub, operation, nil, false, &user.DefaultInfo{Name: "alice"})
	var w warnings
	ctx := warning.WithWarningRecorder(t.Context(), &w)
	if err := r.Admit(ctx, a, nil); err != nil {
		t.Fatalf("%s of group %q: %v", kind, of, err)
	}
	if err := r.Validate(ctx, a, nil); err != nil {
		t.Fatalf("%s of group %q: %v", kind, of, err)
	}
	for _, text := range w.said {
		if _, err := utilnet.NewWarningHeader(299, "", text); err != nil {
			t.Errorf("warning %q cannot be sent: %v", text, err)
		}
	}
	return w.said
}

func deployment(name string, spec core.PodSpec) *apps.Deployment {
	return &apps.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name}, Spec: apps.DeploymentSpec{Template: core.PodTemplateSpec{Spec: spec}}}
}

// TestWarningsCanBeSent: the apiserver drops a warning of several lines without a word.
func TestWarningsCanBeSent(t *testing.T) {
	for text, want := range map[string]string{
		"plain": "plain", "two\nlines": "two; lines", "a\ttab\x00\x7f\u0085": "a tab   ", "not \xff UTF-8": "not \ufffd UTF-8", `"quoted" \`: `"quoted" \`,
	} {
		got := oneLine(text)
		if _, err := utilnet.NewWarningHeader(299, "", got); err != nil || got != want {
			t.Errorf("oneLine(%q) = %q, %v, want %q", text, got, err, want)
		}
	}
}

// TestATooLargeWorkloadIsWarnedOf: it was made without a word, since what there was to say of two types of CPU had two lines.
func TestATooLargeWorkloadIsWarnedOf(t *testing.T) {
	got := ruler(t).told(t, "ns", "Deployment", "deployments", deployment("web", core.PodSpec{Containers: []core.Container{box("20 100Gi", "")}}))
	want := []string{
		"Deployment ns/web: its Pods will be refused: spec.template.spec.containers: Forbidden: type intel: 20C100Gi is more than the largest spec, 16C64Gi",
		"Deployment ns/web: its Pods will be refused: spec.template.spec.containers: Forbidden: type amd: 20C100Gi is more than the largest spec, 16C64Gi",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("warnings (-want +got):\n%s", diff)
	}
}

// TestTemplatesAreWarnedOfWhatPodsAreRefusedFor, each with the object's name. Nobody is warned of an object that a controller makes.
func TestTemplatesAreWarnedOfWhatPodsAreRefusedFor(t *testing.T) {
	r := ruler(t)
	no := false
	change := func(fn func(*core.PodSpec)) *apps.Deployment {
		spec := core.PodSpec{Containers: []core.Container{box("1 2Gi", "")}, SecurityContext: &core.PodSecurityContext{}}
		fn(&spec)
		return deployment("web", spec)
	}
	const begins = "Deployment ns/web: its Pods will be refused: spec.template.spec."
	owned := change(func(s *core.PodSpec) { s.PriorityClassName = "system-node-critical" })
	yes := true
	owned.OwnerReferences = []metav1.OwnerReference{{Kind: "App", Name: "app", Controller: &yes}}
	for _, tt := range []struct {
		name   string
		object *apps.Deployment
		want   string
	}{
		{"a priority of the system", change(func(s *core.PodSpec) { s.PriorityClassName = "system-cluster-critical" }), begins + "priorityClassName: Forbidden: \"system-cluster-critical\" is for Pods of kube-system"},
		{"a user namespace", change(func(s *core.PodSpec) { s.HostUsers = &no }), begins + "hostUsers: Forbidden: "},
		{"the host's network", change(func(s *core.PodSpec) { s.HostNetwork = true }), "Deployment ns/web: spec.template.spec.hostNetwork: " + rules.OwnHost},
		{"the host's processes", change(func(s *core.PodSpec) { s.HostPID = true }), "Deployment ns/web: spec.template.spec.hostPID: " + rules.OwnHost},
		{"another class", change(func(s *core.PodSpec) { name := "other"; s.RuntimeClassName = &name }), begins + "runtimeClassName: Forbidden: "},
		{"a node", change(func(s *core.PodSpec) { s.NodeName = "host" }), begins + "nodeName: Forbidden: "},
		{"nothing", change(func(*core.PodSpec) {}), ""},
		{"of a controller", owned, ""},
	} {
		got := r.told(t, "ns", "Deployment", "deployments", tt.object)
		if tt.want == "" && len(got) > 0 || tt.want != "" && (len(got) != 1 || !strings.HasPrefix(got[0], tt.want)) {
			t.Errorf("%s: warnings %q, want %q", tt.name, got, tt.want)
		}
	}
}

// TestDaemonSetsAreParked: by a label that no node has, which goes when the operator lets them run.
func TestDaemonSetsAreParked(t *testing.T) {
	r := ruler(t)
	for _, tt := range []struct {
		policy   rules.Policy
		want     map[string]string
		warnings int
	}{
		{"", map[string]string{"zone": "a", parked: "park"}, 1},
		{rules.PolicyInject, map[string]string{"zone": "a", addedTo: "pods"}, -1},
		{rules.PolicyPark, map[string]string{"zone": "a", parked: "park"}, 1},
		{rules.PolicyRun, map[string]string{"zone": "a"}, -1},
	} {
		r.settings.DaemonSets = tt.policy
		ds := &apps.DaemonSet{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "agent"}}
		ds.Spec.Template.Annotations = map[string]string{api.EKS + "ds-injection": "true"}
		ds.Spec.Template.Spec = core.PodSpec{NodeSelector: map[string]string{"zone": "a", parked: "park", addedTo: "pods"}, SecurityContext: &core.PodSecurityContext{},
			Tolerations: []core.Toleration{{Operator: core.TolerationOpExists}}, Containers: []core.Container{box("20 100Gi", "")}, PriorityClassName: "system-node-critical"}
		got := r.told(t, "ns", "DaemonSet", "daemonsets", ds)
		if diff := cmp.Diff(tt.want, ds.Spec.Template.Spec.NodeSelector); diff != "" {
			t.Errorf("%q: node selector (-want +got):\n%s", tt.policy, diff)
		}
		if tt.warnings >= 0 && len(got) != tt.warnings {
			t.Errorf("%q: warnings %q, want %d", tt.policy, got, tt.warnings)
		}
	}
}

func TestIngressesWithoutAControllerAreWarnedOf(t *testing.T) {
	r, class := ruler(t), "nginx"
	for _, tt := range []struct {
		name   string
		object *networking.Ingress
		want   int
	}{
		{"no class", &networking.Ingress{}, 1},
		{"a class that is not there", &networking.Ingress{Spec: networking.IngressSpec{IngressClassName: &class}}, 1},
		{"by the annotation", &networking.Ingress{ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{"kubernetes.io/ingress.class": "there"}}}, 0},
	} {
		if got := r.told(t, "ns", "Ingress", "ingresses", tt.object); len(got) != tt.want {
			t.Errorf("%s: warnings %q, want %d", tt.name, got, tt.want)
		}
	}
}

// TestTheSpecIsExplained: what is said of a size is true, and tells what it costs and what would be cheaper.
func TestTheSpecIsExplained(t *testing.T) {
	s := plugin(t)
	init := box("", "")
	init.Name = "wait"
	web := box("250m 512Mi", "")
	web.Name = "web"
	large := box("100m 128Mi", "4 8Gi")
	large.Name = "web"
	with := func(inits ...core.Container) core.PodSpec {
		return core.PodSpec{InitContainers: inits, Containers: []core.Container{web}}
	}
	const none, cheaper, asDear = 0, 1, 2 // hosts with AMD's CPUs, and what those cost; Intel's cost 2
	several := core.PodSpec{Containers: []core.Container{box("", "600m 1Gi"), box("", "600m 1Gi")}}
	for _, tt := range []struct {
		name string
		amd  float64
		spec core.PodSpec
		want string
	}{
		{"an init container", none, with(init), "gets the spec 1C2Gi (intel): init container wait sets nothing, which counts as 1C2Gi. Without that it would be 0.25C0.5Gi, at 1/4 of the price"},
		{"limits", none, core.PodSpec{Containers: []core.Container{large}},
			"gets the spec 4C8Gi (intel): limits count as well as requests, here those of container web. Without that it would be 0.25C0.5Gi, at 1/16 of the price"},
		{"limits of several containers, which are requests of a Pod", none, several,
			"gets the spec 2C4Gi (intel): it asks for 1.2 cores, 2 GiB"},
		{"a cheaper type of CPU", cheaper, with(init),
			"gets the spec 1C2Gi (intel): init container wait sets nothing, which counts as 1C2Gi. Without that it would be 0.25C0.5Gi, at 1/4 of the price" +
				". With the annotation eks.tke.cloud.tencent.com/cpu-type: amd it would be 1C2Gi, at 1/2 of the price"},
		{"a cheaper type of CPU that has a smaller spec", cheaper, several,
			"gets the spec 2C4Gi (intel): it asks for 1.2 cores, 2 GiB. With the annotation eks.tke.cloud.tencent.com/cpu-type: amd it would be 2C2Gi, at 1/3 of the price"},
		{"another type of CPU that costs the same", asDear, with(init),
			"gets the spec 1C2Gi (intel): init container wait sets nothing, which counts as 1C2Gi. Without that it would be 0.25C0.5Gi, at 1/4 of the price"},
		{"nothing to say, whatever is cheaper", cheaper, with(), ""},
		{"nothing to say", none, with(), ""},
	} {
		s.cost = func(s podsize.Size) (float64, bool) {
			return map[string]float64{"intel": 2, "amd": tt.amd}[s.Type] * (float64(s.CPU)/1000 + float64(s.Memory)/podsize.Gi), true
		}
		nodes := cache.NewIndexer(cache.MetaNamespaceKeyFunc, cache.Indexers{})
		for kind, there := range map[string]bool{"intel": true, "amd": tt.amd != none} {
			if !there {
				continue
			}
			if err := nodes.Add(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: kind, Labels: map[string]string{api.CPUTypeLabel: kind}}}); err != nil {
				t.Fatal(err)
			}
		}
		s.nodes = corelisters.NewNodeLister(nodes)
		for who, said := range map[string][]string{
			"each of its Pods ": s.foresee(templatePath("Deployment"), &core.PodTemplateSpec{Spec: tt.spec}),
			"the Pod ": func() []string {
				pod := microVM()
				class := pod.Spec.RuntimeClassName
				pod.Spec = *tt.spec.DeepCopy()
				pod.Spec.RuntimeClassName = class
				said, err := sizing(t, s, pod, nil, admission.Create, "", "alice")
				if err != nil {
					t.Fatal(err)
				}
				return said
			}(),
		} {
			want := tt.want
			if want != "" {
				want = who + want
			}
			if got := strings.Join(said, "\n"); got != want {
				t.Errorf("%s: %q, want %q", tt.name, got, want)
			}
		}
	}
}

// TestTwoPodsOfOneClaimAreWarnedOf: flock succeeds in both.
func TestTwoPodsOfOneClaimAreWarnedOf(t *testing.T) {
	spec := func(claim string) core.PodSpec {
		return core.PodSpec{Containers: []core.Container{box("1 2Gi", "")}, SecurityContext: &core.PodSecurityContext{},
			Volumes: []core.Volume{{Name: "v", VolumeSource: core.VolumeSource{PersistentVolumeClaim: &core.PersistentVolumeClaimVolumeSource{ClaimName: claim}}}}}
	}
	of := func(name, claim string, replicas int32) *apps.Deployment {
		d := deployment(name, spec(claim))
		d.Spec.Replicas = replicas
		return d
	}
	scale := func(replicas int32) *autoscaling.Scale {
		return &autoscaling.Scale{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "scaled"}, Spec: autoscaling.ScaleSpec{Replicas: replicas}}
	}
	class := RuntimeClass
	pod := func(claim string) *core.Pod {
		p := &core.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "web"}, Spec: spec(claim)}
		p.Spec.RuntimeClassName = &class
		return p
	}
	r := ruler(t)
	r.client = fake.NewClientset(&appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "scaled"}, Spec: appsv1.DeploymentSpec{
		Template: corev1.PodTemplateSpec{Spec: corev1.PodSpec{Volumes: []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{
			PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "own"}}}}}}}})
	const at = ": spec.template.spec.volumes[0].persistentVolumeClaim: claim "
	for _, tt := range []struct {
		name        string
		object, old runtime.Object
		want        string
	}{
		{"one Pod", of("web", "own", 1), nil, ""},
		{"two of a Deployment", of("web", "own", 2), nil, "Deployment ns/web" + at + "\"own\" is mounted by the other Pods as well. "},
		{"one of a Deployment, beside another's", of("web", "data", 1), nil, "Deployment ns/web" + at + "\"data\" is mounted by Pod in as well. "},
		{"one of a Deployment, beside its own from before", of("in", "data", 1), of("in", "other", 1), ""},
		{"two of a Deployment that had one", of("web", "own", 2), of("web", "own", 1), "Deployment ns/web" + at + "\"own\" is mounted by the other Pods as well. "},
		{"three of a Deployment that had two", of("web", "own", 3), of("web", "own", 2), ""},
		{"one of a Deployment that is as it was", of("web", "data", 1), of("web", "data", 1), ""},
		{"scaled to two", scale(2), scale(1), "Deployment ns/scaled" + at + "\"own\" is mounted by the other Pods as well. "},
		{"scaled to three", scale(3), scale(2), ""},
		{"scaled to one", scale(1), scale(0), ""},
		{"a Pod beside another", pod("data"), nil, "Pod ns/web: spec.volumes[0].persistentVolumeClaim: claim \"data\" is mounted by Pod in as well. "},
		{"a Pod beside one that has ended", pod("ended"), nil, ""},
		{"a Pod by itself", pod("other"), nil, ""},
	} {
		var got []string
		switch tt.object.(type) {
		case *core.Pod:
			got = r.told(t, "ns", "Pod", "pods", tt.object, tt.old)
		case *autoscaling.Scale:
			got = r.told(t, "ns", "Scale", "deployments/scale", tt.object, tt.old)
		default:
			got = r.told(t, "ns", "Deployment", "deployments", tt.object, tt.old)
		}
		if len(got) > 1 || !strings.HasPrefix(strings.Join(got, ""), tt.want) || tt.want == "" && len(got) > 0 {
			t.Errorf("%s: warnings %q, want %q", tt.name, got, tt.want)
		}
	}
}
