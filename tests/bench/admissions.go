package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// podsPerBatch is how many Pods are created on one server before it is the other's turn.
const podsPerBatch = 250

// admissions measures what sizing and ruling Pods costs: Pods are created one after the other, in turn on a server as it is and on one
// without our admission. No Pod finds a host.
func (b *bench) admissions(ctx context.Context) (err error) {
	ctx, cancel := deadline(ctx, 10*time.Minute)
	defer cancel()
	servers := []struct {
		name  string
		flags []string
		cfg   *rest.Config
		p50   []float64
		p99   []float64
	}{{name: "on"}, {name: "off", flags: []string{"--kube-apiserver-arg=disable-admission-plugins=PodSize,ServerlessRules"}}}
	for i := range servers {
		c, startErr := b.newCluster(servers[i].flags...)
		if startErr != nil {
			return startErr
		}
		defer func() { err = errors.Join(err, c.close()) }()
		if err := c.server.UntilNodeReady(ctx); err != nil {
			return err
		}
		if servers[i].cfg, err = c.host.RESTConfig(); err != nil {
			return err
		}
	}
	var differences []float64
	for run := range b.samples(12) + 1 {
		var p99 [2]float64
		for i := range servers {
			took, err := createPods(ctx, servers[i].cfg, run)
			if err != nil {
				return err
			}
			p99[i] = percentile(took, 99) * 1000
			if run > 0 { // connections and caches warm up
				servers[i].p50, servers[i].p99 = append(servers[i].p50, percentile(took, 50)*1000), append(servers[i].p99, p99[i])
			}
		}
		if run > 0 {
			differences = append(differences, p99[0]-p99[1])
		}
	}
	for _, s := range servers {
		b.line("pod_create_p50_rules_"+s.name, median(s.p50), "ms")
		b.line("pod_create_p99_rules_"+s.name, median(s.p99), "ms")
	}
	b.line("pod_create_p99_rules_cost", median(differences), "ms")
	return nil
}

// createPods creates Pods that stay pending in a namespace of their own, and returns how long each create took.
func createPods(ctx context.Context, cfg *rest.Config, run int) ([]float64, error) {
	cfg = rest.CopyConfig(cfg)
	cfg.QPS, cfg.Burst = 1e5, 1e5
	cfg.WarningHandler = rest.NoWarnings{}
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return nil, fmt.Errorf("connect: %w", err)
	}
	ns := fmt.Sprintf("bench-pods-%d", run)
	if _, err := client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns}}, metav1.CreateOptions{}); err != nil {
		return nil, fmt.Errorf("create namespace: %w", err)
	}
	defer func() { _ = client.CoreV1().Namespaces().Delete(ctx, ns, metav1.DeleteOptions{}) }()
	for { // its ServiceAccount comes a moment later
		if _, err := client.CoreV1().ServiceAccounts(ns).Get(ctx, "default", metav1.GetOptions{}); err == nil {
			break
		} else if ctx.Err() != nil {
			return nil, err
		}
	}
	var took []time.Duration
	for i := range podsPerBatch {
		began := time.Now()
		if _, err := client.CoreV1().Pods(ns).Create(ctx, pendingPod(i), metav1.CreateOptions{}); err != nil {
			return nil, fmt.Errorf("create Pod: %w", err)
		}
		took = append(took, time.Since(began))
	}
	return seconds(took), nil
}

func pendingPod(i int) *corev1.Pod {
	container := func(name string) corev1.Container {
		return corev1.Container{
			Name: name, Image: "docker.io/nodeless/hello:1", Ports: []corev1.ContainerPort{{ContainerPort: 8080}},
			Env: []corev1.EnvVar{{Name: "A", Value: "b"}}, VolumeMounts: []corev1.VolumeMount{{Name: "data", MountPath: "/data"}},
			Resources: corev1.ResourceRequirements{
				Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("300m"), corev1.ResourceMemory: resource.MustParse("700Mi")},
				Limits:   corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("1Gi")},
			},
		}
	}
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("p-%d", i), Labels: map[string]string{"app": "web"}, Annotations: map[string]string{"eks.tke.cloud.tencent.com/spec-auto-upgrade": "true"}},
		Spec: corev1.PodSpec{
			NodeSelector: map[string]string{"no": "such-node"}, Containers: []corev1.Container{container("web"), container("helper")},
			Volumes: []corev1.Volume{{Name: "data", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}},
		},
	}
}
