package vm_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// probed has a container for each kind of probe, and hooks of each kind. The first waits for its startup probe before
// its liveness probe, which would fail at once, is asked.
const probed = `
apiVersion: v1
kind: Pod
metadata: {name: probed}
spec:
  terminationGracePeriodSeconds: 5
  volumes: [{name: log, emptyDir: {}}]
  containers:
  - name: slow
    image: IMAGE
    command: [sh, -c, "trap 'echo TERM >> /log/hooks; exit 0' TERM; while :; do sleep 0.2 & wait; done"]
    startupProbe: {exec: {command: [test, -e, /log/up]}, periodSeconds: 1, failureThreshold: 120}
    livenessProbe: {exec: {command: [test, -e, /log/alive]}, periodSeconds: 1, timeoutSeconds: 10, failureThreshold: 1}
    lifecycle:
      postStart: {exec: {command: [sh, -c, "echo exec postStart >> /log/hooks"]}}
      preStop: {exec: {command: [sh, -c, "echo exec preStop >> /log/hooks"]}}
    volumeMounts: &log [{name: log, mountPath: /log}]
  - name: web
    image: IMAGE
    env: [{name: PORT, value: "8080"}]
    startupProbe: {httpGet: {path: /healthz, port: 8080, httpHeaders: [{name: X-Probe, value: startup}]}, periodSeconds: 1, failureThreshold: 120}
    readinessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1}
    livenessProbe: {grpc: {port: 8080}, periodSeconds: 1, timeoutSeconds: 10, failureThreshold: 1}
    lifecycle:
      preStop: {httpGet: {path: /preStop, port: 8081}}
  - name: witness
    image: IMAGE
    env: [{name: PORT, value: "8081"}]
    lifecycle:
      postStart: {sleep: {seconds: 1}}
      preStop: {sleep: {seconds: 1}}
  - name: late
    image: IMAGE
    env: [{name: PORT, value: "8082"}]
    readinessProbe: {tcpSocket: {port: 9999}, periodSeconds: 1, failureThreshold: 1}
---
apiVersion: v1
kind: Pod
metadata: {name: hook}
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: IMAGE
    lifecycle: {postStart: {exec: {command: [sh, -c, "echo no luck >&2; exit 6"]}}}
`

// TestProbesAndHooks: each kind of probe and of hook works against a microVM, and a container that its liveness probe
// condemns is restarted in place.
func TestProbesAndHooks(t *testing.T) {
	s := newSpace(t, 4*time.Minute)
	s.Apply(probed)
	s.Pod("probed", "has its web ready, by TCP, and its first container held by the startup probe", func(pod *corev1.Pod) bool {
		web, slow := status(pod, "web"), status(pod, "slow")
		return web.Ready && slow.State.Running != nil && slow.Started != nil && !*slow.Started
	})
	s.event("probed", "Unhealthy", "Startup probe failed")
	before := s.boot("probed", "slow")
	pod := s.Pod("probed", "is up", func(*corev1.Pod) bool { return true })
	if n := status(pod, "slow").RestartCount; n != 0 {
		t.Errorf("the liveness probe did not wait for the startup probe: %d restarts", n)
	}
	if status(pod, "late").Ready {
		t.Error("a container is ready by a port where nobody listens")
	}
	s.inContainer("slow", "probed", "touch /log/alive /log/up")
	s.Pod("probed", "has its first container ready", func(pod *corev1.Pod) bool { return status(pod, "slow").Ready })

	s.inContainer("slow", "probed", "rm /log/alive")
	s.inContainer("web", "probed", "touch /tmp/unhealthy") // gRPC says so
	pod = s.Pod("probed", "has both restarted", func(pod *corev1.Pod) bool {
		return status(pod, "slow").RestartCount > 0 && status(pod, "web").RestartCount > 0 && status(pod, "web").Ready
	})
	if n := status(pod, "witness").RestartCount; n != 0 {
		t.Errorf("the container without a probe was restarted %d times", n)
	}
	if got := s.boot("probed", "witness"); got != before {
		t.Error("the restart of a container booted the microVM again")
	}
	hooks, _, _ := strings.Cut(s.inContainer("slow", "probed", "cat /log/hooks"), "\nTERM")
	if want := "exec postStart\nexec preStop"; hooks != want {
		t.Errorf("the exec hooks up to the end were %q, want %q", hooks, want)
	}
	witnessed, err := s.log("probed", "witness", false)
	if err != nil || !strings.Contains(witnessed, "GET /preStop") {
		t.Errorf("the HTTP hook was not seen: %v, %q", err, witnessed)
	}
	s.Pod("hook", "ended by its hook", func(pod *corev1.Pod) bool { return status(pod, "main").State.Terminated != nil })
	s.event("hook", "FailedPostStartHook", "PostStartHook failed")
}

// boot tells one boot of a microVM from the next.
func (s *space) boot(pod, container string) string {
	s.T.Helper()
	return s.inContainer(container, pod, "cat /proc/sys/kernel/random/boot_id")
}

// inContainer runs a script in one of several containers; surrounding space is removed.
func (s *space) inContainer(container, pod, script string) string {
	s.T.Helper()
	var out string
	s.Until(fmt.Sprintf("%q runs in container %s of Pod %s", script, container, pod), func() (bool, error) {
		var err error
		out, err = s.Host.Kubectl(s.Ctx, "-n", s.Name, "exec", pod, "-c", container, "--", "sh", "-c", script)
		return err == nil, err
	})
	return strings.TrimSpace(out)
}
