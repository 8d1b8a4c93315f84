package eklet

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/nodeless/nodeless/pkg/api"
	"github.com/nodeless/nodeless/pkg/kube"
	"github.com/nodeless/nodeless/pkg/podsize"
)

func amounts(cpu, memory string) corev1.ResourceList {
	return corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpu), corev1.ResourceMemory: resource.MustParse(memory)}
}

// sized is a Pod of 0.5C1Gi whose container asks for less.
func sized(name string, created time.Time) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default", UID: "0123456789", CreationTimestamp: metav1.NewTime(created),
			Annotations: map[string]string{api.Spec: "0.5C1Gi", api.SpecType: "intel"}},
		Spec: corev1.PodSpec{
			Resources:  &corev1.ResourceRequirements{Requests: amounts("500m", "1Gi"), Limits: amounts("500m", "1Gi")},
			Containers: []corev1.Container{{Resources: corev1.ResourceRequirements{Requests: amounts("300m", "64Mi")}}},
		},
	}
}

// said runs the component on a cluster until it has nothing to do and gives its events' messages.
func said(t *testing.T, client *fake.Clientset, change func(ctx context.Context)) []string {
	t.Helper()
	catalog, err := podsize.DefaultCatalog()
	if err != nil {
		t.Fatal(err)
	}
	e := New(Config{Access: kube.Access{Server: "https://192.0.2.1", CertFile: "cert"}, Catalog: catalog}, slog.New(slog.DiscardHandler))
	e.client = client
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- e.Run(ctx) }()
	synctest.Wait()
	if change != nil {
		change(ctx)
		time.Sleep(time.Minute)
		synctest.Wait()
	}
	cancel()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	list, err := client.CoreV1().Events("default").List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var messages []string
	for _, event := range list.Items {
		if !slices.Contains([]string{SpecMatched, Starting, SharedClaim}, event.Reason) || event.InvolvedObject.UID == "" || event.Source.Component != "eklet" {
			t.Errorf("event %+v", event)
		}
		messages = append(messages, event.InvolvedObject.Name+": "+event.Message)
	}
	slices.Sort(messages)
	return messages
}

func TestSpecsAreTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		named := sized("named", time.Now())
		named.Annotations[api.CPU], named.Annotations[api.Memory] = "0.5", "1Gi"
		plain := sized("plain", time.Now())
		plain.Annotations = nil
		first := sized("first", time.Now())
		first.Annotations[api.Spec] = "1C2Gi"
		first.Spec.Resources = &corev1.ResourceRequirements{Requests: amounts("1", "2Gi"), Limits: amounts("1", "2Gi")}
		first.Spec.InitContainers = []corev1.Container{{Name: "wait"}}
		client := fake.NewClientset(sized("web", time.Now()), first, named, plain, sized("old", time.Now().Add(-time.Hour)))
		want := []string{
			"first: The Pod is a 1C2Gi (intel); init container wait sets nothing, which counts as 1C2Gi",
			"named: The Pod is a 0.5C1Gi (intel); its annotations name that spec",
			"web: The Pod is a 0.5C1Gi (intel); its containers ask for 0.3 cores, 0.0625 GiB",
		}
		for _, when := range []string{"at first", "after a restart"} {
			if got := said(t, client, nil); !slices.Equal(got, want) {
				t.Errorf("%s events are\n%s\nwant\n%s", when, strings.Join(got, "\n"), strings.Join(want, "\n"))
			}
		}
	})
}

// TestWhatWasSaidIsNotTriedAgain: a Pod that changes every moment costs a request for each thing there is to say, not for each change.
func TestWhatWasSaidIsNotTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pod := sized("web", time.Now())
		client := fake.NewClientset(pod)
		said(t, client, func(ctx context.Context) {
			for range 20 {
				time.Sleep(2 * time.Second)
				pod.ResourceVersion += "1"
				if _, err := client.CoreV1().Pods("default").Update(ctx, pod, metav1.UpdateOptions{}); err != nil {
					t.Fatal(err)
				}
			}
		})
		tried := 0
		for _, action := range client.Actions() {
			if action.Matches("create", "events") {
				tried++
			}
		}
		if tried != 1 {
			t.Errorf("%d events were tried, want 1", tried)
		}
	})
}

func TestResizeIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pod := sized("web", time.Now().Add(-time.Hour))
		client := fake.NewClientset(pod)
		got := said(t, client, func(ctx context.Context) {
			pod.Spec.Resources.Limits = amounts("1", "2Gi")
			if _, err := client.CoreV1().Pods("default").Update(ctx, pod, metav1.UpdateOptions{}); err != nil {
				t.Fatal(err)
			}
		})
		if want := []string{"web: The Pod went from 0.5C1Gi to 1C2Gi (intel)"}; !slices.Equal(got, want) {
			t.Errorf("events are %q, want %q", got, want)
		}
		now, err := client.CoreV1().Pods("default").Get(t.Context(), "web", metav1.GetOptions{})
		if err != nil || now.Annotations[api.Spec] != "1C2Gi" {
			t.Errorf("annotations %v, %v; want 1C2Gi", now.Annotations, err)
		}
	})
}

// A Pod that keeps its own figures has the spec that they ask for.
func TestNativePodsAreToldTheirSpec(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pod := sized("web", time.Now())
		pod.Spec.Resources, pod.Annotations[api.Sizing] = nil, api.SizingOpen
		client := fake.NewClientset(pod)
		got := said(t, client, func(ctx context.Context) {
			pod.Spec.Containers[0].Resources.Requests = amounts("1", "2Gi")
			if _, err := client.CoreV1().Pods("default").Update(ctx, pod, metav1.UpdateOptions{}); err != nil {
				t.Fatal(err)
			}
		})
		want := []string{"web: The Pod is a 0.5C1Gi (intel); its containers ask for 0.3 cores, 0.0625 GiB", "web: The Pod went from 0.5C1Gi to 1C2Gi (intel)"}
		if !slices.Equal(got, want) {
			t.Errorf("events are %q, want %q", got, want)
		}
	})
}

func TestAddressesAreCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		on := func(name, node string, phase corev1.PodPhase) *corev1.Pod {
			pod := sized(name, time.Now().Add(-time.Hour))
			pod.Spec.NodeName, pod.Status.Phase = node, phase
			return pod
		}
		node := func(name, cidr string) *corev1.Node {
			return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.NodeSpec{PodCIDR: cidr}}
		}
		client := fake.NewClientset(node("eklet-a", "10.42.0.0/24"), node("eklet-b", "10.42.1.0/30"), node("eklet-new", ""),
			on("a", "eklet-a", corev1.PodRunning), on("b", "eklet-a", corev1.PodPending), on("done", "eklet-a", corev1.PodSucceeded), on("waits", "", corev1.PodPending),
			on("last", "eklet-b", corev1.PodRunning))
		said(t, client, func(context.Context) {})
		for name, want := range map[string]string{"eklet-a": "251 False EKLetHasSufficientSubnetIP", "eklet-b": "0 True EKLetHasInsufficientSubnetIP", "eklet-new": " "} {
			n, err := client.CoreV1().Nodes().Get(t.Context(), name, metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			got := n.Labels[api.AvailableIPCountLabel] + " "
			for _, c := range n.Status.Conditions {
				if c.Type == corev1.NodeNetworkUnavailable {
					got += string(c.Status) + " " + c.Reason
				}
			}
			if got != want {
				t.Errorf("%s has %q, want %q", name, got, want)
			}
		}
	})
}

func TestStartOfTheSandboxIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pod := sized("web", time.Now())
		pod.Spec.NodeName = "eklet-a"
		got := said(t, fake.NewClientset(pod), nil)
		want := []string{"web: Starting pod sandbox eks-01234567", "web: The Pod is a 0.5C1Gi (intel); its containers ask for 0.3 cores, 0.0625 GiB"}
		if !slices.Equal(got, want) {
			t.Errorf("events are %q, want %q", got, want)
		}
	})
}
