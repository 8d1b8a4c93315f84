package metrics

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/metrics/pkg/apis/metrics"
)

// nodeMetrics serves nodes.metrics.k8s.io.
type nodeMetrics struct{ source source }

// served is what figures have to offer to be read by name and listed.
type served interface {
	rest.Storage
	rest.KindProvider
	rest.Scoper
	rest.SingularNameProvider
	rest.Getter
	rest.Lister
}

var _ served = nodeMetrics{}

func (nodeMetrics) New() runtime.Object     { return &metrics.NodeMetrics{} }
func (nodeMetrics) NewList() runtime.Object { return &metrics.NodeMetricsList{} }
func (nodeMetrics) Destroy()                {}
func (nodeMetrics) Kind() string            { return "NodeMetrics" }
func (nodeMetrics) NamespaceScoped() bool   { return false }
func (nodeMetrics) GetSingularName() string { return "" }

// Get gives the figures of one node.
func (n nodeMetrics) Get(_ context.Context, name string, _ *metav1.GetOptions) (runtime.Object, error) {
	now, err := n.source()
	if err != nil {
		return nil, err
	}
	node, err := now.nodes.Get(name)
	if err != nil {
		return nil, err
	}
	found, err := now.measured.GetNodeMetrics(node)
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	if len(found) == 0 {
		return nil, apierrors.NewNotFound(metrics.Resource("nodes"), name)
	}
	return &found[0], nil
}

// List gives the figures of all nodes that are asked for and measured.
func (n nodeMetrics) List(_ context.Context, options *internalversion.ListOptions) (runtime.Object, error) {
	now, err := n.source()
	if err != nil {
		return nil, err
	}
	want := selected(options)
	all, err := now.nodes.List(want.labels)
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	var nodes []*corev1.Node
	for _, node := range all {
		if want.has(node) {
			nodes = append(nodes, node)
		}
	}
	items, err := now.measured.GetNodeMetrics(nodes...)
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	byName(items)
	return &metrics.NodeMetricsList{Items: items}, nil
}

// ConvertToTable is what `kubectl get` prints.
func (nodeMetrics) ConvertToTable(_ context.Context, object, _ runtime.Object) (*metav1.Table, error) {
	line := func(m *metrics.NodeMetrics) row {
		return row{object: m, name: m.Name, usage: corev1.ResourceList(m.Usage), window: m.Window}
	}
	switch o := object.(type) {
	case *metrics.NodeMetrics:
		return table(nil, []row{line(o)}), nil
	case *metrics.NodeMetricsList:
		var rows []row
		for i := range o.Items {
			rows = append(rows, line(&o.Items[i]))
		}
		return table(o, rows), nil
	}
	return nil, apierrors.NewInternalError(errKind(object))
}
