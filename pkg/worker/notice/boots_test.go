package notice

import (
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/nodeless/nodeless/pkg/sandboxrecord"
	"github.com/nodeless/nodeless/pkg/vmm"
)

// TestPodThatWaitsToBootIsToldWhy: a Pod without a microVM yet says what it waits for, once for each attempt.
func TestPodThatWaitsToBootIsToldWhy(t *testing.T) {
	begun := time.Unix(1e9, 0)
	pod := func(name string, booting bool, since time.Time) vmm.Boot {
		return vmm.Boot{Pod: sandboxrecord.Pod{Namespace: "shop", Name: name, UID: "uid-" + name}, Booting: booting, Since: since}
	}
	n, client := newNotice(t), fake.NewClientset()
	var boots []vmm.Boot
	n.cfg.Boots = func() []vmm.Boot { return boots }
	events := func() string {
		list, err := client.CoreV1().Events("shop").List(t.Context(), metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		var all []string
		for _, e := range list.Items {
			all = append(all, e.InvolvedObject.Name+" "+e.Reason+" "+e.Message)
		}
		return strings.Join(all, "\n")
	}
	boots = []vmm.Boot{pod("a", true, begun), pod("b", true, begun), pod("c", false, begun), pod("d", false, begun)}
	for _, step := range []struct {
		after time.Duration
		want  []string // all that is said by then
	}{
		{after: longWait - time.Second},
		{after: longWait, want: []string{"c WaitsToBoot 2 other microVMs are booting on this host, and 0 more have waited", "d WaitsToBoot 2 other microVMs are booting on this host, and 1 more have waited"}},
		{after: 2 * longWait, want: []string{"c WaitsToBoot", "d WaitsToBoot"}},
		{after: longBoot, want: []string{"a BootsSlowly the microVM has been booting for 30s, 1 others", "b BootsSlowly", "c WaitsToBoot", "d WaitsToBoot"}},
	} {
		if err := n.tellBoots(t.Context(), client, begun.Add(step.after)); err != nil {
			t.Fatal(err)
		}
		said := events()
		for _, want := range step.want {
			if !strings.Contains(said, want) {
				t.Errorf("after %v: said is\n%s\nwant %q", step.after, said, want)
			}
		}
		if got := len(strings.FieldsFunc(said, func(r rune) bool { return r == '\n' })); got != len(step.want) {
			t.Errorf("after %v: %d events, want %d:\n%s", step.after, got, len(step.want), said)
		}
	}
	boots = []vmm.Boot{pod("c", false, begun.Add(time.Hour))} // another attempt
	if err := n.tellBoots(t.Context(), client, begun.Add(2*time.Hour)); err != nil || strings.Count(events(), "c WaitsToBoot") != 2 {
		t.Errorf("another attempt is not told: %v\n%s", err, events())
	}
}
