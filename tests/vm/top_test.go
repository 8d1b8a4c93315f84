package vm_test

import (
	"encoding/json"
	"fmt"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	stats "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
	"k8s.io/metrics/pkg/apis/metrics/v1beta1"
)

// loaded is a Deployment of one Pod: one container keeps a CPU busy, the other holds 40 MB and sleeps. They request less than the Pod has.
const loaded = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: load}
spec:
  selector: {matchLabels: {app: load}}
  template:
    metadata: {labels: {app: load}, annotations: {eks.tke.cloud.tencent.com/cpu: "1", eks.tke.cloud.tencent.com/mem: 2Gi}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: burn
        image: IMAGE
        command: [sh, -c, "while :; do :; done"]
        resources: {requests: {cpu: 250m, memory: 32Mi}}
      - name: hold
        image: IMAGE
        command: [/hello, alloc, "40"]
        env: [{name: HOLD, value: "1"}]
        resources: {requests: {cpu: 250m, memory: 32Mi}}
---
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: load}
spec:
  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: load}
  minReplicas: 1
  maxReplicas: 1
  metrics:
  - type: Resource
    resource: {name: cpu, target: {type: Utilization, averageUtilization: 50}}
  - type: Resource
    resource: {name: memory, target: {type: Utilization, averageUtilization: 50}}
