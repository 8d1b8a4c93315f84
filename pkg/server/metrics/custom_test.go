package metrics

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	openapinamer "k8s.io/apiserver/pkg/endpoints/openapi"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	basecompatibility "k8s.io/component-base/compatibility"
	"k8s.io/kubernetes/pkg/generated/openapi"
	"k8s.io/metrics/pkg/apis/custom_metrics"
	"k8s.io/metrics/pkg/apis/metrics"
	customclient "k8s.io/metrics/pkg/client/custom_metrics"

	"github.com/nodeless/nodeless/pkg/api"
)

var always = corev1.ContainerRestartPolicyAlways

func resources(cpu, memory string) corev1.ResourceList {
	list := corev1.ResourceList{}
	if cpu != "" {
		list[corev1.ResourceCPU] = resource.MustParse(cpu)
	}
	if memory != "" {
		list[corev1.ResourceMemory] = resource.MustParse(memory)
	}
	return list
}

func container(requests, limits corev1.ResourceList) corev1.Container {
	return corev1.Container{Resources: corev1.ResourceRequirements{Requests: requests, Limits: limits}}
}

func TestKeep(t *testing.T) {
	tests := []struct {
		name string
		pod  corev1.Pod
		want pod
	}{
		{name: "a Pod that says nothing has nothing"},
		{
			name: "a spec",
			pod:  corev1.Pod{ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{api.Spec: "0.5C1Gi", api.SpecType: "intel"}}},
			want: pod{spec: amount{500, 1 << 30}},
		},
		{
			name: "a spec that cannot be read is none",
			pod:  corev1.Pod{ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{api.Spec: "much", api.SpecType: "intel"}}},
		},
		{
			name: "a spec without its type is none",
			pod:  corev1.Pod{ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{api.Spec: "1C2Gi"}}},
		},
		{
			name: "containers and sidecars add up, what runs before them does not",
			pod: corev1.Pod{Spec: corev1.PodSpec{
				InitContainers: []corev1.Container{
					container(resources("4", "4Gi"), resources("4", "4Gi")),
					{RestartPolicy: &always, Resources: container(resources("100m", "100"), resources("200m", "200")).Resources},
				},
				Containers: []corev1.Container{container(resources("1", ""), nil), container(resources("", "1Ki"), resources("2", "2Ki"))},
			}},
			want: pod{requests: amount{1100, 1124}, limits: amount{2200, 2248}},
		},
		{
			name: "what the Pod says for all of its containers is none of theirs",
			pod: corev1.Pod{Spec: corev1.PodSpec{
				Resources:  &corev1.ResourceRequirements{Requests: resources("1", "1Gi"), Limits: resources("1", "1Gi")},
				Containers: []corev1.Container{{}},
			}},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := kept(t, &tt.pod)
			if got.spec != tt.want.spec || got.requests != tt.want.requests || got.limits != tt.want.limits {
				t.Errorf("spec %v, requests %v, limits %v; want %v, %v, %v", got.spec, got.requests, got.limits, tt.want.spec, tt.want.requests, tt.want.limits)
			}
		})
	}
	full := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{
		Name: "a", Namespace: "b", UID: "c", ResourceVersion: "4", Labels: map[string]string{"l": "m"},
		Annotations: map[string]string{"long": "text"}, ManagedFields: []metav1.ManagedFieldsEntry{{Manager: "somebody"}},
	}}
	want := metav1.ObjectMeta{Name: "a", Namespace: "b", UID: "c", ResourceVersion: "4", Labels: map[string]string{"l": "m"}}
	slim := kept(t, full)
	if diff := cmp.Diff(want, slim.ObjectMeta); diff != "" {
		t.Errorf("metadata kept (-want +got):\n%s", diff)
	}
	for _, known := range []any{slim, cache.DeletedFinalStateUnknown{Key: "b/a", Obj: slim}} {
		if again, err := keep(known); err != nil || again != known {
			t.Errorf("%T became %T, %v", known, again, err)
		}
	}
}

