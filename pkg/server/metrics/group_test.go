package metrics

import (
	"context"
	"log/slog"
	"sort"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/endpoints/request"
	genericapiserver "k8s.io/apiserver/pkg/server"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/metrics/pkg/apis/metrics"

	"github.com/nodeless/nodeless/manifests"
	"github.com/nodeless/nodeless/pkg/kube"
)

// fixed measures the same for all but the unmeasured.
type fixed struct{}

const unmeasured = "unmeasured"

func usage() corev1.ResourceList {
	return corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("250m"), corev1.ResourceMemory: resource.MustParse("40Mi")}
}

func (fixed) GetPodMetrics(pods ...*metav1.PartialObjectMetadata) ([]metrics.PodMetrics, error) {
	var out []metrics.PodMetrics
	for _, p := range pods {
		if p.Name == unmeasured {
			continue
		}
		out = append(out, metrics.PodMetrics{
			ObjectMeta: metav1.ObjectMeta{Name: p.Name, Namespace: p.Namespace},
			Containers: []metrics.ContainerMetrics{{Name: "a", Usage: usage()}, {Name: "b", Usage: usage()}},
		})
	}
	return out, nil
}

func (fixed) GetNodeMetrics(nodes ...*corev1.Node) ([]metrics.NodeMetrics, error) {
	var out []metrics.NodeMetrics
	for _, n := range nodes {
		if n.Name != unmeasured {
			out = append(out, metrics.NodeMetrics{ObjectMeta: metav1.ObjectMeta{Name: n.Name}, Usage: usage()})
		}
	}
	return out, nil
}

// measuredServer has three nodes and three Pods, one of each not measured yet.
func measuredServer(t *testing.T) *Server {
	t.Helper()
	nodes := cache.NewIndexer(cache.MetaNamespaceKeyFunc, cache.Indexers{})
	pods := cache.NewIndexer(cache.MetaNamespaceKeyFunc, cache.Indexers{cache.NamespaceIndex: cache.MetaNamespaceIndexFunc})
	for _, name := range []string{"two", "one", unmeasured} {
		meta := metav1.ObjectMeta{Name: name, Labels: map[string]string{"is": name}}
		if err := nodes.Add(&corev1.Node{ObjectMeta: meta}); err != nil {
			t.Fatal(err)
		}
		meta.Namespace = "ns-" + name
		if name == unmeasured {
			meta.Namespace = "ns-one"
		}
		if err := pods.Add(kept(t, &corev1.Pod{ObjectMeta: meta})); err != nil {
			t.Fatal(err)
		}
	}
	s := New(Config{}, slog.New(slog.DiscardHandler))
	s.figures.Store(&figures{
		measured: fixed{}, nodes: corelisters.NewNodeLister(nodes), pods: podCache{pods},
	})
	return s
}

// kept is what the cache makes of a Pod.
func kept(t *testing.T, p *corev1.Pod) *pod {
	t.Helper()
	object, err := keep(p)
	if err != nil {
		t.Fatal(err)
	}
	return object.(*pod)
}

func TestBeforeTheFirstMeasurementTheAPISaysSo(t *testing.T) {
	s := New(Config{}, slog.New(slog.DiscardHandler))
	for name, kind := range map[string]served{"nodes": nodeMetrics{s.current}, "pods": podMetrics{s.current}} {
		_, listed := kind.List(t.Context(), nil)
		_, got := kind.Get(t.Context(), "one", nil)
		if !apierrors.IsServiceUnavailable(listed) || !apierrors.IsServiceUnavailable(got) {
			t.Errorf("%s: list says %v, get says %v; want the service unavailable", name, listed, got)
		}
	}
}

