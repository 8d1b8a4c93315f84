package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// milestones of one first start on an empty data dir, counted from the exec of the server.
type milestones struct{ readyz, nodeReady, firstPod time.Duration }

// starts measures first starts, and on the last cluster what it costs at rest.
func (b *bench) starts(ctx context.Context) error {
	var readyz, node, pod []time.Duration
	for range b.samples(5) {
		m, err := b.firstStart(ctx)
		if err != nil {
			return err
		}
		readyz, node, pod = append(readyz, m.readyz), append(node, m.nodeReady), append(pod, m.firstPod)
	}
	b.line("exec_to_readyz", median(seconds(readyz)), "s")
	b.line("exec_to_node_ready", median(seconds(node)), "s")
	b.line("exec_to_first_pod", median(seconds(pod)), "s")
	if info, err := os.Stat(filepath.Join(b.dist, "nodeless")); err == nil {
		b.line("file_size", float64(info.Size())/1e6, "MB")
	}
	return b.atRest(ctx)
}

func (b *bench) firstStart(ctx context.Context) (m milestones, err error) {
	ctx, cancel := deadline(ctx, 3*time.Minute)
	defer cancel()
	c, err := b.newCluster()
	if err != nil {
		return m, err
	}
	defer func() { err = errors.Join(err, c.close()) }()
	client, err := c.client(ctx)
	if err != nil {
		return m, err
	}
	err = c.server.Until(ctx, "readyz is ok", func(ctx context.Context) (bool, error) {
		return true, client.Discovery().RESTClient().Get().AbsPath("/readyz").Do(ctx).Error()
	})
	if err != nil {
		return m, err
	}
	m.readyz = time.Since(c.server.Began)
	if err := c.server.Until(ctx, "the first Pod is accepted", func(ctx context.Context) (bool, error) {
		_, err := client.CoreV1().Pods(benchNamespace).Create(ctx, benchPod("first", "first", ""), metav1.CreateOptions{})
		return true, err
	}); err != nil {
		return m, err
	}
	err = c.server.Until(ctx, "the first Pod runs", func(ctx context.Context) (bool, error) {
		if m.nodeReady == 0 && nodeReady(ctx, client) {
			m.nodeReady = time.Since(c.server.Began)
		}
		pod, err := client.CoreV1().Pods(benchNamespace).Get(ctx, "first", metav1.GetOptions{})
		return err == nil && pod.Status.Phase == corev1.PodRunning, err
	})
	m.firstPod = time.Since(c.server.Began)
	return m, err
}

func nodeReady(ctx context.Context, client kubernetes.Interface) bool {
	nodes, err := client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return false
	}
	for _, n := range nodes.Items {
		for _, cond := range n.Status.Conditions {
			if cond.Type == corev1.NodeReady && cond.Status == corev1.ConditionTrue {
				return true
			}
		}
	}
	return false
}

// client waits for the kubeconfig, which the server writes early in its start.
func (c *cluster) client(ctx context.Context) (*kubernetes.Clientset, error) {
	err := c.server.Until(ctx, "the kubeconfig is there", func(context.Context) (bool, error) {
		_, err := os.Stat(c.host.Path("/etc/nodeless/kubeconfig"))
		return err == nil, err
	})
	if err != nil {
		return nil, err
	}
	cfg, err := c.host.RESTConfig()
	if err != nil {
		return nil, err
	}
	return kubernetes.NewForConfig(cfg)
}

// atRest measures memory and CPU of an empty cluster: 30 s to settle, then 60 s.
func (b *bench) atRest(ctx context.Context) (err error) {
	c, err := b.newCluster()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.close()) }()
	wait, cancel := deadline(ctx, 2*time.Minute)
	defer cancel()
	if err := c.server.UntilNodeReady(wait); err != nil {
		return err
	}
	settle, window := 30*time.Second, 60*time.Second
	if err := pause(ctx, settle); err != nil {
		return err
	}
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
	percent := func(role string) float64 {
		return (sum(after, ticks, role) - sum(before, ticks, role)) / clockTicks / window.Seconds() * 100
	}
	b.line("server_rss", sum(after, rss, "server"), "MB")
	b.line("server_pss", sum(after, pss, "server"), "MB")
	b.line("containerd_rss", sum(after, rss, "containerd"), "MB")
	b.line("containerd_pss", sum(after, pss, "containerd"), "MB")
	b.line("server_idle_cpu", percent("server"), "%")
	b.line("containerd_idle_cpu", percent("containerd"), "%")
	return nil
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return fmt.Errorf("wait: %w", ctx.Err())
	case <-time.After(d):
		return nil
	}
}
