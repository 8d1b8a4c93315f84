package vm_test

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodeless/nodeless/pkg/api"
	"github.com/nodeless/nodeless/tests/testcluster"
)

// TestPodsAreMicroVMsOfTheirSpec: the worked examples of TKE Serverless ("Pod resource specification calculation"), as it has them, and
// the first sizes of its tables. The guest has what the spec says.
func TestPodsAreMicroVMsOfTheirSpec(t *testing.T) {
	const first = "    resources: {requests: {cpu: \"1\", memory: 2Gi}, limits: {cpu: \"1\", memory: 2Gi}}\n"
	const second = `    resources: {requests: {cpu: "2", memory: 4Gi}, limits: {cpu: "4", memory: 4Gi}}
  - name: other
    image: IMAGE
    command: [sh, -c, "trap 'exit 0' TERM; while :; do sleep 1 & wait; done"]
    resources: {requests: {cpu: "1", memory: 2Gi}, limits: {cpu: "1", memory: 2Gi}}
`
	for _, tt := range []struct {
		name, container, annotations string
		spec                         string
		cpus                         int
		gib                          float64
		asks                         string
	}{
		{"example-one", first, "", "1C2Gi", 1, 2, "its containers ask for 1 cores, 2 GiB"},
		{"example-two", second, "", "4C8Gi", 4, 8, "its containers ask for 4 cores, 6 GiB"},
		{"says-nothing", "", "", "1C2Gi", 1, 2, "its containers ask for nothing"},
		{"named", "", api.CPU + `: "2", ` + api.Memory + ": 5Gi", "2C5Gi", 2, 5, "its annotations name that spec"},
		{"smallest", "    resources: {requests: {cpu: 10m}}\n", "", "0.25C0.5Gi", 1, 0.5, "its containers ask for 0.01 cores"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newQuietSpace(t, 3*time.Minute)
			pod := testcluster.Sleeper(tt.name, tt.container)
			if tt.annotations != "" {
				pod = strings.Replace(pod, "metadata: {", "metadata: {annotations: {"+tt.annotations+"}, ", 1)
			}
			s.Apply(pod)
			got := s.Ready(tt.name)
			if got.Annotations[api.Spec] != tt.spec || got.Annotations[api.SpecType] != "intel" {
				t.Errorf("annotations %v, want %s of intel", got.Annotations, tt.spec)
			}
			if n := s.MustExec(tt.name, "nproc"); n != strconv.Itoa(tt.cpus) {
				t.Errorf("nproc says %s, want %d", n, tt.cpus)
			}
			total := s.MustExec(tt.name, "awk", "/MemTotal/ {print $2}", "/proc/meminfo")
			kb, err := strconv.Atoi(total)
			if gib := float64(kb) / (1 << 20); err != nil || gib < 0.99*tt.gib || gib > tt.gib+0.25 {
				t.Errorf("the guest has %.3f GiB of memory, want %v and at most 256 MiB more, which are the kernel's", gib, tt.gib)
			}
			s.event(tt.name, "SpecMatched", fmt.Sprintf("The Pod is a %s (intel); %s", tt.spec, tt.asks))
		})
	}
}

// TestSchedulerAndQuotaCountTheSpec: not what containers ask for.
func TestSchedulerAndQuotaCountTheSpec(t *testing.T) {
	s := newSpace(t, 2*time.Minute)
	s.Apply(`
apiVersion: v1
kind: ResourceQuota
metadata: {name: quota}
spec: {hard: {requests.cpu: "3", limits.cpu: "3"}}
`)
	asleep := func(name string) string {
		return testcluster.Sleeper(name, "    resources: {requests: {cpu: 1500m}}\n  nodeSelector: {no: such-node}\n")
	}
	s.Apply(asleep("one"))
	out, code := s.TryApply(asleep("two"))
	if code == 0 || !strings.Contains(out, "exceeded quota: quota, requested: limits.cpu=2,requests.cpu=2, used: limits.cpu=2,requests.cpu=2, limited: limits.cpu=3,requests.cpu=3") {
		t.Errorf("a second Pod of 1.5 cores, a spec of 2: code %d, %s", code, out)
	}
	if !strings.Contains(s.Kubectl("get", "pods"), "one") {
		t.Error("the first Pod is not there")
	}
	if _, err := s.Client.CoreV1().Pods(s.Name).Get(s.Ctx, "two", metav1.GetOptions{}); err == nil {
		t.Error("the second Pod is there")
	}
}