func TestFigures(t *testing.T) {
	whole := pod{spec: amount{2000, 4 << 30}, requests: amount{1000, 1 << 30}, limits: amount{4000, 2 << 30}}
	used := resources("500m", "768Mi")
	tests := []struct {
		name string
		pod  pod
		used corev1.ResourceList
		want map[string]string
	}{
		{
			name: "everything is known", pod: whole, used: used,
			want: map[string]string{
				"k8s_pod_cpu_core_used":                 "500m",
				"k8s_pod_rate_cpu_core_used_resource":   "25",
				"k8s_pod_rate_cpu_core_used_request":    "50",
				"k8s_pod_rate_cpu_core_used_limit":      "12500m",
				"k8s_pod_mem_usage_bytes":               "768Mi",
				"k8s_pod_rate_mem_usage_bytes_resource": "18750m",
				"k8s_pod_rate_mem_usage_resource":       "18750m",
				"k8s_pod_rate_mem_usage_request":        "75",
				"k8s_pod_rate_mem_usage_limit":          "37500m",
			},
		},
		{
			name: "nothing to compare with", used: used,
			want: map[string]string{"k8s_pod_cpu_core_used": "500m", "k8s_pod_mem_usage_bytes": "768Mi"},
		},
		{
			name: "more than was asked for, and a request of memory only", pod: pod{requests: amount{memory: 1 << 20}}, used: resources("3", "3Mi"),
			want: map[string]string{"k8s_pod_cpu_core_used": "3", "k8s_pod_mem_usage_bytes": "3Mi", "k8s_pod_rate_mem_usage_request": "300"},
		},
		{
			name: "a thousandth of a percent is the least", pod: pod{spec: amount{cpu: 1000}}, used: resources("14999n", "0"),
			want: map[string]string{"k8s_pod_cpu_core_used": "14999n", "k8s_pod_mem_usage_bytes": "0", "k8s_pod_rate_cpu_core_used_resource": "1m"},
		},
		{
			name: "an idle Pod", pod: pod{spec: amount{cpu: 1000, memory: 1 << 30}}, used: resources("0", "0"),
			want: map[string]string{
				"k8s_pod_cpu_core_used": "0", "k8s_pod_mem_usage_bytes": "0", "k8s_pod_rate_cpu_core_used_resource": "0",
				"k8s_pod_rate_mem_usage_bytes_resource": "0", "k8s_pod_rate_mem_usage_resource": "0",
			},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := map[string]string{}
			for _, f := range podFigures() {
				if v, ok := f.of(&tt.pod, tt.used); ok {
					got[f.name] = v.String()
				}
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("figures (-want +got):\n%s", diff)
			}
		})
	}
}

// timed measures as fixed does, at a known time.
type timed struct{ fixed }

var measuredAt = time.Date(2026, 5, 4, 3, 2, 1, 0, time.UTC)

func (t timed) GetPodMetrics(pods ...*metav1.PartialObjectMetadata) ([]metrics.PodMetrics, error) {
	all, err := t.fixed.GetPodMetrics(pods...)
	for i := range all {
		all[i].Timestamp, all[i].Window = metav1.NewTime(measuredAt), metav1.Duration{Duration: 15 * time.Second}
	}
	return all, err
}

// asked records what the apiserver has its authorizer decide, and allows it.
type asked struct {
	mu  sync.Mutex
	all []string // guarded by mu
}

func (a *asked) Authorize(_ context.Context, r authorizer.Attributes) (authorizer.Decision, string, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if r.IsResourceRequest() {
		a.all = append(a.all, strings.Join([]string{r.GetVerb(), r.GetAPIGroup(), r.GetAPIVersion(), r.GetNamespace(), r.GetResource(), r.GetName(), r.GetSubresource()}, " "))
	}
	return authorizer.DecisionAllow, "", nil
}

func (a *asked) take() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	all := a.all
	a.all = nil
	return all
}

// serve starts an apiserver of upstream's kind with the groups of s, and OpenAPI as ours has it.
func serve(t *testing.T, s *Server, asked *asked) *rest.Config {
	t.Helper()
	custom := s.CustomGroup()
	scheme := runtime.NewScheme()
	metav1.AddToGroupVersion(scheme, schema.GroupVersion{Version: "v1"})
	config := genericapiserver.NewConfig(serializer.NewCodecFactory(scheme))
	config.ExternalAddress = "192.0.2.1:443"
	config.LoopbackClientConfig = &rest.Config{}
	config.EffectiveVersion = basecompatibility.NewEffectiveVersionFromString("1.37", "", "")
	config.LegacyAPIGroupPrefixes = sets.NewString("/api")
	config.Authorization.Authorizer = authorizer.AuthorizerFunc(asked.Authorize)
	namer := openapinamer.NewDefinitionNamer(scheme, custom.Scheme, s.Group().Scheme)
	config.OpenAPIConfig = genericapiserver.DefaultOpenAPIConfig(openapi.GetOpenAPIDefinitions, namer)
	config.OpenAPIV3Config = genericapiserver.DefaultOpenAPIV3Config(openapi.GetOpenAPIDefinitions, namer)
	server, err := config.Complete(nil).New("test", genericapiserver.NewEmptyDelegate())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Destroy)
	for _, group := range []*genericapiserver.APIGroupInfo{s.Group(), custom} {
		if err := server.InstallAPIGroup(group); err != nil {
			t.Fatal(err)
		}
	}
	server.PrepareRun()
	front := httptest.NewServer(server.Handler)
	t.Cleanup(front.Close)
	return &rest.Config{Host: front.URL}
}

