package rules

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/nodeless/nodeless/pkg/podsize"
)

// The operator has namespaces of its own for DaemonSets.
var injecting = Settings{DaemonSets: PolicyInject, InjectFrom: []string{"tools", "a", "b"}}

// sets is the DaemonSets of a cluster as its lister hands them out.
func sets(all ...*appsv1.DaemonSet) (list []appsv1.DaemonSet) {
	for _, ds := range all {
		list = append(list, *ds)
	}
	return list
}

var (
	secretVolume = dsVolume("key", corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "key"}})
	emptyVolume  = dsVolume("tmp", corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}})
	pullSecret   = func(ds *appsv1.DaemonSet) {
		ds.Spec.Template.Spec.ImagePullSecrets = []corev1.LocalObjectReference{{Name: "pull"}}
	}
	environmentOf = func(env corev1.EnvVarSource) func(*appsv1.DaemonSet) {
		return func(ds *appsv1.DaemonSet) {
			ds.Spec.Template.Spec.Containers[0].Env = []corev1.EnvVar{{Name: "A", ValueFrom: &env}}
		}
	}
	projectedOf = func(p corev1.VolumeProjection) func(*appsv1.DaemonSet) {
		return dsVolume("all", corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{p}}})
	}
	controlledBy = func(kind string) func(*corev1.Pod) {
		return func(p *corev1.Pod) {
			yes := true
			p.OwnerReferences = []metav1.OwnerReference{{Kind: kind, Name: "x", Controller: &yes}}
		}
	}
	restartChoices = []corev1.ContainerRestartPolicy{corev1.ContainerRestartPolicyAlways, corev1.ContainerRestartPolicyNever}
)

// TestInject: which DaemonSets go into which Pods.
func TestInject(t *testing.T) {
	in := func(namespace string) func(*corev1.Pod) { return func(p *corev1.Pod) { p.Namespace = namespace } }
	for _, tt := range []struct {
		name     string
		pod      *corev1.Pod
		sets     []appsv1.DaemonSet
		settings Settings
		want     []string
	}{
		{"every Pod of the cluster", podWith(in("shop")), sets(daemonSet("tools", "agent")), injecting, []string{"agent-main"}},
		{"every Pod of the cluster, from the system's namespace", podWith(in("shop")), sets(daemonSet("kube-system", "agent")), injecting, []string{"agent-main"}},
		{"a tenant's into another's Pod", podWith(in("shop")), sets(daemonSet("rival", "agent")), injecting, nil},
		{"a tenant's into its own Pod", podWith(in("rival")), sets(daemonSet("rival", "agent")), injecting, []string{"agent-main"}},
		{"one whose Pods would be refused", podWith(), sets(daemonSet("tools", "agent", environmentOf(corev1.EnvVarSource{FileKeyRef: &corev1.FileKeySelector{}}))), injecting, nil},
		{"a Pod of a Job", podWith(controlledBy("Job")), sets(daemonSet("tools", "agent")), injecting, []string{"agent-main"}},
		{"in the order of their names", podWith(), sets(daemonSet("b", "x"), daemonSet("a", "z"), daemonSet("a", "y")), injecting, []string{"y-main", "z-main", "x-main"}},
		{"no policy", podWith(), sets(daemonSet("tools", "agent")), Settings{}, nil},
		{"another policy", podWith(), sets(daemonSet("tools", "agent")), Settings{DaemonSets: PolicyRun}, nil},
		{"never into kube-system", podWith(in("kube-system")), sets(daemonSet("kube-system", "agent")), injecting, nil},
		{"never into a Pod of a DaemonSet", podWith(controlledBy("DaemonSet")), sets(daemonSet("tools", "agent")), injecting, nil},
		{"never into a static Pod", podWith(annotated(corev1.MirrorPodAnnotationKey, "x")), sets(daemonSet("tools", "agent")), injecting, nil},
		{"a DaemonSet that does not ask for it", podWith(), sets(daemonSet("tools", "agent", func(ds *appsv1.DaemonSet) { ds.Spec.Template.Annotations = nil })), injecting, nil},
		{"one that was there before the policy", podWith(), sets(daemonSet("tools", "agent", dsVolume("root", corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{}}))), injecting, nil},
		{"one that is being deleted", podWith(), sets(daemonSet("tools", "agent", func(ds *appsv1.DaemonSet) { ds.DeletionTimestamp = &metav1.Time{} })), injecting, nil},
		{"the label", podWith(), sets(daemonSet("tools", "agent", onlyFor("app:web"))), injecting, []string{"agent-main"}},
		{"another value of the label", podWith(), sets(daemonSet("tools", "agent", onlyFor("app:db"))), injecting, nil},
		{"no such label, and no value", podWith(), sets(daemonSet("tools", "agent", onlyFor("other:"))), injecting, nil},
		{"a label that is none", podWith(), sets(daemonSet("tools", "agent", onlyFor("app=web"))), injecting, nil},
		{"a Secret of its namespace", podWith(), sets(daemonSet("default", "agent", secretVolume)), injecting, []string{"agent-main"}},
		{"a Secret of another namespace", podWith(), sets(daemonSet("tools", "agent", secretVolume)), injecting, nil},
		{"a ConfigMap of another namespace", podWith(), sets(daemonSet("tools", "agent", dsVolume("c", corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{}}))), injecting, nil},
		{"a projected Secret of another namespace", podWith(), sets(daemonSet("tools", "agent", projectedOf(corev1.VolumeProjection{Secret: &corev1.SecretProjection{}}))), injecting, nil},
		{"a projected field of the Pod", podWith(), sets(daemonSet("tools", "agent", projectedOf(corev1.VolumeProjection{DownwardAPI: &corev1.DownwardAPIProjection{}}))), injecting, []string{"agent-main"}},
		{"a variable of another namespace", podWith(), sets(daemonSet("tools", "agent", environmentOf(corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{}}))), injecting, nil},
		{"variables of another namespace", podWith(), sets(daemonSet("tools", "agent", func(ds *appsv1.DaemonSet) {
			ds.Spec.Template.Spec.Containers[0].EnvFrom = []corev1.EnvFromSource{{}}
		})), injecting, nil},
		{"a variable of the Pod", podWith(), sets(daemonSet("tools", "agent", environmentOf(corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{}}))), injecting, []string{"agent-main"}},
		{"a pull secret of another namespace", podWith(), sets(daemonSet("tools", "agent", pullSecret)), injecting, nil},
		{"a pull secret of its namespace", podWith(), sets(daemonSet("default", "agent", pullSecret)), injecting, []string{"agent-main"}},
		{"nothing to inject", podWith(), nil, injecting, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			before := tt.pod.DeepCopy()
			got := Inject(tt.pod, tt.sets, tt.settings)
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("added (-want +got):\n%s", diff)
			}
			if len(tt.want) == 0 {
				if diff := cmp.Diff(before, tt.pod); diff != "" {
					t.Errorf("nothing is added, but the Pod is changed (-before +after):\n%s", diff)
				}
			}
		})
	}
}

