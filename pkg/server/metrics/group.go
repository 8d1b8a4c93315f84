package metrics

import (
	"sort"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apiserver/pkg/registry/rest"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/metrics/pkg/apis/metrics"
	"k8s.io/metrics/pkg/apis/metrics/install"
)

// Group is the API metrics.k8s.io, for one apiserver to install.
func (s *Server) Group() *genericapiserver.APIGroupInfo {
	scheme := runtime.NewScheme()
	install.Install(scheme)
	metav1.AddToGroupVersion(scheme, schema.GroupVersion{Version: "v1"})
	group := genericapiserver.NewDefaultAPIGroupInfo(metrics.GroupName, scheme, metav1.ParameterCodec, serializer.NewCodecFactory(scheme))
	for _, version := range group.PrioritizedVersions {
		group.VersionedResourcesStorageMap[version.Version] = map[string]rest.Storage{
			"nodes": nodeMetrics{s.current}, "pods": podMetrics{s.current},
		}
	}
	return &group
}

// source gives the figures, or says that there are none yet.
type source func() (*figures, error)

func (s *Server) current() (*figures, error) {
	if f := s.figures.Load(); f != nil {
		return f, nil
	}
	return nil, apierrors.NewServiceUnavailable("nothing is measured yet: usage is the difference of two measurements, " +
		Interval.String() + " apart, and the first is made when a node is ready")
}

// selection is what a list asks for.
type selection struct {
	labels labels.Selector
	fields fields.Selector
}

func selected(options *internalversion.ListOptions) selection {
	s := selection{labels: labels.Everything(), fields: fields.Everything()}
	if options != nil && options.LabelSelector != nil {
		s.labels = options.LabelSelector
	}
	if options != nil && options.FieldSelector != nil {
		s.fields = options.FieldSelector
	}
	return s
}

func (s selection) has(meta metav1.Object) bool {
	return s.fields.Matches(fields.Set{"metadata.name": meta.GetName(), "metadata.namespace": meta.GetNamespace()})
}

// row is one line of a printed table.
type row struct {
	object runtime.Object
	name   string
	usage  corev1.ResourceList
	window metav1.Duration
}

// table is what `kubectl get` prints.
func table(list metav1.ListInterface, rows []row) *metav1.Table {
	t := &metav1.Table{ColumnDefinitions: []metav1.TableColumnDefinition{
		{Name: "Name", Type: "string", Format: "name", Description: "Name of the resource"},
		{Name: "CPU", Type: "string", Format: "quantity", Description: "Cores used, on average over the window"},
		{Name: "Memory", Type: "string", Format: "quantity", Description: "Working set at the end of the window"},
		{Name: "Window", Type: "string", Format: "duration", Description: "Time between the two measurements"},
	}}
	if list != nil {
		t.ResourceVersion, t.Continue = list.GetResourceVersion(), list.GetContinue()
	}
	for _, r := range rows {
		t.Rows = append(t.Rows, metav1.TableRow{
			Cells:  []any{r.name, r.usage.Cpu().String(), r.usage.Memory().String(), r.window.Duration.String()},
			Object: runtime.RawExtension{Object: r.object},
		})
	}
	return t
}

// byName sorts as the apiserver lists.
func byName[T any, P interface {
	*T
	metav1.Object
}](items []T) {
	key := func(i int) string { return P(&items[i]).GetNamespace() + "/" + P(&items[i]).GetName() }
	sort.Slice(items, func(i, j int) bool { return strings.Compare(key(i), key(j)) < 0 })
}
