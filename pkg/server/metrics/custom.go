package metrics

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/conversion"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/metrics/pkg/apis/custom_metrics"
	"k8s.io/metrics/pkg/apis/custom_metrics/install"
	"k8s.io/metrics/pkg/apis/custom_metrics/v1beta1"
	"k8s.io/metrics/pkg/apis/custom_metrics/v1beta2"
	"k8s.io/metrics/pkg/apis/metrics"
)

// CustomGroup is the API custom.metrics.k8s.io, for the same apiserver as Group to install. In its URLs a Pod's name comes first, or "*"
// for those that a selector finds, and then a figure's name. To an apiserver each figure is a subresource of pods.
func (s *Server) CustomGroup() *genericapiserver.APIGroupInfo {
	scheme := runtime.NewScheme()
	install.Install(scheme)
	metav1.AddToGroupVersion(scheme, schema.GroupVersion{Version: "v1"})
	utilruntime.Must(scheme.SetVersionPriority(v1beta2.SchemeGroupVersion, v1beta1.SchemeGroupVersion))
	utilruntime.Must(readOptions(scheme))
	group := genericapiserver.NewDefaultAPIGroupInfo(custom_metrics.GroupName, scheme, runtime.NewParameterCodec(scheme), serializer.NewCodecFactory(scheme))
	for _, version := range group.PrioritizedVersions {
		storage := map[string]rest.Storage{"pods": figureOwners{}, "pods/{metric}": noFigure{}}
		for _, f := range podFigures() {
			storage["pods/"+f.name] = podFigure{figure: f, source: s.current}
		}
		group.VersionedResourcesStorageMap[version.Version] = storage
	}
	return &group
}

// readOptions teaches a scheme to read the selectors of a query, which upstream generates for other options.
func readOptions(scheme *runtime.Scheme) error {
	return errors.Join(
		scheme.AddConversionFunc((*url.Values)(nil), (*v1beta1.MetricListOptions)(nil), func(in, out any, _ conversion.Scope) error {
			query, options := in.(*url.Values), out.(*v1beta1.MetricListOptions)
			options.LabelSelector, options.MetricLabelSelector = query.Get("labelSelector"), query.Get("metricLabelSelector")
			return nil
		}),
		scheme.AddConversionFunc((*url.Values)(nil), (*v1beta2.MetricListOptions)(nil), func(in, out any, _ conversion.Scope) error {
			query, options := in.(*url.Values), out.(*v1beta2.MetricListOptions)
			options.LabelSelector, options.MetricLabelSelector = query.Get("labelSelector"), query.Get("metricLabelSelector")
			return nil
		}),
	)
}

// figureOwners is the resource that figures are subresources of. It serves nothing itself.
type figureOwners struct{}

var (
	_ rest.Storage              = figureOwners{}
	_ rest.Scoper               = figureOwners{}
	_ rest.SingularNameProvider = figureOwners{}
)

func (figureOwners) New() runtime.Object     { return &custom_metrics.MetricValueList{} }
func (figureOwners) Destroy()                {}
func (figureOwners) NamespaceScoped() bool   { return true }
func (figureOwners) GetSingularName() string { return "" }

// podFigure serves one figure.
type podFigure struct {
	figure figure
	source source
}

var (
	_ rest.Storage           = podFigure{}
	_ rest.GetterWithOptions = podFigure{}
)

func (podFigure) New() runtime.Object { return &custom_metrics.MetricValueList{} }
func (podFigure) Destroy()            {}

// NewGetOptions says what a query is read into.
func (podFigure) NewGetOptions() (runtime.Object, bool, string) {
	return &custom_metrics.MetricListOptions{}, false, ""
}