// TestInjectedContainer: what a container and its volumes are in the Pod.
func TestInjectedContainer(t *testing.T) {
	always, user, other := corev1.ContainerRestartPolicyAlways, int64(1000), int64(2000)
	stop := corev1.Signal("SIGUSR1")
	probe := &corev1.Probe{PeriodSeconds: 5}
	field := func(container string) []corev1.DownwardAPIVolumeFile {
		return []corev1.DownwardAPIVolumeFile{{Path: "cpu", ResourceFieldRef: &corev1.ResourceFieldSelector{ContainerName: container, Resource: "limits.cpu"}}}
	}
	ds := daemonSet("default", "node.agent", emptyVolume, secretVolume, pullSecret, dsVolume("down", corev1.VolumeSource{DownwardAPI: &corev1.DownwardAPIVolumeSource{Items: field("main")}}),
		projectedOf(corev1.VolumeProjection{DownwardAPI: &corev1.DownwardAPIProjection{Items: field("helper")}}),
		func(ds *appsv1.DaemonSet) {
			s := &ds.Spec.Template.Spec
			s.SecurityContext = &corev1.PodSecurityContext{RunAsUser: &user, RunAsGroup: &user, FSGroup: &user}
			s.InitContainers = []corev1.Container{{Name: "helper", Image: "helper:1", RestartPolicy: &always}}
			main := &s.Containers[0]
			main.Resources.Limits = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("1")}
			main.ReadinessProbe, main.StartupProbe, main.LivenessProbe = probe, probe, probe
			main.Lifecycle = &corev1.Lifecycle{StopSignal: &stop}
			main.Ports = []corev1.ContainerPort{{ContainerPort: 9000, HostPort: 9000, HostIP: "192.0.2.1"}}
			s.HostNetwork = true
			main.SecurityContext = &corev1.SecurityContext{RunAsUser: &other}
			main.Env = []corev1.EnvVar{
				{Name: "A", Value: "b"},
				{Name: "CPU", ValueFrom: &corev1.EnvVarSource{ResourceFieldRef: &corev1.ResourceFieldSelector{ContainerName: "helper", Resource: "limits.cpu"}}},
			}
		})
	original := ds.DeepCopy()
	pod := podWith(volume("node-agent-tmp", corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}))
	all := sets(ds)
	added := Inject(pod, all, injecting)
	if diff := cmp.Diff([]string{"node-agent-helper", "node-agent-main"}, added); diff != "" {
		t.Fatalf("added (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(*original, all[0]); diff != "" {
		t.Errorf("the DaemonSet is changed (-before +after):\n%s", diff)
	}
	tmp := pod.Spec.Volumes[1].Name
	if !strings.HasPrefix(tmp, "node-agent-tmp-") {
		t.Errorf("the volume whose name was taken is %q", tmp)
	}
	volumes := []corev1.Volume{
		{Name: "node-agent-tmp", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}},
		{Name: tmp, VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}},
		{Name: "node-agent-key", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "key"}}},
		{Name: "node-agent-down", VolumeSource: corev1.VolumeSource{DownwardAPI: &corev1.DownwardAPIVolumeSource{Items: field("node-agent-main")}}},
		{Name: "node-agent-all", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{
			Sources: []corev1.VolumeProjection{{DownwardAPI: &corev1.DownwardAPIProjection{Items: field("node-agent-helper")}}}}}},
	}
	if diff := cmp.Diff(volumes, pod.Spec.Volumes); diff != "" {
		t.Errorf("volumes (-want +got):\n%s", diff)
	}
	containers := []corev1.Container{
		{Name: "node-agent-helper", Image: "helper:1", RestartPolicy: &always, SecurityContext: &corev1.SecurityContext{RunAsUser: &user, RunAsGroup: &user}},
		{Name: "node-agent-main", Image: "node.agent:1", RestartPolicy: &always, LivenessProbe: probe,
			SecurityContext: &corev1.SecurityContext{RunAsUser: &other, RunAsGroup: &user},
			Ports:           []corev1.ContainerPort{{ContainerPort: 9000}},
			VolumeMounts: []corev1.VolumeMount{{Name: tmp, MountPath: "/tmp"}, {Name: "node-agent-key", MountPath: "/key"},
				{Name: "node-agent-down", MountPath: "/down"}, {Name: "node-agent-all", MountPath: "/all"}},
			Env: []corev1.EnvVar{
				{Name: "A", Value: "b"},
				{Name: "CPU", ValueFrom: &corev1.EnvVarSource{ResourceFieldRef: &corev1.ResourceFieldSelector{ContainerName: "node-agent-helper", Resource: "limits.cpu"}}},
			}},
	}
	if diff := cmp.Diff(containers, pod.Spec.InitContainers); diff != "" {
		t.Errorf("init containers (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]corev1.LocalObjectReference{{Name: "pull"}}, pod.Spec.ImagePullSecrets); diff != "" {
		t.Errorf("pull secrets (-want +got):\n%s", diff)
	}
	if f := Pod(pod, Settings{}, false); len(f.Denials) > 0 {
		t.Errorf("the Pod is refused for what was added: %v", f.Denials)
	}
}

