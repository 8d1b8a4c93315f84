package nodekeeper

import (
	"errors"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/client-go/tools/cache"
)

func node(name string) *corev1.Node {
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{
			Name: name, UID: types.UID("of-" + name), ResourceVersion: "7", CreationTimestamp: metav1.Now(), DeletionTimestamp: &metav1.Time{}, Finalizers: []string{"a/b"},
			Labels: map[string]string{"node-role.kubernetes.io/mine": ""}, Annotations: map[string]string{"k": "v"}, ManagedFields: []metav1.ManagedFieldsEntry{{Manager: "m"}},
		},
		Spec:   corev1.NodeSpec{PodCIDR: "10.42.0.0/24", Unschedulable: true, Taints: []corev1.Taint{{Key: "mine", Effect: corev1.TaintEffectNoSchedule}}},
		Status: corev1.NodeStatus{Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "10.42.0.1"}}},
	}
}

func TestANodeIsMadeAnew(t *testing.T) {
	last := node("own")
	want := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "own", Labels: last.Labels, Annotations: last.Annotations}, Spec: last.Spec, Status: last.Status}
	if diff := cmp.Diff(want, anew(last)); diff != "" {
		t.Errorf("anew (-want +got):\n%s", diff)
	}
}

// TestTheOwnNodeComesBack: the host's, not another one's, and also when the first attempts fail. Where somebody else was first, his stays.
func TestTheOwnNodeComesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := fake.NewClientset()
		refused := 0
		client.PrependReactor("create", "nodes", func(clienttesting.Action) (bool, runtime.Object, error) {
			refused++
			return refused <= 2, nil, errors.New("not now")
		})
		k := New(Config{NodeName: "own"}, slog.New(slog.DiscardHandler))
		go k.follow(t.Context(), client) //nolint:errcheck // it ends with the test
		synctest.Wait()
		deleteNode(t, client, "own")
		deleteNode(t, client, "other")
		time.Sleep(10 * pause)
		if _, err := client.CoreV1().Nodes().Get(t.Context(), "other", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			t.Errorf("another host's Node: %v, want it gone", err)
		}
		again, err := client.CoreV1().Nodes().Get(t.Context(), "own", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if again.UID == node("own").UID || again.Spec.PodCIDR != node("own").Spec.PodCIDR {
			t.Errorf("the Node is %+v, want another one with the same spec", again)
		}
		again.Labels["mark"] = "new"
		if _, err := client.CoreV1().Nodes().Update(t.Context(), again, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		k.note(cache.DeletedFinalStateUnknown{Obj: node("own")})
		time.Sleep(10 * pause)
		if again, err := client.CoreV1().Nodes().Get(t.Context(), "own", metav1.GetOptions{}); err != nil || again.Labels["mark"] != "new" {
			t.Errorf("the Node that was there: %v, %v", again, err)
		}
	})
}

// deleteNode puts a Node there and takes it away.
func deleteNode(t *testing.T, client *fake.Clientset, name string) {
	t.Helper()
	resource := corev1.SchemeGroupVersion.WithResource("nodes")
	if err := client.Tracker().Create(resource, node(name), ""); err != nil {
		t.Fatal(err)
	}
	synctest.Wait()
	if err := client.Tracker().Delete(resource, "", name); err != nil {
		t.Fatal(err)
	}
	synctest.Wait()
}
