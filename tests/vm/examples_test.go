package vm_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodeless/nodeless/pkg/api"
	"github.com/nodeless/nodeless/pkg/api/billing/v1alpha1"
)

// example reads one of the manifests that come with the product.
func example(t *testing.T, name string) string {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join("..", "..", "manifests", "examples", name))
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

// TestExampleMicroservice: it answers behind its Service, its autoscaler knows what it uses, and its budget holds.
func TestExampleMicroservice(t *testing.T) {
	s := newSpace(t, 5*time.Minute)
	s.Apply(example(t, "microservice.yaml"))
	pod := s.Pods("app=microservice", 1)[0]
	if got := pod.Annotations[api.Spec]; got != "0.5C1Gi" {
		t.Errorf("the Pod is a %s, the manifest says 0.5C1Gi", got)
	}
	service := s.service("microservice")
	s.Until("the Service answers", func() (bool, error) {
		got, err := s.get(service + "/burn?ms=20")
		return strings.Contains(got, "pod "+pod.Name+" used 2"), fmt.Errorf("it says %q, %w", got, err)
	})
	s.Until("the autoscaler is active and has a sane figure", func() (bool, error) {
		hpa, err := s.Client.AutoscalingV2().HorizontalPodAutoscalers(s.Name).Get(s.Ctx, "microservice", metav1.GetOptions{})
		if err != nil {
			return false, err
		}
		active := slices.ContainsFunc(hpa.Status.Conditions, func(c autoscalingv2.HorizontalPodAutoscalerCondition) bool {
			return c.Type == autoscalingv2.ScalingActive && c.Status == corev1.ConditionTrue
		})
		for _, m := range hpa.Status.CurrentMetrics {
			if m.Pods != nil && m.Pods.Current.AverageValue != nil {
				percent := m.Pods.Current.AverageValue.AsApproximateFloat64()
				return active && percent >= 0 && percent <= 120, fmt.Errorf("it sees %v %%", percent)
			}
		}
		return false, fmt.Errorf("it is %v", hpa.Status.Conditions)
	})
	s.Until("the budget counts the Pod", func() (bool, error) {
		budget, err := s.Client.PolicyV1().PodDisruptionBudgets(s.Name).Get(s.Ctx, "microservice", metav1.GetOptions{})
		if err != nil {
			return false, err
		}
		return budget.Status.CurrentHealthy == 1 && budget.Status.DisruptionsAllowed == 1, fmt.Errorf("its status is %+v", budget.Status)
	})
}

// TestExampleOffline: ten microVMs compute side by side, what they find adds up, and when they are done none is left to be paid for.
func TestExampleOffline(t *testing.T) {
	s := newQuietSpace(t, 9*time.Minute)
	most := s.watchParallel("primes")
	ran := s.watchRunning("app=primes")
	s.Apply(example(t, "offline.yaml"))
	job := s.jobEnds("primes", batchv1.JobComplete, batchv1.JobReasonCompletionsReached)
	t.Logf("complete in %s; at most %d Pods ran at once", job.Status.CompletionTime.Sub(job.Status.StartTime.Time), ran())
	if n := most(); n != 10 {
		t.Errorf("%d Pods were active at once at most, want 10", n)
	}
	pods, err := s.Client.CoreV1().Pods(s.Name).List(s.Ctx, metav1.ListOptions{LabelSelector: "app=primes"})
	if err != nil || len(pods.Items) != 10 {
		t.Fatalf("%d Pods, %v; want 10", len(pods.Items), err)
	}
	line := regexp.MustCompile(`^part ([0-9]): ([0-9]+) primes from`)
	parts, sum := map[string]bool{}, 0
	for _, pod := range pods.Items {
		if got := pod.Annotations[api.Spec]; got != "0.25C0.5Gi" {
			t.Errorf("Pod %s is a %s, the manifest says 0.25C0.5Gi", pod.Name, got)
		}
		log := s.Kubectl("logs", pod.Name)
		m := line.FindStringSubmatch(log)
		if m == nil || m[1] != pod.Annotations[batchv1.JobCompletionIndexAnnotation] {
			t.Fatalf("Pod %s of index %s says %q", pod.Name, pod.Annotations[batchv1.JobCompletionIndexAnnotation], log)
		}
		n, err := strconv.Atoi(m[2])
		if err != nil {
			t.Fatal(err)
		}
		parts[m[1]] = true
		sum += n
	}
	if len(parts) != 10 || sum != 1270607 {
		t.Errorf("%d parts have %d primes together, want ten and 1270607", len(parts), sum)
	}
	s.nothingRuns(pods.Items)
}

