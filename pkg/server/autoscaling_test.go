package server_test

import (
	"context"
	"fmt"
	"testing"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// expectAutoscales sees the controller of autoscalers at work, which is started apart from the others. It finds a Deployment's scale and
// asks for figures, of which there are none here.
func expectAutoscales(t *testing.T, client kubernetes.Interface) {
	t.Helper()
	half := int32(50)
	_, err := client.AutoscalingV2().HorizontalPodAutoscalers("default").Create(t.Context(), &autoscalingv2.HorizontalPodAutoscaler{
		ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec: autoscalingv2.HorizontalPodAutoscalerSpec{
			ScaleTargetRef: autoscalingv2.CrossVersionObjectReference{APIVersion: "apps/v1", Kind: "Deployment", Name: "web"},
			MaxReplicas:    3,
			Metrics: []autoscalingv2.MetricSpec{{Type: autoscalingv2.ResourceMetricSourceType, Resource: &autoscalingv2.ResourceMetricSource{
				Name: corev1.ResourceCPU, Target: autoscalingv2.MetricTarget{Type: autoscalingv2.UtilizationMetricType, AverageUtilization: &half}}}},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "an autoscaler that is dealt with", func(ctx context.Context) (bool, error) {
		hpa, err := client.AutoscalingV2().HorizontalPodAutoscalers("default").Get(ctx, "web", metav1.GetOptions{})
		if err != nil {
			return false, err
		}
		seen := map[autoscalingv2.HorizontalPodAutoscalerConditionType]string{}
		for _, c := range hpa.Status.Conditions {
			seen[c.Type] = c.Reason
		}
		return seen[autoscalingv2.AbleToScale] == "SucceededGetScale" && seen[autoscalingv2.ScalingActive] == "FailedGetResourceMetric", fmt.Errorf("its conditions are %v", hpa.Status.Conditions)
	})
}
