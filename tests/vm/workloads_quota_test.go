package vm_test

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodeless/nodeless/tests/testcluster"
)

const quota = `
apiVersion: v1
kind: LimitRange
metadata: {name: range}
spec:
  limits:
  - type: Container
    default: {memory: 96Mi}
    defaultRequest: {memory: 32Mi}
    max: {memory: 128Mi}
---
apiVersion: v1
kind: ResourceQuota
metadata: {name: small}
spec:
  hard: {pods: "1", requests.memory: 2Gi, limits.memory: 2Gi}
`

// TestQuotaAndLimitRange: what a LimitRange puts into a Pod holds in its guest. What a ResourceQuota or the range does not allow is
// refused by its name. What a Pod took is given back.
func TestQuotaAndLimitRange(t *testing.T) {
	s := newSpace(t, 3*time.Minute)
	s.Apply(quota)
	s.Until("the quota has been counted", func() (bool, error) {
		q, err := s.Client.CoreV1().ResourceQuotas(s.Name).Get(s.Ctx, "small", metav1.GetOptions{})
		return err == nil && len(q.Status.Used) == 3, err
	})
	s.Apply(testcluster.Sleeper("a", ""))
	pod := s.Ready("a")
	if got := s.MustExec("a", "cat", "/sys/fs/cgroup/memory.max"); got != strconv.Itoa(96<<20) {
		t.Errorf("memory.max = %s, want the range's default of 96 MiB", got)
	}
	// The Pod counts as its spec, the smallest one, and what the microVM takes beside its containers is the tenant's as well.
	overhead := pod.Spec.Overhead.Memory()
	if overhead.IsZero() {
		t.Error("the Pod has no overhead")
	}
	for name, of := range map[corev1.ResourceName]string{"requests.memory": "512Mi", "limits.memory": "512Mi"} {
		want := resource.MustParse(of)
		want.Add(*overhead)
		if used := s.used(name); used.Cmp(want) != 0 {
			t.Errorf("the quota counts %s of %s, want %s", used.String(), name, want.String())
		}
	}

	s.notAdmitted("second", "", "exceeded quota: small, requested: pods=1, used: pods=1, limited: pods=1")
	s.notAdmitted("greedy", "    resources: {limits: {memory: 256Mi}}\n", "maximum memory usage per Container is 128Mi")

	s.Kubectl("delete", "pod", "a")
	s.Until("the quota is free again", func() (bool, error) {
		used := s.used("pods")
		return used.IsZero(), fmt.Errorf("%s Pods are counted", used.String())
	})
	s.Kubectl("run", "second", "--image="+testcluster.Image, "--dry-run=server")
}

// used is what the quota counts.
func (s *space) used(name corev1.ResourceName) resource.Quantity {
	s.T.Helper()
	q, err := s.Client.CoreV1().ResourceQuotas(s.Name).Get(s.Ctx, "small", metav1.GetOptions{})
	if err != nil {
		s.T.Fatal(err)
	}
	return q.Status.Used[name]
}

// notAdmitted tries to make a sleeper and wants to be told why it may not.
func (s *space) notAdmitted(name, extra, why string) {
	s.T.Helper()
	cmd := s.Host.Command(s.Ctx, s.Host.Program, "kubectl", "-n", s.Name, "apply", "-f", "-")
	cmd.Stdin = strings.NewReader(strings.ReplaceAll(testcluster.Sleeper(name, extra), "IMAGE", testcluster.Image))
	out, err := cmd.CombinedOutput()
	if err == nil || !strings.Contains(string(out), why) {
		s.T.Errorf("Pod %s: %v, %s; want it refused with %q", name, err, out, why)
	}
	if _, err := s.Client.CoreV1().Pods(s.Name).Get(s.Ctx, name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		s.T.Errorf("Pod %s: %v, want none", name, err)
	}
}
