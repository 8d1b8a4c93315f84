package robustness_test

import (
	"context"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/nodeless/nodeless/tests/testcluster"
)

const (
	apiBack      = 10 * time.Second // the median of many kills
	apiBackWorst = 30 * time.Second // a single one; the machine may be busy with something else
)

// TestFaultServerKill: the server is killed under concurrent writes, again and again. No acknowledged write is lost,
// no Pod is restarted, and the API is back within seconds.
func TestFaultServerKill(t *testing.T) {
	s := newSpace(t, sharedCluster(t), 40*time.Minute)
	s.Apply(testcluster.Sleeper("witness", ""))
	before := *s.Ready("witness")
	boot := s.MustExec("witness", "cat", "/proc/sys/kernel/random/boot_id")
	w := newWriters(t, s)
	var took []time.Duration
	for i := range count(50, 5) {
		stop := w.write(16)
		goal := w.count() + 100 + 37*(i%5) // not always at the same point of whatever the server does
		s.Until("writes are acknowledged", func() (bool, error) { return w.count() >= goal, nil })
		if err := s.Kill(s.Ctx); err != nil {
			t.Fatal(err)
		}
		stop()
		if err := s.Launch(); err != nil {
			t.Fatal(err)
		}
		took = append(took, s.untilAPI(w))
		w.mustKeepAll(t, s.Ctx)
		if t.Failed() {
			break
		}
	}
	if err := s.UntilUsable(s.Ctx); err != nil {
		t.Fatal(err)
	}
	mustRunOn(t, s, before, boot)
	slices.Sort(took)
	median, worst := took[len(took)/2], took[len(took)-1]
	t.Logf("%d kills, %d acknowledged writes, none lost; API back after %s (median), %s (worst)", len(took), w.count(), median.Round(10*time.Millisecond), worst.Round(10*time.Millisecond))
	if !testing.Short() && (median > apiBack || worst > apiBackWorst) { // in CI other tests share the machine
		t.Errorf("API back after %s (median) and %s (worst), want at most %s and %s", median, worst, apiBack, apiBackWorst)
	}
}

// untilAPI waits until a write is acknowledged again, and tells how long after the start of the process that was.
func (s *space) untilAPI(w *writers) time.Duration {
	s.T.Helper()
	s.Until("a write is acknowledged", func() (bool, error) {
		ctx, cancel := context.WithTimeout(s.Ctx, 5*time.Second)
		defer cancel()
		err := w.one(ctx)
		return err == nil, err
	})
	return time.Since(s.Server.Began)
}

// mustRunOn: the Pod is still the same one, in the same microVM, never restarted, and answers.
func mustRunOn(t *testing.T, s *space, before corev1.Pod, boot string) {
	t.Helper()
	after := s.Ready(before.Name)
	was, is := before.Status.ContainerStatuses[0], after.Status.ContainerStatuses[0]
	if after.UID != before.UID || is.ContainerID != was.ContainerID || is.RestartCount != was.RestartCount {
		t.Errorf("Pod %s: container %s with %d restarts, before %s with %d", before.Name, is.ContainerID, is.RestartCount, was.ContainerID, was.RestartCount)
	}
	s.Until("exec works", func() (bool, error) { // the Node says Ready from before; the kubelet may need another moment
		out, code := s.Exec(before.Name, "cat", "/proc/sys/kernel/random/boot_id")
		if code == 0 && out != boot+"\n" {
			t.Errorf("the microVM was booted again: %q, before %q", out, boot)
		}
		return code == 0, nil
	})
}
