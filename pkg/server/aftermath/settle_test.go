package aftermath

import (
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"

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
			a := New(Config{NodeName: tt.now, RestoredFile: note}, slog.New(slog.DiscardHandler))
			if err := a.settle(t.Context(), client, datadir.Restored{Node: "alpha", Created: time.Now()}); err != nil {
				t.Fatal(err)
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