`

// TestTop compares what the cluster says of a Pod's use with what the cgroups inside its guest say.
func TestTop(t *testing.T) {
	s := newQuietSpace(t, 5*time.Minute)
	s.Apply(loaded)
	pod := s.Pods("app=load", 1)[0].Name
	// This is traffic for the network's figures.
	s.MustExec(pod, "sh", "-c", "/hello get -k -timeout 60s https://kubernetes.default.svc.cluster.local/openapi/v2 >/dev/null")

	start, before := time.Now(), s.busy(pod)
	figures := s.measured(pod, start)
	after := s.busy(pod)
	cores := (after.used - before.used) / (after.uptime - before.uptime)
	t.Logf("in the guest: burn uses %.3f cores over %.1f s; measured: %s", cores, after.uptime-before.uptime, describe(figures))

	burn, hold := figures["burn"], figures["hold"]
	within(t, "cores of burn", burn.Usage.Cpu().AsApproximateFloat64(), cores, 0.15)
	if idle := hold.Usage.Cpu().AsApproximateFloat64(); idle > 0.05 {
		t.Errorf("hold, which sleeps, uses %.3f cores", idle)
	}
	held := s.workingSet(pod, "hold")
	within(t, "memory of hold", hold.Usage.Memory().AsApproximateFloat64(), held, 0.1)
	if little := burn.Usage.Memory().Value(); little <= 0 || little > 8<<20 {
		t.Errorf("burn, a shell, uses %d bytes", little)
	}
	if held < 40<<20 {
		t.Errorf("the guest itself says that hold has %.0f bytes, want 40 MB", held)
	}

	s.expectTop(t, pod)
	s.expectSummary(t, pod, cores, held)
	s.expectPrometheus(t, pod)
	s.expectUtilization(t, cores, held)
	s.expectAPI(t)
}

// reading is what a container has used so far, by its guest's clock.
type reading struct{ uptime, used float64 } // seconds

// busy reads the processor time of burn.
func (s *space) busy(pod string) reading {
	s.T.Helper()
	out := s.MustExec(pod, "sh", "-c", "cat /proc/uptime /sys/fs/cgroup/cpu.stat")
	var r reading
	if _, err := fmt.Sscan(out, &r.uptime); err != nil {
		s.T.Fatalf("read uptime: %v\n%s", err, out)
	}
	r.used = field(s.T, out, "usage_usec") / 1e6
	return r
}

// workingSet reads what a container needs of memory: all of it but file pages that nobody has used lately.
func (s *space) workingSet(pod, container string) float64 {
	s.T.Helper()
	out := s.Kubectl("exec", pod, "-c", container, "--", "sh", "-c", "echo current $(cat /sys/fs/cgroup/memory.current); cat /sys/fs/cgroup/memory.stat")
	return field(s.T, out, "current") - field(s.T, out, "inactive_file")
}

// field is the number behind a word at the beginning of a line.
func field(t *testing.T, text, name string) float64 {
	t.Helper()
	for _, line := range splitLines(text) {
		if rest, ok := strings.CutPrefix(line, name+" "); ok {
			n, err := strconv.ParseFloat(strings.TrimSpace(rest), 64)
			if err != nil {
				t.Fatalf("parse %q: %v", line, err)
			}
			return n
		}
	}
	t.Fatalf("no %s in:\n%s", name, text)
	return 0
}

// measured waits for figures of the Pod whose whole window lies after start.
func (s *space) measured(pod string, start time.Time) map[string]v1beta1.ContainerMetrics {
	s.T.Helper()
	var got v1beta1.PodMetrics
	s.Until("the Pod is measured", func() (bool, error) {
		got = v1beta1.PodMetrics{}
		if err := s.raw("/apis/metrics.k8s.io/v1beta1/namespaces/"+s.Name+"/pods/"+pod, &got); err != nil {
			return false, err
		}
		began := got.Timestamp.Add(-got.Window.Duration)
		return !began.Before(start), fmt.Errorf("its window began at %s, which is before %s", began, start)
	})
	out := map[string]v1beta1.ContainerMetrics{}
	for _, c := range got.Containers {
		out[c.Name] = c
	}
	if len(out) != 2 {
		s.T.Fatalf("measured are %v, want burn and hold", got.Containers)
	}
	return out
}

// raw reads a JSON answer of the apiserver.
func (s *space) raw(path string, into any) error {
	body, err := s.Client.Discovery().RESTClient().Get().AbsPath(path).SetHeader("Accept", "application/json").Do(s.Ctx).Raw()
	if err != nil {
		return err
	}
	return json.Unmarshal(body, into)
}

func describe(figures map[string]v1beta1.ContainerMetrics) string {
	var parts []string
	for name, c := range figures {
		parts = append(parts, fmt.Sprintf("%s %s %s", name, c.Usage.Cpu(), c.Usage.Memory()))
	}
	return strings.Join(parts, ", ")
}

// within fails unless got is want, give or take a part of it.
func within(t *testing.T, what string, got, want, tolerance float64) {
	t.Helper()
	if got < want*(1-tolerance) || got > want*(1+tolerance) {
		t.Errorf("%s: %.4g, want %.4g within %.0f %%", what, got, want, tolerance*100)
	}
}

func (s *space) expectTop(t *testing.T, pod string) {
	t.Helper()
	lines := splitLines(s.Kubectl("top", "pods", "--no-headers"))
	if len(lines) != 1 || !strings.HasPrefix(lines[0], pod) {
		t.Fatalf("top pods says:\n%s", strings.Join(lines, "\n"))
	}
	cpu, memory := columns(t, lines[0], 1)
	if cpu < 700 || memory < 40 || memory > 80 {
		t.Errorf("the Pod uses %d millicores and %d MiB, want about 1000 and 45", cpu, memory)
	}
	containers := map[string]bool{}
	for _, line := range splitLines(s.Kubectl("top", "pods", "--containers", "--no-headers")) {
		containers[strings.Fields(line)[1]] = true
		columns(t, line, 2)
	}
	if !containers["burn"] || !containers["hold"] || len(containers) != 2 {
		t.Errorf("top pods --containers names %v", containers)
	}
	node := s.Kubectl("top", "nodes", "--no-headers")
	fields := strings.Fields(node)
	cpu, memory = columns(t, fields[0]+" "+fields[1]+" "+fields[3], 1)
	if cpu < 300 || cpu > 1000*runtime.NumCPU()*11/10 || memory < 100 {
		t.Errorf("the node uses %d millicores and %d MiB:\n%s", cpu, memory, node)
	}
}

// columns reads "12m 34Mi" behind the first n words.
func columns(t *testing.T, line string, n int) (millicores, mebibytes int) {
	t.Helper()
	fields := strings.Fields(line)
	if len(fields) < n+2 {
		t.Fatalf("too few columns in %q", line)
	}
	millicores, err := strconv.Atoi(strings.TrimSuffix(fields[n], "m"))
	if err != nil {
		t.Fatalf("CPU in %q: %v", line, err)
	}
	if mebibytes, err = strconv.Atoi(strings.TrimSuffix(fields[n+1], "Mi")); err != nil {
		t.Fatalf("memory in %q: %v", line, err)
	}
	return millicores, mebibytes
}

// expectSummary looks at the kubelet's own account, of which the API shows a part.
func (s *space) expectSummary(t *testing.T, name string, cores, held float64) {
	t.Helper()
	node := s.Kubectl("get", "nodes", "-o", "jsonpath={.items[0].metadata.name}")
	guest := s.MustExec(name, "cat", "/proc/net/dev")
	var all stats.Summary
	if err := s.raw("/api/v1/nodes/"+node+"/proxy/stats/summary", &all); err != nil {
		t.Fatal(err)
	}
	var pod *stats.PodStats
	containers := map[string]stats.ContainerStats{}
	for i := range all.Pods {
		if all.Pods[i].PodRef.Name == name {
			pod = &all.Pods[i]
		}
	}
	if pod == nil || pod.CPU == nil || pod.Memory == nil || pod.Network == nil {
		t.Fatalf("the kubelet's summary has no complete account of the Pod: %+v", pod)
	}
	for _, c := range pod.Containers {
		containers[c.Name] = c
	}
	burn, hold := containers["burn"], containers["hold"]
	within(t, "nanocores of burn", number(burn.CPU.UsageNanoCores), cores*1e9, 0.3)
	within(t, "working set of hold", number(hold.Memory.WorkingSetBytes), held, 0.1)
	within(t, "resident memory of hold", number(hold.Memory.RSSBytes), held, 0.2)
	if faults := number(hold.Memory.PageFaults); faults < (40<<20)/(2<<20) {
		t.Errorf("hold has touched 40 MB with %.0f page faults", faults)
	}
	// The Pod's own account is that of the host: its cgroup holds the whole microVM.
	inside := number(burn.CPU.UsageCoreNanoSeconds) + number(hold.CPU.UsageCoreNanoSeconds)
	if whole := number(pod.CPU.UsageCoreNanoSeconds); whole < 0.5*inside {
		t.Errorf("the microVM has used %.3g core-nanoseconds, its containers %.3g", whole, inside)
	}
	if whole := number(pod.Memory.WorkingSetBytes); whole < held {
		t.Errorf("the microVM holds %.3g bytes, a container of it %.3g", whole, held)
	}
	if n := number(pod.ProcessStats.ProcessCount); n < 2 || n > 20 {
		t.Errorf("the Pod has %.0f processes, want one or two for each container", n)
	}
	// The host counts at the other end of the cable, and from before the guest was there.
	received, sent := guestBytes(t, guest)
	eth0 := pod.Network.InterfaceStats
	t.Logf("network: guest received %.0f sent %.0f, summary %s %.0f %.0f", received, sent, eth0.Name, number(eth0.RxBytes), number(eth0.TxBytes))
	if eth0.Name != "eth0" || received < 100_000 {
		t.Errorf("interface %s, the guest received %.0f bytes", eth0.Name, received)
	}
	within(t, "bytes received", number(eth0.RxBytes), received, 0.1)
	within(t, "bytes sent", number(eth0.TxBytes), sent, 0.2)
}

func number(n *uint64) float64 {
	if n == nil {
		return -1
	}
	return float64(*n)
}

// guestBytes reads the line "eth0: received … sent …" of /proc/net/dev.
func guestBytes(t *testing.T, dev string) (received, sent float64) {
	t.Helper()
	for _, line := range splitLines(dev) {
		rest, ok := strings.CutPrefix(strings.TrimSpace(line), "eth0:")
		fields := strings.Fields(rest)
		if !ok || len(fields) < 9 {
			continue
		}
		received, err := strconv.ParseFloat(fields[0], 64)
		if err != nil {
			t.Fatal(err)
		}
		if sent, err = strconv.ParseFloat(fields[8], 64); err != nil {
			t.Fatal(err)
		}
		return received, sent
	}
	t.Fatalf("no eth0 in:\n%s", dev)
	return 0, 0
}

// expectPrometheus looks for the containers where monitoring systems do.
func (s *space) expectPrometheus(t *testing.T, pod string) {
	t.Helper()
	node := s.Kubectl("get", "nodes", "-o", "jsonpath={.items[0].metadata.name}")
	body, err := s.Client.Discovery().RESTClient().Get().AbsPath("/api/v1/nodes/" + node + "/proxy/metrics/cadvisor").DoRaw(s.Ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, series := range []string{"container_cpu_usage_seconds_total", "container_memory_working_set_bytes", "container_memory_rss", "container_network_receive_bytes_total"} {
		found := 0
		for _, line := range splitLines(string(body)) {
			if strings.HasPrefix(line, series+"{") && strings.Contains(line, `pod="`+pod+`"`) {
				found++
			}
		}
		if found == 0 {
			t.Errorf("no series %s of the Pod", series)
		}
	}
}

// expectUtilization looks at the shares that the autoscaler goes by: of what both containers request, not of what the Pod has.
func (s *space) expectUtilization(t *testing.T, cores, held float64) {
	t.Helper()
	var hpa *autoscalingv2.HorizontalPodAutoscaler
	s.Until("the autoscaler sees the use", func() (bool, error) {
		var err error
		if hpa, err = s.Client.AutoscalingV2().HorizontalPodAutoscalers(s.Name).Get(s.Ctx, "load", metav1.GetOptions{}); err != nil {
			return false, err
		}
		for _, c := range hpa.Status.Conditions {
			if c.Type == autoscalingv2.ScalingActive && c.Status == corev1.ConditionTrue {
				return true, nil
			}
		}
		return false, fmt.Errorf("its conditions are %v", hpa.Status.Conditions)
	})
	want := map[corev1.ResourceName]float64{corev1.ResourceCPU: cores / 0.5, corev1.ResourceMemory: held / (64 << 20)}
	for _, m := range hpa.Status.CurrentMetrics {
		if m.Resource != nil && m.Resource.Current.AverageUtilization != nil {
			within(t, "utilization of "+string(m.Resource.Name)+" in per cent", float64(*m.Resource.Current.AverageUtilization), want[m.Resource.Name]*100, 0.3)
			delete(want, m.Resource.Name)
		}
	}
	if len(want) > 0 {
		t.Errorf("the autoscaler has no current utilization of %v: %+v", want, hpa.Status)
	}
}

// expectAPI looks at the API as clients do that know nothing of how it is made.
func (s *space) expectAPI(t *testing.T) {
	t.Helper()
	for _, version := range []string{"v1", "v1beta1"} {
		var list metav1.APIResourceList
		if err := s.raw("/apis/metrics.k8s.io/"+version, &list); err != nil || len(list.APIResources) != 2 {
			t.Errorf("discovery of %s: %v, %v", version, list.APIResources, err)
		}
		got := s.Kubectl("get", "apiservice", version+".metrics.k8s.io", "-o", `jsonpath={.status.conditions[?(@.type=="Available")].status}`)
		if got != "True" {
			t.Errorf("APIService of %s is available: %q", version, got)
		}
	}
	if out := s.Kubectl("explain", "pods", "--api-version=metrics.k8s.io/v1beta1"); !strings.Contains(out, "PodMetrics") {
		t.Errorf("explain says:\n%s", out)
	}
	who := "--as=system:serviceaccount:" + s.Name + ":default"
	if out, err := s.Host.Kubectl(s.Ctx, "-n", s.Name, "auth", "can-i", "list", "pods.metrics.k8s.io", who); err == nil {
		t.Errorf("somebody without rights may see what Pods use: %s", out)
	}
	s.Kubectl("create", "rolebinding", "viewer", "--clusterrole=view", "--serviceaccount="+s.Name+":default")
	s.Until("the role view shows what Pods use", func() (bool, error) {
		out, err := s.Host.Kubectl(s.Ctx, "-n", s.Name, "auth", "can-i", "list", "pods.metrics.k8s.io", who)
		return strings.TrimSpace(out) == "yes", err
	})
}
