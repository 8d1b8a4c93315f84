package bootstrap_test

import (
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/nodeless/nodeless/manifests"
	"github.com/nodeless/nodeless/pkg/kube"
	"github.com/nodeless/nodeless/pkg/pki"
	"github.com/nodeless/nodeless/pkg/server/bootstrap"
)

func TestSchedulable(t *testing.T) {
	ready := corev1.NodeStatus{Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}}
	taint := func(e corev1.TaintEffect) corev1.NodeSpec {
		return corev1.NodeSpec{Taints: []corev1.Taint{{Key: "k", Effect: e}}}
	}
	tests := []struct {
		name string
		node corev1.Node
		want bool
	}{
		{name: "ready", node: corev1.Node{Status: ready}, want: true},
		{name: "no condition yet", node: corev1.Node{}},
		{name: "not ready", node: corev1.Node{Status: corev1.NodeStatus{Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionFalse}}}}},
		{name: "cordoned", node: corev1.Node{Spec: corev1.NodeSpec{Unschedulable: true}, Status: ready}},
		{name: "tainted", node: corev1.Node{Spec: taint(corev1.TaintEffectNoSchedule), Status: ready}},
		{name: "tainted softly", node: corev1.Node{Spec: taint(corev1.TaintEffectPreferNoSchedule), Status: ready}, want: true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := bootstrap.Schedulable(&tt.node); got != tt.want {
				t.Errorf("Schedulable = %v, want %v", got, tt.want)
			}
		})
	}
}

// TestManifestsNameOurUsers holds the two places together in which the names of our identities are written.
func TestManifestsNameOurUsers(t *testing.T) {
	bound := make(map[string]bool)
	for _, dir := range []string{manifests.SystemDir, manifests.MetricsDir, manifests.AutoscalingDir} {
		objects, err := kube.Manifests(manifests.System(), dir, map[string]string{"ADMIN_USER": pki.UserAdmin, "DNS_SERVICE": "10.43.0.10", "DNS_ENDPOINT": "10.42.0.1"})
		if err != nil {
			t.Fatal(err)
		}
		for _, obj := range objects {
			subjects, _ := obj.Object["subjects"].([]any)
			for _, s := range subjects {
				name, _ := s.(map[string]any)["name"].(string)
				bound[name] = true
			}
		}
	}
	for _, user := range []string{pki.UserDNS, pki.UserMetrics, pki.UserEklet, pki.UserSpot, pki.UserCronScaler, pki.UserAPIServer, pki.UserAdmin} {
		if !bound[user] {
			t.Errorf("no binding for %s among %v", user, bound)
		}
	}
}
