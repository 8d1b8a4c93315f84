package spot

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/nodeless/nodeless/pkg/api"
	"github.com/nodeless/nodeless/pkg/kube"
)

func TestPlan(t *testing.T) {
	now := time.Date(2026, 3, 1, 10, 0, 0, 0, time.UTC)
	past, soon, later := now.Add(-time.Second), now.Add(time.Second), now.Add(time.Minute)
	pod := func(key string, cpu, memory int64, notice time.Time) spotPod {
		return spotPod{key, amount{cpu, memory}, notice}
	}
	has := amount{10_000, 100}
	for _, tt := range []struct {
		name string
		host host
		want steps
	}{
		{"the reserve is free", host{has, amount{9000, 90}, []spotPod{pod("a", 1000, 10, time.Time{})}}, steps{}},
		{"CPU is short", host{has, amount{9001, 10}, []spotPod{pod("a", 1000, 1, time.Time{}), pod("b", 1000, 1, time.Time{})}}, steps{tell: []string{"a"}}},
		{"memory is short", host{has, amount{1000, 95}, []spotPod{pod("a", 100, 3, time.Time{}), pod("b", 100, 3, time.Time{}), pod("c", 100, 3, time.Time{})}}, steps{tell: []string{"a", "b"}}},
		{"those who were told are enough", host{has, amount{9500, 10}, []spotPod{pod("a", 1000, 1, time.Time{}), pod("b", 1000, 1, later)}}, steps{}},
		{"they are not", host{has, amount{10_000, 10}, []spotPod{pod("a", 900, 1, time.Time{}), pod("b", 900, 1, later)}}, steps{tell: []string{"a"}}},
		{"the notice is over", host{has, amount{9500, 10}, []spotPod{pod("b", 1000, 1, past)}}, steps{end: []string{"b"}}},
		{"the room is not needed any more", host{has, amount{5000, 10}, []spotPod{pod("b", 1000, 1, past), pod("c", 1000, 1, later)}}, steps{keep: []string{"b", "c"}}},
		{"one of two is enough", host{has, amount{9500, 10}, []spotPod{pod("b", 1000, 1, later), pod("c", 1000, 1, soon)}}, steps{keep: []string{"b"}}},
		{"nobody is left to tell", host{has, amount{9900, 10}, []spotPod{pod("a", 100, 1, time.Time{})}}, steps{tell: []string{"a"}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, plan(tt.host, 10, now), cmp.AllowUnexported(steps{})); diff != "" {
				t.Errorf("steps (-want +got):\n%s", diff)
			}
		})
	}
}

func podOn(name, charge, cpu string) *corev1.Pod {
	amounts := corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpu), corev1.ResourceMemory: resource.MustParse("1Gi")}
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default", UID: "0123456789", Annotations: map[string]string{api.ChargeType: charge}},
		Spec:       corev1.PodSpec{NodeName: "host", Resources: &corev1.ResourceRequirements{Requests: amounts, Limits: amounts}},
		Status:     corev1.PodStatus{Phase: corev1.PodRunning},
	}
}

// cluster is one host of ten cores with these Pods.
func cluster(pods ...*corev1.Pod) *fake.Clientset {
	objects := []runtime.Object{&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "host"}, Status: corev1.NodeStatus{Allocatable: corev1.ResourceList{
		corev1.ResourceCPU: resource.MustParse("10"), corev1.ResourceMemory: resource.MustParse("100Gi")}}}}
	for _, p := range pods {
		objects = append(objects, p)
	}
	return fake.NewClientset(objects...)
}

// running runs the component while do does something, inside a bubble.
func running(t *testing.T, client *fake.Clientset, do func()) {
	t.Helper()
	s := New(Config{Access: kube.Access{Server: "https://192.0.2.1", CertFile: "cert"}, Reserve: 10, Notice: 2 * time.Minute}, slog.New(slog.DiscardHandler))
	s.client, s.shuffle = client, func(int, func(i, j int)) {}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- s.Run(ctx) }()
	synctest.Wait()
	do()
	cancel()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
}

