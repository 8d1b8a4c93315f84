package server_test

import (
	"strings"
	"sync"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/nodeless/nodeless/pkg/kube"
)

// heard are the warnings that a client was sent.
type heard struct {
	mu    sync.Mutex
	texts []string // guarded by mu
}

var _ rest.WarningHandler = (*heard)(nil)

// HandleWarningHeader keeps one.
func (h *heard) HandleWarningHeader(_ int, _, text string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.texts = append(h.texts, text)
}

// expectScalingIsWarnedOf: a scale names no claim, and its object has one.
func expectScalingIsWarnedOf(t *testing.T, kubeconfig string) {
	t.Helper()
	cfg, err := kube.FromKubeconfig(kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	var warnings heard
	cfg.WarningHandler = &warnings
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		t.Fatal(err)
	}
	deployments, one, labels := client.AppsV1().Deployments("default"), int32(1), map[string]string{"app": "disk"}
	_, err = deployments.Create(t.Context(), &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: "disk"}, Spec: appsv1.DeploymentSpec{
		Replicas: &one, Selector: &metav1.LabelSelector{MatchLabels: labels}, Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: corev1.PodSpec{
			Containers: []corev1.Container{{Name: "c", Image: "docker.io/nodeless/hello:1"}},
			Volumes:    []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "disk"}}}},
		}},
	}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	warnings.texts = nil // what is said of its spec
	_, err = deployments.UpdateScale(t.Context(), "disk", &autoscalingv1.Scale{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "disk"},
		Spec: autoscalingv1.ScaleSpec{Replicas: 2}}, metav1.UpdateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	const want = "Deployment default/disk: spec.template.spec.volumes[0].persistentVolumeClaim: claim \"disk\" is mounted by the other Pods as well. "
	if len(warnings.texts) != 1 || !strings.HasPrefix(warnings.texts[0], want) {
		t.Errorf("warnings are %q, want one that begins with %q", warnings.texts, want)
	}
	if err := deployments.Delete(t.Context(), "disk", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
}