// autoscaler is the client that the HorizontalPodAutoscaler's controller makes.
func autoscaler(t *testing.T, config *rest.Config) customclient.CustomMetricsClient {
	t.Helper()
	finder, err := discovery.NewDiscoveryClientForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	return customclient.NewForConfig(config, podMapper(), customclient.NewAvailableAPIsGetter(finder))
}

func podMapper() meta.RESTMapper {
	mapper := meta.NewDefaultRESTMapper([]schema.GroupVersion{corev1.SchemeGroupVersion})
	mapper.Add(corev1.SchemeGroupVersion.WithKind("Pod"), meta.RESTScopeNamespace)
	return mapper
}

// sizedServer has Pods of which one has a spec, one has not, and one is not measured.
func sizedServer(t *testing.T) *Server {
	t.Helper()
	pods := cache.NewIndexer(cache.MetaNamespaceKeyFunc, cache.Indexers{cache.NamespaceIndex: cache.MetaNamespaceIndexFunc})
	for _, p := range []*corev1.Pod{
		{ObjectMeta: metav1.ObjectMeta{Name: "web-2", Namespace: "shop", UID: "u2", Labels: map[string]string{"app": "web"}, Annotations: map[string]string{api.Spec: "2C4Gi", api.SpecType: "intel"}}},
		{ObjectMeta: metav1.ObjectMeta{Name: "web-1", Namespace: "shop", UID: "u1", Labels: map[string]string{"app": "web"}, Annotations: map[string]string{api.Spec: "1C2Gi", api.SpecType: "amd"}}},
		{ObjectMeta: metav1.ObjectMeta{Name: "bare", Namespace: "shop", Labels: map[string]string{"app": "web"}}},
		{ObjectMeta: metav1.ObjectMeta{Name: unmeasured, Namespace: "shop", Labels: map[string]string{"app": "web"}, Annotations: map[string]string{api.Spec: "1C2Gi", api.SpecType: "amd"}}},
		{ObjectMeta: metav1.ObjectMeta{Name: "db", Namespace: "shop", Labels: map[string]string{"app": "db"}, Annotations: map[string]string{api.Spec: "1C2Gi", api.SpecType: "amd"}}},
		{ObjectMeta: metav1.ObjectMeta{Name: "web-1", Namespace: "other", Labels: map[string]string{"app": "web"}, Annotations: map[string]string{api.Spec: "1C2Gi", api.SpecType: "amd"}}},
	} {
		if err := pods.Add(kept(t, p)); err != nil {
			t.Fatal(err)
		}
	}
	s := New(Config{}, slog.New(slog.DiscardHandler))
	s.figures.Store(&figures{measured: timed{}, pods: podCache{pods}})
	return s
}

var podKind = schema.GroupKind{Kind: "Pod"}