// Get gives the value of one Pod, or under the name "*" the values of all that are selected and have one.
func (f podFigure) Get(ctx context.Context, name string, options runtime.Object) (runtime.Object, error) {
	selector, err := podSelector(options)
	if err != nil {
		return nil, err
	}
	now, err := f.source()
	if err != nil {
		return nil, err
	}
	namespace := request.NamespaceValue(ctx)
	if name == v1beta2.AllObjects {
		pods, err := now.pods.list(namespace, selector)
		if err != nil {
			return nil, err
		}
		return f.values(now, pods)
	}
	p, err := now.pods.get(namespace, name)
	if err != nil {
		return nil, err
	}
	list, err := f.values(now, []*pod{p})
	switch {
	case err != nil:
		return nil, err
	case len(list.Items) > 0:
		return list, nil
	}
	if _, ok := f.figure.of(p, nil); !ok {
		return nil, notFound("%s of Pod %s/%s: it is a share of the Pod's %s, and the Pod has none", f.figure.name, namespace, name, f.figure.against)
	}
	return nil, notFound("%s of Pod %s/%s: the Pod is not measured yet; the first figures come within %s", f.figure.name, namespace, name, 2*Interval)
}

// podSelector reads the options: which Pods are meant. Figures have no labels that one could select by.
func podSelector(options runtime.Object) (labels.Selector, error) {
	asked, ok := options.(*custom_metrics.MetricListOptions)
	if !ok {
		return nil, apierrors.NewInternalError(errKind(options))
	}
	figures, err := labels.Parse(asked.MetricLabelSelector)
	if err != nil {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("metricLabelSelector %q: %v", asked.MetricLabelSelector, err))
	}
	if !figures.Matches(labels.Set{}) {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("metricLabelSelector %q: the metrics here have no labels; leave the metric's selector out", asked.MetricLabelSelector))
	}
	pods, err := labels.Parse(asked.LabelSelector)
	if err != nil {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("labelSelector %q: %v", asked.LabelSelector, err))
	}
	return pods, nil
}

// values lists the figure of those Pods that are measured and have what it is a share of.
func (f podFigure) values(now *figures, pods []*pod) (*custom_metrics.MetricValueList, error) {
	meta := make([]*metav1.PartialObjectMetadata, 0, len(pods))
	known := make(map[string]*pod, len(pods))
	for _, p := range pods {
		meta = append(meta, &p.PartialObjectMetadata)
		known[p.Namespace+"/"+p.Name] = p
	}
	measured, err := now.measured.GetPodMetrics(meta...)
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	byName(measured)
	list := &custom_metrics.MetricValueList{Items: []custom_metrics.MetricValue{}}
	for i := range measured {
		if value, ok := f.value(known[measured[i].Namespace+"/"+measured[i].Name], &measured[i]); ok {
			list.Items = append(list.Items, value)
		}
	}
	return list, nil
}

func (f podFigure) value(p *pod, m *metrics.PodMetrics) (custom_metrics.MetricValue, bool) {
	if p == nil {
		return custom_metrics.MetricValue{}, false
	}
	amount, ok := f.figure.of(p, total(m))
	window := int64(m.Window.Seconds())
	return custom_metrics.MetricValue{
		DescribedObject: custom_metrics.ObjectReference{APIVersion: "v1", Kind: "Pod", Namespace: m.Namespace, Name: m.Name, UID: p.UID},
		Metric:          custom_metrics.MetricIdentifier{Name: f.figure.name},
		Timestamp:       m.Timestamp, WindowSeconds: &window, Value: amount,
	}, ok
}

// noFigure answers for every name that is no figure's: the apiserver's own answer would not say what it could not find.
type noFigure struct{ podFigure }

// Get says what there is.
func (noFigure) Get(ctx context.Context, _ string, _ runtime.Object) (runtime.Object, error) {
	asked := ""
	if info, ok := request.RequestInfoFrom(ctx); ok {
		asked = info.Subresource
	}
	return nil, notFound("there is no metric %q of Pods; there are %s", asked, figureNames())
}

// notFound is an error of the API's kind NotFound in words of our own.
func notFound(format string, args ...any) error {
	return &apierrors.StatusError{ErrStatus: metav1.Status{
		Status: metav1.StatusFailure, Code: http.StatusNotFound, Reason: metav1.StatusReasonNotFound, Message: fmt.Sprintf(format, args...),
	}}
}