func TestInjectedNamesOfTwins(t *testing.T) {
	twins := sets(daemonSet("a", "agent", emptyVolume), daemonSet("b", "agent", emptyVolume))
	pod := podWith()
	added := Inject(pod, twins, injecting)
	if len(added) != 2 || added[0] != "agent-main" || !strings.HasPrefix(added[1], "agent-main-") {
		t.Errorf("added %q", added)
	}
	if again := Inject(pod, twins, injecting); again != nil {
		t.Errorf("added again: %q", again)
	}
	own := podWith(func(p *corev1.Pod) {
		p.Spec.Containers = append(p.Spec.Containers, corev1.Container{Name: "agent-main", Image: "agent:1"})
	})
	if added := Inject(own, twins[:1], injecting); len(added) != 1 || added[0] == "agent-main" {
		t.Errorf("added %q beside a container of the Pod with this name", added)
	}
	brought := podWith(func(p *corev1.Pod) {
		p.Spec.InitContainers = []corev1.Container{{Name: "agent-main", Image: "agent:1", RestartPolicy: &restartChoices[0]}}
	})
	if added := Inject(brought, twins[:1], injecting); added != nil {
		t.Errorf("added %q to a Pod that brings the sidecar itself", added)
	}
}

// TestInjectProperties tries many Pods and DaemonSets.
func TestInjectProperties(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	name := func(most int) string {
		const letters = "ab-01."
		b := make([]byte, 1+random.IntN(most))
		for i := range b {
			b[i] = letters[random.IntN(len(letters))]
		}
		return "x" + string(b)
	}
	for range 3000 {
		pod := podWith()
		for range random.IntN(4) {
			c := corev1.Container{Name: labelled(name(4)), Image: "i:1", Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("1")}}}
			if random.IntN(2) == 0 {
				pod.Spec.Containers = append(pod.Spec.Containers, c)
			} else {
				c.RestartPolicy = &restartChoices[random.IntN(2)]
				pod.Spec.InitContainers = append(pod.Spec.InitContainers, c)
			}
			pod.Spec.Volumes = append(pod.Spec.Volumes, corev1.Volume{Name: labelled(name(4))})
		}
		pod.Spec.Containers, pod.Spec.InitContainers, pod.Spec.Volumes = distinct(pod.Spec.Containers), distinct(pod.Spec.InitContainers), distinctVolumes(pod.Spec.Volumes)
		var all []appsv1.DaemonSet
		for range random.IntN(5) {
			ds := daemonSet("ns"+name(1), name([]int{3, 62, 250}[random.IntN(3)]), dsVolume(labelled(name(4)), corev1.VolumeSource{}))
			ds.Spec.Template.Spec.Containers[0].Name, ds.Spec.Template.Spec.Containers[0].Image = labelled(name(3)), "i:1"
			if random.IntN(2) == 0 {
				ds.Spec.Template.Spec.Containers = append(ds.Spec.Template.Spec.Containers, corev1.Container{Name: "second"})
			}
			if slices.ContainsFunc(all, func(have appsv1.DaemonSet) bool { return have.Namespace == ds.Namespace && have.Name == ds.Name }) {
				continue
			}
			all = append(all, *ds)
		}
		checkInjected(t, pod, all)
		if t.Failed() {
			return
		}
	}
}

