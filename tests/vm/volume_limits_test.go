package vm_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/nodeless/nodeless/tests/testcluster"
)

const limitPods = `
apiVersion: v1
kind: Pod
metadata: {name: full}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: IMAGE
    command: [sh, -c, "dd if=/dev/zero of=/disk/file bs=1M count=24; exec sleep 100000"]
    volumeMounts: [{name: disk, mountPath: /disk}]
  volumes: [{name: disk, emptyDir: {sizeLimit: 16Mi}}]
---
apiVersion: v1
kind: Pod
metadata: {name: counted}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: IMAGE
    command: [sh, -c, "dd if=/dev/zero of=/disk/file bs=1M count=24; exec sleep 100000"]
    volumeMounts: [{name: disk, mountPath: /disk}]
  volumes: [{name: disk, emptyDir: {sizeLimit: 64Mi}}]
`

func TestVolumeBeyondItsLimitEvictsItsPod(t *testing.T) {
	s := newSpace(t, 5*time.Minute)
	s.Apply(limitPods)
	s.Ready("counted")
	// The kubelet adds volumes up once a minute.
	pod := s.Pod("full", "has been evicted", func(pod *corev1.Pod) bool { return pod.Status.Phase == corev1.PodFailed })
	const message = `Usage of EmptyDir volume "disk" exceeds the limit "16Mi".`
	if pod.Status.Reason != "Evicted" || strings.TrimSpace(pod.Status.Message) != message {
		t.Errorf("the Pod failed with %s: %q, want Evicted: %q", pod.Status.Reason, pod.Status.Message, message)
	}
	s.Until("the volume's use is in the node's figures", func() (bool, error) {
		used, err := s.volumeUse(pod.Spec.NodeName, "counted", "disk")
		return used >= 24<<20, fmt.Errorf("%d bytes are used, %w", used, err)
	})
	if pod := s.Ready("counted"); pod.Status.ContainerStatuses[0].RestartCount != 0 {
		t.Errorf("a Pod within its limit: %v", testcluster.States(pod))
	}
}

// volumeUse is how much of a volume the kubelet says is used.
func (s *space) volumeUse(node, pod, volume string) (uint64, error) {
	raw, err := s.Client.CoreV1().RESTClient().Get().AbsPath("/api/v1/nodes/" + node + "/proxy/stats/summary").DoRaw(s.Ctx)
	if err != nil {
		return 0, err
	}
	var summary struct {
		Pods []struct {
			PodRef struct{ Name, Namespace string }
			Volume []struct {
				Name      string
				UsedBytes uint64
			}
		}
	}
	if err := json.Unmarshal(raw, &summary); err != nil {
		return 0, err
	}
	for _, p := range summary.Pods {
		if p.PodRef.Name != pod || p.PodRef.Namespace != s.Name {
			continue
		}
		for _, v := range p.Volume {
			if v.Name == volume {
				return v.UsedBytes, nil
			}
		}
	}
	return 0, nil
}
