package vm_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// scaled has two crons that fire every few seconds, one for a Deployment and one for its autoscaler. No Pod finds a host.
const scaled = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 1
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      nodeSelector: {no: such-node}
      containers: [{name: main, image: IMAGE, resources: {requests: {cpu: 250m, memory: 512Mi}}}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: auto}
spec:
  replicas: 1
  selector: {matchLabels: {app: auto}}
  template:
    metadata: {labels: {app: auto}}
    spec:
      nodeSelector: {no: such-node}
      containers: [{name: main, image: IMAGE, resources: {requests: {cpu: 250m, memory: 512Mi}}}]
---
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: auto}
spec:
  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: auto}
  minReplicas: 1
  maxReplicas: 2
  metrics: [{type: Pods, pods: {metric: {name: k8s_pod_rate_cpu_core_used_resource}, target: {type: AverageValue, averageValue: "50"}}}]
---
apiVersion: autoscaling.cloud.tencent.com/v1
kind: HorizontalPodCronscaler
metadata: {name: web}
spec:
  scaleTarget: {apiVersion: apps/v1, kind: Deployment, name: web}
  crons: [{name: up, schedule: "*/3 * * * * *", targetSize: 3}]
---
apiVersion: autoscaling.cloud.tencent.com/v1
kind: HorizontalPodCronscaler
metadata: {name: auto}
spec:
  scaleTarget: {apiVersion: autoscaling/v2, kind: HorizontalPodAutoscaler, name: auto}
  crons: [{name: up, schedule: "*/3 * * * * *", minSize: 2, maxSize: 5}]
`

// TestCronScaler: TKE's HorizontalPodCronscaler scales Deployments and the bounds of autoscalers at its times; a wrong one is refused.
func TestCronScaler(t *testing.T) {
	s := newSpace(t, 2*time.Minute)
	s.Apply(scaled)
	s.Until("the Deployment has three replicas", func() (bool, error) {
		d, err := s.Client.AppsV1().Deployments(s.Name).Get(s.Ctx, "web", metav1.GetOptions{})
		return err == nil && *d.Spec.Replicas == 3, err
	})
	s.Until("the autoscaler goes from two to five", func() (bool, error) {
		h, err := s.Client.AutoscalingV2().HorizontalPodAutoscalers(s.Name).Get(s.Ctx, "auto", metav1.GetOptions{})
		return err == nil && *h.Spec.MinReplicas == 2 && h.Spec.MaxReplicas == 5, err
	})
	for what, change := range map[string][2]string{
		"a schedule has six fields":  {`"*/3 * * * * *"`, `"*/3 * * * *"`},
		"minSize is more than":       {"minSize: 2", "minSize: 7"},
		"Unsupported value":          {"kind: Deployment, name: web", "kind: Job, name: web"},
		"either targetSize, or minS": {"targetSize: 3", "targetSize: 3, minSize: 1, maxSize: 2"},
	} {
		bad := scaled[strings.Index(scaled, "apiVersion: autoscaling.cloud"):]
		out, code := s.TryApply(strings.ReplaceAll(bad, change[0], change[1]))
		if code == 0 || !strings.Contains(out, what) {
			t.Errorf("%s: code %d, %s", fmt.Sprint(change), code, out)
		}
	}
}
