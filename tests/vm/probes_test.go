package vm_test

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/nodeless/nodeless/tests/testcluster"
)

func TestExecProbeGatesReadiness(t *testing.T) {
	s := newSpace(t, 3*time.Minute)
	s.Apply(testcluster.Sleeper("a", "    readinessProbe: {exec: {command: [test, -e, /tmp/open]}, periodSeconds: 1, failureThreshold: 1}\n"))
	s.Pod("a", "runs but is not ready", func(pod *corev1.Pod) bool {
		return pod.Status.Phase == corev1.PodRunning && pod.Status.ContainerStatuses[0].State.Running != nil && !testcluster.IsReady(pod)
	})
	s.MustExec("a", "sh", "-c", "mkdir -p /tmp && touch /tmp/open")
	s.Ready("a")
	s.MustExec("a", "rm", "/tmp/open")
	s.Pod("a", "is not ready any more", func(pod *corev1.Pod) bool { return !testcluster.IsReady(pod) })
}

func TestHTTPProbeRestarts(t *testing.T) {
	s := newSpace(t, 4*time.Minute)
	s.Apply(`
apiVersion: v1
kind: Pod
metadata: {name: web}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: IMAGE
    readinessProbe: {httpGet: {path: /, port: 8080}, periodSeconds: 1}
    livenessProbe: {httpGet: {path: /, port: 9999}, initialDelaySeconds: 5, periodSeconds: 1, failureThreshold: 3}
`)
	s.Ready("web") // the readiness probe works, the liveness probe asks a port where nobody listens
	s.Pod("web", "is restarted by its liveness probe", func(pod *corev1.Pod) bool {
		return len(pod.Status.ContainerStatuses) > 0 && pod.Status.ContainerStatuses[0].RestartCount >= 1
	})
}