// checkInjected checks what always holds.
func checkInjected(t *testing.T, pod *corev1.Pod, all []appsv1.DaemonSet) {
	t.Helper()
	before := pod.DeepCopy()
	taken := map[string]bool{}
	for _, c := range slices.Concat(pod.Spec.Containers, pod.Spec.InitContainers) {
		taken[c.Name] = true
	}
	added := Inject(pod, all, injecting)
	after := pod.DeepCopy()
	if again := Inject(pod, all, injecting); again != nil {
		t.Errorf("the second time it adds %q after %q", again, added)
	}
	if diff := cmp.Diff(after, pod); diff != "" {
		t.Errorf("the second time the Pod changes:\n%s", diff)
	}
	if got, want := podsize.DemandOf(&pod.Spec, podsize.DefaultRules()), podsize.DemandOf(&before.Spec, podsize.DefaultRules()); !cmp.Equal(got, want) {
		t.Errorf("the Pod asks for %+v, and asked for %+v", got, want)
	}
	for _, n := range added {
		if taken[n] || len(validation.IsDNS1123Label(n)) > 0 {
			t.Errorf("a container is added as %q", n)
		}
		taken[n] = true
	}
	volumes := map[string]bool{}
	for _, v := range pod.Spec.Volumes {
		if volumes[v.Name] || len(validation.IsDNS1123Label(v.Name)) > 0 {
			t.Errorf("a volume is called %q", v.Name)
		}
		volumes[v.Name] = true
	}
	for _, c := range pod.Spec.InitContainers[len(before.Spec.InitContainers):] {
		for _, m := range c.VolumeMounts {
			if !volumes[m.Name] {
				t.Errorf("%s mounts %q, which is no volume of the Pod", c.Name, m.Name)
			}
		}
	}
	pod.Spec.InitContainers = pod.Spec.InitContainers[:len(before.Spec.InitContainers):len(before.Spec.InitContainers)]
	pod.Spec.Volumes = pod.Spec.Volumes[:len(before.Spec.Volumes):len(before.Spec.Volumes)]
	if len(pod.Spec.InitContainers) == 0 {
		pod.Spec.InitContainers = before.Spec.InitContainers
	}
	if len(pod.Spec.Volumes) == 0 {
		pod.Spec.Volumes = before.Spec.Volumes
	}
	if diff := cmp.Diff(before, pod); diff != "" {
		t.Errorf("what the Pod had is changed (-before +after):\n%s", diff)
	}
}

// distinct drops containers whose names are taken.
func distinct(list []corev1.Container) (out []corev1.Container) {
	for _, c := range list {
		if !slices.ContainsFunc(out, func(have corev1.Container) bool { return have.Name == c.Name }) {
			out = append(out, c)
		}
	}
	return out
}

func distinctVolumes(list []corev1.Volume) (out []corev1.Volume) {
	for _, v := range list {
		if !slices.ContainsFunc(out, func(have corev1.Volume) bool { return have.Name == v.Name }) {
			out = append(out, v)
		}
	}
	return out
}