// TestTheAutoscalersClientReadsFigures goes the way of kube-controller-manager: upstream's client, over HTTP, to upstream's apiserver.
// Each Pod of the fake uses half a core and 80 MiB.
func TestTheAutoscalersClientReadsFigures(t *testing.T) {
	record := &asked{}
	config := serve(t, sizedServer(t), record)
	client := autoscaler(t, config)
	web := labels.SelectorFromSet(labels.Set{"app": "web"})
	tests := []struct {
		name, metric, namespace string
		selector                labels.Selector
		want                    map[string]string
	}{
		{name: "cores", metric: "k8s_pod_cpu_core_used", namespace: "shop", selector: web, want: map[string]string{"bare": "500m", "web-1": "500m", "web-2": "500m"}},
		{name: "a share of the spec leaves out the Pod without one", metric: "k8s_pod_rate_cpu_core_used_resource", namespace: "shop", selector: web,
			want: map[string]string{"web-1": "50", "web-2": "25"}},
		{name: "the other name of memory", metric: "k8s_pod_rate_mem_usage_resource", namespace: "shop", selector: web, want: map[string]string{"web-1": "3906m", "web-2": "1953m"}},
		{name: "everything without a selector", metric: "k8s_pod_mem_usage_bytes", namespace: "shop", selector: labels.Everything(),
			want: map[string]string{"bare": "80Mi", "db": "80Mi", "web-1": "80Mi", "web-2": "80Mi"}},
		{name: "a namespace has its own", metric: "k8s_pod_cpu_core_used", namespace: "other", selector: web, want: map[string]string{"web-1": "500m"}},
		{name: "nothing selected", metric: "k8s_pod_cpu_core_used", namespace: "empty", selector: web, want: map[string]string{}},
		{name: "no container asks for anything", metric: "k8s_pod_rate_cpu_core_used_request", namespace: "shop", selector: web, want: map[string]string{}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			list, err := client.NamespacedMetrics(tt.namespace).GetForObjects(podKind, tt.selector, tt.metric, labels.Everything())
			if err != nil {
				t.Fatal(err)
			}
			got := map[string]string{}
			for _, v := range list.Items {
				got[v.DescribedObject.Name] = v.Value.String()
				if v.Metric.Name != tt.metric || v.DescribedObject.Namespace != tt.namespace || v.DescribedObject.Kind != "Pod" {
					t.Errorf("a value of %s of %v", v.Metric.Name, v.DescribedObject)
				}
				if !v.Timestamp.Time.Equal(measuredAt) || v.WindowSeconds == nil || *v.WindowSeconds != 15 {
					t.Errorf("measured at %v over %v", v.Timestamp, v.WindowSeconds)
				}
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("values (-want +got):\n%s", diff)
			}
		})
	}
	if got, err := client.NamespacedMetrics("shop").GetForObject(podKind, "web-2", "k8s_pod_rate_cpu_core_used_resource", labels.Everything()); err != nil || got.Value.String() != "25" {
		t.Errorf("one Pod: %v, %v", got, err)
	}
}

func TestTheApiserverAuthorizesFigures(t *testing.T) {
	record := &asked{}
	client := autoscaler(t, serve(t, sizedServer(t), record))
	record.take()
	if _, err := client.NamespacedMetrics("shop").GetForObjects(podKind, labels.Everything(), "k8s_pod_cpu_core_used", labels.Everything()); err != nil {
		t.Fatal(err)
	}
	want := []string{"get custom.metrics.k8s.io v1beta2 shop pods * k8s_pod_cpu_core_used"}
	if diff := cmp.Diff(want, record.take()); diff != "" {
		t.Errorf("authorized (-want +got):\n%s", diff)
	}
}

func TestWhatCannotBeServedIsSaid(t *testing.T) {
	config := serve(t, sizedServer(t), &asked{})
	client := autoscaler(t, config)
	everything := labels.Everything()
	tests := []struct {
		name, pod, metric string
		figures           labels.Selector
		is                func(error) bool
		says              string
	}{
		{name: "GPUs", metric: "k8s_pod_gpu_used", is: apierrors.IsNotFound, says: `no metric "k8s_pod_gpu_used" of Pods; there are k8s_pod_cpu_core_used, k8s_pod_mem_usage_bytes`},
		{name: "network", metric: "k8s_pod_network_receive_bytes", is: apierrors.IsNotFound, says: "k8s_pod_network_receive_bytes"},
		{name: "no such Pod", pod: "ghost", metric: "k8s_pod_cpu_core_used", is: apierrors.IsNotFound, says: `"ghost" not found`},
		{name: "a Pod without a spec", pod: "bare", metric: "k8s_pod_rate_cpu_core_used_resource", is: apierrors.IsNotFound, says: "a share of the Pod's spec, and the Pod has none"},
		{name: "a Pod that is not measured", pod: unmeasured, metric: "k8s_pod_cpu_core_used", is: apierrors.IsNotFound, says: "not measured yet"},
		{name: "labels of metrics", metric: "k8s_pod_cpu_core_used", figures: labels.SelectorFromSet(labels.Set{"device": "eth0"}), is: apierrors.IsBadRequest, says: "have no labels"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if tt.figures == nil {
				tt.figures = everything
			}
			var err error
			if tt.pod == "" {
				_, err = client.NamespacedMetrics("shop").GetForObjects(podKind, everything, tt.metric, tt.figures)
			} else {
				_, err = client.NamespacedMetrics("shop").GetForObject(podKind, tt.pod, tt.metric, tt.figures)
			}
			if !tt.is(err) || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("%v, want %q in it", err, tt.says)
			}
		})
	}
	response, err := http.Get(config.Host + "/apis/custom.metrics.k8s.io/v1beta2/namespaces/shop/pods/*/k8s_pod_cpu_core_used?labelSelector=a+b")
	if err != nil {
		t.Fatal(err)
	}
	if err := response.Body.Close(); err != nil || response.StatusCode != http.StatusBadRequest {
		t.Errorf("a selector that cannot be read: %s, %v", response.Status, err)
	}
}

