package rules

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodeless/nodeless/pkg/api"
)

func TestWorkload(t *testing.T) {
	template := func(pod *corev1.Pod) *corev1.PodTemplateSpec {
		return &corev1.PodTemplateSpec{ObjectMeta: pod.ObjectMeta, Spec: pod.Spec}
	}
	const refused = "its Pods will be refused: "
	const at = "metadata.annotations[eks.tke.cloud.tencent.com/"
	for _, tt := range []struct {
		name        string
		kind        string
		annotations map[string]string
		template    *corev1.PodTemplateSpec
		settings    Settings
		want        []string
	}{
		{name: "nothing", kind: "Deployment", template: template(podWith())},
		{name: "no template", kind: "Deployment", annotations: map[string]string{api.CPU: "1"},
			want: []string{at + "cpu]: has no effect on a Deployment; put it in spec.template.metadata.annotations"}},
		{name: "keys that should be below", kind: "StatefulSet", annotations: map[string]string{api.SpotPod: "true", api.Memory: "2Gi", "note": "x"}, template: template(podWith()),
			want: []string{at + "mem]: has no effect on a StatefulSet; put it in spec.template.metadata.annotations",
				at + "spot-pod]: has no effect on a StatefulSet; put it in spec.template.metadata.annotations"}},
		{name: "misspelled as well", kind: "ReplicaSet", annotations: map[string]string{api.EKS + "memory": "2Gi", api.EKS + "zzzzzz": ""}, template: template(podWith()),
			want: []string{at + "memory]: has no effect on a ReplicaSet; put it in spec.template.metadata.annotations, as eks.tke.cloud.tencent.com/mem",
				at + "zzzzzz]: has no effect on a ReplicaSet; put it in spec.template.metadata.annotations"}},
		{name: "in both places", kind: "Job", annotations: map[string]string{api.SpotPod: "true"}, template: template(podWith(annotated(api.SpotPod, "true")))},
		{name: "a CronJob's template is deeper", kind: "CronJob", annotations: map[string]string{api.CPU: "1"}, template: template(podWith(hostPath("etc"))),
			want: []string{at + "cpu]: has no effect on a CronJob; put it in spec.jobTemplate.spec.template.metadata.annotations",
				refused + "spec.jobTemplate.spec.template." + sayHostPath}},
		{name: "what its Pods will be told", kind: "Deployment", template: template(podWith(hostPath("etc"), sysctl("kernel.msgmax"),
			port(corev1.ContainerPort{ContainerPort: 9100}), annotated(api.EKS+"pod-ip", "10.0.0.1", api.SpotPod, "yes"))),
			want: []string{refused + "spec.template." + sayHostPath, refused + "spec.template." + saySysctl,
				refused + "spec.template." + at + `spot-pod]: Invalid value: "yes": want "true" or "false"`,
				"spec.template." + sayReserved,
				"spec.template." + at + "pod-ip]: not honoured yet: the Pod gets any free address of its host's range"}},
		{name: "the operator's choice", kind: "Deployment", settings: Settings{HostPath: []string{"tools"}}, template: template(podWith(hostPath("etc")))},
		{name: "a DaemonSet's own keys", kind: "DaemonSet", template: template(podWith(annotated(dsInjection, "true", dsInjectByLabel, "a:b")))},
		{name: "a DaemonSet's keys elsewhere", kind: "Deployment", template: template(podWith(annotated(dsInjection, "true"))),
			want: []string{"spec.template." + at + "ds-injection]: has an effect in the template of a DaemonSet only"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := Workload(tt.kind, &metav1.ObjectMeta{Namespace: "tools", Annotations: tt.annotations}, tt.template, tt.settings, false)
			if diff := cmp.Diff(tt.want, got.Warnings); diff != "" {
				t.Errorf("warnings (-want +got):\n%s", diff)
			}
			if len(got.Denials) > 0 {
				t.Errorf("a workload is refused: %v", got.Denials)
			}
		})
	}
}

// TestTemplatesAreToldOfHostNamespaces: only bare Pods were.
func TestTemplatesAreToldOfHostNamespaces(t *testing.T) {
	yes, no := true, false
	template := func(change func(*corev1.PodSpec)) *corev1.PodTemplateSpec {
		pod := podWith()
		change(&pod.Spec)
		return &corev1.PodTemplateSpec{ObjectMeta: pod.ObjectMeta, Spec: pod.Spec}
	}
	for _, tt := range []struct {
		name   string
		change func(*corev1.PodSpec)
		exempt bool
		want   []string
	}{
		{name: "a user namespace", change: func(s *corev1.PodSpec) { s.HostUsers = &no }, want: []string{willBeRefused + "spec.template." + sayHostUsers}},
		{name: "the host's users", change: func(s *corev1.PodSpec) { s.HostUsers = &yes }},
		{name: "its network", change: func(s *corev1.PodSpec) { s.HostNetwork = true }, want: []string{sayHostNetwork}},
		{name: "its processes", change: func(s *corev1.PodSpec) { s.HostPID = true }, want: []string{strings.Replace(sayHostNetwork, "Network", "PID", 1)}},
		{name: "its IPC", change: func(s *corev1.PodSpec) { s.HostIPC = true }, want: []string{strings.Replace(sayHostNetwork, "Network", "IPC", 1)}},
		{name: "outside of a microVM", exempt: true, change: func(s *corev1.PodSpec) { s.HostNetwork, s.HostUsers = true, &no }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := Workload("Deployment", &metav1.ObjectMeta{Namespace: "tools"}, template(tt.change), Settings{}, tt.exempt)
			if diff := cmp.Diff(tt.want, got.Warnings); diff != "" {
				t.Errorf("warnings (-want +got):\n%s", diff)
			}
		})
	}
	pod := podWith()
	pod.Spec.HostUsers = &no
	if diff := cmp.Diff([]string{sayHostUsers}, denials(Pod(pod, Settings{}, false))); diff != "" {
		t.Errorf("denials of a Pod (-want +got):\n%s", diff)
	}
}

