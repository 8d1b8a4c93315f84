package rules

import (
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// TestVolumesOfAFewKinds tries every kind that Kubernetes has, by its types: one that it adds is refused until it is among these.
func TestVolumesOfAFewKinds(t *testing.T) {
	allowed := []string{"emptyDir", "secret", "persistentVolumeClaim", "downwardAPI", "configMap", "projected", "ephemeral", "image"}
	var got []string
	eachMember(func(source corev1.VolumeSource, kind string) {
		denied := denials(Pod(podWith(volume("v", source)), Settings{}, false))
		if len(denied) == 0 {
			got = append(got, kind)
		} else if !strings.HasPrefix(denied[0], "spec.volumes[0]."+kind+": Forbidden: ") {
			t.Errorf("%s: %q", kind, denied)
		}
		if left := Pod(podWith(volume("v", source)), Settings{}, true); (len(left.Denials) == 0) != (kind == "hostPath" || slices.Contains(allowed, kind)) {
			t.Errorf("%s in a Pod outside of a microVM: %v", kind, left.Denials)
		}
	})
	if diff := cmp.Diff(allowed, got); diff != "" {
		t.Errorf("volumes that are let in (-want +got):\n%s", diff)
	}
	got = nil
	eachMember(func(source corev1.VolumeProjection, kind string) {
		if len(Pod(podWith(volume("v", corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{source}}})), Settings{}, true).Denials) == 0 {
			got = append(got, kind)
		}
	})
	if diff := cmp.Diff([]string{"secret", "downwardAPI", "configMap", "serviceAccountToken", "clusterTrustBundle", "podCertificate"}, got); diff != "" {
		t.Errorf("projections that are let in (-want +got):\n%s", diff)
	}
}

// eachMember calls f with each member of a union set, and its name.
func eachMember[Union any](f func(u Union, name string)) {
	kind := reflect.TypeFor[Union]()
	for i := range kind.NumField() {
		var u Union
		reflect.ValueOf(&u).Elem().Field(i).Set(reflect.New(kind.Field(i).Type.Elem()))
		f(u, fieldOf(u))
	}
}

// TestNothingOfTheHostInAnyContainer: what no container may have is found in each list of containers, probe and hook.
func TestNothingOfTheHostInAnyContainer(t *testing.T) {
	http := corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Host: "h"}}
	tcp := &corev1.LifecycleHandler{TCPSocket: &corev1.TCPSocketAction{Host: "h"}}
	bad := corev1.Container{
		Env:          []corev1.EnvVar{{Name: "A"}, {Name: "B", ValueFrom: &corev1.EnvVarSource{FileKeyRef: &corev1.FileKeySelector{}}}},
		StartupProbe: &corev1.Probe{ProbeHandler: corev1.ProbeHandler{TCPSocket: tcp.TCPSocket}}, LivenessProbe: &corev1.Probe{ProbeHandler: http}, ReadinessProbe: &corev1.Probe{ProbeHandler: http},
		Lifecycle:       &corev1.Lifecycle{PostStart: &corev1.LifecycleHandler{HTTPGet: http.HTTPGet}, PreStop: tcp},
		SecurityContext: &corev1.SecurityContext{SELinuxOptions: &corev1.SELinuxOptions{Type: "spc_t"}, WindowsOptions: &corev1.WindowsSecurityContextOptions{}},
	}
	pod := &corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{bad}, InitContainers: []corev1.Container{bad},
		EphemeralContainers: []corev1.EphemeralContainer{{EphemeralContainerCommon: corev1.EphemeralContainerCommon(bad)}},
		SecurityContext:     &corev1.PodSecurityContext{SELinuxOptions: &corev1.SELinuxOptions{User: "u"}, WindowsOptions: &corev1.WindowsSecurityContextOptions{}}}}
	var want []string
	for _, list := range []string{"initContainers", "containers", "ephemeralContainers"} {
		for _, at := range []string{"env[1].valueFrom.fileKeyRef", "startupProbe.tcpSocket.host", "livenessProbe.httpGet.host", "readinessProbe.httpGet.host",
			"lifecycle.postStart.httpGet.host", "lifecycle.preStop.tcpSocket.host", "securityContext.seLinuxOptions.type", "securityContext.windowsOptions"} {
			want = append(want, "spec."+list+"[0]."+at)
		}
	}
	want = append(want, "spec.securityContext.seLinuxOptions.user", "spec.securityContext.windowsOptions")
	if diff := cmp.Diff(want, fields(Pod(pod, Settings{}, false))); diff != "" {
		t.Errorf("refused (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(want[16:24], fields(PodUpdate(pod, &corev1.Pod{}, false))); diff != "" {
		t.Errorf("refused when it is added to a Pod (-want +got):\n%s", diff)
	}
	// Outside of a microVM all of these are the host's anyway, but for files that the server's process would read.
	if diff := cmp.Diff([]string{want[0], want[8], want[16]}, fields(Pod(pod, Settings{}, true))); diff != "" {
		t.Errorf("refused outside of a microVM (-want +got):\n%s", diff)
	}
	level := podWith(func(p *corev1.Pod) {
		p.Spec.SecurityContext = &corev1.PodSecurityContext{SELinuxOptions: &corev1.SELinuxOptions{Type: "container_t", Level: "s0:c1,c2"}}
	})
	if got := Pod(level, Settings{}, false); len(got.Denials) > 0 {
		t.Errorf("a level of SELinux: %v", got.Denials)
	}
}

