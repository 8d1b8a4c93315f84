package vm_test

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/nodeless/nodeless/pkg/api"
	"github.com/nodeless/nodeless/tests/testcluster"
)

// growing is a Pod of two containers, one of which uses memory: a 1C1Gi.
const growing = `
apiVersion: v1
kind: Pod
metadata: {name: grows}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: IMAGE
    command: [/hello, alloc, "40"]
    env: [{name: HOLD, value: "1"}]
    resources: {limits: {memory: 64Mi, cpu: "1"}, requests: {memory: 64Mi, cpu: 100m}}
  - name: other
    image: IMAGE
    command: [sh, -c, "while :; do sleep 1; done"]
    resources: {limits: {memory: 32Mi}, requests: {memory: 32Mi, cpu: 10m}}
`

// restarting is one whose memory is resized by a restart.
const restarting = `
apiVersion: v1
kind: Pod
metadata: {name: restarts}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: IMAGE
    command: [sh, -c, "trap 'exit 0' TERM; while :; do sleep 1 & wait; done"]
    resizePolicy: [{resourceName: memory, restartPolicy: RestartContainer}]
    resources: {limits: {memory: 64Mi}, requests: {memory: 64Mi, cpu: CPU}}
`

// TestResizeInPlace: limits of a running Pod are changed; its spec, its microVM, its guest and the host follow, and nothing
// restarts that need not.
func TestResizeInPlace(t *testing.T) {
	s := newQuietSpace(t, 6*time.Minute)
	cpus := s.allocatable(corev1.ResourceCPU).Value()
	s.Apply(growing)
	before := s.look(s.Ready("grows"))

	t.Run("grow", func(t *testing.T) {
		s := s.with(t)
		s.resize("grows", "main", `"limits":{"memory":"300Mi","cpu":"2"}`)
		pod := s.resized("grows", 0, "300Mi", "2")
		s.limits("grows", "main", 300<<20, "200000 100000")
		s.limits("grows", "other", 32<<20, "200000 100000")
		s.hasSpec("grows", "2C4Gi")
		now := s.look(pod)
		now.same(t, before)
		if now.cpus != before.cpus+1 {
			t.Errorf("the guest has %d CPUs, before %d", now.cpus, before.cpus)
		}
		if grown := now.memory - before.memory; grown != 3<<30 {
			t.Errorf("the guest's memory has grown by %d MiB, want 3 GiB", grown>>20)
		}
		if grown := now.hostLimit - before.hostLimit; grown != 3<<30 {
			t.Errorf("the host's limit on the Pod has grown by %d MiB, want 3 GiB", grown>>20)
		}
		if out, code := s.Exec("grows", "env", "HOLD=", "/hello", "alloc", "220"); code != 0 {
			t.Errorf("220 MB beside 40 within a limit of 300 MiB: code %d, %s", code, out)
		}
	})
	t.Run("shrink", func(t *testing.T) {
		s := s.with(t)
		s.resize("grows", "main", `"limits":{"memory":"80Mi","cpu":"500m"}`)
		pod := s.resized("grows", 0, "80Mi", "500m")
		s.limits("grows", "main", 80<<20, "50000 100000")
		s.hasSpec("grows", "0.5C1Gi")
		now := s.handedBack(pod, before)
		now.same(t, before)
		if now.hostLimit != before.hostLimit {
			t.Errorf("the host's limit on the Pod is %d MiB, want %d again", now.hostLimit>>20, before.hostLimit>>20)
		}
		s.Kubectl("exec", "grows", "-c", "other", "--", "/hello", "alloc", "20") // there is still room
	})
	t.Run("too large for any spec", func(t *testing.T) {
		s := s.with(t)
		err := s.tryResize("grows", "main", `"limits":{"memory":"80Mi","cpu":"200"}`)
		if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "more than the largest spec, 16C64Gi") {
			t.Errorf("a resize to 200 cores: %v, want it refused", err)
		}
	})
	t.Run("too large for the microVM", func(t *testing.T) {
		s := s.with(t)
		s.resize("grows", "main", `"limits":{"memory":"12Gi","cpu":"500m"},"requests":{"memory":"64Mi"}`)
		c := s.resizeCondition("grows", corev1.PodResizeInProgress, corev1.PodReasonError)
		if !strings.Contains(c.Message, "MiB of memory: this microVM was started for at most") {
			t.Errorf("the condition says %q, want what is too much", c.Message)
		}
		if got := s.statusOf("grows", 0).Resources.Limits.Memory(); got.Cmp(resource.MustParse("80Mi")) != 0 {
			t.Errorf("the status claims a limit of %s", got)
		}
		s.resize("grows", "main", `"limits":{"memory":"80Mi","cpu":"1"}`)
		s.look(s.resized("grows", 0, "80Mi", "1")).same(t, before)
	})
	// This Pod leaves three of a host's eight CPUs, one of which is the other's. Its memory would have no room beside the 12 GiB from above.
	s.Apply(strings.Replace(restarting, "CPU", `"4"`, 1))
	s.Ready("restarts")
	t.Run("too large for the Node, ever and now", func(t *testing.T) {
		s := s.with(t)
		if cpus < 16 { // the largest spec
			err := s.tryResize("grows", "main", `"limits":{"cpu":"16"}`)
			if !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "node didn't have enough allocatable resources: cpu") {
				t.Errorf("a resize beyond the Node: %v, want it forbidden", err)
			}
		}
		if cpus != 8 {
			t.Skipf("skipped the rest: the host gives %d CPUs, and what has to wait is worked out for 8", cpus)
		}
		s.Apply(testcluster.Sleeper("filler", "    resources: {requests: {cpu: 2}}\n"))
		s.Ready("filler")
		s.resize("grows", "main", `"limits":{"cpu":"4"}`)
		s.resizeCondition("grows", corev1.PodResizePending, corev1.PodReasonDeferred)
	})
	t.Run("restart with more", func(t *testing.T) {
		s := s.with(t)
		before := s.look(s.Ready("restarts"))
		s.resize("restarts", "main", `"limits":{"memory":"400Mi"}`)
		pod := s.Pod("restarts", "was restarted with its new limit", func(pod *corev1.Pod) bool {
			return pod.Status.ContainerStatuses[0].RestartCount == 1 && testcluster.IsReady(pod)
		})
		if now := s.look(pod); now.boot != before.boot {
			t.Error("the guest was booted anew")
		}
		if got := s.MustExec("restarts", "cat", "/sys/fs/cgroup/memory.max"); got != strconv.Itoa(400<<20) {
			t.Errorf("memory.max = %s after the restart, want 400 MiB", got)
		}
	})
	t.Run("a deferred resize is done when there is room", func(t *testing.T) {
		if cpus != 8 {
			t.Skipf("skipped: the host gives %d CPUs, so that nothing was deferred", cpus)
		}
		s := s.with(t)
		s.Kubectl("delete", "pod", "restarts")
		s.look(s.resized("grows", 0, "80Mi", "4")).same(t, before)
		s.limits("grows", "main", 80<<20, "400000 100000")
		s.hasSpec("grows", "4C8Gi")
	})
}

