package machine_test

import (
	"fmt"
	"maps"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/nodeless/nodeless/tests/testcluster"
)

const gib = 1 << 30

// sized is a Pod whose one container has limits: a 0.5C1Gi.
const sized = "    resources: {limits: {cpu: 500m, memory: 64Mi}}\n"

// TestMachinePod is one Pod's life in the machine, in which a boot takes a while: each part finds it as the one before has left it.
func TestMachinePod(t *testing.T) {
	s := newSpace(t, 10*time.Minute)
	s.Apply(testcluster.Sleeper("a", sized))
	pod := s.Ready("a")
	for _, part := range []struct {
		name string
		run  func(*testcluster.Space, *corev1.Pod)
	}{
		{"runs on KVM", runsOnKVM},
		{"its processes are in its cgroup", inItsCgroup},
		{"is confined", confined},
		{"the host bounds it", bounded},
		{"outlives its server", outlivesItsServer},
	} {
		t.Run(part.name, func(t *testing.T) {
			own := *s
			own.T = t
			part.run(&own, pod)
		})
	}
}

// bounded: cpu.max and memory.max of the Pod's cgroup are its spec's, with the microVM's own memory; they follow a resize in place, and
// systemd, which knows nothing of these cgroups, leaves them when it reads its units anew.
func bounded(s *testcluster.Space, pod *corev1.Pod) {
	overhead := pod.Spec.Overhead.Memory().Value()
	if overhead == 0 {
		s.T.Fatal("the Pod has no overhead: nobody counts the microVM's own memory")
	}
	bounds(s, pod, "50000 100000", 1*gib+overhead)

	patch := `{"spec":{"containers":[{"name":"main","resources":{"limits":{"cpu":"1","memory":"128Mi"}}}]}}`
	if _, err := s.Client.CoreV1().Pods(s.Name).Patch(s.Ctx, "a", types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{}, "resize"); err != nil {
		s.T.Fatal(err)
	}
	s.Pod("a", "has its new limits", func(pod *corev1.Pod) bool {
		r := pod.Status.ContainerStatuses[0].Resources
		return r != nil && r.Limits.Cpu().Cmp(resource.MustParse("1")) == 0 && r.Limits.Memory().Cmp(resource.MustParse("128Mi")) == 0
	})
	if got := s.MustExec("a", "cat", "/sys/fs/cgroup/cpu.max", "/sys/fs/cgroup/memory.max"); got != "100000 100000\n"+strconv.Itoa(128<<20) {
		s.T.Errorf("the guest holds the container to %q after the resize, want a core and 128 MiB", got)
	}
	size := int64(1 * gib) // 1C1Gi, unless the catalog rounds it up
	if spec := s.Ready("a").Annotations["nodeless.dev/spec"]; spec == "1C2Gi" {
		size = 2 * gib
	}
	bounds(s, pod, "100000 100000", size+overhead)
	onHost(s.T, "systemctl daemon-reload")
	bounds(s, pod, "100000 100000", size+overhead)
}

// bounds waits until the host holds the Pod to so much: the kubelet sets memory and processor time one after the other.
func bounds(s *testcluster.Space, pod *corev1.Pod, cpu string, memory int64) {
	s.T.Helper()
	want := map[string]string{"cpu.max": cpu, "memory.max": strconv.FormatInt(memory, 10)}
	s.Until("the host's bounds on the Pod are its spec's", func() (bool, error) {
		files, err := host.CgroupFiles("pod"+string(pod.UID), "cpu.max", "memory.max")
		if err != nil {
			return false, err
		}
		right := 0
		for file, value := range files {
			if value == want[filepath.Base(file)] {
				right++
			}
		}
		return right == len(want) && len(files) == len(want), fmt.Errorf("they are %v, want %v", files, want)
	})
}

// inItsCgroup: whatever works for a Pod is paid for by it. systemd's own tree has none of them.
func inItsCgroup(s *testcluster.Space, pod *corev1.Pod) {
	t := s.T
	for _, name := range []string{"qemu-system", "nodeless-vmm", "virtiofsd", "containerd-shim-kata-v2"} {
		found := processes(t, name)
		if len(found) == 0 {
			t.Errorf("there is no %s", name)
		}
		for pid := range found {
			raw, err := host.ReadFile("/proc/" + strconv.Itoa(pid) + "/cgroup")
			if want := "0::/nodeless/kubepods/pod" + string(pod.UID) + "/kata_"; err != nil || !strings.HasPrefix(string(raw), want) {
				t.Errorf("%s, process %d, is in %q (%v), want %s…", name, pid, raw, err, want)
			}
		}
	}
	if kind := onHost(t, "stat -f -c %T /sys/fs/cgroup"); kind != "cgroup2fs" {
		t.Errorf("/sys/fs/cgroup is a %s", kind)
	}
}

// outlivesItsServer: systemd restarts the server, says it is active when the node is Ready, and the Pod runs on, bounded as it was.
func outlivesItsServer(s *testcluster.Space, pod *corev1.Pod) {
	t := s.T
	held, err := host.CgroupFiles("pod"+string(pod.UID), "cpu.max", "memory.max")
	if err != nil {
		t.Fatal(err)
	}
	boot := s.MustExec("a", "cat", "/proc/sys/kernel/random/boot_id")
	onHost(t, "systemctl restart nodeless && systemctl is-active nodeless")
	s.Kubectl("wait", "node", "--all", "--for=condition=Ready", "--timeout=0s")
	s.Until("exec works again", func() (bool, error) {
		out, code := s.Exec("a", "true")
		return code == 0, fmt.Errorf("code %d: %s", code, out)
	})
	if got := s.MustExec("a", "cat", "/proc/sys/kernel/random/boot_id"); got != boot {
		t.Error("the microVM was booted again")
	}
	if now, err := host.CgroupFiles("pod"+string(pod.UID), "cpu.max", "memory.max"); err != nil || !maps.Equal(held, now) {
		t.Errorf("the host's bounds on the Pod are %v (%v), and were %v", now, err, held)
	}
	if kind := onHost(t, "systemctl show -P Type nodeless; systemctl show -P NRestarts nodeless"); kind != "notify\n0" {
		t.Errorf("the unit's type and its restarts by systemd are %q, want notify and none", kind)
	}
}
