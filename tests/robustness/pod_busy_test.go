package robustness_test

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodeless/nodeless/tests/testcluster"
)

// TestFaultPodBusyHost: Pods on a host that others keep busy are slow, and none of what is done for them fails.
func TestFaultPodBusyHost(t *testing.T) {
	full(t)
	s := newSpace(t, sharedCluster(t), 30*time.Minute)
	for range 2 * runtime.NumCPU() {
		keepBusy(t)
	}
	var manifests []string
	names := []string{"a", "b", "c", "d"}
	for _, name := range names {
		manifests = append(manifests, testcluster.Sleeper(name, ""))
	}
	began := time.Now()
	s.Apply(strings.Join(manifests, "\n---\n"))
	for _, name := range names {
		pod := s.Ready(name)
		if n := pod.Status.ContainerStatuses[0].RestartCount; n > 0 {
			t.Errorf("Pod %s was restarted %d times", name, n)
		}
		t.Logf("Pod %s ran after %v", name, time.Since(began).Round(time.Second))
	}
	events, err := s.Client.CoreV1().Events(s.Name).List(t.Context(), metav1.ListOptions{FieldSelector: "reason=FailedCreatePodSandBox"})
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range events.Items {
		t.Errorf("Pod %s: %s", e.InvolvedObject.Name, e.Message)
	}
}

// keepBusy uses a core until the test is over, or its process is.
func keepBusy(t *testing.T) {
	t.Helper()
	loop := exec.CommandContext(t.Context(), "sh", "-c", fmt.Sprintf("while [ -d /proc/%d ]; do :; done", os.Getpid()))
	if err := loop.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { loop.Wait() }) //nolint:errcheck // it was killed
}
