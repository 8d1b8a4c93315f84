package vm_test

import (
	"encoding/json"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/nodeless/nodeless/tests/testcluster"
)

func TestLimitsAreTrueInsideTheGuest(t *testing.T) {
	s := newQuietSpace(t, 4*time.Minute)
	s.Apply(testcluster.Sleeper("small", "    resources: {limits: {memory: 64Mi, cpu: 500m}}\n"))
	s.Ready("small")
	if got := s.MustExec("small", "cat", "/sys/fs/cgroup/memory.max"); got != strconv.Itoa(64<<20) {
		t.Errorf("memory.max = %s, want %d", got, 64<<20)
	}
	if got := s.MustExec("small", "cat", "/sys/fs/cgroup/cpu.max"); got != "50000 100000" {
		t.Errorf("cpu.max = %s, want 50000 100000", got)
	}
	total := s.MustExec("small", "awk", "/MemTotal/ {print $2}", "/proc/meminfo")
	if kb, err := strconv.Atoi(total); err != nil || kb < 1<<20 || kb > 5<<18 {
		t.Errorf("the guest has %s kB of memory, want 1 GiB, the Pod's spec, and at most a quarter more", total)
	}
	// An allocation within the limit succeeds. One beyond is killed with its whole container, as Kubernetes wants it with
	// cgroup v2 (memory.oom.group), and the container comes back.
	if out, code := s.Exec("small", "/hello", "alloc", "20"); code != 0 {
		t.Errorf("20 MB within a limit of 64 MiB: code %d, %s", code, out)
	}
	if out, code := s.Exec("small", "/hello", "alloc", "200"); code != 137 {
		t.Errorf("200 MB within a limit of 64 MiB: code %d, want 137 (killed)\n%s", code, out)
	}
	s.Pod("small", "was restarted and is ready", func(pod *corev1.Pod) bool {
		c := pod.Status.ContainerStatuses
		return len(c) == 1 && c[0].RestartCount == 1 && c[0].Ready
	})
	if got := s.MustExec("small", "echo", "alive"); got != "alive" {
		t.Errorf("after the restart the Pod says %q", got)
	}
}

func TestOutOfMemoryIsReported(t *testing.T) {
	s := newSpace(t, 4*time.Minute)
	s.Apply(`
apiVersion: v1
kind: Pod
metadata: {name: greedy}
spec:
  restartPolicy: Never
  containers:
  - name: main
    image: IMAGE
    command: [/hello, alloc, "200"]
    resources: {limits: {memory: 64Mi}}
`)
	pod := s.Pod("greedy", "has failed", func(pod *corev1.Pod) bool { return pod.Status.Phase == corev1.PodFailed })
	end := pod.Status.ContainerStatuses[0].State.Terminated
	if end == nil || end.ExitCode != 137 || end.Reason != "OOMKilled" {
		t.Errorf("the container ended as %v, want OOMKilled with 137", testcluster.States(pod))
	}
}

func TestCPULimitSizesTheGuest(t *testing.T) {
	s := newQuietSpace(t, 3*time.Minute)
	s.Apply(testcluster.Sleeper("one", `    resources: {limits: {cpu: "1", memory: 64Mi}}
  initContainers:
  - {name: little, image: IMAGE, command: ["true"], resources: {limits: {cpu: 10m, memory: 64Mi}}}
`))
	pod := s.Ready("one")
	// The limit is that of the container's own program: making the container is not slower for a small one.
	if one, little := s.startTook(status(pod, "main")), s.startTook(status(pod, "little")); little > 4*one {
		t.Errorf("a container with a CPU started in %s, one with a hundredth of it in %s", one, little)
	}
	if got := s.MustExec("one", "cat", "/sys/fs/cgroup/cpu.max"); got != "100000 100000" {
		t.Errorf("cpu.max = %s, want 100000 100000", got)
	}
	if got := strings.TrimSpace(s.MustExec("one", "nproc")); got != "1" && got != "2" {
		t.Errorf("the guest has %s CPUs, want one, or two when the base one is counted", got)
	}
}

// startTook is the time that containerd took to start a container.
func (s *space) startTook(c corev1.ContainerStatus) time.Duration {
	s.T.Helper()
	_, id, _ := strings.Cut(c.ContainerID, "//")
	out, err := s.Host.Nodeless(s.Ctx, "crictl", "inspect", id)
	var seen struct {
		Status struct{ CreatedAt, StartedAt time.Time }
	}
	if err == nil {
		err = json.Unmarshal([]byte(out), &seen)
	}
	took := seen.Status.StartedAt.Sub(seen.Status.CreatedAt)
	if err != nil || took <= 0 {
		s.T.Fatalf("crictl inspect %s: started after %s, %v", id, took, err)
	}
	return took
}
