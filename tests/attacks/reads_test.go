package attacks_test

import (
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/nodeless/nodeless/tests/attack"
	"github.com/nodeless/nodeless/tests/testcluster"
)

// bait is a Pod that lays out what the host may stumble over when it reads from a guest: a FIFO for its last message, a last message of a
// gigabyte, a line of log without an end, a part of a volume that is a link to the host's root when the container comes again.
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
`

// TestAttackWhatTheHostReads: the server goes on, says what happened, and starts others' Pods.
func TestAttackWhatTheHostReads(t *testing.T) {
	attack.Slow(t)
	s := testcluster.NewSpace(t, shared, 5*time.Minute)
	s.Apply(bait)
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
	attack.Try(t, "T4", "the kubelet waits for a guest", func(t *testing.T) attack.Outcome {
		other := testcluster.NewSpace(t, shared, 2*time.Minute)
		other.Apply(testcluster.Sleeper("neighbour", ""))
		other.Ready("neighbour")
		return attack.Contained
	})
}
