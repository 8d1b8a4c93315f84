package vm_test

import (
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// eater is a Pod whose second container writes; LIMIT is what each of the two may have of the disk.
const eater = `
apiVersion: v1
kind: Pod
metadata: {name: NAME}
spec:
  terminationGracePeriodSeconds: 1
  restartPolicy: Never
  containers:
  - name: idle
    image: IMAGE
    command: [sleep, "3600"]
    resources: {limits: {ephemeral-storage: LIMIT}, requests: {ephemeral-storage: 1Mi}}
  - name: writes
    image: IMAGE
    command: [sh, -c, "WRITE; sync; sleep 3600"]
    resources: {limits: {ephemeral-storage: LIMIT}, requests: {ephemeral-storage: 1Mi}}
    volumeMounts: [{name: dir, mountPath: /dir}]
  volumes: [{name: dir, emptyDir: {SIZE}}]
`

// TestPodsOverTheirDiskLimitAreEvicted: zeros are what dd writes, and they count as anything else does.
func TestPodsOverTheirDiskLimitAreEvicted(t *testing.T) {
	s := newSpace(t, 5*time.Minute)
	const zeros = "dd if=/dev/zero bs=1M count=200 of="
	pods := []struct{ name, limit, size, write string }{
		{"layer", "50Mi", "", zeros + "/fill"},
		{"one", "50Mi", "", zeros + "/fill"},
		{"whole", "60Mi", "", zeros + "/dir/fill"}, // more than both may have together
		{"dir", "2Gi", "sizeLimit: 50Mi", zeros + "/dir/fill"},
		{"log", "10Mi", "", "head -c 40000000 /dev/urandom | base64"}, // what is kept of a log is compressed
		{"modest", "150Mi", "", zeros + "/fill"},                      // half of it is within what the other container may have
	}
	for _, p := range pods {
		manifest := strings.NewReplacer("NAME", p.name, "LIMIT", p.limit, "SIZE", p.size, "WRITE", p.write).Replace(eater)
		if p.name == "one" { // the container that is idle has no limit
			manifest = strings.Replace(manifest, "limits: {ephemeral-storage: 50Mi}, ", "", 1)
		}
		s.Apply(manifest)
	}
	for _, p := range pods[:len(pods)-1] {
		pod := s.Pod(p.name, "is evicted", func(pod *corev1.Pod) bool { return pod.Status.Reason == "Evicted" })
		if !strings.Contains(pod.Status.Message, "ephemeral") && !strings.Contains(pod.Status.Message, "EmptyDir") {
			t.Errorf("Pod %s is evicted because %q", p.name, pod.Status.Message)
		}
	}
	if pod := s.Pod("modest", "is there", func(*corev1.Pod) bool { return true }); pod.Status.Phase != corev1.PodRunning {
		t.Errorf("a Pod within its limits is %s: %s", pod.Status.Phase, pod.Status.Message)
	}
}
