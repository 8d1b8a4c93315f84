package vm_test

import (
	"context"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodeless/nodeless/pkg/api"
	"github.com/nodeless/nodeless/tests/testbed"
	"github.com/nodeless/nodeless/tests/testcluster"
)

// agent is a DaemonSet that may be added to Pods.
const agent = `
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: agent}
spec:
  selector: {matchLabels: {app: agent}}
  template:
    metadata: {labels: {app: agent}, annotations: {eks.tke.cloud.tencent.com/ds-injection: "true"}}
    spec:
      terminationGracePeriodSeconds: 1
      tolerations: [{key: eks.tke.cloud.tencent.com/eklet, operator: Exists}]
      containers:
      - name: watch
        image: IMAGE
        command: [sh, -c, "echo agent looks after $(hostname); trap 'exit 0' TERM; while :; do sleep 1 & wait; done"]
        resources: {requests: {cpu: 4}}
`

// policyCluster is a cluster of its own with a policy for DaemonSets, and a space in it.
func policyCluster(t *testing.T, policy string) *testcluster.Space {
	t.Helper()
	host, err := testbed.New(testbed.Options{})
	if err != nil {
		t.Fatal(err)
	}
	c := &testcluster.Cluster{Host: host, Flags: []string{"--daemonsets=" + policy}}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	err = c.Start(ctx)
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Errorf("stop cluster: %v", err)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return testcluster.NewSpace(t, c, 4*time.Minute)
}

// TestDaemonSetsByPolicy: a DaemonSet is kept without Pods, with what to do instead, and is ready by its status. Or it is run once on
// each host. Or it is added to Pods, whose Jobs end all the same, at no charge.
func TestDaemonSetsByPolicy(t *testing.T) {
	t.Run("park", func(t *testing.T) {
		s := newSpace(t, time.Minute)
		out, code := s.TryApply(agent)
		if code != 0 || !strings.Contains(out, "DaemonSet "+s.Name+"/agent: kind: ") || !strings.Contains(out, "Switch it off in the chart's values, or use a sidecar or a Deployment.") {
			t.Errorf("code %d, %s", code, out)
		}
		s.Kubectl("rollout", "status", "daemonset/agent", "--timeout=30s")
		ds, err := s.Client.AppsV1().DaemonSets(s.Name).Get(s.Ctx, "agent", metav1.GetOptions{})
		if err != nil || ds.Status.DesiredNumberScheduled != 0 || ds.Status.ObservedGeneration == 0 {
			t.Errorf("the DaemonSet's status is %+v, %v, want 0 of 0", ds.Status, err)
		}
	})
	t.Run("run", func(t *testing.T) {
		s := policyCluster(t, "run")
		s.Apply(strings.Replace(agent, "cpu: 4", "cpu: 250m", 1))
		s.Pods("app=agent", 1)
	})
	t.Run("inject", func(t *testing.T) {
		s := policyCluster(t, "inject")
		s.Apply(agent)
		s.Apply(testcluster.Sleeper("web", "    resources: {requests: {cpu: 250m, memory: 512Mi}}\n"))
		pod := s.Ready("web")
		if pod.Annotations[api.Spec] != "0.25C0.5Gi" || len(pod.Spec.InitContainers) != 1 {
			t.Fatalf("the Pod is a %s with companions %v, want 0.25C0.5Gi with one", pod.Annotations[api.Spec], pod.Spec.InitContainers)
		}
		companion := pod.Spec.InitContainers[0].Name
		s.Until("the companion says whom it looks after", func() (bool, error) { // it has started, and may not have come that far
			return strings.Contains(s.Kubectl("logs", "web", "-c", companion), "agent looks after web"), nil
		})
		s.Apply(strings.Replace(testcluster.Sleeper("job", "  restartPolicy: Never\n"), `"trap 'exit 0' TERM; while :; do sleep 1 & wait; done"`, `"echo done"`, 1))
		s.Pod("job", "has succeeded", func(pod *corev1.Pod) bool { return pod.Status.Phase == corev1.PodSucceeded })
		ds, err := s.Client.AppsV1().DaemonSets(s.Name).Get(s.Ctx, "agent", metav1.GetOptions{})
		if err != nil || ds.Status.DesiredNumberScheduled != 0 {
			t.Errorf("the DaemonSet wants %d Pods of its own, %v", ds.Status.DesiredNumberScheduled, err)
		}
	})
}