// TestResizeOfAWholePod: the Pod's own resources, which are its spec, are changed.
func TestResizeOfAWholePod(t *testing.T) {
	s := newQuietSpace(t, 4*time.Minute)
	s.Apply(testcluster.Sleeper("whole", "    resources: {requests: {cpu: 250m, memory: 512Mi}}\n"))
	before := s.look(s.Ready("whole"))
	s.hasSpec("whole", "0.25C0.5Gi")
	patch := []byte(`{"spec":{"resources":{"limits":{"cpu":"2","memory":"3Gi"},"requests":{"cpu":"2","memory":"3Gi"}}}}`)
	if _, err := s.Client.CoreV1().Pods(s.Name).Patch(s.Ctx, "whole", types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "resize"); err != nil {
		t.Fatal(err)
	}
	s.hasSpec("whole", "2C4Gi")
	s.Until("the guest has two CPUs and 3.5 GiB more", func() (bool, error) {
		now := s.look(s.Ready("whole"))
		return now.cpus == 2 && now.memory-before.memory == 3584<<20 && now.boot == before.boot, fmt.Errorf("it has %+v, at first %+v", now, before)
	})
	// What was asked for the whole stays, whatever a container asks for within it.
	s.resize("whole", "main", `"requests":{"cpu":"300m"}`)
	pod := s.Pod("whole", "has a container that asks for 300m", func(pod *corev1.Pod) bool {
		r := pod.Status.ContainerStatuses[0].Resources
		return r != nil && r.Requests.Cpu().MilliValue() == 300
	})
	if has := pod.Spec.Resources.Limits; has.Cpu().Value() != 2 || has.Memory().Value() != 4<<30 {
		t.Errorf("the Pod has %v and %v now", has.Cpu(), has.Memory())
	}
}

// hasSpec waits until a Pod's annotation says which spec it has.
func (s *space) hasSpec(pod, want string) {
	s.T.Helper()
	s.Pod(pod, "is a "+want, func(pod *corev1.Pod) bool { return pod.Annotations[api.Spec] == want })
}

// resize changes resources of a container through the resize subresource.
func (s *space) resize(pod, container, resources string) {
	s.T.Helper()
	if err := s.tryResize(pod, container, resources); err != nil {
		s.T.Fatal(err)
	}
}