// watchRunning gives, when asked, how many Pods with a label ran at once at most.
func (s *space) watchRunning(label string) func() int {
	s.T.Helper()
	w, err := s.Client.CoreV1().Pods(s.Name).Watch(s.Ctx, metav1.ListOptions{LabelSelector: label})
	if err != nil {
		s.T.Fatal(err)
	}
	most := make(chan int)
	go func() {
		n, running := 0, map[string]bool{}
		for event := range w.ResultChan() {
			if pod, ok := event.Object.(*corev1.Pod); ok {
				running[pod.Name] = pod.Status.Phase == corev1.PodRunning
			}
			now := 0
			for _, yes := range running {
				if yes {
					now++
				}
			}
			n = max(n, now)
		}
		most <- n
	}()
	return func() int {
		w.Stop()
		return <-most
	}
}

// nothingRuns waits until the ledger has the end of each Pod's microVM, after which nothing more of it is billed, and looks that no
// microVM is left. The Pods themselves are there still.
func (s *space) nothingRuns(pods []corev1.Pod) {
	s.T.Helper()
	var usages v1alpha1.UsageList
	s.Until("the ledger has the end of each of the microVMs", func() (bool, error) {
		usages = v1alpha1.UsageList{}
		if err := s.raw("/apis/"+v1alpha1.GroupVersion().String()+"/namespaces/"+s.Name+"/usages", &usages); err != nil {
			return false, err
		}
		ended := 0
		for _, u := range usages.Items {
			if !u.Running {
				ended++
			}
		}
		return ended == len(usages.Items) && ended >= len(pods), fmt.Errorf("%d of %d have ended", ended, len(usages.Items))
	})
	specs, lives := map[string]string{}, map[string]v1alpha1.Usage{}
	for _, pod := range pods {
		specs[pod.Name] = pod.Annotations[api.Spec]
	}
	for _, u := range usages.Items {
		lives[u.Pod] = u
		s.T.Logf("Pod %s, a %s, is billed for %d s", u.Pod, u.Spec, u.Seconds)
		if u.Spec != specs[u.Pod] || u.Seconds < 1 || u.End == nil || u.Estimated {
			s.T.Errorf("the ledger says %+v, want a life of a %s whose end was seen", u, specs[u.Pod])
		}
	}
	if len(usages.Items) != len(pods) || len(lives) != len(pods) {
		s.T.Errorf("the ledger has %d lives of %d Pods, want one of each of %d", len(usages.Items), len(lives), len(pods))
	}
	s.scraped(usages.Items)
	s.T.Logf("at most %d microVMs were there at once", atOnce(usages.Items))
	if left := s.Processes(s.T, "qemu-system"); len(left) > 0 {
		s.T.Errorf("QEMUs are left: %v", left)
	}
}

// scraped looks that Prometheus is told the same of these usages, all of which have ended. They are cut to whole seconds; what Prometheus
// is told is not.
func (s *space) scraped(usages []v1alpha1.Usage) {
	s.T.Helper()
	body, err := s.Client.Discovery().RESTClient().Get().AbsPath("/metrics").Do(s.Ctx).Raw()
	if err != nil {
		s.T.Fatal(err)
	}
	line := regexp.MustCompile(`(?m)^(nodeless_sandbox\w+)\{.*namespace="` + s.Name + `".*\} (\S+)$`)
	told := map[string]float64{}
	for _, m := range line.FindAllStringSubmatch(string(body), -1) {
		n, err := strconv.ParseFloat(m[2], 64)
		if err != nil {
			s.T.Fatal(err)
		}
		told[m[1]] += n
	}
	var seconds int64
	for _, u := range usages {
		seconds += u.Seconds
	}
	running, known := told["nodeless_sandboxes_running"]
	if off := told["nodeless_sandbox_seconds_total"] - float64(seconds); !known || running != 0 || math.Abs(off) > float64(len(usages)) {
		s.T.Errorf("/metrics says %v of this namespace, want %d s and nothing that runs", told, seconds)
	}
}

