package server_test

import (
	"context"
	"fmt"
	"testing"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodeless/nodeless/tests/attack"
)

// attackAmounts tries objects that have much of what no quota counts, and that the host or a controller has to do something for.
func (p *people) attackAmounts(t *testing.T) {
	alice, many := p.clients["alice"], metav1.ObjectMeta{Name: "many"}
	for _, tt := range []struct {
		what, field string
		do          func(ctx context.Context, n int) error
		most        int
	}{
		{"the host's packet rules by a Service of many ports", "spec.ports", func(ctx context.Context, n int) error {
			svc := &corev1.Service{ObjectMeta: many, Spec: corev1.ServiceSpec{Selector: map[string]string{"app": "x"}}}
			for i := range n {
				svc.Spec.Ports = append(svc.Spec.Ports, corev1.ServicePort{Name: fmt.Sprint("p", i), Port: int32(1000 + i)})
			}
			_, err := alice.CoreV1().Services("a").Create(ctx, svc, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
			return err
		}, 100},
		{"the host's mounts by a Pod of many volumes", "spec.volumes", func(ctx context.Context, n int) error {
			return p.dryPod(ctx, func(pod *corev1.Pod) {
				for i := range n {
					name := fmt.Sprint("v", i)
					pod.Spec.Volumes = append(pod.Spec.Volumes, corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "x"}}})
				}
			})
		}, 199}, // and the token
		{"the host's mounts by a volume's many paths", "sub-paths", func(ctx context.Context, n int) error {
			return p.dryPod(ctx, func(pod *corev1.Pod) {
				pod.Spec.Volumes = []corev1.Volume{{Name: "v"}}
				for i := range n {
					pod.Spec.Containers[0].VolumeMounts = append(pod.Spec.Containers[0].VolumeMounts, corev1.VolumeMount{Name: "v", MountPath: fmt.Sprint("/m", i), SubPath: fmt.Sprint("s", i)})
				}
			})
		}, 100},
		{"the kubelet by a Pod of many containers", "spec.containers", func(ctx context.Context, n int) error {
			return p.dryPod(ctx, func(pod *corev1.Pod) {
				for i := range n - 1 {
					pod.Spec.InitContainers = append(pod.Spec.InitContainers, corev1.Container{Name: fmt.Sprint("i", i), Image: "i"})
				}
			})
		}, 100},
		{"the autoscaler of all by one of many metrics", "spec.metrics", func(ctx context.Context, n int) error {
			hpa := &autoscalingv2.HorizontalPodAutoscaler{ObjectMeta: many, Spec: autoscalingv2.HorizontalPodAutoscalerSpec{
				ScaleTargetRef: autoscalingv2.CrossVersionObjectReference{Kind: "Deployment", Name: "x", APIVersion: "apps/v1"}, MaxReplicas: 2}}
			half := int32(50)
			for range n {
				hpa.Spec.Metrics = append(hpa.Spec.Metrics, autoscalingv2.MetricSpec{Type: autoscalingv2.ResourceMetricSourceType, Resource: &autoscalingv2.ResourceMetricSource{
					Name: corev1.ResourceCPU, Target: autoscalingv2.MetricTarget{Type: autoscalingv2.UtilizationMetricType, AverageUtilization: &half}}})
			}
			_, err := alice.AutoscalingV2().HorizontalPodAutoscalers("a").Create(ctx, hpa, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
			return err
		}, 20},
	} {
		attack.Try(t, "T6", "fill "+tt.what, func(t *testing.T) attack.Outcome {
			if err := tt.do(t.Context(), tt.most); err != nil {
				t.Errorf("with %d: %v", tt.most, err)
			}
			err := tt.do(t.Context(), tt.most+1)
			if err == nil {
				return attack.Succeeded
			}
			return ended(t, err, tt.field)
		})
	}
}

// dryPod asks whether a Pod would be let in.
func (p *people) dryPod(ctx context.Context, change func(*corev1.Pod)) error {
	pod := simplePod("many")
	change(pod)
	_, err := p.clients["alice"].CoreV1().Pods("a").Create(ctx, pod, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
	return err
}