func fields(f Findings) (at []string) {
	for _, e := range f.Denials {
		at = append(at, e.Field)
	}
	return at
}

// TestRefusedAnnotationIsRefusedLater: what keeps a Pod out cannot be put onto one that is in.
func TestRefusedAnnotationIsRefusedLater(t *testing.T) {
	const key = tke + "eip-public-ip"
	for _, tt := range []struct {
		name     string
		was, now *corev1.Pod
		want     []string
	}{
		{"new", podWith(), podWith(annotated(key, "192.0.2.1")), []string{sayEIP}},
		{"another value", podWith(annotated(key, "192.0.2.9")), podWith(annotated(key, "192.0.2.1")), []string{sayEIP}},
		{"as it was", podWith(annotated(key, "192.0.2.1")), podWith(annotated(key, "192.0.2.1", "note", "x")), nil},
		{"taken away", podWith(annotated(key, "192.0.2.1")), podWith(), nil},
	} {
		if diff := cmp.Diff(tt.want, denials(PodUpdate(tt.now, tt.was, false))); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.name, diff)
		}
	}
}

// TestElsewhere: what of an affinity is about Pods of other namespaces.
func TestElsewhere(t *testing.T) {
	terms := []corev1.PodAffinityTerm{{Namespaces: []string{"own"}}, {Namespaces: []string{"own", "other"}}, {NamespaceSelector: &metav1.LabelSelector{}}}
	spec := &corev1.PodSpec{Affinity: &corev1.Affinity{
		PodAffinity:     &corev1.PodAffinity{RequiredDuringSchedulingIgnoredDuringExecution: terms},
		PodAntiAffinity: &corev1.PodAntiAffinity{PreferredDuringSchedulingIgnoredDuringExecution: []corev1.WeightedPodAffinityTerm{{PodAffinityTerm: terms[1]}}},
	}}
	var got []string
	for _, at := range Elsewhere(field.NewPath("x"), spec, "own") {
		got = append(got, strings.ReplaceAll(at.String(), "DuringSchedulingIgnoredDuringExecution", ""))
	}
	want := []string{"x.spec.affinity.podAffinity.required[1].namespaces", "x.spec.affinity.podAffinity.required[2].namespaceSelector",
		"x.spec.affinity.podAntiAffinity.preferred[0].podAffinityTerm.namespaces"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("elsewhere (-want +got):\n%s", diff)
	}
	if got := Elsewhere(nil, &corev1.PodSpec{}, "own"); got != nil {
		t.Errorf("without an affinity: %v", got)
	}
}