func TestList(t *testing.T) {
	s := measuredServer(t)
	options := func(label, field string) *internalversion.ListOptions {
		o := &internalversion.ListOptions{}
		if label != "" {
			o.LabelSelector = labels.SelectorFromSet(labels.Set{"is": label})
		}
		if field != "" {
			o.FieldSelector = fields.OneTermEqualSelector("metadata.name", field)
		}
		return o
	}
	tests := []struct {
		name, namespace string
		options         *internalversion.ListOptions
		nodes, pods     []string
	}{
		{name: "everything measured, sorted", nodes: []string{"one", "two"}, pods: []string{"ns-one/one", "ns-two/two"}},
		{name: "by label", options: options("two", ""), nodes: []string{"two"}, pods: []string{"ns-two/two"}},
		{name: "by name", options: options("", "one"), nodes: []string{"one"}, pods: []string{"ns-one/one"}},
		{name: "by label and another name", options: options("two", "one")},
		{name: "in a namespace", namespace: "ns-one", nodes: []string{"one", "two"}, pods: []string{"ns-one/one"}},
		{name: "not measured yet", options: options(unmeasured, "")},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			ctx := request.WithNamespace(t.Context(), tt.namespace)
			nodes, err := nodeMetrics{s.current}.List(ctx, tt.options)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, n := range nodes.(*metrics.NodeMetricsList).Items {
				got = append(got, n.Name)
			}
			if diff := cmp.Diff(tt.nodes, got); diff != "" {
				t.Errorf("nodes (-want +got):\n%s", diff)
			}
			pods, err := podMetrics{s.current}.List(ctx, tt.options)
			if err != nil {
				t.Fatal(err)
			}
			got = nil
			for _, p := range pods.(*metrics.PodMetricsList).Items {
				got = append(got, p.Namespace+"/"+p.Name)
			}
			if diff := cmp.Diff(tt.pods, got); diff != "" {
				t.Errorf("Pods (-want +got):\n%s", diff)
			}
		})
	}
}

func TestGet(t *testing.T) {
	s := measuredServer(t)
	ctx := request.WithNamespace(t.Context(), "ns-one")
	for name, kind := range map[string]served{"nodes": nodeMetrics{s.current}, "pods": podMetrics{s.current}} {
		if _, err := kind.Get(ctx, "one", nil); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		for _, missing := range []string{"three", unmeasured} {
			if _, err := kind.Get(ctx, missing, nil); !apierrors.IsNotFound(err) {
				t.Errorf("%s: %s: %v, want not found", name, missing, err)
			}
		}
	}
	if _, err := (podMetrics{s.current}).Get(ctx, "two", nil); !apierrors.IsNotFound(err) {
		t.Errorf("a Pod of another namespace: %v, want not found", err)
	}
}

func TestTableAddsContainersUp(t *testing.T) {
	s := measuredServer(t)
	cells := func(kind served) [][]any {
		list, err := kind.List(request.WithNamespace(t.Context(), ""), nil)
		if err != nil {
			t.Fatal(err)
		}
		printed, err := kind.ConvertToTable(context.Background(), list, nil)
		if err != nil {
			t.Fatal(err)
		}
		var rows [][]any
		for _, r := range printed.Rows {
			rows = append(rows, r.Cells)
		}
		return rows
	}
	if diff := cmp.Diff([][]any{{"one", "250m", "40Mi", "0s"}, {"two", "250m", "40Mi", "0s"}}, cells(nodeMetrics{s.current})); diff != "" {
		t.Errorf("nodes (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([][]any{{"one", "500m", "80Mi", "0s"}, {"two", "500m", "80Mi", "0s"}}, cells(podMetrics{s.current})); diff != "" {
		t.Errorf("Pods (-want +got):\n%s", diff)
	}
	if _, err := (podMetrics{s.current}).ConvertToTable(t.Context(), runtime.Object(&metrics.NodeMetrics{}), nil); err == nil {
		t.Error("a node was printed as a Pod")
	}
}

// TestGroupServesWhatTheManifestsAnnounce holds the two places together in which the versions are written.
func TestGroupServesWhatTheManifestsAnnounce(t *testing.T) {
	objects, err := kube.Manifests(manifests.System(), manifests.MetricsDir, nil)
	if err != nil {
		t.Fatal(err)
	}
	var announced []string
	for _, o := range objects {
		if o.GetKind() == "APIService" {
			announced = append(announced, o.GetName())
		}
	}
	s := New(Config{}, slog.New(slog.DiscardHandler))
	custom := s.CustomGroup()
	var served []string
	for _, group := range []*genericapiserver.APIGroupInfo{s.Group(), custom} {
		for _, version := range group.PrioritizedVersions {
			served = append(served, version.Version+"."+version.Group)
			if _, ok := group.VersionedResourcesStorageMap[version.Version]["pods"]; !ok {
				t.Errorf("pods are not served in %s", version)
			}
		}
	}
	sort.Strings(announced)
	sort.Strings(served)
	if diff := cmp.Diff(announced, served); diff != "" {
		t.Errorf("announced and served (-announced +served):\n%s", diff)
	}
}

func TestValidateNamesEveryFault(t *testing.T) {
	if err := (Config{}).Validate(); err == nil {
		t.Error("nothing is a good configuration")
	}
}
