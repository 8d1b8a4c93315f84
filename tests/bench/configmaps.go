package main

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
)

const (
	writers          = 32
	configMapsPerRun = 640
	configMapBytes   = 512
)

// createConfigMaps has 32 writers create ConfigMaps of 512 bytes in a namespace of their own, and returns
// how long each create took. The namespace is deleted afterwards.
func createConfigMaps(ctx context.Context, cfg *rest.Config, run int) ([]float64, error) {
	client, err := fast(cfg)
	if err != nil {
		return nil, err
	}
	ns := fmt.Sprintf("bench-cm-%d", run)
	if _, err := client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns}}, metav1.CreateOptions{}); err != nil {
		return nil, fmt.Errorf("create namespace: %w", err)
	}
	defer func() { _ = client.CoreV1().Namespaces().Delete(ctx, ns, metav1.DeleteOptions{}) }()
	return inParallel(configMapsPerRun, func(i int) error {
		_, err := client.CoreV1().ConfigMaps(ns).Create(ctx, &corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("cm-%d", i)},
			Data:       map[string]string{"payload": strings.Repeat("x", configMapBytes)},
		}, metav1.CreateOptions{})
		return err
	})
}

// inParallel has 32 writers do n things, and returns how many seconds each took.
func inParallel(n int, do func(i int) error) ([]float64, error) {
	work := make(chan int)
	type result struct {
		took time.Duration
		err  error
	}
	results := make(chan result, n)
	var wg sync.WaitGroup
	for range writers {
		wg.Go(func() {
			for i := range work {
				began := time.Now()
				err := do(i)
				results <- result{time.Since(began), err}
			}
		})
	}
	for i := range n {
		work <- i
	}
	close(work)
	wg.Wait()
	close(results)

	var took []time.Duration
	for r := range results {
		if r.err != nil {
			return nil, fmt.Errorf("create: %w", r.err)
		}
		took = append(took, r.took)
	}
	return seconds(took), nil
}
