package vm_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodeless/nodeless/tests/testcluster"
)

const webDeployment = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: %d
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 2
      containers:
      - name: web
        image: IMAGE
        ports: [{containerPort: 8080}]
        readinessProbe: {httpGet: {path: /, port: 8080}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  selector: {app: web}
  ports: [{port: 80, targetPort: 8080}]
`

func TestGuestKernelIsNotTheHosts(t *testing.T) {
	s := newSpace(t, 3*time.Minute)
	s.Apply(testcluster.Sleeper("a", ""))
	s.Ready("a")
	host, err := s.Host.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		t.Fatal(err)
	}
	guest := s.MustExec("a", "uname", "-r")
	if guest == "" || guest == strings.TrimSpace(string(host)) {
		t.Errorf("uname -r in the Pod is %q, the host's is %q; want another kernel", guest, strings.TrimSpace(string(host)))
	}
}

func TestDeploymentRollsOutScalesAndIsUndone(t *testing.T) {
	s := newSpace(t, 6*time.Minute)
	s.Apply(fmt.Sprintf(webDeployment, 2))
	before := s.Pods("app=web", 2)
	s.Kubectl("set", "env", "deployment/web", "GENERATION=2")
	s.Kubectl("rollout", "status", "deployment/web", "--timeout=3m")
	after := s.Pods("app=web", 2)
	for _, pod := range after {
		for _, old := range before {
			if pod.UID == old.UID {
				t.Errorf("Pod %s was not replaced by the roll-out", pod.Name)
			}
		}
		if got := s.MustExec(pod.Name, "sh", "-c", "echo $GENERATION"); got != "2" {
			t.Errorf("GENERATION in %s is %q, want 2", pod.Name, got)
		}
	}
	s.Kubectl("scale", "deployment/web", "--replicas=3")
	s.Pods("app=web", 3)
	s.Kubectl("scale", "deployment/web", "--replicas=1")
	s.Pods("app=web", 1)
	s.Kubectl("rollout", "undo", "deployment/web")
	s.Kubectl("rollout", "status", "deployment/web", "--timeout=3m")
	undone := s.Pods("app=web", 1)[0]
	if got := s.MustExec(undone.Name, "sh", "-c", "echo ${GENERATION:-none}"); got != "none" {
		t.Errorf("GENERATION after the roll-out was undone is %q, want none", got)
	}
	if want := before[0].Labels["pod-template-hash"]; undone.Labels["pod-template-hash"] != want {
		t.Errorf("the Pod after undo is of template %s, want the first one's %s", undone.Labels["pod-template-hash"], want)
	}
}

func TestJobCompletes(t *testing.T) {
	s := newSpace(t, 3*time.Minute)
	s.Apply(`
apiVersion: batch/v1
kind: Job
metadata: {name: sum}
spec:
  completions: 2
  template:
    spec:
      restartPolicy: Never
      containers: [{name: main, image: IMAGE, command: [sh, -c, "echo $((40+2))"]}]
`)
	s.Until("the Job is complete", func() (bool, error) {
		job, err := s.Client.BatchV1().Jobs(s.Name).Get(s.Ctx, "sum", metav1.GetOptions{})
		if err != nil {
			return false, err
		}
		return job.Status.Succeeded == 2, fmt.Errorf("%d succeeded, %d failed", job.Status.Succeeded, job.Status.Failed)
	})
	if got := strings.TrimSpace(s.Kubectl("logs", "job/sum")); got != "42" {
		t.Errorf("log of the Job is %q, want 42", got)
	}
}

func TestRestartOnFailureBacksOff(t *testing.T) {
	s := newSpace(t, 4*time.Minute)
	s.Apply(`
apiVersion: v1
kind: Pod
metadata: {name: crash}
spec:
  restartPolicy: OnFailure
  containers: [{name: main, image: IMAGE, command: [sh, -c, "echo run; exit 3"]}]
`)
	s.Pod("crash", "backs off after two restarts", func(pod *corev1.Pod) bool {
		if len(pod.Status.ContainerStatuses) == 0 {
			return false
		}
		c := pod.Status.ContainerStatuses[0]
		return c.RestartCount >= 2 && c.State.Waiting != nil && c.State.Waiting.Reason == "CrashLoopBackOff" &&
			c.LastTerminationState.Terminated != nil && c.LastTerminationState.Terminated.ExitCode == 3
	})
	if got := strings.TrimSpace(s.Kubectl("logs", "--previous", "crash")); got != "run" {
		t.Errorf("log of the run before is %q, want \"run\"", got)
	}
}

func TestGracefulDeletion(t *testing.T) {
	s := newSpace(t, 3*time.Minute)
	s.Apply(`
apiVersion: v1
kind: Pod
metadata: {name: polite}
spec:
  terminationGracePeriodSeconds: 60
  containers:
  - name: main
    image: IMAGE
    command: [sh, -c, "trap 'echo goodbye; exit 0' TERM; echo hello; while :; do sleep 1 & wait; done"]
`)
	s.Ready("polite")
	logs := s.follow("polite")
	logs.waitFor("hello")
	began := time.Now()
	s.Kubectl("delete", "pod", "polite")
	if took := time.Since(began); took > 30*time.Second {
		t.Errorf("deletion took %s: the grace period of 60 s was waited out", took.Round(time.Second))
	}
	if got := logs.rest(); !strings.Contains(got, "goodbye") {
		t.Errorf("log at the end is %q, want what the TERM handler printed", got)
	}
}

func TestEightPodsAtOnce(t *testing.T) {
	s := newQuietSpace(t, 5*time.Minute)
	s.Apply(strings.Replace(fmt.Sprintf(webDeployment, 8), "terminationGracePeriodSeconds: 2", "terminationGracePeriodSeconds: 1", 1))
	pods := s.Pods("app=web", 8)
	seen := map[string]bool{}
	for _, pod := range pods {
		if pod.Status.ContainerStatuses[0].RestartCount != 0 {
			t.Errorf("Pod %s was restarted %d times", pod.Name, pod.Status.ContainerStatuses[0].RestartCount)
		}
		if _, err := s.get("http://" + pod.Status.PodIP + ":8080/"); err != nil {
			t.Errorf("host to Pod %s: %v", pod.Name, err)
		}
		seen[pod.Status.PodIP] = true
	}
	if len(seen) != 8 {
		t.Errorf("8 Pods have %d addresses", len(seen))
	}
}
