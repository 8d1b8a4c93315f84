package main

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
)

const (
	benchNamespace = "default"
	benchImage     = "docker.io/nodeless/hello:1"
	podTimeout     = 3 * time.Minute
)

// start is what a watch saw of one Pod's way, measured from the moment its creation was asked.
type start struct {
	name               string
	scheduled, running time.Duration
}

// startPods creates n Pods at once and waits until all run. runtimeClass may be empty.
func startPods(ctx context.Context, client kubernetes.Interface, prefix, runtimeClass string, n int) ([]start, error) {
	ctx, cancel := context.WithTimeout(ctx, podTimeout)
	defer cancel()
	label := "bench=" + prefix
	w, err := client.CoreV1().Pods(benchNamespace).Watch(ctx, metav1.ListOptions{LabelSelector: label})
	if err != nil {
		return nil, fmt.Errorf("watch Pods: %w", err)
	}
	defer w.Stop()

	began := map[string]time.Time{}
	for i := range n {
		pod := benchPod(fmt.Sprintf("%s-%d", prefix, i), prefix, runtimeClass)
		began[pod.Name] = time.Now()
		if _, err := client.CoreV1().Pods(benchNamespace).Create(ctx, pod, metav1.CreateOptions{}); err != nil {
			return nil, fmt.Errorf("create Pod %s: %w", pod.Name, err)
		}
	}
	return collect(ctx, w, began)
}

func collect(ctx context.Context, w watch.Interface, began map[string]time.Time) ([]start, error) {
	seen := map[string]*start{}
	var done []start
	for len(done) < len(began) {
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for Pods: %d of %d run: %w", len(done), len(began), ctx.Err())
		case ev, ok := <-w.ResultChan():
			if !ok {
				return nil, fmt.Errorf("wait for Pods: the watch ended")
			}
			pod, isPod := ev.Object.(*corev1.Pod)
			if !isPod || ev.Type == watch.Deleted {
				continue
			}
			s := seen[pod.Name]
			if s == nil {
				s = &start{name: pod.Name}
				seen[pod.Name] = s
			}
			since := time.Since(began[pod.Name])
			if s.scheduled == 0 && pod.Spec.NodeName != "" {
				s.scheduled = since
			}
			if s.running == 0 && pod.Status.Phase == corev1.PodRunning {
				s.running = since
				done = append(done, *s)
			}
			if pod.Status.Phase == corev1.PodFailed {
				return nil, fmt.Errorf("Pod %s failed: %s", pod.Name, pod.Status.Message)
			}
		}
	}
	return done, nil
}

// deletePods removes the Pods of one startPods and waits until they are gone.
func deletePods(ctx context.Context, client kubernetes.Interface, prefix string) error {
	ctx, cancel := context.WithTimeout(ctx, podTimeout)
	defer cancel()
	opts := metav1.ListOptions{LabelSelector: "bench=" + prefix}
	grace := int64(0)
	pods := client.CoreV1().Pods(benchNamespace)
	w, err := pods.Watch(ctx, opts)
	if err != nil {
		return fmt.Errorf("watch Pods: %w", err)
	}
	defer w.Stop()
	before, err := pods.List(ctx, opts)
	if err != nil {
		return fmt.Errorf("list Pods: %w", err)
	}
	if err := pods.DeleteCollection(ctx, metav1.DeleteOptions{GracePeriodSeconds: &grace}, opts); err != nil {
		return fmt.Errorf("delete Pods: %w", err)
	}
	for left := len(before.Items); left > 0; {
		select {
		case <-ctx.Done():
			return fmt.Errorf("delete Pods: %d are left: %w", left, ctx.Err())
		case ev, ok := <-w.ResultChan():
			if !ok {
				return fmt.Errorf("delete Pods: the watch ended")
			}
			if ev.Type == watch.Deleted {
				left--
			}
		}
	}
	return nil
}

func benchPod(name, label, runtimeClass string) *corev1.Pod {
	grace := int64(0)
	// No CPU limit: the kubelet's quota holds for QEMU as well, so that a Pod limited to 250m boots at a quarter of the speed.
	// The small request lets eight Pods fit on two cores.
	limits := corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("64Mi")}
	requests := corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("50m"), corev1.ResourceMemory: limits[corev1.ResourceMemory]}
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: benchNamespace, Labels: map[string]string{"bench": label}},
		Spec: corev1.PodSpec{
			TerminationGracePeriodSeconds: &grace,
			Containers: []corev1.Container{{
				Name: "hello", Image: benchImage, ImagePullPolicy: corev1.PullIfNotPresent,
				Resources: corev1.ResourceRequirements{Limits: limits, Requests: requests},
			}},
		},
	}
	if runtimeClass != "" {
		pod.Spec.RuntimeClassName = &runtimeClass
	}
	return pod
}