func (s *space) tryResize(pod, container, resources string) error {
	patch := fmt.Sprintf(`{"spec":{"containers":[{"name":%q,"resources":{%s}}]}}`, container, resources)
	_, err := s.Client.CoreV1().Pods(s.Name).Patch(s.Ctx, pod, types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{}, "resize")
	return err
}

// resized waits until the status says that a container has the limits, and that nothing is under way.
func (s *space) resized(name string, container int, memory, cpu string) *corev1.Pod {
	s.T.Helper()
	return s.Pod(name, "has limits of "+memory+" and "+cpu, func(pod *corev1.Pod) bool {
		r := pod.Status.ContainerStatuses[container].Resources
		return r != nil && r.Limits.Memory().Cmp(resource.MustParse(memory)) == 0 && r.Limits.Cpu().Cmp(resource.MustParse(cpu)) == 0 &&
			condition(pod, corev1.PodResizeInProgress).Type == "" && condition(pod, corev1.PodResizePending).Type == ""
	})
}

func (s *space) resizeCondition(name string, kind corev1.PodConditionType, reason string) (c corev1.PodCondition) {
	s.T.Helper()
	s.Pod(name, fmt.Sprintf("has condition %s: %s", kind, reason), func(pod *corev1.Pod) bool {
		c = condition(pod, kind)
		return c.Reason == reason
	})
	return c
}

func (s *space) statusOf(pod string, i int) corev1.ContainerStatus {
	s.T.Helper()
	return s.Ready(pod).Status.ContainerStatuses[i]
}

// limits checks what the guest's kernel holds a container to.
func (s *space) limits(pod, container string, memory int, cpu string) {
	s.T.Helper()
	for file, want := range map[string]string{"memory.max": strconv.Itoa(memory), "cpu.max": cpu} {
		got := strings.TrimSpace(s.Kubectl("exec", pod, "-c", container, "--", "cat", "/sys/fs/cgroup/"+file))
		if got != want {
			s.T.Errorf("%s of container %s is %s, want %s", file, container, got, want)
		}
	}
}

// sight is what a resize changes in a Pod's microVM, and what it must not change.
type sight struct {
	boot, started string // of the guest, and of the first container's process
	containers    string
	memory        int // bytes, as the guest sees them
	cpus          int
	hostLimit     int // bytes, of the Pod's cgroup on the host; 0 for none
}

func (s *space) look(pod *corev1.Pod) sight {
	s.T.Helper()
	text := s.MustExec(pod.Name, "sh", "-c", "cat /proc/sys/kernel/random/boot_id; cut -d' ' -f22 /proc/1/stat; awk '/MemTotal/ {print $2}' /proc/meminfo; nproc")
	lines := splitLines(text)
	if len(lines) != 4 {
		s.T.Fatalf("the guest of %s says %q", pod.Name, text)
	}
	kb, err1 := strconv.Atoi(lines[2])
	cpus, err2 := strconv.Atoi(lines[3])
	if err := errors.Join(err1, err2); err != nil {
		s.T.Fatal(err)
	}
	seen := sight{boot: lines[0], started: lines[1], memory: kb << 10, cpus: cpus, hostLimit: s.hostLimit(pod.UID)}
	for _, c := range pod.Status.ContainerStatuses {
		seen.containers += fmt.Sprintf("%s restarted %d times ", c.ContainerID, c.RestartCount)
	}
	return seen
}

// handedBack looks at a Pod when its guest has as much memory as it had before. Three GiB take a busy machine longer than the resize waits.
func (s *space) handedBack(pod *corev1.Pod, before sight) (now sight) {
	s.T.Helper()
	s.Until("guest of "+pod.Name+" has handed back its memory", func() (bool, error) {
		now = s.look(pod)
		more := now.memory - before.memory
		return more >= -(1<<20) && more <= 1<<20, fmt.Errorf("it has %d MiB more than at first", more>>20)
	})
	return now
}

// same checks that a Pod runs on as it did.
func (a sight) same(t *testing.T, b sight) {
	t.Helper()
	if a.boot != b.boot || a.started != b.started || a.containers != b.containers {
		t.Errorf("something was started anew: guest %s, process %s, containers %s; before %s, %s, %s",
			a.boot, a.started, a.containers, b.boot, b.started, b.containers)
	}
}

// hostLimit reads the memory limit of a Pod's cgroup on the host, in either version of cgroups.
func (s *space) hostLimit(uid types.UID) int {
	s.T.Helper()
	files, err := s.Host.CgroupFiles("pod"+string(uid), "memory.limit_in_bytes", "memory.max")
	if err != nil {
		s.T.Fatal(err)
	}
	limit := 0
	for _, text := range files {
		limit, _ = strconv.Atoi(text) // "max" is none
	}
	return limit
}
