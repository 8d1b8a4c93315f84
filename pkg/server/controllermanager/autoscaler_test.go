package controllermanager

import (
	"context"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/kubernetes/pkg/controller/podautoscaler"
	"k8s.io/kubernetes/pkg/controller/podautoscaler/metrics"

	"github.com/nodeless/nodeless/pkg/api"
)

// usage is what one Pod uses, as the metrics API gives it: in thousandths.
type usage struct {
	metrics.MetricsClient
	thousandths int64
}

func (u usage) GetResourceMetric(context.Context, corev1.ResourceName, string, labels.Selector, string) (metrics.PodMetricsInfo, time.Time, error) {
	return metrics.PodMetricsInfo{"a": {Timestamp: time.Now(), Window: time.Second, Value: u.thousandths}}, time.Now(), nil
}

// TestUtilizationIsOfRequests lets upstream's own calculation judge Pods as admission leaves them.
func TestUtilizationIsOfRequests(t *testing.T) {
	list := func(cpu, memory string) corev1.ResourceList {
		l := corev1.ResourceList{}
		if cpu != "" {
			l[corev1.ResourceCPU] = resource.MustParse(cpu)
		}
		if memory != "" {
			l[corev1.ResourceMemory] = resource.MustParse(memory)
		}
		return l
	}
	container := func(name, cpu, memory string) corev1.Container {
		return corev1.Container{Name: name, Resources: corev1.ResourceRequirements{Requests: list(cpu, memory), Limits: list(cpu, memory)}}
	}
	always := corev1.ContainerRestartPolicyAlways
	sidecar := container("sidecar", "150m", "256Mi")
	sidecar.RestartPolicy = &always
	for _, tt := range []struct {
		name       string
		containers []corev1.Container
		init       []corev1.Container
		whole      corev1.ResourceList // what its microVM is made to
		asked      bool                // by somebody who wrote it
		of         corev1.ResourceName
		container  string
		used       resource.Quantity
		want       int32 // per cent
		replicas   int32 // of one now, for 50 %
	}{
		{name: "memory, of a Pod that is larger with its microVM's own", containers: []corev1.Container{container("c", "250m", "512Mi")},
			whole: list("250m", "512Mi"), of: corev1.ResourceMemory, used: resource.MustParse("333Mi"), want: 65, replicas: 2},
		{name: "CPU, of a Pod whose spec is the smallest there is", containers: []corev1.Container{container("c", "50m", "64Mi")},
			whole: list("250m", "512Mi"), of: corev1.ResourceCPU, used: resource.MustParse("50m"), want: 100, replicas: 2},
		{name: "a sidecar counts", containers: []corev1.Container{container("c", "50m", "64Mi")}, init: []corev1.Container{sidecar, container("first", "2", "4Gi")},
			whole: list("2", "4Gi"), of: corev1.ResourceCPU, used: resource.MustParse("100m"), want: 50, replicas: 1},
		{name: "without requests the spec is all there is", containers: []corev1.Container{container("c", "", "")},
			whole: list("1", "2Gi"), of: corev1.ResourceCPU, used: resource.MustParse("500m"), want: 50, replicas: 1},
		{name: "of memory too, without the microVM's own", containers: []corev1.Container{container("c", "", "")},
			whole: list("1", "2Gi"), of: corev1.ResourceMemory, used: resource.MustParse("2Gi"), want: 100, replicas: 2},
		{name: "one container without a request", containers: []corev1.Container{container("c", "100m", ""), container("d", "", "")},
			whole: list("1", "2Gi"), of: corev1.ResourceCPU, used: resource.MustParse("500m"), want: 50, replicas: 1},
		{name: "a Pod that was asked for as a whole", containers: []corev1.Container{container("c", "100m", "64Mi")},
			whole: list("1", "2Gi"), asked: true, of: corev1.ResourceCPU, used: resource.MustParse("500m"), want: 50, replicas: 1},
		{name: "a container by name", containers: []corev1.Container{container("c", "100m", "64Mi"), container("d", "900m", "64Mi")},
			whole: list("1", "2Gi"), of: corev1.ResourceCPU, container: "c", used: resource.MustParse("100m"), want: 100, replicas: 2},
	} {
		t.Run(tt.name, func(t *testing.T) {
			pod := &corev1.Pod{
				ObjectMeta: metav1.ObjectMeta{Name: "a", Namespace: "default"},
				Spec: corev1.PodSpec{Containers: tt.containers, InitContainers: tt.init, Overhead: list("", "448Mi"),
					Resources: &corev1.ResourceRequirements{Requests: tt.whole, Limits: tt.whole}},
				Status: corev1.PodStatus{Phase: corev1.PodRunning, StartTime: &metav1.Time{Time: time.Now().Add(-time.Hour)},
					Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(time.Now().Add(-time.Hour))}}},
			}
			if tt.asked {
				pod.Annotations = map[string]string{api.AskedWhole: "true"}
			}
			kept, err := scaled(pod)
			if err != nil {
				t.Fatal(err)
			}
			pods := cache.NewIndexer(cache.MetaNamespaceKeyFunc, cache.Indexers{cache.NamespaceIndex: cache.MetaNamespaceIndexFunc})
			if err := pods.Add(kept); err != nil {
				t.Fatal(err)
			}
			calculator := podautoscaler.NewReplicaCalculator(usage{thousandths: tt.used.MilliValue()}, corelisters.NewPodLister(pods), time.Minute, time.Second)
			replicas, percent, _, _, err := calculator.GetResourceReplicas(t.Context(), 1, 50, tt.of, podautoscaler.Tolerances{}, "default", labels.Everything(), tt.container)
			if err != nil || percent != tt.want || replicas != tt.replicas {
				t.Errorf("%d %% and %d replicas, %v; want %d %% and %d", percent, replicas, err, tt.want, tt.replicas)
			}
		})
	}
}

// TestTheOperatorCanTurnAutoscalingOff: by upstream's own argument.
func TestTheOperatorCanTurnAutoscalingOff(t *testing.T) {
	for args, want := range map[string]bool{
		"": true, "controllers=*,-job-controller": true, "controllers=*,-horizontal-pod-autoscaler-controller": false,
		"controllers=-horizontalpodautoscaling,*": false, "v=4": true,
	} {
		if got := (Config{ExtraArgs: []string{args}}).scaling(); got != want {
			t.Errorf("with %q scaling is %t, want %t", args, got, want)
		}
	}
}
