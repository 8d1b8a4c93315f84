package robustness_test

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// writers create ConfigMaps all the time and remember each that the API has acknowledged.
type writers struct {
	client *kubernetes.Clientset
	space  string

	mu    sync.Mutex
	acked map[string]string // guarded by mu: name → resource version
	next  int               // guarded by mu
}

func newWriters(t *testing.T, s *space) *writers {
	t.Helper()
	cfg := rest.CopyConfig(s.REST)
	cfg.Timeout = 5 * time.Second
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return &writers{client: client, space: s.Name, acked: make(map[string]string)}
}

// write lets n writers work until the returned function is called, which waits for them.
func (w *writers) write(n int) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	for range n {
		wg.Go(func() {
			for ctx.Err() == nil {
				w.one(ctx) //nolint:errcheck // while the server is dead, it fails
			}
		})
	}
	return func() { cancel(); wg.Wait() }
}

// one creates a ConfigMap under a name that was never tried before.
func (w *writers) one(ctx context.Context) error {
	w.mu.Lock()
	name := fmt.Sprintf("w%06d", w.next)
	w.next++
	w.mu.Unlock()
	made, err := w.client.CoreV1().ConfigMaps(w.space).Create(ctx, &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"of": "writers"}}, Data: map[string]string{"name": name},
	}, metav1.CreateOptions{})
	if err != nil {
		select { // not a busy loop while nobody listens
		case <-ctx.Done():
		case <-time.After(20 * time.Millisecond):
		}
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.acked[name] = made.ResourceVersion
	return nil
}

// count is how many were acknowledged.
func (w *writers) count() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.acked)
}

// lost lists what was acknowledged and is not there any more, or is another object, and the revision of the last
// acknowledged one that is there.
func (w *writers) lost(ctx context.Context) (lost map[string]string, last int64, err error) {
	list, err := w.client.CoreV1().ConfigMaps(w.space).List(ctx, metav1.ListOptions{LabelSelector: "of=writers"})
	if err != nil {
		return nil, 0, err
	}
	there := make(map[string]string, len(list.Items))
	for i := range list.Items {
		there[list.Items[i].Name] = list.Items[i].ResourceVersion
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	lost = make(map[string]string)
	for name, version := range w.acked {
		if there[name] != version {
			lost[name] = version
			continue
		}
		rev, err := strconv.ParseInt(version, 10, 64)
		if err != nil {
			return nil, 0, err
		}
		last = max(last, rev)
	}
	return lost, last, nil
}

// mustKeepAll fails the test if an acknowledged write is gone.
func (w *writers) mustKeepAll(t *testing.T, ctx context.Context) {
	t.Helper()
	lost, _, err := w.lost(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if len(lost) > 0 {
		t.Errorf("%d of %d acknowledged writes are lost: %v", len(lost), w.count(), lost)
	}
}

// newest is the acknowledged write of the highest revision.
func (w *writers) newest() (name string, rev int64, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for n, version := range w.acked {
		got, err := strconv.ParseInt(version, 10, 64)
		if err != nil {
			return "", 0, err
		}
		if got > rev {
			name, rev = n, got
		}
	}
	return name, rev, nil
}

// forget drops writes whose loss was expected.
func (w *writers) forget(lost map[string]string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for name := range lost {
		delete(w.acked, name)
	}
}