// TestOneTextIsSaidOnce, with the container that it is about and the number of other places.
func TestOneTextIsSaidOnce(t *testing.T) {
	pod := podWith()
	pod.Spec.Containers = nil
	for _, name := range []string{"web", "proxy", "a\"b\n"} {
		pod.Spec.Containers = append(pod.Spec.Containers, corev1.Container{Name: name, Ports: []corev1.ContainerPort{{ContainerPort: 9100}},
			LivenessProbe: &corev1.Probe{ProbeHandler: corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Host: "h"}}}})
	}
	pod.Spec.InitContainers = []corev1.Container{{Name: "first", Ports: []corev1.ContainerPort{{ContainerPort: 9100, Protocol: corev1.ProtocolSCTP}}}}
	got := Workload("Deployment", &metav1.ObjectMeta{}, &corev1.PodTemplateSpec{Spec: pod.Spec}, Settings{}, false)
	want := []string{
		willBeRefused + `spec.template.spec.containers[0].livenessProbe.tcpSocket.host (container "web", and 2 more): Forbidden: ` + noHost,
		`spec.template.spec.initContainers[0].ports[0].protocol (container "first"): ` + noSCTP,
		`spec.template.spec.containers[0].ports[0].containerPort (container "web", and 2 more): ` + reservedText(9100, false),
	}
	if diff := cmp.Diff(want, got.Warnings); diff != "" {
		t.Errorf("warnings (-want +got):\n%s", diff)
	}
	pod.Spec.Containers = pod.Spec.Containers[2:]
	got = Workload("Deployment", &metav1.ObjectMeta{}, &corev1.PodTemplateSpec{Spec: pod.Spec}, Settings{}, false)
	wellFormed(t, got)
	if len(got.Warnings) == 0 || !strings.Contains(got.Warnings[0], `(container "a\"b\n")`) {
		t.Errorf("warnings %q, want the container named on one line", got.Warnings)
	}
}

// TestParkedDaemonSetsAreToldOnce: the texts on Pods that there will never be are left out.
func TestParkedDaemonSetsAreToldOnce(t *testing.T) {
	pod := podWith(hostPath("etc"), port(corev1.ContainerPort{ContainerPort: 9100}))
	for policy, want := range map[Policy]bool{"": false, PolicyPark: false, PolicyRun: true} {
		got := Workload("DaemonSet", &metav1.ObjectMeta{}, &corev1.PodTemplateSpec{Spec: pod.Spec}, Settings{DaemonSets: policy}, false)
		if (len(got.Warnings) > 0) != want || len(got.Denials) > 0 {
			t.Errorf("policy %q: %v, want warnings: %t", policy, got, want)
		}
	}
}

func TestIngress(t *testing.T) {
	for _, tt := range []struct {
		class string
		there bool
		want  []string
	}{{"nginx", true, nil}, {"nginx", false, []string{sayNoClass}}, {"", false, []string{sayIngress}}, {"", true, nil}} {
		if diff := cmp.Diff(tt.want, Ingress(tt.class, tt.there).Warnings); diff != "" {
			t.Errorf("class %q, there: %t: warnings (-want +got):\n%s", tt.class, tt.there, diff)
		}
	}
}

func TestSharedClaims(t *testing.T) {
	claim := func(name string, readOnly bool) func(*corev1.Pod) {
		return volume(name, corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: name, ReadOnly: readOnly}})
	}
	pod := podWith(claim("alone", false), claim("data", false), claim("data", true), volume("tmp", corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}))
	got := SharedClaims(nil, &pod.Spec, func(claim string) string { return map[string]string{"data": "Pod db-0"}[claim] })
	if diff := cmp.Diff([]string{sayShared}, got); diff != "" {
		t.Errorf("warnings (-want +got):\n%s", diff)
	}
}

