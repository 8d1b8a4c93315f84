package recovery

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/nodeless/nodeless/pkg/datadir"
)

func TestSettle(t *testing.T) {
	yes := true
	for _, tt := range []struct {
		name  string
		now   string
		moved bool
	}{{"another host", "beta", true}, {"the same host", "alpha", false}} {
		t.Run(tt.name, func(t *testing.T) {
			client := fake.NewClientset(
				&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "alpha"}},
				&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: "alone", UID: "1"}, Spec: corev1.PodSpec{NodeName: "alpha"}},
				&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: "owned", UID: "2", OwnerReferences: []metav1.OwnerReference{{Name: "rs", Controller: &yes}}}, Spec: corev1.PodSpec{NodeName: "alpha"}},
			)
			note := filepath.Join(t.TempDir(), "restored.json")
			if err := os.WriteFile(note, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			alphaTakesPods := false
			client.PrependReactor("create", "pods", func(clienttesting.Action) (bool, runtime.Object, error) {
				node, err := client.Tracker().Get(corev1.SchemeGroupVersion.WithResource("nodes"), "", "alpha") // the client holds a lock here
				alphaTakesPods = err == nil && !node.(*corev1.Node).Spec.Unschedulable
				return false, nil, nil
			})
			r := New(Config{NodeName: tt.now, RestoredFile: note}, slog.New(slog.DiscardHandler))
			if err := r.pending.load(); err != nil {
				t.Fatal(err)
			}
			from := datadir.Restored{Node: "alpha", Created: time.Now()}
			if tt.moved { // the kubelet has not registered the Node yet
				if err := r.settle(t.Context(), client, from); err == nil {
					t.Fatal("Pods were taken over to a Node that is not there")
				}
				if _, err := client.CoreV1().Nodes().Create(t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: tt.now}}, metav1.CreateOptions{}); err != nil {
					t.Fatal(err)
				}
			}
			if err := r.settle(t.Context(), client, from); err != nil {
				t.Fatal(err)
			}
			if alphaTakesPods {
				t.Error("the Pod of nobody was made again while the scheduler could give it to the old Node")
			}
			_, nodeErr := client.CoreV1().Nodes().Get(t.Context(), "alpha", metav1.GetOptions{})
			_, ownedErr := client.CoreV1().Pods("n").Get(t.Context(), "owned", metav1.GetOptions{})
			if apierrors.IsNotFound(nodeErr) != tt.moved || apierrors.IsNotFound(ownedErr) != tt.moved {
				t.Errorf("old node: %v, its controller's Pod: %v; want both gone: %v", nodeErr, ownedErr, tt.moved)
			}
			alone, err := client.CoreV1().Pods("n").Get(t.Context(), "alone", metav1.GetOptions{})
			if err != nil || (alone.Spec.NodeName == "") != tt.moved {
				t.Errorf("the Pod of nobody: %v, on node %q", err, alone.Spec.NodeName)
			}
			events, err := client.CoreV1().Events("default").List(t.Context(), metav1.ListOptions{})
			if err != nil || len(events.Items) != 1 || events.Items[0].Reason != ClusterRestored {
				t.Errorf("events: %v, %v", events.Items, err)
			}
			if _, err := os.Stat(note); err == nil {
				t.Error("the note is still there")
			}
		})
	}
}

// TestPodsSurviveAKill: the process ends after any of the calls to the apiserver, and its successor makes the Pods of nobody again.
func TestPodsSurviveAKill(t *testing.T) {
	for after := range 12 {
		client := fake.NewClientset(
			&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "alpha"}},
			&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "beta"}},
			&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: "one", UID: "1"}, Spec: corev1.PodSpec{NodeName: "alpha"}},
			&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: "two", UID: "2"}, Spec: corev1.PodSpec{NodeName: "alpha"}},
		)
		// The stand-in knows no field selectors.
		client.PrependReactor("list", "pods", func(action clienttesting.Action) (bool, runtime.Object, error) {
			all, err := client.Tracker().List(corev1.SchemeGroupVersion.WithResource("pods"), corev1.SchemeGroupVersion.WithKind("Pod"), "")
			if err != nil {
				return true, nil, err
			}
			list := all.(*corev1.PodList)
			list.Items = slices.DeleteFunc(list.Items, func(p corev1.Pod) bool { return p.Spec.NodeName != "alpha" })
			return true, list, nil
		})
		// The stand-in knows no generated names.
		client.PrependReactor("create", "events", func(clienttesting.Action) (bool, runtime.Object, error) { return true, &corev1.Event{}, nil })
		calls, killed := 0, true
		client.PrependReactor("*", "*", func(clienttesting.Action) (bool, runtime.Object, error) {
			calls++
			return killed && calls > after, nil, errors.New("the process has ended")
		})
		note := filepath.Join(t.TempDir(), "restored.json")
		from := datadir.Restored{Node: "alpha", Created: time.Now()}
		for killed = true; ; killed = false {
			r := New(Config{NodeName: "beta", RestoredFile: note}, slog.New(slog.DiscardHandler))
			if err := r.pending.load(); err != nil {
				t.Fatal(err)
			}
			err := r.settle(t.Context(), client, from)
			if !killed {
				if err != nil {
					t.Fatal(err)
				}
				break
			}
		}
		for _, name := range []string{"one", "two"} {
			if pod, err := client.CoreV1().Pods("n").Get(t.Context(), name, metav1.GetOptions{}); err != nil || pod.Spec.NodeName != "" {
				t.Errorf("killed after %d calls: Pod %s is lost: %v", after, name, err)
			}
		}
		if left, err := filepath.Glob(note + "*"); err != nil || len(left) > 0 {
			t.Errorf("killed after %d calls: left %v, %v", after, left, err)
		}
	}
}
