package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"

	"github.com/nodeless/nodeless/tests/testbed"
)

const (
	hpaName     = "microservice" // of everything in the example
	serviceCIDR = "10.43.0.0/16"
	// hpaPhase is as long as the periods of measuring and of deciding in which the load may begin.
	hpaPhase = 15 * time.Second
)

// scaled is when things happened after the load's start.
type scaled struct{ decided, ready, answered time.Duration }

// hpa measures how soon the microservice of the examples grows under load that comes from another host.
func (b *bench) hpa(ctx context.Context) (err error) {
	c, err := b.newCluster("--pod-allow-from=" + testbed.OtherIP + "/32") // who comes with a route is let in by name only
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.close()) }()
	other, err := testbed.New(testbed.Options{Program: b.program()})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, other.Close()) }()
	if err := c.host.Link(other, serviceCIDR); err != nil {
		return err
	}
	ready, cancel := deadline(ctx, 4*time.Minute)
	defer cancel()
	client, err := c.client(ready)
	if err != nil {
		return err
	}
	if err := c.server.UntilNodeReady(ready); err != nil {
		return err
	}
	manifest, err := os.ReadFile(filepath.Join("manifests", "examples", hpaName+".yaml"))
	if err != nil {
		return fmt.Errorf("read example: %w; run this from the root of the repository", err)
	}
	if err := c.host.Apply(ready, string(manifest)); err != nil {
		return err
	}
	service, err := client.CoreV1().Services(benchNamespace).Get(ready, hpaName, metav1.GetOptions{})
	if err != nil {
		return err
	}
	var decided, podReady, answered []time.Duration
	for range max(3, b.samples(6)) {
		s, err := oneScaling(ctx, c, other, client, "http://"+service.Spec.ClusterIP)
		if err != nil {
			return err
		}
		b.note("hpa: decided after %.1f s, new Pod ready after %.1f s, answered after %.1f s", s.decided.Seconds(), s.ready.Seconds(), s.answered.Seconds())
		decided, podReady, answered = append(decided, s.decided), append(podReady, s.ready), append(answered, s.answered)
	}
	b.line("hpa_load_to_decision", median(seconds(decided)), "s")
	b.line("hpa_load_to_decision_max", percentile(seconds(decided), 100), "s")
	b.line("hpa_load_to_pod_ready", median(seconds(podReady)), "s")
	b.line("hpa_load_to_pod_answers", median(seconds(answered)), "s")
	return b.idlePods(ctx, c, client)
}

// oneScaling waits for one idle Pod, begins the load at a random moment, and follows what comes of it; then it scales down.
func oneScaling(ctx context.Context, c *cluster, other *testbed.Host, client kubernetes.Interface, url string) (s scaled, err error) {
	ctx, cancel := deadline(ctx, 6*time.Minute)
	defer cancel()
	old, err := idle(ctx, c, client)
	if err != nil {
		return s, err
	}
	if err := limitReplicas(ctx, client, 3); err != nil {
		return s, err
	}
	if err := pause(ctx, hpaPhase+rand.N(hpaPhase)); err != nil {
		return s, err
	}
	w, err := client.AutoscalingV2().HorizontalPodAutoscalers(benchNamespace).Watch(ctx, metav1.ListOptions{FieldSelector: "metadata.name=" + hpaName})
	if err != nil {
		return s, fmt.Errorf("watch autoscaler: %w", err)
	}
	defer w.Stop()
	pods, err := client.CoreV1().Pods(benchNamespace).Watch(ctx, metav1.ListOptions{LabelSelector: "app=" + hpaName})
	if err != nil {
		return s, fmt.Errorf("watch Pods: %w", err)
	}
	defer pods.Stop()
	load := startLoad(ctx, other, url+"/burn?ms=100", 4)
	s, err = follow(ctx, w, pods, load, old)
	load.stop()
	return s, errors.Join(err, limitReplicas(ctx, client, 1))
}

