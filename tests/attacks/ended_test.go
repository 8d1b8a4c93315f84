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
	"github.com/nodeless/nodeless/tests/testcluster"
)

// keptContainers is how many ended containers the shared host keeps. The default is 1000, which takes hours to reach.
const keptContainers = 20

// TestAttackEndedContainers: containers end again and again, and many end at once. The host keeps one of each, with its log, and no more of
// all together than it may.
func TestAttackEndedContainers(t *testing.T) {
	attack.Slow(t)
	s := testcluster.NewSpace(t, shared, 4*time.Minute)
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
			return len(ended) <= 3 && logs <= 3, fmt.Errorf("%d ended containers and %d logs are kept: %v", len(ended), logs, ended)
		})
		return attack.Contained
	})
	attack.Try(t, "T7", "more containers that have ended than the host keeps", func(t *testing.T) attack.Outcome {
		pod := s.Pod("many", "has ended", func(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodSucceeded })
		s.Until("the oldest are gone, with their logs", func() (bool, error) {
			ended, err := endedContainers(s, nil)
			if err != nil {
				return false, err
			}
			logs := logsOf(s, pod)
			return len(ended) <= keptContainers && logs <= keptContainers, fmt.Errorf("%d ended containers are kept, and %d logs of one Pod", len(ended), logs)
		})
		return attack.Contained
	})
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
