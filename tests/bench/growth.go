package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

const (
	grownConfigMaps = 12_000
	grownPods       = 1_000
	grownBytes      = 1_000
	// settled is the time after objects were made at which the server's memory is looked at: what is held, not what making them took.
	settled = 45 * time.Second
	// forgotten is the same after a deletion.
	forgotten = time.Minute
)

// growth measures the server's memory while objects come and go: small ConfigMaps, then Pods that wait, then a minute after all of them
// were deleted. The megabytes are the whole process's, and of them what Go's heap holds.
func (b *bench) growth(ctx context.Context) (err error) {
	ctx, cancel := deadline(ctx, 15*time.Minute)
	defer cancel()
	var flags []string
	if b.profiles != "" {
		flags = append(flags, "--kube-apiserver-arg=profiling=true")
	}
	c, err := b.newCluster(flags...)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.close()) }()
	if err := c.server.UntilNodeReady(ctx); err != nil {
		return err
	}
	cfg, err := c.host.RESTConfig()
	if err != nil {
		return err
	}
	if _, err := createMany(ctx, cfg, "bench-warm", 640); err != nil {
		return err
	}
	if err := deleteNamespace(ctx, cfg, "bench-warm"); err != nil {
		return err
	}
	start, err := b.held(ctx, c, cfg, "start", forgotten)
	if err != nil {
		return err
	}
	took, err := createMany(ctx, cfg, "bench-grow", grownConfigMaps)
	if err != nil {
		return err
	}
	b.line("growth_configmap_create_p99", percentile(took, 99)*1000, "ms")
	maps, err := b.held(ctx, c, cfg, "configmaps", settled)
	if err != nil {
		return err
	}
	b.line("growth_per_1000_configmaps", (maps-start)/(grownConfigMaps/1000), "MB")
	if err := createWaiting(ctx, cfg, grownPods); err != nil {
		return err
	}
	pods, err := b.held(ctx, c, cfg, "pods", settled)
	if err != nil {
		return err
	}
	b.line("growth_per_1000_pods", (pods-maps)/(grownPods/1000), "MB")
	for _, ns := range []string{"bench-grow", "bench-wait"} {
		if err := deleteNamespace(ctx, cfg, ns); err != nil {
			return err
		}
	}
	end, err := b.held(ctx, c, cfg, "deleted", forgotten)
	if err != nil {
		return err
	}
	b.line("growth_left", (end/start-1)*100, "%")
	return nil
}

// held prints what the server has of memory, a while after what was done to it.
func (b *bench) held(ctx context.Context, c *cluster, cfg *rest.Config, when string, after time.Duration) (rss float64, err error) {
	if err := pause(ctx, after); err != nil {
		return 0, err
	}
	ps, err := processesOf(c.host.Pid())
	if err != nil {
		return 0, err
	}
	rss = sum(ps, func(p process) float64 { return p.rss }, "server")
	b.line("growth_rss_"+when, rss, "MB")
	heap, err := goHeap(ctx, cfg)
	if err != nil {
		return 0, err
	}
	for _, m := range []string{"alloc", "inuse", "idle", "released"} {
		b.line("growth_heap_"+m+"_"+when, heap["go_memstats_heap_"+m+"_bytes"]/1e6, "MB")
	}
	return rss, b.profile(ctx, cfg, when)
}

// profile keeps what Go's heap holds after a collection, and by whom, for `go tool pprof`.
func (b *bench) profile(ctx context.Context, cfg *rest.Config, when string) error {
	if b.profiles == "" {
		return nil
	}
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	raw, err := client.CoreV1().RESTClient().Get().AbsPath("/debug/pprof/heap").Param("gc", "1").DoRaw(ctx)
	if err != nil {
		return fmt.Errorf("read the heap profile: %w", err)
	}
	return os.WriteFile(filepath.Join(b.profiles, when+".pb.gz"), raw, 0o600)
}

// goHeap reads what the apiserver says of Go's heap in this process.
func goHeap(ctx context.Context, cfg *rest.Config) (map[string]float64, error) {
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return nil, fmt.Errorf("connect: %w", err)
	}
	raw, err := client.CoreV1().RESTClient().Get().AbsPath("/metrics").DoRaw(ctx)
	if err != nil {
		return nil, fmt.Errorf("read metrics: %w", err)
	}
	found := map[string]float64{}
	for s := bufio.NewScanner(strings.NewReader(string(raw))); s.Scan(); {
		var name string
		var value float64
		if _, err := fmt.Sscan(s.Text(), &name, &value); err == nil && strings.HasPrefix(name, "go_memstats_") {
			found[name] = value
		}
	}
	return found, nil
}

// createMany has 32 writers create ConfigMaps of a kilobyte in a new namespace.
func createMany(ctx context.Context, cfg *rest.Config, namespace string, n int) ([]float64, error) {
	client, err := fast(cfg)
	if err != nil {
		return nil, err
	}
	if err := makeNamespace(ctx, client, namespace); err != nil {
		return nil, err
	}
	return inParallel(n, func(i int) error {
		_, err := client.CoreV1().ConfigMaps(namespace).Create(ctx, &corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("cm-%d", i)}, Data: map[string]string{"payload": strings.Repeat("x", grownBytes)},
		}, metav1.CreateOptions{})
		return err
	})
}

// createWaiting creates Pods that find no host.
func createWaiting(ctx context.Context, cfg *rest.Config, n int) error {
	client, err := fast(cfg)
	if err != nil {
		return err
	}
	if err := makeNamespace(ctx, client, "bench-wait"); err != nil {
		return err
	}
	_, err = inParallel(n, func(i int) error {
		_, err := client.CoreV1().Pods("bench-wait").Create(ctx, pendingPod(i), metav1.CreateOptions{})
		return err
	})
	return err
}

func fast(cfg *rest.Config) (kubernetes.Interface, error) {
	cfg = rest.CopyConfig(cfg)
	cfg.QPS, cfg.Burst = 1e5, 1e5
	cfg.ContentType = "application/vnd.kubernetes.protobuf"
	cfg.WarningHandler = rest.NoWarnings{}
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return nil, fmt.Errorf("connect: %w", err)
	}
	return client, nil
}

// makeNamespace returns when Pods can be made in it.
func makeNamespace(ctx context.Context, client kubernetes.Interface, name string) error {
	if _, err := client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("create namespace: %w", err)
	}
	for { // its ServiceAccount comes a moment later
		_, err := client.CoreV1().ServiceAccounts(name).Get(ctx, "default", metav1.GetOptions{})
		if err == nil {
			return nil
		}
		if err := pause(ctx, 100*time.Millisecond); err != nil {
			return err
		}
	}
}

// deleteNamespace returns when it is gone with all that was in it.
func deleteNamespace(ctx context.Context, cfg *rest.Config, name string) error {
	client, err := fast(cfg)
	if err != nil {
		return err
	}
	if err := client.CoreV1().Namespaces().Delete(ctx, name, metav1.DeleteOptions{}); err != nil {
		return fmt.Errorf("delete namespace: %w", err)
	}
	for {
		if _, err := client.CoreV1().Namespaces().Get(ctx, name, metav1.GetOptions{}); err != nil {
			return ctx.Err()
		}
		if err := pause(ctx, time.Second); err != nil {
			return err
		}
	}
}
