package notice

import (
	"encoding/json"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/nodeless/nodeless/pkg/contract"
	"github.com/nodeless/nodeless/pkg/sandboxrecord"
	"github.com/nodeless/nodeless/pkg/vmm"
)

func newNotice(t *testing.T) *Notice {
	t.Helper()
	return New(Config{Kubeconfig: "k", NodeName: "node", VMDir: t.TempDir(), VMMConfig: "v", Boots: func() []vmm.Boot { return nil }}, slog.New(slog.NewTextHandler(io.Discard, nil)))
}

func hold(t *testing.T, n *Notice, id string, h vmm.Held) {
	t.Helper()
	raw, err := json.Marshal(h)
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(n.cfg.VMDir, id)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, contract.HeldFile), raw, 0o600); err != nil {
		t.Fatal(err)
	}
}

// reasons are the events of a namespace, sorted by name.
func reasons(t *testing.T, client *fake.Clientset, namespace string) string {
	t.Helper()
	list, err := client.CoreV1().Events(namespace).List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, e := range list.Items {
		all = append(all, e.Reason)
	}
	return strings.Join(all, " ")
}

func TestHeldPodIsToldOnceAndSeldom(t *testing.T) {
	n, client, said := newNotice(t), fake.NewClientset(), map[string]told{}
	whose := sandboxrecord.Pod{Namespace: "shop", Name: "web", UID: "u-1"}
	now := time.Unix(1e9, 0)
	steps := []struct {
		name  string
		held  vmm.Held
		after time.Duration
		want  string
	}{
		{"held", vmm.Held{Pod: whose, Hold: contract.Hold{Held: true, Times: 1}}, 0, "DiskHeld"},
		{"still held", vmm.Held{Pod: whose, Hold: contract.Hold{Held: true, Times: 1}}, 2 * quiet, "DiskHeld"},
		{"let go", vmm.Held{Pod: whose, Hold: contract.Hold{Times: 1}}, 2 * quiet, "DiskHeld DiskGoesOn"},
		{"held again at once", vmm.Held{Pod: whose, Hold: contract.Hold{Held: true, Times: 2}}, time.Second, "DiskHeld DiskGoesOn"},
		{"told a minute later, with what was between left out", vmm.Held{Pod: whose, Hold: contract.Hold{Held: true, Times: 9}}, quiet, "DiskHeld DiskGoesOn DiskHeld"},
	}
	for _, s := range steps {
		now = now.Add(s.after)
		hold(t, n, "sandbox", s.held)
		if err := n.tell(t.Context(), client, said, now); err != nil {
			t.Fatal(err)
		}
		if got := reasons(t, client, "shop"); got != s.want {
			t.Errorf("%s: events are %q, want %q", s.name, got, s.want)
		}
	}
	if err := os.RemoveAll(filepath.Join(n.cfg.VMDir, "sandbox")); err != nil {
		t.Fatal(err)
	}
	if err := n.tell(t.Context(), client, said, now); err != nil || len(said) != 0 {
		t.Errorf("one that has ended is remembered: %v, %v", said, err)
	}
	hold(t, n, "nobody", vmm.Held{Hold: contract.Hold{Held: true, Times: 1}})
	if err := n.tell(t.Context(), client, said, now); err != nil {
		t.Errorf("a microVM without a Pod: %v", err)
	}
}

func TestNodeSaysHowItsMicroVMsRun(t *testing.T) {
	n, client := newNotice(t), fake.NewClientset(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node"}})
	for _, tt := range []struct {
		accel, events string
		want          corev1.ConditionStatus
	}{
		{vmm.AccelTCG, "Emulated", corev1.ConditionTrue},
		{vmm.AccelTCG, "Emulated", corev1.ConditionTrue}, // said once
		{vmm.AccelKVM, "Emulated", corev1.ConditionFalse},
	} {
		if err := n.describe(t.Context(), client, tt.accel, time.Unix(1e9, 0)); err != nil {
			t.Fatal(err)
		}
		node, err := client.CoreV1().Nodes().Get(t.Context(), "node", metav1.GetOptions{})
		if err != nil || len(node.Status.Conditions) != 1 || node.Status.Conditions[0].Status != tt.want {
			t.Errorf("%s: conditions are %v, %v", tt.accel, node.Status.Conditions, err)
		}
		if got := reasons(t, client, "default"); got != tt.events {
			t.Errorf("%s: events are %q, want %q", tt.accel, got, tt.events)
		}
	}
}