// follow notes when the autoscaler has decided, and when the first Pod but the old one is ready and has answered.
func follow(ctx context.Context, hpas, pods watch.Interface, load *load, old string) (scaled, error) {
	var s scaled
	for s.decided == 0 || s.ready == 0 || s.answered == 0 {
		select {
		case <-ctx.Done():
			return s, fmt.Errorf("wait for the autoscaler: decided after %s, ready after %s, answered after %s: %w; load: %s", s.decided, s.ready, s.answered, ctx.Err(), load)
		case event, ok := <-hpas.ResultChan():
			hpa, isHPA := event.Object.(*autoscalingv2.HorizontalPodAutoscaler)
			if !ok || !isHPA {
				return s, errors.New("wait for the autoscaler: the watch ended")
			}
			if s.decided == 0 && hpa.Status.DesiredReplicas > 1 {
				s.decided = time.Since(load.began)
			}
		case event, ok := <-pods.ResultChan():
			pod, isPod := event.Object.(*corev1.Pod)
			if !ok || !isPod {
				return s, errors.New("wait for the new Pod: the watch ended")
			}
			if s.ready == 0 && pod.Name != old && isReady(pod) {
				s.ready = time.Since(load.began)
			}
		case pod := <-load.answers:
			if s.answered == 0 && pod != old {
				s.answered = time.Since(load.began)
			}
		}
	}
	return s, nil
}

// idle waits until the service has one Pod, which is ready, measured and does little, and gives its name.
func idle(ctx context.Context, c *cluster, client kubernetes.Interface) (string, error) {
	var name string
	err := c.server.Until(ctx, "the microservice has one idle Pod", func(ctx context.Context) (bool, error) {
		list, err := client.CoreV1().Pods(benchNamespace).List(ctx, metav1.ListOptions{LabelSelector: "app=" + hpaName})
		if err != nil || len(list.Items) != 1 || !isReady(&list.Items[0]) {
			return false, err
		}
		name = list.Items[0].Name
		hpa, err := client.AutoscalingV2().HorizontalPodAutoscalers(benchNamespace).Get(ctx, hpaName, metav1.GetOptions{})
		if err != nil || hpa.Status.DesiredReplicas != 1 {
			return false, err
		}
		for _, m := range hpa.Status.CurrentMetrics {
			if m.Pods != nil && m.Pods.Current.AverageValue != nil {
				return m.Pods.Current.AverageValue.AsApproximateFloat64() < 20, nil
			}
		}
		return false, nil
	})
	return name, err
}

func isReady(pod *corev1.Pod) bool {
	for _, cond := range pod.Status.Conditions {
		if cond.Type == corev1.PodReady {
			return cond.Status == corev1.ConditionTrue
		}
	}
	return false
}

// limitReplicas lets the autoscaler go up to n Pods; down to 1 it scales at once.
func limitReplicas(ctx context.Context, client kubernetes.Interface, n int) error {
	patch := fmt.Appendf(nil, `{"spec":{"maxReplicas":%d}}`, n)
	_, err := client.AutoscalingV2().HorizontalPodAutoscalers(benchNamespace).Patch(ctx, hpaName, types.MergePatchType, patch, metav1.PatchOptions{})
	if err != nil {
		return fmt.Errorf("limit the autoscaler to %d Pods: %w", n, err)
	}
	return nil
}

// idlePods measures what three Pods cost that do nothing but be watched and measured.
func (b *bench) idlePods(ctx context.Context, c *cluster, client kubernetes.Interface) error {
	ctx, cancel := deadline(ctx, 5*time.Minute)
	defer cancel()
	if _, err := idle(ctx, c, client); err != nil {
		return err
	}
	if _, err := startPods(ctx, client, "hpa-idle", "", 2); err != nil {
		return err
	}
	if err := pause(ctx, 30*time.Second); err != nil {
		return err
	}
	const window = 60 * time.Second
	before, err := processesOf(c.host.Pid())
	if err != nil {
		return err
	}
	if err := pause(ctx, window); err != nil {
		return err
	}
	after, err := processesOf(c.host.Pid())
	if err != nil {
		return err
	}
	for _, role := range []string{"server", "containerd", "shim", "vmm", "qemu"} {
		used := (sum(after, ticks, role) - sum(before, ticks, role)) / clockTicks / window.Seconds() * 100
		b.line("idle3_"+role+"_cpu", used, "%")
	}
	return deletePods(ctx, client, "hpa-idle")
}
