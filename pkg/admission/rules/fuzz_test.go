package rules

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/nodeless/nodeless/pkg/api"
)

// FuzzPod: whatever a Pod has, looking at it and at its workload does not panic, and says the same twice.
func FuzzPod(f *testing.F) {
	f.Add(api.SpotPod, "yes", "etc", "kernel/msgmax", int32(9100), int32(80), uint8(0))
	f.Add(api.ResourceTag, `{"a":{"b":"c"}}`, "e\xff", "net/ipv4/conf/eth0.1", int32(-1), int32(1<<31-1), uint8(1))
	f.Add("eks.tke.cloud.tencent.com.cn/memory", "\xff\n", "", "", int32(0), int32(0), uint8(7))
	f.Add(metricsPort, "65535", "v", "/", int32(65535), int32(65535), uint8(4))
	f.Add(dsInjectByLabel, "a:b", "v", ".", int32(1), int32(1), uint8(6))
	f.Fuzz(func(t *testing.T, key, value, name, sysctlName string, container, host int32, options uint8) {
		pod := podWith(annotated(key, value, value, key), hostPath(name), sysctl(sysctlName),
			port(corev1.ContainerPort{Name: name, ContainerPort: container, HostPort: host, Protocol: corev1.Protocol(value)}))
		pod.Spec.HostNetwork = options&1 != 0
		settings := Settings{HostPath: []string{"other", "default"}[options>>1&1:], DaemonSets: Policy([]string{"", "inject"}[options>>2&1])}
		got := Pod(pod, settings, false)
		wellFormed(t, got)
		if again := Pod(pod, settings, false); strings.Join(append(denials(got), got.Warnings...), "\n") != strings.Join(append(denials(again), again.Warnings...), "\n") {
			t.Errorf("findings differ: %v and %v", got, again)
		}
		template := &corev1.PodTemplateSpec{ObjectMeta: pod.ObjectMeta, Spec: pod.Spec}
		wellFormed(t, Workload("Deployment", &metav1.ObjectMeta{Annotations: pod.Annotations}, template, settings, false))

		ds := daemonSet("default", name, onlyFor(value))
		ds.Spec.Template.Spec.Containers[0].Name = sysctlName
		wellFormed(t, DaemonSet(ds, settings.DaemonSets))
		for _, n := range Inject(pod, sets(ds), settings) {
			if len(validation.IsDNS1123Label(n)) > 0 {
				t.Errorf("a container is added as %q", n)
			}
		}
		wellFormed(t, GlobalConfig(config(value)))
	})
}

// FuzzGlobal: whatever the ConfigMap of the annotations for all Pods has, its reading ends, and gives nothing that a Pod cannot have.
func FuzzGlobal(f *testing.F) {
	f.Add("eks.tke.cloud.tencent.com/resolv-conf: |\n  nameserver 4.4.4.4\n")
	f.Add("a: &a [*a]")
	f.Add("? {a: b}\n: c")
	f.Add("<<: {a: b}\n\"a b\": !!binary aGk=")
	f.Fuzz(func(t *testing.T, text string) {
		wellFormed(t, GlobalConfig(config(text)))
		global, err := ParseGlobal(config(text))
		if err != nil && global != nil {
			t.Errorf("both annotations and an error: %v, %v", global, err)
		}
		for key := range global {
			if faults := validation.IsQualifiedName(strings.ToLower(key)); len(faults) > 0 {
				t.Errorf("annotation %q: %v", key, faults)
			}
		}
	})
}
