package main

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"time"

	nodev1 "k8s.io/api/node/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// pods measures Pod starts one by one and eight at once, in microVMs and, as the floor, with runc through
// the same containerd.
func (b *bench) pods(ctx context.Context) (err error) {
	runc, err := exec.LookPath("runc")
	if err != nil {
		return fmt.Errorf("find runc: install Debian's package runc: %w", err)
	}
	c, err := b.newCluster("--runc-path="+runc, "--runc-shim-path="+filepath.Join(b.dist, "containerd-shim-runc-v2"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.close()) }()
	wait, cancel := deadline(ctx, 2*time.Minute)
	defer cancel()
	client, err := c.client(wait)
	if err != nil {
		return err
	}
	if err := c.server.UntilNodeReady(wait); err != nil {
		return err
	}
	if err := addRuncClass(ctx, client); err != nil {
		return err
	}
	vm, err := b.series(ctx, c, client, "vm", "")
	if err != nil {
		return err
	}
	if err := b.overhead(ctx, c, client); err != nil {
		return err
	}
	floor, err := b.series(ctx, c, client, "runc", "runc")
	if err != nil {
		return err
	}
	b.line("pod_cold_start_ratio_to_runc", median(vm)/median(floor), "x")
	return nil
}

func addRuncClass(ctx context.Context, client kubernetes.Interface) error {
	class := &nodev1.RuntimeClass{ObjectMeta: metav1.ObjectMeta{Name: "runc"}, Handler: "runc"}
	if _, err := client.NodeV1().RuntimeClasses().Create(ctx, class, metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("create RuntimeClass runc: %w", err)
	}
	return nil
}

// series starts 20 Pods in sequence and 8 at once (three times), prints the lines, and returns the sequence's times.
func (b *bench) series(ctx context.Context, c *cluster, client kubernetes.Interface, name, class string) ([]float64, error) {
	suffix := ""
	if class != "" {
		suffix = "_" + class
	}
	running, err := b.sequence(ctx, c, client, name, class, suffix)
	if err != nil {
		return nil, err
	}
	var all, each []float64
	for i := range b.samples(3) {
		got, err := b.startAndDelete(ctx, client, fmt.Sprintf("%s-burst%d", name, i), class, 8)
		if err != nil {
			return nil, err
		}
		slowest := time.Duration(0)
		for _, s := range got {
			each = append(each, s.running.Seconds())
			slowest = max(slowest, s.running)
		}
		all = append(all, slowest.Seconds())
	}
	b.line("pod_burst8_p50"+suffix, percentile(each, 50), "s")
	b.line("pod_burst8_p99"+suffix, percentile(each, 99), "s")
	b.line("pod_burst8_all"+suffix, median(all), "s")
	return running, nil
}

// sequence starts Pods one by one, and reads the spans of their way between containerd's events.
func (b *bench) sequence(ctx context.Context, c *cluster, client kubernetes.Interface, name, class, suffix string) ([]float64, error) {
	events, err := record(ctx, c)
	if err != nil {
		return nil, err
	}
	var running, scheduled, booted []float64
	for i := range b.samples(20) {
		prefix := fmt.Sprintf("%s-seq%d", name, i)
		got, err := startPods(ctx, client, prefix, class, 1)
		if err != nil {
			return nil, errors.Join(err, deletePods(ctx, client, prefix))
		}
		running = append(running, got[0].running.Seconds())
		scheduled = append(scheduled, got[0].scheduled.Seconds())
		if took, ok := bootTime(c); ok {
			booted = append(booted, took.Seconds())
		}
		if err := deletePods(ctx, client, prefix); err != nil {
			return nil, err
		}
	}
	b.line("pod_cold_start_p50"+suffix, percentile(running, 50), "s")
	b.line("pod_cold_start_p99"+suffix, percentile(running, 99), "s")
	b.line("pod_span_schedule"+suffix, median(scheduled), "s")
	if len(booted) > 0 {
		b.line("pod_span_vm_boot"+suffix, median(booted), "s")
	}
	var sandbox, container []float64
	for _, s := range spansOf(events.stop()) {
		sandbox, container = append(sandbox, s.sandbox.Seconds()), append(container, s.container.Seconds())
	}
	if len(sandbox) == 0 {
		return nil, fmt.Errorf("read spans of %s: containerd told no events", name)
	}
	b.line("pod_span_sandbox"+suffix, median(sandbox), "s")
	b.line("pod_span_container"+suffix, median(container), "s")
	return running, nil
}

func (b *bench) startAndDelete(ctx context.Context, client kubernetes.Interface, prefix, class string, n int) ([]start, error) {
	got, err := startPods(ctx, client, prefix, class, n)
	return got, errors.Join(err, deletePods(ctx, client, prefix))
}

// overhead measures the memory of one running Pod's own processes.
func (b *bench) overhead(ctx context.Context, c *cluster, client kubernetes.Interface) error {
	if _, err := startPods(ctx, client, "vm-memory", "", 1); err != nil {
		return err
	}
	if err := pause(ctx, 10*time.Second); err != nil {
		return err
	}
	ps, err := processesOf(c.host.Pid())
	if err != nil {
		return err
	}
	b.line("pod_overhead_pss", sum(ps, pss, "shim", "vmm"), "MB")
	for _, r := range []string{"shim", "vmm", "virtiofsd", "qemu"} {
		b.line("pod_"+r+"_pss", sum(ps, pss, r), "MB")
		b.line("pod_"+r+"_rss", sum(ps, rss, r), "MB")
	}
	return deletePods(ctx, client, "vm-memory")
}
