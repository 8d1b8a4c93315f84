package recovery_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodeless/nodeless/pkg/server/recovery"
)

func TestUnbound(t *testing.T) {
	yes := true
	pod := func(change func(*corev1.Pod)) *corev1.Pod {
		p := &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Name: "a", Namespace: "n", UID: "1", ResourceVersion: "7", Labels: map[string]string{"k": "v"}},
			Spec:       corev1.PodSpec{NodeName: "old", ServiceAccountName: "default"},
			Status:     corev1.PodStatus{Phase: corev1.PodRunning, PodIP: "10.42.0.9"},
		}
		change(p)
		return p
	}
	again := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "a", Namespace: "n", Labels: map[string]string{"k": "v"}},
		Spec:       corev1.PodSpec{ServiceAccountName: "default"},
	}
	tests := []struct {
		name string
		pod  *corev1.Pod
		want *corev1.Pod
	}{
		{name: "of nobody", pod: pod(func(*corev1.Pod) {}), want: again},
		{name: "of a controller", pod: pod(func(p *corev1.Pod) {
			p.OwnerReferences = []metav1.OwnerReference{{Kind: "ReplicaSet", Controller: &yes}}
		})},
		{name: "succeeded", pod: pod(func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded })},
		{name: "being deleted", pod: pod(func(p *corev1.Pod) { p.DeletionTimestamp = &metav1.Time{} })},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, recovery.Unbound(tt.pod)); diff != "" {
				t.Errorf("Unbound (-want +got):\n%s", diff)
			}
		})
	}
}
