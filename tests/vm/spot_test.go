package vm_test

import (
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodeless/nodeless/pkg/api"
	"github.com/nodeless/nodeless/tests/testcluster"
)

// TestSpotPodsGiveWay: after notice where ordinary Pods have grown into the reserve, at once where one finds no other room, and
// never the other way round. It is worked out for a host that gives eight CPUs, of which spot Pods leave a tenth.
func TestSpotPodsGiveWay(t *testing.T) {
	s := newQuietSpace(t, 6*time.Minute)
	if cpus := s.allocatable(corev1.ResourceCPU).Value(); cpus != 8 {
		t.Skipf("skipped: the host gives %d CPUs, and the test is worked out for 8", cpus)
	}
	ordinary := func(name, cpu string) string {
		return testcluster.Sleeper(name, "    resources: {requests: {cpu: "+cpu+"}}\n")
	}
	spot := func(name, cpu string) string {
		return strings.Replace(ordinary(name, cpu), "metadata: {", "metadata: {annotations: {"+api.SpotPod+`: "true"}, `, 1)
	}
	gone := func(name string) {
		t.Helper()
		s.Until("Pod "+name+" is gone", func() (bool, error) {
			_, err := s.Client.CoreV1().Pods(s.Name).Get(s.Ctx, name, metav1.GetOptions{})
			return apierrors.IsNotFound(err), err
		})
	}

	s.Apply(spot("cheap", "2"))
	pod := s.Ready("cheap")
	if pod.Annotations[api.ChargeType] != api.ChargeSpot || pod.Spec.PriorityClassName != api.SpotClass || *pod.Spec.Priority != api.SpotPriority {
		t.Errorf("the spot Pod has charge %s, class %s", pod.Annotations[api.ChargeType], pod.Spec.PriorityClassName)
	}

	// 2 + 4 + 2 of 8: the last tenth is in use, so that the spot Pod is told, and goes 20 s later.
	s.Apply(ordinary("web", "4") + "---" + ordinary("small", "2"))
	s.event("cheap", "SpotPodInterruption", "will be killed and re-created at ")
	told := s.Pod("cheap", "was told", func(pod *corev1.Pod) bool {
		return pod.Annotations[api.InterruptionAt] != "" && pod.DeletionTimestamp == nil
	})
	at, err := time.Parse(time.RFC3339, told.Annotations[api.InterruptionAt])
	if left := time.Until(at); err != nil || left > 20*time.Second {
		t.Errorf("it goes at %s, in %s; want within its notice of 20 s", at, left)
	}
	gone("cheap")
	if now := time.Now(); now.Before(at) {
		t.Errorf("it was gone at %s, before its notice was over at %s", now, at)
	}
	s.event("cheap", "SpotPodInterruption", "its notice is over")

	// A spot Pod is not let into the reserve, nor does it push anybody out.
	s.Apply(spot("late", "2"))
	s.event("late", "FailedScheduling", "spot Pods leave 10 percent of a host free")

	// It takes what is idle beside the reserve, and an ordinary Pod that finds no other room pushes it out.
	s.Kubectl("delete", "pod", "small", "late")
	s.Apply(spot("cheap2", "2"))
	s.Ready("cheap2")
	s.Apply(ordinary("web2", "4"))
	s.event("cheap2", "SpotPodInterruption", "without notice")
	gone("cheap2")
	s.Ready("web2")
	s.Ready("web")
}
