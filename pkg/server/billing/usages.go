package billing

import (
	"cmp"
	"context"
	"fmt"
	"regexp"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/duration"

	"github.com/nodeless/nodeless/pkg/api"
	"github.com/nodeless/nodeless/pkg/api/billing/v1alpha1"
	"github.com/nodeless/nodeless/pkg/meter"
)

// recent is how far back a list of usages goes when nothing is asked for.
const recent = 24 * time.Hour

// usages serves usages.billing.nodeless.dev.
type usages struct{ s *Server }

var _ served = usages{}

func (usages) New() runtime.Object     { return &v1alpha1.Usage{} }
func (usages) NewList() runtime.Object { return &v1alpha1.UsageList{} }
func (usages) Destroy()                {}
func (usages) NamespaceScoped() bool   { return true }
func (usages) GetSingularName() string { return "usage" }

// Get finds a usage, however long ago it was.
func (u usages) Get(ctx context.Context, name string, _ *metav1.GetOptions) (runtime.Object, error) {
	part := nameForm.FindStringSubmatch(name)
	if part == nil {
		return nil, apierrors.NewNotFound(resource("usages"), name)
	}
	done, err := u.s.read(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	found, err := u.s.cfg.Ledger.Named(ctx, part[1], meter.Filter{Namespaces: namespacesOf(ctx)})
	if err != nil {
		return nil, failed(ctx, err)
	}
	now := u.s.cfg.Clock()
	for _, f := range found {
		if usageName(f) == name {
			out := usageObject(f, now)
			return &out, nil
		}
	}
	return nil, apierrors.NewNotFound(resource("usages"), name)
}

// nameForm is the end of a usage's name: the first digits of the sandbox's id, and which of its specs it is.
var nameForm = regexp.MustCompile(`\.([0-9a-z]{1,8})(?:-[0-9]+)?$`)

// mostListed is how many usages are listed at once when the request has no limit of its own, as kubectl's has, and how high that may be.
const mostListed = 10000

// List gives what ran in the time that the fields say, or in the last 24 hours, in pages as large as the request wants.
func (u usages) List(ctx context.Context, options *internalversion.ListOptions) (runtime.Object, error) {
	want, err := selectors(options, v1alpha1.PeriodField, v1alpha1.FromField, v1alpha1.ToField)
	if err != nil {
		return nil, err
	}
	from, to, err := span(want.asked, u.s.cfg.Clock().Wall)
	if err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	at, most := place{From: from, To: to}, mostListed
	if options != nil {
		if at, err = placeOf(options.Continue, at); err != nil {
			return nil, err
		}
		if options.Limit > 0 {
			most = int(min(options.Limit, mostListed))
		}
	}
	done, err := u.s.read(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	found, next, err := u.s.cfg.Ledger.Page(ctx, at.From, at.To, meter.Filter{Namespaces: namespacesOf(ctx)}, at.After, most)
	if err != nil {
		return nil, failed(ctx, err)
	}
	list := &v1alpha1.UsageList{Items: []v1alpha1.Usage{}}
	if next != nil && (options == nil || options.Limit == 0) {
		return nil, apierrors.NewRequestEntityTooLargeError(fmt.Sprintf(
			"there are more than %d usages: list them in pages (limit and continue, as kubectl does by itself), or for a shorter time", mostListed))
	}
	if next != nil {
		at.After = *next
		list.Continue = at.String()
	}
	now := u.s.cfg.Clock()
	for _, f := range found {
		if one := usageObject(f, now); want.has(&one) {
			list.Items = append(list.Items, one)
		}
	}
	byName(list.Items)
	return list, nil
}

// span is the time that fields ask for.
func span(asked map[string]string, now time.Time) (from, to time.Time, err error) {
	period, whole := asked[v1alpha1.PeriodField]
	start, hasStart := asked[v1alpha1.FromField]
	end, hasEnd := asked[v1alpha1.ToField]
	switch {
	case whole && (hasStart || hasEnd):
		return from, to, fmt.Errorf("fields %s and %s: want one or the other", v1alpha1.PeriodField, v1alpha1.FromField)
	case whole:
		from, to, err = month(period)
		if err != nil {
			return from, to, fmt.Errorf("field %s: %w", v1alpha1.PeriodField, err)
		}
		return from, to, nil
	case !hasStart && !hasEnd:
		return now.Add(-recent), time.Time{}, nil
	}
	for field, into := range map[string]*time.Time{v1alpha1.FromField: &from, v1alpha1.ToField: &to} {
		text, ok := asked[field]
		if !ok {
			continue
		}
		if *into, err = time.Parse(time.RFC3339, text); err != nil {
			return from, to, fmt.Errorf("field %s: %q: want a moment such as 2026-11-28T00:00:00Z", field, text)
		}
	}
	if hasStart && hasEnd && !from.Before(to) {
		return from, to, fmt.Errorf("fields %s and %s: %s is not before %s", v1alpha1.FromField, v1alpha1.ToField, start, end)
	}
	return from, to, nil
}

// usageObject is a usage without what it tells of the host.
func usageObject(u meter.Usage, now meter.Instant) v1alpha1.Usage {
	start, end := u.Start.UTC(), seenUntil(u, now)
	out := v1alpha1.Usage{
		TypeMeta: metav1.TypeMeta{APIVersion: v1alpha1.GroupVersion().String(), Kind: "Usage"},
		ObjectMeta: metav1.ObjectMeta{
			Namespace: shownIn(u.Namespace), Name: usageName(u), UID: types.UID(usageID(u)), CreationTimestamp: metav1.NewTime(start.Truncate(time.Second)),
		},
		Pod: u.Pod, Workload: u.Workload, Spec: specText(u), SpecType: u.Spec.Type, ChargeType: cmp.Or(u.Charge, api.ChargePostPaid), Tags: u.Tags,
		Start: metav1.NewTime(start.Truncate(time.Second)), Seconds: max(0, end.Unix()-start.Unix()), Running: u.End.IsZero(), Estimated: u.Estimated,
	}
	if !u.End.IsZero() {
		at := metav1.NewTime(u.End.UTC().Truncate(time.Second))
		out.End = &at
	}
	return out
}

// unsafe is what a name of the API cannot have; edges is what no part of it between dots begins or ends with.
var (
	unsafeForm = regexp.MustCompile(`[^a-z0-9.-]+`)
	edgesForm  = regexp.MustCompile(`[.-]*\.[.-]*`)
)

// mostName keeps the whole below what a name may have.
const mostName = 220

// usageName is the Pod's name, the beginning of the sandbox's, and which of its specs it is when it is not the first: a name that the
// API takes, whatever the ledger has.
func usageName(u meter.Usage) string {
	clean := func(text string, most int) string {
		text = edgesForm.ReplaceAllString(unsafeForm.ReplaceAllString(strings.ToLower(text), "-"), ".")
		return strings.Trim(text[:min(most, len(text))], ".-")
	}
	name := cmp.Or(clean(u.Pod, mostName), "unknown") + "." + cmp.Or(clean(u.Sandbox, 8), "unknown")
	if u.Stretch > 0 {
		name += fmt.Sprintf("-%d", u.Stretch)
	}
	return name
}

// ConvertToTable is what `kubectl get` prints.
func (u usages) ConvertToTable(_ context.Context, object, _ runtime.Object) (*metav1.Table, error) {
	t := table(nil, column("Name", "string", "Name of the usage"), column("Workload", "string", "What made the Pod"), column("Spec", "string", "What the Pod has"),
		column("Type", "string", "Type of CPU or model of GPU"), column("Charge", "string", "How it is paid for"), column("Seconds", "integer", "How long it ran"),
		column("Running", "boolean", "Whether it runs"), column("Started", "string", "How long ago it began"), wide("Estimated", "boolean", "Nobody saw the end"))
	now := u.s.cfg.Clock().Wall
	add := func(o *v1alpha1.Usage) {
		addRow(t, o, o.Name, o.Workload, o.Spec, o.SpecType, o.ChargeType, o.Seconds, o.Running, duration.HumanDuration(max(0, now.Sub(o.Start.Time))), o.Estimated)
	}
	switch o := object.(type) {
	case *v1alpha1.Usage:
		add(o)
	case *v1alpha1.UsageList:
		t.Continue = o.Continue
		for i := range o.Items {
			add(&o.Items[i])
		}
	default:
		return nil, apierrors.NewInternalError(errKind(object))
	}
	return t, nil
}
