package billing

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/selection"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	genericapiserver "k8s.io/apiserver/pkg/server"

	"github.com/nodeless/nodeless/pkg/api/billing/v1alpha1"
)

// Group is the API billing.nodeless.dev, for one apiserver to install.
func (s *Server) Group() *genericapiserver.APIGroupInfo {
	scheme := runtime.NewScheme()
	utilruntime.Must(v1alpha1.AddToScheme(scheme))
	metav1.AddToGroupVersion(scheme, schema.GroupVersion{Version: "v1"})
	group := genericapiserver.NewDefaultAPIGroupInfo(v1alpha1.GroupName, scheme, metav1.ParameterCodec, serializer.NewCodecFactory(scheme))
	group.VersionedResourcesStorageMap[v1alpha1.GroupVersion().Version] = map[string]rest.Storage{
		"usages": usages{s}, "bills": bills{s}, "reservations": reservations{s},
	}
	group.NegotiatedSerializer = textual{group.NegotiatedSerializer}
	return &group
}

// textual offers JSON and YAML, as for custom resources: the kinds have no other form, and clients that would rather have one are told.
type textual struct{ runtime.NegotiatedSerializer }

// SupportedMediaTypes lists what is offered.
func (t textual) SupportedMediaTypes() []runtime.SerializerInfo {
	var offered []runtime.SerializerInfo
	for _, info := range t.NegotiatedSerializer.SupportedMediaTypes() {
		if info.MediaType == runtime.ContentTypeJSON || info.MediaType == runtime.ContentTypeYAML {
			offered = append(offered, info)
		}
	}
	return offered
}

// served is what every resource of the group can do.
type served interface {
	rest.Storage
	rest.Scoper
	rest.Getter
	rest.Lister
	rest.SingularNameProvider
}

func resource(name string) schema.GroupResource {
	return schema.GroupResource{Group: v1alpha1.GroupName, Resource: name}
}

// namespacesOf are those of the ledger that the request is about; nil for all. What belongs to no known namespace is shown in
// kube-system.
func namespacesOf(ctx context.Context) []string {
	switch ns := request.NamespaceValue(ctx); ns {
	case "":
		return nil
	case v1alpha1.ClusterNamespace:
		return []string{ns, ""}
	default:
		return []string{ns}
	}
}

// shownIn is the namespace of an object about a namespace of the ledger.
func shownIn(namespace string) string {
	if namespace == "" {
		return v1alpha1.ClusterNamespace
	}
	return namespace
}

// selected is what a list asks for. Fields that say what to look for, rather than what to leave out, are in asked.
type selected struct {
	labels labels.Selector
	fields fields.Selector
	asked  map[string]string
}

// selectors reads the options of a list. Of the fields in special only equality can be asked for.
func selectors(options *internalversion.ListOptions, special ...string) (selected, error) {
	s := selected{labels: labels.Everything(), fields: fields.Everything(), asked: map[string]string{}}
	if options == nil {
		return s, nil
	}
	if options.LabelSelector != nil {
		s.labels = options.LabelSelector
	}
	if options.FieldSelector == nil {
		return s, nil
	}
	s.fields = options.FieldSelector
	for _, r := range s.fields.Requirements() {
		if !slices.Contains(special, r.Field) {
			continue
		}
		if r.Operator != selection.Equals && r.Operator != selection.DoubleEquals {
			return s, apierrors.NewBadRequest(fmt.Sprintf("field %s: want %s=VALUE", r.Field, r.Field))
		}
		s.asked[r.Field] = r.Value
	}
	return s, nil
}

// has tells whether an object is asked for.
func (s selected) has(meta metav1.Object) bool {
	set := fields.Set{"metadata.name": meta.GetName(), "metadata.namespace": meta.GetNamespace()}
	for field, value := range s.asked {
		set[field] = value
	}
	return s.fields.Matches(set) && s.labels.Matches(labels.Set(meta.GetLabels()))
}

// monthForm is how months are written.
const monthForm = "2006-01"

// month reads a month, and gives the next as well.
func month(text string) (from, to time.Time, err error) {
	from, err = time.Parse(monthForm, text)
	if err != nil || from.Format(monthForm) != text {
		return from, to, fmt.Errorf("%q: want a month such as 2026-11", text)
	}
	return from, from.AddDate(0, 1, 0), nil
}

// table is what `kubectl get` prints.
func table(list metav1.ListInterface, columns ...metav1.TableColumnDefinition) *metav1.Table {
	t := &metav1.Table{ColumnDefinitions: columns}
	if list != nil {
		t.ResourceVersion, t.Continue = list.GetResourceVersion(), list.GetContinue()
	}
	return t
}

func addRow(t *metav1.Table, object runtime.Object, cells ...any) {
	t.Rows = append(t.Rows, metav1.TableRow{Cells: cells, Object: runtime.RawExtension{Object: object}})
}

// column is one that every table shows, wide one that -o wide shows.
func column(name, kind, says string) metav1.TableColumnDefinition {
	format := ""
	if name == "Name" {
		format = "name"
	}
	return metav1.TableColumnDefinition{Name: name, Type: kind, Format: format, Description: says}
}

func wide(name, kind, says string) metav1.TableColumnDefinition {
	c := column(name, kind, says)
	c.Priority = 1
	return c
}

// byName sorts as the apiserver lists.
func byName[T any, P interface {
	*T
	metav1.Object
}](items []T) {
	slices.SortFunc(items, func(a, b T) int {
		one, other := P(&a), P(&b)
		if c := strings.Compare(one.GetNamespace(), other.GetNamespace()); c != 0 {
			return c
		}
		return strings.Compare(one.GetName(), other.GetName())
	})
}

// failed is an error of the API's kind InternalError, unless the request has ended.
func failed(ctx context.Context, err error) error {
	if ctx.Err() != nil || errors.Is(err, context.Canceled) {
		return apierrors.NewTimeoutError("the request ended", 0)
	}
	return apierrors.NewInternalError(err)
}

// conflict is an error of the API's kind Conflict in words of our own.
func conflict(format string, args ...any) error {
	return &apierrors.StatusError{ErrStatus: metav1.Status{
		Status: metav1.StatusFailure, Code: http.StatusConflict, Reason: metav1.StatusReasonConflict, Message: fmt.Sprintf(format, args...),
	}}
}

func errKind(object any) error { return fmt.Errorf("unexpected %T", object) }
