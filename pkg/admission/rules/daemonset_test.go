package rules

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// daemonSet is one that can be injected, changed.
func daemonSet(namespace, name string, change ...func(*appsv1.DaemonSet)) *appsv1.DaemonSet {
	ds := &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}
	ds.Spec.Template.Annotations = map[string]string{dsInjection: "true"}
	ds.Spec.Template.Spec.Tolerations = []corev1.Toleration{{Key: eklet, Operator: corev1.TolerationOpExists}}
	ds.Spec.Template.Spec.Containers = []corev1.Container{{Name: "main", Image: name + ":1"}}
	for _, fn := range change {
		fn(ds)
	}
	return ds
}

func dsVolume(name string, source corev1.VolumeSource) func(*appsv1.DaemonSet) {
	return func(ds *appsv1.DaemonSet) {
		spec := &ds.Spec.Template.Spec
		spec.Volumes = append(spec.Volumes, corev1.Volume{Name: name, VolumeSource: source})
		spec.Containers[0].VolumeMounts = append(spec.Containers[0].VolumeMounts, corev1.VolumeMount{Name: name, MountPath: "/" + name})
	}
}

func onlyFor(label string) func(*appsv1.DaemonSet) {
	return func(ds *appsv1.DaemonSet) { ds.Spec.Template.Annotations[dsInjectByLabel] = label }
}

// The messages as docs/annotations.md has them.
const (
	sayDaemonSet = `kind: Forbidden: a DaemonSet runs a Pod on every node, and here every Pod is a node of its own. Use a sidecar container in the Pods that need it, or a Deployment. The operator can have DaemonSets added to Pods (policy inject, annotation eks.tke.cloud.tencent.com/ds-injection: "true" in the template) or run on every host (policy run)`
	sayPark      = `kind: a DaemonSet is one Pod on each node, and every Pod here is a node of its own: this one is kept and has no Pods. Switch it off in the chart's values, or use a sidecar or a Deployment. The operator can have it run on hosts or added to Pods`
	sayRun       = `kind: a DaemonSet runs one Pod on each host, in a microVM of its own: it sees neither the host nor other Pods`
	sayNoWish    = `spec.template.metadata.annotations[eks.tke.cloud.tencent.com/ds-injection]: Required value: DaemonSets are added to Pods here (policy inject): set it to "true" to have this one added, or use a Deployment`
	sayNoTaint   = `spec.template.spec.tolerations: Required value: a DaemonSet that is added to Pods tolerates the taint of their nodes: add {key: eks.tke.cloud.tencent.com/eklet, operator: Exists}`
	sayLabel     = `spec.template.metadata.annotations[eks.tke.cloud.tencent.com/ds-inject-by-label]: Invalid value: "app=web": want key:value of a label, such as "app:web"`
	sayVolume    = `spec.template.spec.volumes[0]: Forbidden: volume "root" cannot be taken into a Pod: emptyDir, configMap, secret, downwardAPI, and projected ones of those can; neither a path of a host, a claim, nor a token, which would be the Pod's own`
	sayInit      = `spec.template.spec.initContainers[0]: Forbidden: init container "prepare" would hold up the Pod that it is added to: do its work in a container, or set restartPolicy Always`
	sayDSPort    = `spec.template.spec.containers[0].ports[0].hostPort: Forbidden: port 9000 of a host cannot be had: remove hostPort and reach the container by the address of the Pod it is added to`
)

func TestDaemonSetPolicies(t *testing.T) {
	plain := func(ds *appsv1.DaemonSet) {
		ds.Spec.Template.Annotations, ds.Spec.Template.Spec.Tolerations = nil, nil
	}
	for _, tt := range []struct {
		name     string
		ds       *appsv1.DaemonSet
		policy   Policy
		denials  []string
		warnings []string
	}{
		{name: "refused", ds: daemonSet("default", "agent"), policy: PolicyDeny, denials: []string{sayDaemonSet}},
		{name: "taken without a policy", ds: daemonSet("default", "agent"), warnings: []string{sayPark}},
		{name: "taken, and parked", ds: daemonSet("default", "agent", plain), policy: PolicyPark, warnings: []string{sayPark}},
		{name: "refused in kube-system", ds: daemonSet("kube-system", "agent"), policy: "typo", denials: []string{sayDaemonSet}},
		{name: "run", ds: daemonSet("default", "agent", plain), policy: PolicyRun, warnings: []string{sayRun}},
		{name: "injected", ds: daemonSet("default", "agent", onlyFor("app:web")), policy: PolicyInject},
		{name: "a toleration of everything", policy: PolicyInject, ds: daemonSet("default", "agent", func(ds *appsv1.DaemonSet) {
			ds.Spec.Template.Spec.Tolerations = []corev1.Toleration{{Key: "other"}, {Operator: corev1.TolerationOpExists}}
		})},
		{name: "a toleration of the taint's effect elsewhere", policy: PolicyInject, ds: daemonSet("default", "agent", func(ds *appsv1.DaemonSet) {
			ds.Spec.Template.Spec.Tolerations = []corev1.Toleration{{Key: eklet, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute}}
		}), denials: []string{sayNoTaint}},
		{name: "nothing that injection needs", ds: daemonSet("default", "agent", plain), policy: PolicyInject, denials: []string{sayNoWish, sayNoTaint}},
		{name: "everything that cannot be injected", policy: PolicyInject, ds: daemonSet("default", "agent", onlyFor("app=web"), dsVolume("root", corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/"}}),
			func(ds *appsv1.DaemonSet) {
				ds.Spec.Template.Spec.InitContainers = []corev1.Container{{Name: "prepare"}}
				ds.Spec.Template.Spec.Containers[0].Ports = []corev1.ContainerPort{{ContainerPort: 9000, HostPort: 9000}}
			}), denials: []string{sayLabel, sayVolume, sayInit, sayDSPort}},
		{name: "ports that its host network fills in", policy: PolicyInject, ds: daemonSet("default", "agent", func(ds *appsv1.DaemonSet) {
			ds.Spec.Template.Spec.HostNetwork = true
			ds.Spec.Template.Spec.Containers[0].Ports = []corev1.ContainerPort{{ContainerPort: 9000, HostPort: 9000}}
		})},
		{name: "a claim", policy: PolicyInject, ds: daemonSet("default", "agent", dsVolume("root", corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{}})), denials: []string{sayVolume}},
		{name: "a token", policy: PolicyInject, ds: daemonSet("default", "agent", dsVolume("root", corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{
			Sources: []corev1.VolumeProjection{{ConfigMap: &corev1.ConfigMapProjection{}}, {ServiceAccountToken: &corev1.ServiceAccountTokenProjection{}}}}})), denials: []string{sayVolume}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := DaemonSet(tt.ds, tt.policy)
			if diff := cmp.Diff(tt.denials, denials(got)); diff != "" {
				t.Errorf("denials (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tt.warnings, got.Warnings); diff != "" {
				t.Errorf("warnings (-want +got):\n%s", diff)
			}
		})
	}
}

func TestInjectByLabelForm(t *testing.T) {
	for value, ok := range map[string]bool{
		"app:web": true, "okg:true": true, "example.org/app:web": true, "app:": true,
		"": false, "app": false, ":web": false, "a b:c": false, "app:web:x": false, "app:" + strings.Repeat("x", 64): false, "app:\xff": false,
	} {
		if _, _, err := label(value); (err == nil) != ok {
			t.Errorf("label(%q): %v, want valid=%t", value, err, ok)
		}
	}
}
