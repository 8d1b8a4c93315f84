package attacks_test

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/nodeless/nodeless/tests/testcluster"
)

// tenant is a user of the cluster with a namespace of its own.
type tenant struct {
	*testcluster.Space // of the administrator's view
	Client             *kubernetes.Clientset
}

// newTenant makes a user as an operator would, with further arguments of `user create`, and the client of its kubeconfig. Both go at the
// test's end.
func newTenant(t *testing.T, c *testcluster.Cluster, name string, more ...string) *tenant {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	t.Cleanup(cancel)
	file := "/run/" + name + ".kubeconfig"
	args := append([]string{"user", "create", name, "--namespaces", name, "--kubeconfig-out", file}, more...)
	if _, err := c.Host.Nodeless(ctx, args...); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, args := range [][]string{{"user", "delete", name}, {"kubectl", "delete", "namespace", name}} {
			if _, err := c.Host.Nodeless(context.Background(), args...); err != nil {
				t.Error(err)
			}
		}
	})
	cfg, err := clientcmd.BuildConfigFromFlags("", filepath.Clean(c.Host.Path(file)))
	if err != nil {
		t.Fatal(err)
	}
	cfg.Dial, cfg.QPS, cfg.Burst = c.Host.Dial, 5000, 5000 // an attacker's client does not hold itself back
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		t.Fatal(err)
	}
	space := &testcluster.Space{Cluster: c, T: t, Ctx: ctx, Name: name}
	space.Until("service account", func() (bool, error) {
		_, err := client.CoreV1().ServiceAccounts(name).Get(ctx, "default", metav1.GetOptions{})
		return err == nil, err
	})
	return &tenant{Space: space, Client: client}
}

// neighbourDelay is the most that the 99th percentile of a neighbour's requests may take while it is watched.
const neighbourDelay = time.Second

// watcher is a second tenant who has a Pod and asks for it all the time.
type watcher struct {
	tenant *tenant
	before *corev1.Pod

	stop context.CancelFunc
	done sync.WaitGroup

	mu     sync.Mutex
	took   []time.Duration // of each request; guarded by mu
	faults []string        // guarded by mu
}

// watch has the tenant's Pod looked at until the function it returns is called. That one fails the test when a neighbour would have noticed
// something: a Pod that was not ready, was restarted, evicted or replaced, or requests that failed or took long.
func watch(t *testing.T, neighbour *tenant, pod string) (finish func(t *testing.T)) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	w := &watcher{tenant: neighbour, before: neighbour.Ready(pod), stop: cancel}
	w.done.Add(1)
	go func() {
		defer w.done.Done()
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				w.look(pod)
			}
		}
	}()
	return func(t *testing.T) {
		t.Helper()
		w.stop()
		w.done.Wait()
		w.report(t)
	}
}

// look asks once, by the neighbour's own client.
func (w *watcher) look(name string) {
	began := time.Now()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	pod, err := w.tenant.Client.CoreV1().Pods(w.tenant.Name).Get(ctx, name, metav1.GetOptions{})
	took := time.Since(began)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.took = append(w.took, took)
	switch {
	case err != nil:
		w.faults = append(w.faults, fmt.Sprintf("a request failed after %s: %v", took, err))
	case pod.UID != w.before.UID:
		w.faults = append(w.faults, "the Pod was replaced")
	case !testcluster.IsReady(pod):
		w.faults = append(w.faults, fmt.Sprintf("the Pod is %s %s, not ready: %v", pod.Status.Phase, pod.Status.Reason, testcluster.States(pod)))
	case restarts(pod) != restarts(w.before):
		w.faults = append(w.faults, fmt.Sprintf("a container was restarted: %v", testcluster.States(pod)))
	}
}

func restarts(pod *corev1.Pod) (n int32) {
	for _, c := range pod.Status.ContainerStatuses {
		n += c.RestartCount
	}
	return n
}

func (w *watcher) report(t *testing.T) {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.took) == 0 {
		t.Fatal("the neighbour was not watched at all")
	}
	slices.Sort(w.took)
	p99 := w.took[len(w.took)*99/100]
	t.Logf("neighbour: %d requests, p50 %s, p99 %s, longest %s, %d faults", len(w.took), w.took[len(w.took)/2], p99, w.took[len(w.took)-1], len(w.faults))
	if p99 >= neighbourDelay {
		t.Errorf("the neighbour's requests took %s (p99), want less than %s", p99, neighbourDelay)
	}
	if len(w.faults) > 0 {
		t.Errorf("the neighbour noticed the attack: %s", strings.Join(w.faults[:min(len(w.faults), 5)], "; "))
	}
}