func events(t *testing.T, client *fake.Clientset) (all []string) {
	t.Helper()
	list, err := client.CoreV1().Events("default").List(context.Background(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range list.Items {
		all = append(all, e.InvolvedObject.Name+" "+e.Reason+": "+e.Message)
	}
	slices.Sort(all)
	return all
}

func there(t *testing.T, client *fake.Clientset) (names []string) {
	t.Helper()
	list, err := client.CoreV1().Pods("default").List(context.Background(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range list.Items {
		names = append(names, p.Name)
	}
	slices.Sort(names)
	return names
}

// A budget protects one of two spot Pods, so that the other is told, and goes when its notice is over, not before.
func TestSpotPodsGoAfterTheirNotice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := cluster(podOn("web", api.ChargePostPaid, "8"), podOn("a-protected", api.ChargeSpot, "500m"), podOn("b-free", api.ChargeSpot, "600m"))
		client.PrependReactor("create", "pods", func(a clienttesting.Action) (bool, runtime.Object, error) {
			if a.GetSubresource() != "eviction" {
				return false, nil, nil
			}
			meta, ok := a.(clienttesting.CreateAction).GetObject().(metav1.Object)
			if ok && meta.GetName() == "a-protected" {
				return true, nil, apierrors.NewTooManyRequests("budget", 1)
			}
			return true, nil, nil
		})
		running(t, client, func() {
			time.Sleep(time.Minute)
			synctest.Wait()
			if got := there(t, client); len(got) != 3 {
				t.Errorf("a minute later there are %q", got)
			}
			time.Sleep(2 * time.Minute)
			synctest.Wait()
			if got := there(t, client); !slices.Equal(got, []string{"a-protected", "web"}) {
				t.Errorf("after the notice there are %q", got)
			}
		})
		want := []string{
			"b-free SpotPodInterruption: The spot Pod is killed and re-created: its notice is over",
			"b-free SpotPodInterruption: The spot Pod will be killed and re-created at 2000-01-01T00:02:00Z: ordinary Pods need its capacity",
		}
		if diff := cmp.Diff(want, events(t, client)); diff != "" {
			t.Errorf("events (-want +got):\n%s", diff)
		}
	})
}

func TestSpotPodStaysWhenRoomIsFreeAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := cluster(podOn("web", api.ChargePostPaid, "9"), podOn("cheap", api.ChargeSpot, "500m"))
		running(t, client, func() {
			time.Sleep(time.Minute)
			if err := client.CoreV1().Pods("default").Delete(t.Context(), "web", metav1.DeleteOptions{}); err != nil {
				t.Fatal(err)
			}
			time.Sleep(5 * time.Minute)
			synctest.Wait()
		})
		pod, err := client.CoreV1().Pods("default").Get(t.Context(), "cheap", metav1.GetOptions{})
		if err != nil || pod.Annotations[api.InterruptionAt] != "" {
			t.Errorf("the Pod: %v, annotations %v", err, pod.Annotations)
		}
		if all := events(t, client); len(all) != 2 || !strings.Contains(all[1], "SpotPodKept: The spot Pod stays") {
			t.Errorf("events %q", all)
		}
	})
}

func TestOrdinaryPodsStay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := cluster(podOn("web", api.ChargePostPaid, "9500m"))
		running(t, client, func() { time.Sleep(10 * time.Minute) })
		if got, all := there(t, client), events(t, client); len(got) != 1 || len(all) != 0 {
			t.Errorf("there are %q, events %q", got, all)
		}
	})
}

func TestPodsThatArePushedOutSayWhy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pod := podOn("cheap", api.ChargeSpot, "1")
		pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: corev1.PodReasonPreemptionByScheduler}}
		client := cluster(pod)
		running(t, client, func() { time.Sleep(time.Minute) })
		want := []string{"cheap SpotPodInterruption: The spot Pod is killed and re-created, without notice: an ordinary Pod found no other room"}
		if diff := cmp.Diff(want, events(t, client)); diff != "" {
			t.Errorf("events (-want +got):\n%s", diff)
		}
	})
}

// TestPodThatIsPushedOutBetweenTwoLooks: it is deleted, and gone, before anybody has looked at it.
func TestPodThatIsPushedOutBetweenTwoLooks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := cluster(podOn("cheap", api.ChargeSpot, "1"))
		running(t, client, func() {
			time.Sleep(pause + pause/2)
			pod, err := client.CoreV1().Pods("default").Get(t.Context(), "cheap", metav1.GetOptions{})
			if err != nil {
				t.Error(err)
				return
			}
			pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: corev1.PodReasonPreemptionByScheduler}}
			if _, err := client.CoreV1().Pods("default").UpdateStatus(t.Context(), pod, metav1.UpdateOptions{}); err != nil {
				t.Error(err)
			}
			if err := client.CoreV1().Pods("default").Delete(t.Context(), "cheap", metav1.DeleteOptions{}); err != nil {
				t.Error(err)
			}
			time.Sleep(time.Minute)
		})
		if all := events(t, client); len(all) != 1 || !strings.Contains(all[0], "without notice") {
			t.Errorf("events %q, want one of a Pod that was pushed out", all)
		}
	})
}

func TestConfigNamesEveryFault(t *testing.T) {
	err := Config{Reserve: 101, Notice: -1}.Validate()
	for _, part := range []string{"no access", "101 percent", "notice of -1ns"} {
		if err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("Validate = %v, want it to name %q", err, part)
		}
	}
}
