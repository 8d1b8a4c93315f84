package metrics

import (
	"context"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/metrics/pkg/apis/metrics"
)

// podMetrics serves pods.metrics.k8s.io.
type podMetrics struct{ source source }

var _ served = podMetrics{}

func (podMetrics) New() runtime.Object     { return &metrics.PodMetrics{} }
func (podMetrics) NewList() runtime.Object { return &metrics.PodMetricsList{} }
func (podMetrics) Destroy()                {}
func (podMetrics) Kind() string            { return "PodMetrics" }
func (podMetrics) NamespaceScoped() bool   { return true }
func (podMetrics) GetSingularName() string { return "" }

// Get gives the figures of one Pod.
func (m podMetrics) Get(ctx context.Context, name string, _ *metav1.GetOptions) (runtime.Object, error) {
	now, err := m.source()
	if err != nil {
		return nil, err
	}
	p, err := now.pods.get(request.NamespaceValue(ctx), name)
	if err != nil {
		return nil, err
	}
	found, err := now.measured.GetPodMetrics(&p.PartialObjectMetadata)
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	if len(found) == 0 {
		return nil, apierrors.NewNotFound(metrics.Resource("pods"), name)
	}
	return &found[0], nil
}

// List gives the figures of all Pods that are asked for and measured.
func (m podMetrics) List(ctx context.Context, options *internalversion.ListOptions) (runtime.Object, error) {
	now, err := m.source()
	if err != nil {
		return nil, err
	}
	want := selected(options)
	all, err := now.pods.list(request.NamespaceValue(ctx), want.labels)
	if err != nil {
		return nil, err
	}
	var pods []*metav1.PartialObjectMetadata
	for _, p := range all {
		if want.has(p) {
			pods = append(pods, &p.PartialObjectMetadata)
		}
	}
	items, err := now.measured.GetPodMetrics(pods...)
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	byName(items)
	return &metrics.PodMetricsList{Items: items}, nil
}

// ConvertToTable is what `kubectl get` prints; a Pod uses what its containers do.
func (podMetrics) ConvertToTable(_ context.Context, object, _ runtime.Object) (*metav1.Table, error) {
	switch o := object.(type) {
	case *metrics.PodMetrics:
		return table(nil, []row{podRow(o)}), nil
	case *metrics.PodMetricsList:
		var rows []row
		for i := range o.Items {
			rows = append(rows, podRow(&o.Items[i]))
		}
		return table(o, rows), nil
	}
	return nil, apierrors.NewInternalError(errKind(object))
}

func podRow(m *metrics.PodMetrics) row {
	return row{object: m, name: m.Name, usage: total(m), window: m.Window}
}

func errKind(object any) error { return fmt.Errorf("unexpected %T", object) }
