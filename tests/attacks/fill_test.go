package attacks_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodeless/nodeless/tests/attack"
	"github.com/nodeless/nodeless/tests/testcluster"
)

// flooders is how many requests of one attacker are under way at once.
const flooders = 32

// TestAttackTenantFills: one tenant fills what all share, a second one watches.
func TestAttackTenantFills(t *testing.T) {
	attack.Slow(t)
	victim, mallory := newTenant(t, shared, "victim"), newTenant(t, shared, "mallory")
	victim.Apply(testcluster.Sleeper("neighbour", ""))
	mallory.Apply(testcluster.Sleeper("base", "    securityContext: {privileged: true}\n    resources: {limits: {cpu: \"1\", memory: 1Gi}}\n"))
	victim.Ready("neighbour")
	mallory.Ready("base")

	attack.Try(t, "T6", "a flood of events", func(t *testing.T) attack.Outcome {
		finish := watch(t, victim, "neighbour")
		refused := flood(t, 20*time.Second, func(ctx context.Context, n int) error {
			_, err := mallory.Client.CoreV1().Events(mallory.Name).Create(ctx, &corev1.Event{
				ObjectMeta:     metav1.ObjectMeta{Name: fmt.Sprintf("flood-%d", n)},
				InvolvedObject: corev1.ObjectReference{Kind: "Pod", Name: "base", Namespace: mallory.Name},
				Message:        strings.Repeat("x", 1000),
			}, metav1.CreateOptions{})
			return err
		}, apierrors.IsTooManyRequests)
		finish(t)
		return refused
	})
	attack.Try(t, "T6", "a database full of large objects", func(t *testing.T) attack.Outcome {
		finish := watch(t, victim, "neighbour")
		refused := flood(t, 30*time.Second, func(ctx context.Context, n int) error {
			cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("flood-%d", n)}, Data: map[string]string{"x": strings.Repeat("x", 900<<10)}}
			// An honest client would wait as it is told, and try again.
			return mallory.Client.CoreV1().RESTClient().Post().MaxRetries(0).Namespace(mallory.Name).Resource("configmaps").Body(cm).Do(ctx).Error()
		}, func(err error) bool { // by the quota, or since it writes too fast
			return apierrors.IsForbidden(err) || apierrors.IsTooManyRequests(err)
		})
		finish(t)
		return refused
	})
	attack.Try(t, "T6", "more Pods than its quota has", func(t *testing.T) attack.Outcome {
		finish := watch(t, victim, "neighbour")
		refused := flood(t, 20*time.Second, func(ctx context.Context, n int) error {
			_, err := mallory.Client.CoreV1().Pods(mallory.Name).Create(ctx, &corev1.Pod{
				ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("flood-%d", n)},
				Spec: corev1.PodSpec{
					NodeSelector: map[string]string{"no": "such-node"}, // the database and the scheduler are the aim here, not the host
					Containers:   []corev1.Container{{Name: "c", Image: testcluster.Image}},
				},
			}, metav1.CreateOptions{})
			return err
		}, apierrors.IsForbidden)
		finish(t)
		return refused
	})
	attack.Try(t, "T13", "a guest that asks for thousands of addresses", func(t *testing.T) attack.Outcome {
		finish := watch(t, victim, "neighbour")
		mallory.MustExec("base", "sh", "-c", "for net in 0 1 2 3 4 5 6 7; do for i in $(seq 2 250); do ping -q -c 1 -W 1 10.99.$net.$i >/dev/null & done; wait; done; true")
		victim.MustExec("neighbour", "/hello", "resolve", "kubernetes.default.svc.cluster.local")
		finish(t)
		return attack.Contained
	})
	attack.Try(t, "T6", "a guest that takes more memory than it has", func(t *testing.T) attack.Outcome {
		finish := watch(t, victim, "neighbour")
		out, code := mallory.Exec("base", "/hello", "alloc", "4000")
		t.Logf("exit code %d: %.300s", code, out)
		finish(t)
		if code == 0 { // it has a microVM of 2 GiB at most
			return attack.Succeeded
		}
		return attack.Contained
	})
}

// flood calls f from many sides until the time is over, and expects that at some point it is refused, by an error for which is says so.
// What else is answered is logged. That nobody else suffers is for watch to see.
func flood(t *testing.T, lasts time.Duration, f func(ctx context.Context, n int) error, is func(error) bool) attack.Outcome {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), lasts)
	defer cancel()
	var next, taken, refused atomic.Int64
	var other atomic.Value
	var all sync.WaitGroup
	for range flooders {
		all.Go(func() {
			for ctx.Err() == nil {
				switch err := f(ctx, int(next.Add(1))); {
				case err == nil:
					taken.Add(1)
				case is(err):
					refused.Add(1)
				case ctx.Err() == nil:
					other.Store(err.Error())
				}
			}
		})
	}
	all.Wait()
	t.Logf("%d tried, %d taken, %d refused, last other error: %v", next.Load(), taken.Load(), refused.Load(), other.Load())
	if refused.Load() == 0 {
		return attack.Succeeded
	}
	return attack.Refused
}