// TestWrongSizesAreRefused: with the whole message; nothing is created.
func TestWrongSizesAreRefused(t *testing.T) {
	s := newSpace(t, time.Minute)
	annotated := func(a string) string {
		return strings.Replace(testcluster.Sleeper("bad", ""), "metadata: {", "metadata: {annotations: {"+a+"}, ", 1)
	}
	for _, tt := range []struct{ name, pod, want string }{
		{"no such spec", annotated(api.CPU + `: "3", ` + api.Memory + ": 4Gi"), "3C4Gi is no such spec; there are 0.25, 0.5, 1, 2, 4, 8, 12, 16 cores"},
		{"memory without CPU", annotated(api.Memory + ": 4Gi"), `metadata.annotations[eks.tke.cloud.tencent.com/mem]: Invalid value: "4Gi": a spec is named by both or by none; add eks.tke.cloud.tencent.com/cpu, or remove this one`},
		{"G for Gi", annotated(api.CPU + `: "2", ` + api.Memory + ": 4G"), `metadata.annotations[eks.tke.cloud.tencent.com/mem]: Invalid value: "4G": want memory of a spec in GiB, such as "4Gi"`},
		{"a GPU that is not in the catalog", annotated(`eks.tke.cloud.tencent.com/gpu-count: "1", eks.tke.cloud.tencent.com/gpu-type: H100`), `type "H100": no such spec; the types are V100`},
		{"more than the largest", testcluster.Sleeper("bad", "    resources: {requests: {cpu: 65}}\n"), "65C0Gi is more than the largest spec, 16C64Gi"},
		{"a negative amount", testcluster.Sleeper("bad", "    resources: {requests: {cpu: \"-1\"}}\n"), "must be greater than or equal to 0"},
		{"an absurd amount", testcluster.Sleeper("bad", "    resources: {requests: {memory: 9Ei}}\n"), "is more than the largest spec, 16C64Gi"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := s.with(t)
			out, code := s.TryApply(tt.pod)
			if code == 0 || !strings.Contains(out, tt.want) {
				t.Errorf("kubectl apply: code %d, %s\nwant %s", code, out, tt.want)
			}
		})
	}
	list, err := s.Client.CoreV1().Pods(s.Name).List(s.Ctx, metav1.ListOptions{})
	if err != nil || len(list.Items) != 0 {
		t.Errorf("%d Pods were created, %v", len(list.Items), err)
	}
}

// TestTypesOfCPU: a Pod waits for a host with CPUs of a type that no host has.
func TestTypesOfCPU(t *testing.T) {
	s := newSpace(t, time.Minute)
	nodes, err := s.Client.CoreV1().Nodes().List(s.Ctx, metav1.ListOptions{})
	if err != nil || len(nodes.Items) != 1 {
		t.Fatalf("%d nodes, %v", len(nodes.Items), err)
	}
	have := nodes.Items[0].Labels[api.CPUTypeLabel]
	other := map[string]string{"intel": "amd", "amd": "intel"}[have]
	if other == "" {
		t.Skipf("skipped: the host's CPUs are of type %q", have)
	}
	s.Apply(strings.Replace(testcluster.Sleeper("elsewhere", ""), "metadata: {", "metadata: {annotations: {"+api.CPUType+": "+other+"}, ", 1))
	s.Pod("elsewhere", "waits for another host", func(pod *corev1.Pod) bool {
		return pod.Annotations[api.SpecType] == other && condition(pod, corev1.PodScheduled).Reason == corev1.PodReasonUnschedulable
	})
	s.Apply(strings.Replace(testcluster.Sleeper("here", ""), "metadata: {", "metadata: {annotations: {"+api.CPUType+": \""+other+","+have+"\"}, ", 1))
	if pod := s.Ready("here"); pod.Annotations[api.SpecType] != have {
		t.Errorf("the Pod is of type %s, want %s", pod.Annotations[api.SpecType], have)
	}
}

// TestRootDiskIsAsLargeAsAsked: the writable disk of a Pod, by root-cbs-size.
func TestRootDiskIsAsLargeAsAsked(t *testing.T) {
	s := newSpace(t, 3*time.Minute)
	s.Apply(strings.Replace(testcluster.Sleeper("large", ""), "metadata: {", "metadata: {annotations: {"+api.RootDiskSize+`: "150"}, `, 1))
	s.Ready("large")
	out := s.MustExec("large", "sh", "-c", "df -k / | tail -n 1 | awk '{print $2}'; dd if=/dev/urandom of=/file bs=1M count=64 2>/dev/null && sync && wc -c </file")
	lines := strings.Fields(out)
	if len(lines) != 2 || lines[1] != strconv.Itoa(64<<20) {
		t.Fatalf("the Pod says %q", out)
	}
	kb, err := strconv.Atoi(lines[0])
	if gib := float64(kb) / (1 << 20); err != nil || gib < 145 || gib > 150 {
		t.Errorf("the disk has %.1f GiB, want 150 less what the file system takes", gib)
	}
}
