package attacks_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodeless/nodeless/tests/attack"
	"github.com/nodeless/nodeless/tests/testcluster"
)

// bait is a Pod that lays out what the host may stumble over when it reads from a guest: a FIFO for its last message, a last message of a
// gigabyte, a line of log without an end, a part of a volume that is a link to the host's root when the container comes again. Beside it is
// one whose root wants its /etc/hosts to be something else.
const bait = `
apiVersion: v1
kind: Pod
metadata: {name: bait}
spec:
  restartPolicy: OnFailure
  terminationGracePeriodSeconds: 2
  volumes: [{name: e, emptyDir: {}}]
  initContainers:
  - {name: lay, image: IMAGE, command: [sh, -c, "mkfifo /e/fifo && mkdir /e/part && echo own >/e/part/hostname"], volumeMounts: [{name: e, mountPath: /e}]}
  containers:
  - {name: fifo, image: IMAGE, command: [sh, -c, "exit 0"], volumeMounts: [{name: e, mountPath: /dev/termination-log, subPath: fifo}]}
  - {name: large, image: IMAGE, command: [sh, -c, "dd if=/dev/zero of=/dev/termination-log bs=1 count=0 seek=1G 2>&1; ls -l /dev/termination-log"]}
  - {name: line, image: IMAGE, command: [sh, -c, "head -c 50000000 /dev/zero | tr '\\0' x"]}
  - name: part
    image: IMAGE
    command: [sh, -c, "cat /part/hostname; ls /part | wc -l; if [ -L /e/part ]; then sleep 1000; fi; rm -r /e/part; ln -s / /e/part; exit 1"]
    volumeMounts: [{name: e, mountPath: /e}, {name: e, mountPath: /part, subPath: part}]
---
apiVersion: v1
kind: Pod
metadata: {name: rewriter}
spec:
  restartPolicy: OnFailure
  automountServiceAccountToken: false
  terminationGracePeriodSeconds: 2
  volumes: [{name: e, emptyDir: {medium: Memory}}]
  containers:
  - name: hosts
    image: IMAGE
    command: [sh, -c, "if [ -e /e/tried ]; then cat /etc/hosts; sleep 1000; fi; echo x >/e/tried; HOSTS; until [ -e /e/go ]; do sleep 1; done; exit 1"]
    securityContext: {privileged: true}
    volumeMounts: [{name: e, mountPath: /e}]
`

// hostsOfTheGuest is what root does to /etc/hosts: where the container has it, and where the guest has all that the host shares with it.
// A second mount shows that as long as no volume is shared: a guest's Linux 6.12 mounts the volume again that came last.
// It counts the names that are something else afterwards. Then the file grows by 32 MiB.
const hostsOfTheGuest = "mkdir /all; mount -t virtiofs kataShared /all && echo mounted; for f in /etc/hosts $(find /all -name '*hosts*'); do echo at $f; " +
	"rm -f $f; ln -sf PRECIOUS $f; ln -s PRECIOUS /e/l; mv -f /e/l $f; ln -s PRECIOUS ${f%/*}/l && mv -f ${f%/*}/l $f; mkfifo $f; rm -f /e/l; " +
	"if [ -L $f ] || ! [ -f $f ]; then echo replaced $f; fi; done 2>/e/errors; head -c 33554432 /dev/zero >>/etc/hosts; ls -l /etc/hosts; echo done"

// precious is a file of the host.
const precious = "/var/lib/nodeless/precious"