// atOnce is the largest number of microVMs that were there at the same time. Each has ended.
func atOnce(usages []v1alpha1.Usage) int {
	most := 0
	for _, one := range usages {
		n := 0
		for _, other := range usages {
			if !other.Start.After(one.Start.Time) && other.End.After(one.Start.Time) {
				n++
			}
		}
		most = max(most, n)
	}
	return most
}

// TestExampleInference: the model tells three languages through its Service, and refuses what is no text.
func TestExampleInference(t *testing.T) {
	s := newSpace(t, 5*time.Minute)
	s.Apply(example(t, "inference.yaml"))
	s.Pods("app=inference", 1)
	url := s.service("inference") + "/v1/classify"
	for text, want := range map[string]string{
		"Wo ist der Bahnhof?": "de", "The train to the coast leaves at noon.": "en", "Le train pour la mer part à midi.": "fr",
	} {
		var got struct {
			Language, Device string
			Probabilities    map[string]float64
		}
		s.Until("the model answers", func() (bool, error) {
			status, body, err := s.post(url, map[string]string{"text": text})
			if err != nil || status != http.StatusOK {
				return false, fmt.Errorf("%d %s: %w", status, body, err)
			}
			return true, json.Unmarshal(body, &got)
		})
		if got.Language != want || got.Device != "cpu" || got.Probabilities[want] < 0.9 {
			t.Errorf("%q: %+v, want %s on the cpu", text, got, want)
		}
	}
	status, body, err := s.post(url, map[string]string{"text": strings.Repeat("a", 1<<17)})
	if err != nil || status != http.StatusRequestEntityTooLarge {
		t.Errorf("a text of 128 KiB: %d %s, %v; want 413", status, body, err)
	}
}

// TestExampleInferenceOnGPU: with the one annotation that the manifest has as a comment the same Pods are of the spec with a GPU, and wait
// for a host that has one.
func TestExampleInferenceOnGPU(t *testing.T) {
	s := newSpace(t, time.Minute)
	text := example(t, "inference.yaml")
	onGPU := strings.Replace(text, "# annotations:", "annotations:", 1)
	if onGPU == text {
		t.Fatal("the manifest has no annotation as a comment")
	}
	s.Apply(onGPU)
	var pod *corev1.Pod
	s.Until("the Pod waits", func() (bool, error) {
		list, err := s.Client.CoreV1().Pods(s.Name).List(s.Ctx, metav1.ListOptions{LabelSelector: "app=inference"})
		if err != nil || len(list.Items) != 1 {
			return false, fmt.Errorf("%d Pods: %w", len(list.Items), err)
		}
		pod = &list.Items[0]
		return condition(pod, corev1.PodScheduled).Reason == corev1.PodReasonUnschedulable, fmt.Errorf("its conditions are %v", pod.Status.Conditions)
	})
	if spec, kind := pod.Annotations[api.Spec], pod.Annotations[api.SpecType]; spec != "8C32Gi 1×T4" || kind != "T4" {
		t.Errorf("the Pod is a %q of type %q, want 8C32Gi 1×T4", spec, kind)
	}
	if message := condition(pod, corev1.PodScheduled).Message; !strings.Contains(message, "Insufficient nvidia.com/gpu") {
		t.Errorf("it waits: %s; want that a GPU is missing", message)
	}
}

// service is the URL of a Service by its address.
func (s *space) service(name string) string {
	s.T.Helper()
	return "http://" + s.Kubectl("get", "service", name, "-o", "jsonpath={.spec.clusterIP}")
}

// post sends JSON from the host.
func (s *space) post(url string, what any) (int, []byte, error) {
	raw, err := json.Marshal(what)
	if err != nil {
		return 0, nil, err
	}
	tr := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
		return s.Host.Dial(ctx, network, addr)
	}}
	req, err := http.NewRequestWithContext(s.Ctx, http.MethodPost, url, bytes.NewReader(raw))
	if err != nil {
		return 0, nil, err
	}
	res, err := (&http.Client{Transport: tr, Timeout: 10 * time.Second}).Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	return res.StatusCode, body, err
}
