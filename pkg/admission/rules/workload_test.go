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

func TestHostileWorkload(t *testing.T) {
	pod := podWith()
	for i := range 10_000 {
		pod.Annotations[api.EKS+strings.Repeat("x", 1+i%300)+strings.Repeat("y", i/300)] = "z"
		hostPath("etc")(pod)
	}
	got := Workload("Deployment", &metav1.ObjectMeta{Annotations: pod.Annotations}, &corev1.PodTemplateSpec{Spec: pod.Spec}, Settings{}, false)
	wellFormed(t, got)
	if n := len(got.Warnings); n != maxWarnings+1+maxDenials+1 {
		t.Errorf("%d warnings", n)
	}
}

const sayNodePort = "spec.type: NodePort: nodes are not for users, and the addresses of hosts come and go. Use ClusterIP inside of the cluster and LoadBalancer or an Ingress from outside"

const sayNetworkPolicy = "kind: a NetworkPolicy is kept but not enforced yet: Pods reach each other whatever it says"

func TestNetworkPolicy(t *testing.T) {
	if diff := cmp.Diff([]string{sayNetworkPolicy}, NetworkPolicy().Warnings); diff != "" {
		t.Errorf("warnings (-want +got):\n%s", diff)
	}
}

func TestService(t *testing.T) {
	for kind, want := range map[corev1.ServiceType][]string{
		corev1.ServiceTypeNodePort: {sayNodePort}, corev1.ServiceTypeClusterIP: nil, corev1.ServiceTypeLoadBalancer: nil, corev1.ServiceTypeExternalName: nil, "": nil,
	} {
		got := Service(&corev1.Service{Spec: corev1.ServiceSpec{Type: kind}}, nil, 0)
		if diff := cmp.Diff(want, got.Warnings); diff != "" || len(got.Denials) > 0 {
			t.Errorf("%s: denials %v, warnings (-want +got):\n%s", kind, got.Denials, diff)
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
