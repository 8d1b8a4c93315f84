package attacks_test

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/nodeless/nodeless/tests/attack"
	"github.com/nodeless/nodeless/tests/testbed"
	"github.com/nodeless/nodeless/tests/testcluster"
)

const (
	// fewPods is what this host may have, so that its bound is not hours away. keptContainers of ended Pods are kept for so many.
	fewPods        = 4
	keptContainers = 10 * fewPods
)

// TestAttackEndedContainers: containers end again and again, and many end at once, more than the host keeps. It keeps one of each of a Pod
// that runs, with its log, and no more of those that have ended than it may. A neighbour's container that ended first, in a Pod that runs,
// is kept: the kubelet would run it once more.
func TestAttackEndedContainers(t *testing.T) {
	attack.Slow(t)
	host, err := testbed.New(testbed.Options{})
	if err != nil {
		t.Fatal(err)
	}
	c := &testcluster.Cluster{Host: host, Flags: []string{fmt.Sprint("--max-pods=", fewPods)}}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Errorf("stop cluster: %v", err)
		}
	})
	if err := c.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	s := testcluster.NewSpace(t, c, 8*time.Minute)
	s.Apply(once)
	before := statusOf(s.Pod("victim", "has run its first container", func(p *corev1.Pod) bool { return statusOf(p, "once").State.Terminated != nil }), "once")

	s.Apply(ending("loops", "Always", 3))
	s.Apply(ending("many", "Never", keptContainers+5))
	attack.Try(t, "T7", "containers that end again and again", func(t *testing.T) attack.Outcome {
		pod := s.Pod("loops", "has had each container end three times", func(p *corev1.Pod) bool {
			least := int32(3)
			for _, c := range p.Status.ContainerStatuses {
				least = min(least, c.RestartCount)
			}
			return len(p.Status.ContainerStatuses) == 3 && least >= 2
		})
		s.Until("one ended container of each is kept, with its log", func() (bool, error) {
			ended, err := endedContainers(s, pod)
			if err != nil {
				return false, err
			}
			logs := logsOf(s, pod)
			return len(ended) <= 3 && logs <= 6, fmt.Errorf("%d ended containers and %d logs are kept: %v", len(ended), logs, ended)
		})
		return attack.Contained
	})
	attack.Try(t, "T7", "more containers that have ended than the host keeps", func(t *testing.T) attack.Outcome {
		pod := s.Pod("many", "has ended", func(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodSucceeded })
		s.Until("the oldest are gone, with their logs", func() (bool, error) {
			ended, err := endedContainers(s, pod)
			if err != nil {
				return false, err
			}
			logs := logsOf(s, pod)
			return len(ended) <= keptContainers && logs <= keptContainers, fmt.Errorf("%d ended containers are kept, and %d logs of one Pod", len(ended), logs)
		})
		return attack.Contained
	})
	attack.Try(t, "T7", "have a neighbour's container that has ended run once more", func(t *testing.T) attack.Outcome {
		for began := time.Now(); time.Since(began) < 80*time.Second; time.Sleep(time.Second) { // the kubelet looks at each Pod every minute or so
			now := statusOf(s.Pod("victim", "is there", func(*corev1.Pod) bool { return true }), "once")
			if now.ContainerID != before.ContainerID || now.RestartCount > 0 {
				t.Logf("it was %+v and is %+v", before, now)
				return attack.Succeeded
			}
		}
		return attack.Contained
	})
}

// once is a Pod of which one container ends and is not to run again while the other does.
const once = `
apiVersion: v1
kind: Pod
metadata: {name: victim}
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: 1
  containers:
  - {name: once, image: IMAGE, command: [sh, -c, "echo ran once"]}
  - {name: stays, image: IMAGE, command: [sh, -c, "trap 'exit 0' TERM; while :; do sleep 1 & wait; done"]}
`

func statusOf(pod *corev1.Pod, container string) (c corev1.ContainerStatus) {
	for _, c := range pod.Status.ContainerStatuses {
		if c.Name == container {
			return c
		}
	}
	return c
}

// ending is a Pod of n containers, each of which says a word and ends.
func ending(name, policy string, n int) string {
	var b strings.Builder
	fmt.Fprintf(&b, "apiVersion: v1\nkind: Pod\nmetadata: {name: %s}\nspec:\n  restartPolicy: %s\n  containers:\n", name, policy)
	for i := range n {
		fmt.Fprintf(&b, "  - {name: c%d, image: IMAGE, command: [sh, -c, \"echo word\"], resources: {limits: {cpu: 20m, memory: 20Mi}}}\n", i)
	}
	return b.String()
}

// endedContainers are the names of the host's containers that have ended, of one Pod or of all.
func endedContainers(s *testcluster.Space, pod *corev1.Pod) (names []string, err error) {
	args := []string{"crictl", "ps", "--all", "--state", "Exited", "--output", "json"}
	if pod != nil {
		args = append(args, "--label", "io.kubernetes.pod.uid="+string(pod.UID))
	}
	out, err := s.Host.Nodeless(s.Ctx, args...)
	if err != nil {
		return nil, err
	}
	var list struct {
		Containers []struct {
			Metadata struct{ Name string }
		}
	}
	if err := json.Unmarshal([]byte(out), &list); err != nil {
		return nil, err
	}
	for _, c := range list.Containers {
		names = append(names, c.Metadata.Name)
	}
	return names, nil
}

// logsOf counts the files of logs that the host has of a Pod.
func logsOf(s *testcluster.Space, pod *corev1.Pod) (n int) {
	s.T.Helper()
	dir := s.Host.Path(fmt.Sprintf("/var/lib/nodeless/agent/pod-logs/%s_%s_%s", pod.Namespace, pod.Name, pod.UID))
	containers, err := os.ReadDir(dir)
	if err != nil {
		s.T.Fatal(err)
	}
	for _, c := range containers {
		logs, err := os.ReadDir(dir + "/" + c.Name())
		if err != nil {
			s.T.Fatal(err)
		}
		n += len(logs)
	}
	return n
}