func TestSCTP(t *testing.T) {
	if diff := cmp.Diff([]string{saySCTP}, Pod(podWith(port(corev1.ContainerPort{ContainerPort: 80, Protocol: corev1.ProtocolSCTP})), Settings{}, false).Warnings); diff != "" {
		t.Errorf("warnings of a Pod (-want +got):\n%s", diff)
	}
	got := Service(&corev1.Service{Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Protocol: corev1.ProtocolTCP}, {Protocol: corev1.ProtocolSCTP}}}}, nil, 0)
	if diff := cmp.Diff([]string{"spec.ports[1].protocol: " + noSCTP}, got.Warnings); diff != "" {
		t.Errorf("warnings of a Service (-want +got):\n%s", diff)
	}
}

func TestHostileWorkload(t *testing.T) {
	pod := podWith()
	for i := range 10_000 {
		pod.Annotations[api.EKS+strings.Repeat("x", 1+i%300)+strings.Repeat("y", i/300)] = "z"
		hostPath("etc")(pod)
	}
	got := Workload("Deployment", &metav1.ObjectMeta{Annotations: pod.Annotations}, &corev1.PodTemplateSpec{Spec: pod.Spec}, Settings{}, false)
	wellFormed(t, got)
	if n := len(got.Warnings); n != maxWarnings+1+3 { // the volumes are one warning, one is on their number, and one counts the rest of them
		t.Errorf("%d warnings", n)
	}
}

// The messages as docs/annotations.md has them.
const (
	sayLoadBalancer = "spec.type: LoadBalancer: there is none in this version, so the Service stays without an address of its own from outside, unless somebody runs a controller that gives it one. It is reached as one of type NodePort"
	sayIngress      = "spec.ingressClassName: there is no controller for Ingresses in this version, so nobody serves this one, unless somebody runs one for Ingresses without a class"
	sayNoClass      = `spec.ingressClassName: there is no IngressClass "nginx": nobody serves this Ingress until a controller for it is installed (kubectl get ingressclasses)`
	sayShared       = `spec.volumes[1].persistentVolumeClaim: claim "data" is mounted by Pod db-0 as well. A lock (flock, fcntl) of one Pod does not hold for another, since each has a kernel of its own: let one Pod write at a time`
	saySCTP         = `spec.containers[0].ports[0].protocol (container "main"): SCTP: the kernel of a microVM has none (Protocol not supported). Use TCP or UDP`
	sayHostUsers    = "spec.hostUsers: Forbidden: a Pod in a microVM has no user namespace of its own; remove the field: root in the Pod is root of its microVM, not of the host"
	sayHostNetwork  = "spec.template.spec.hostNetwork: the host of a Pod is its microVM: it has the Pod network, and sees the processes and the IPC objects of its own containers"
)

const sayNetworkPolicy = "kind: a NetworkPolicy is kept but not enforced yet: Pods reach each other whatever it says"

func TestNetworkPolicy(t *testing.T) {
	if diff := cmp.Diff([]string{sayNetworkPolicy}, NetworkPolicy().Warnings); diff != "" {
		t.Errorf("warnings (-want +got):\n%s", diff)
	}
}

func TestService(t *testing.T) {
	none := strings.Replace(sayLoadBalancer, "type NodePort", "type ClusterIP", 1)
	for _, tt := range []struct {
		kind  corev1.ServiceType
		ports *bool // whether a LoadBalancer has node ports; it has unless it says no
		want  []string
	}{
		{"", nil, nil}, {corev1.ServiceTypeClusterIP, nil, nil}, {corev1.ServiceTypeNodePort, nil, nil}, {corev1.ServiceTypeExternalName, nil, nil},
		{corev1.ServiceTypeLoadBalancer, nil, []string{sayLoadBalancer}},
		{corev1.ServiceTypeLoadBalancer, new(true), []string{sayLoadBalancer}},
		{corev1.ServiceTypeLoadBalancer, new(false), []string{none}},
	} {
		got := Service(&corev1.Service{Spec: corev1.ServiceSpec{Type: tt.kind, AllocateLoadBalancerNodePorts: tt.ports}}, nil, 0)
		if diff := cmp.Diff(tt.want, got.Warnings); diff != "" || len(got.Denials) > 0 {
			t.Errorf("%s: denials %v, warnings (-want +got):\n%s", tt.kind, got.Denials, diff)
		}
	}
}

// TestServicePorts: each port is rules of the host, for each Pod of the Service.
func TestServicePorts(t *testing.T) {
	with := func(n int) *corev1.Service {
		return &corev1.Service{Spec: corev1.ServiceSpec{Ports: make([]corev1.ServicePort, n)}}
	}
	for _, tt := range []struct {
		name     string
		now, was int
		others   int
		refused  bool
	}{
		{name: "as many as one may have", now: 100, others: 400},
		{name: "more than one may have", now: 101, refused: true},
		{name: "more than a namespace may have", now: 1, others: 500, refused: true},
		{name: "unchanged, where there are too many", now: 3, was: 3, others: 600},
		{name: "fewer, where there are too many", now: 2, was: 3, others: 600},
		{name: "more, where there are too many", now: 4, was: 3, others: 600, refused: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := Service(with(tt.now), with(tt.was), tt.others); (len(got.Denials) > 0) != tt.refused {
				t.Errorf("denials %v, want it refused: %t", got.Denials, tt.refused)
			}
		})
	}
}