func TestBeforeTheFirstMeasurementAutoscalersAreTold(t *testing.T) {
	client := autoscaler(t, serve(t, New(Config{}, slog.New(slog.DiscardHandler)), &asked{}))
	_, err := client.NamespacedMetrics("shop").GetForObjects(podKind, labels.Everything(), "k8s_pod_cpu_core_used", labels.Everything())
	if !apierrors.IsServiceUnavailable(err) {
		t.Errorf("%v, want the service unavailable", err)
	}
}

func TestBothVersionsAreDiscovered(t *testing.T) {
	config := serve(t, sizedServer(t), &asked{})
	finder, err := discovery.NewDiscoveryClientForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	groups, err := finder.ServerGroups()
	if err != nil {
		t.Fatal(err)
	}
	for _, g := range groups.Groups {
		if g.Name == custom_metrics.GroupName && g.PreferredVersion.Version != "v1beta2" {
			t.Errorf("%s prefers %s", g.Name, g.PreferredVersion.Version)
		}
	}
	for _, version := range []string{"v1beta1", "v1beta2"} {
		list, err := finder.ServerResourcesForGroupVersion(custom_metrics.GroupName + "/" + version)
		if err != nil {
			t.Fatal(err)
		}
		found := map[string]string{}
		for _, r := range list.APIResources {
			found[r.Name] = r.Kind + " " + strings.Join(r.Verbs, ",")
		}
		for _, f := range podFigures() {
			if got := found["pods/"+f.name]; got != "MetricValueList get" {
				t.Errorf("%s: %s is %q", version, f.name, got)
			}
		}
		client, err := customclient.NewForVersionForConfig(config, podMapper(), schema.GroupVersion{Group: custom_metrics.GroupName, Version: version})
		if err != nil {
			t.Fatal(err)
		}
		got, err := client.NamespacedMetrics("shop").GetForObjects(podKind, labels.SelectorFromSet(labels.Set{"app": "db"}), "k8s_pod_cpu_core_used", labels.Everything())
		if err != nil || len(got.Items) != 1 || got.Items[0].Value.String() != "500m" || got.Items[0].Metric.Name != "k8s_pod_cpu_core_used" {
			t.Errorf("%s: %v, %v", version, got, err)
		}
	}
}

// TestOpenAPIDescribesFigures since an apiserver does not start when it cannot describe what it serves, and `kubectl explain` reads it.
func TestOpenAPIDescribesFigures(t *testing.T) {
	config := serve(t, sizedServer(t), &asked{})
	for _, path := range []string{"/openapi/v2", "/openapi/v3/apis/custom.metrics.k8s.io/v1beta1", "/openapi/v3/apis/custom.metrics.k8s.io/v1beta2"} {
		response, err := http.Get(config.Host + path)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(response.Body)
		if err := errors.Join(err, response.Body.Close()); err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{"/pods/{name}/k8s_pod_cpu_core_used", "metricLabelSelector"} {
			if response.StatusCode != http.StatusOK || !strings.Contains(string(body), want) {
				t.Errorf("%s: %s, without %q", path, response.Status, want)
			}
		}
	}
}

// TestTheCacheFollowsPods since it holds something else than what upstream's informer is made for.
func TestTheCacheFollowsPods(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sized := func(name, size string) *corev1.Pod {
			return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "shop", Annotations: map[string]string{api.Spec: size, api.SpecType: "amd"}}}
		}
		client := fake.NewClientset(sized("old", "1C1Gi"))
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		known := follow(ctx, client)
		pods := client.CoreV1().Pods("shop")
		expect := func(want map[string]int64) {
			t.Helper()
			synctest.Wait()
			found, err := known.pods.list("shop", labels.Everything())
			if err != nil {
				t.Fatal(err)
			}
			got := map[string]int64{}
			for _, p := range found {
				got[p.Name] = p.spec.cpu
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("Pods and their cores (-want +got):\n%s", diff)
			}
		}
		expect(map[string]int64{"old": 1000})
		if _, err := pods.Create(ctx, sized("new", "2C4Gi"), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		expect(map[string]int64{"old": 1000, "new": 2000})
		if _, err := pods.Update(ctx, sized("new", "4C8Gi"), metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		expect(map[string]int64{"old": 1000, "new": 4000})
		if err := pods.Delete(ctx, "old", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		expect(map[string]int64{"new": 4000})
	})
}