// TestAttackWhatTheHostReads: the server goes on, says what happened, and starts others' Pods.
func TestAttackWhatTheHostReads(t *testing.T) {
	attack.Slow(t)
	s := testcluster.NewSpace(t, shared, 5*time.Minute)
	if err := os.WriteFile(s.Host.Path(precious), []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.Apply(strings.ReplaceAll(bait, "HOSTS", strings.ReplaceAll(hostsOfTheGuest, "PRECIOUS", precious)))
	status := func(pod *corev1.Pod, name string) corev1.ContainerStatus {
		for _, c := range pod.Status.ContainerStatuses {
			if c.Name == name {
				return c
			}
		}
		return corev1.ContainerStatus{}
	}
	ended := func(name string) func(*corev1.Pod) bool {
		return func(p *corev1.Pod) bool { return status(p, name).State.Terminated != nil }
	}
	attack.Try(t, "T4", "a FIFO where the last message is", func(t *testing.T) attack.Outcome {
		pod := s.Pod("bait", "has its FIFO read or refused", func(p *corev1.Pod) bool {
			c := status(p, "fifo")
			return c.State.Terminated != nil || c.State.Waiting != nil && strings.Contains(c.State.Waiting.Reason, "Error")
		})
		t.Logf("%+v", status(pod, "fifo").State)
		return attack.Contained
	})
	attack.Try(t, "T4", "a last message of a gigabyte", func(t *testing.T) attack.Outcome {
		got := status(s.Pod("bait", "has ended with a large message", ended("large")), "large").State.Terminated
		log := s.Kubectl("logs", "bait", "-c", "large")
		if len(got.Message) == 0 || len(got.Message) > 4096 || !strings.Contains(log, "1073741824") {
			t.Errorf("message of %d bytes; the container says %q", len(got.Message), log)
		}
		return attack.Contained
	})
	attack.Try(t, "T4", "a line of fifty megabytes", func(t *testing.T) attack.Outcome {
		s.Pod("bait", "has written its line", ended("line"))
		if got := s.Kubectl("logs", "bait", "-c", "line", "--tail=1", "--limit-bytes=100"); len(got) > 200 {
			t.Errorf("%d bytes came, want 100", len(got))
		}
		return attack.Contained
	})
	attack.Try(t, "T4", "a part of a volume becomes a link to the host", func(t *testing.T) attack.Outcome {
		pod := s.Pod("bait", "is not given the host", func(p *corev1.Pod) bool {
			c := status(p, "part")
			return c.RestartCount > 0 || c.LastTerminationState.Terminated != nil && c.State.Waiting != nil && c.State.Waiting.Reason == "CreateContainerConfigError"
		})
		if c := status(pod, "part"); c.State.Running != nil {
			out := s.Kubectl("logs", "bait", "-c", "part")
			t.Logf("it runs again and sees %q", out)
			if strings.TrimSpace(out) != "" && !strings.Contains(out, "No such file") {
				return attack.Succeeded
			}
			return attack.Contained
		} else if c.State.Waiting != nil {
			t.Log(c.State.Waiting.Message)
		}
		return attack.Refused
	})
	attack.Try(t, "T4", "an /etc/hosts that is something else when the container comes again", func(t *testing.T) attack.Outcome {
		return hosts(t, s, func(p *corev1.Pod) bool { c := status(p, "hosts"); return c.RestartCount > 0 && c.State.Running != nil })
	})
	attack.Try(t, "T4", "the kubelet waits for a guest", func(t *testing.T) attack.Outcome {
		other := testcluster.NewSpace(t, shared, 2*time.Minute)
		other.Apply(testcluster.Sleeper("neighbour", ""))
		other.Ready("neighbour")
		return attack.Contained
	})
}

// hosts watches what becomes of the host's file behind a Pod's /etc/hosts.
func hosts(t *testing.T, s *testcluster.Space, again func(*corev1.Pod) bool) attack.Outcome {
	pod, err := s.Client.CoreV1().Pods(s.Name).Get(s.Ctx, "rewriter", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	file := s.Host.Path(filepath.Join("/var/lib/nodeless/agent/kubelet/pods", string(pod.UID), "etc-hosts"))
	s.Ready("rewriter")
	var said string
	s.Until("root in the guest has tried", func() (bool, error) {
		said = s.Kubectl("logs", "rewriter", "-c", "hosts")
		return strings.Contains(said, "done"), nil
	})
	t.Log(said)
	if !strings.Contains(said, "mounted") || strings.Count(said, "at /all") == 0 {
		t.Error("the guest did not get to what is shared with it")
	}
	outcome := attack.Contained
	if strings.Contains(said, "replaced") {
		outcome = attack.Succeeded
	}
	info, err := os.Lstat(file)
	if err != nil || !info.Mode().IsRegular() {
		t.Fatalf("the host's file: %v, %v", info, err)
	}
	s.Kubectl("exec", "rewriter", "-c", "hosts", "--", "touch", "/e/go")
	s.Pod("rewriter", "has its container with /etc/hosts again", again)
	if info, err = os.Lstat(file); err != nil || !info.Mode().IsRegular() || info.Size() > 4096 {
		t.Errorf("the host's file, written again: %v, %v", info, err)
	}
	s.Until("the container sees its new file", func() (bool, error) {
		return strings.Contains(s.Kubectl("logs", "rewriter", "-c", "hosts"), "Kubernetes-managed"), nil
	})
	if text, err := os.ReadFile(s.Host.Path(precious)); err != nil || string(text) != "precious" {
		t.Errorf("a file of the host: %q, %v", text, err)
		return attack.Succeeded
	}
	return outcome
}
