package quota_test

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodeless/nodeless/pkg/server/quota"
)

func TestBare(t *testing.T) {
	kata, runc := "kata", "runc"
	for _, tt := range []struct {
		class *string
		keeps bool
	}{{&kata, false}, {&runc, true}, {nil, true}} {
		pod := &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{ManagedFields: []metav1.ManagedFieldsEntry{{Manager: "kubectl"}}},
			Spec:       corev1.PodSpec{RuntimeClassName: tt.class, Overhead: corev1.ResourceList{"memory": resource.MustParse("448Mi")}},
		}
		got, err := quota.Bare("kata")(pod)
		if err != nil || got != any(pod) || pod.ManagedFields != nil || (pod.Spec.Overhead != nil) != tt.keeps {
			t.Errorf("class %v: %v with overhead %v, %v; want it kept: %v", tt.class, got, pod.Spec.Overhead, err, tt.keeps)
		}
	}
	if got, err := quota.Bare("kata")(42); err != nil || got != 42 {
		t.Errorf("what is no object becomes %v, %v", got, err)
	}
}
