package billing

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"

	"github.com/nodeless/nodeless/pkg/api/billing/v1alpha1"
	"github.com/nodeless/nodeless/pkg/bill"
	"github.com/nodeless/nodeless/pkg/bill/journal"
	"github.com/nodeless/nodeless/pkg/podsize"
)

// reservations serves reservations.billing.nodeless.dev.
type reservations struct{ s *Server }

var (
	_ served               = reservations{}
	_ rest.Creater         = reservations{}
	_ rest.GracefulDeleter = reservations{}
)

func (reservations) New() runtime.Object     { return &v1alpha1.Reservation{} }
func (reservations) NewList() runtime.Object { return &v1alpha1.ReservationList{} }
func (reservations) Destroy()                {}
func (reservations) NamespaceScoped() bool   { return true }
func (reservations) GetSingularName() string { return "reservation" }

// namespace is where a reservation is shown.
func namespace(r journal.Reservation) string {
	if r.Namespace == "" {
		return v1alpha1.ClusterNamespace
	}
	return r.Namespace
}

// find gives the reservation of a name that was not refunded.
func (r reservations) find(ctx context.Context, name string) (journal.Reservation, error) {
	all, err := r.s.cfg.Journal.Reservations(ctx)
	if err != nil {
		return journal.Reservation{}, failed(ctx, err)
	}
	for _, have := range all {
		if have.Name == name && namespace(have) == request.NamespaceValue(ctx) && have.RefundedAt.IsZero() {
			return have, nil
		}
	}
	return journal.Reservation{}, apierrors.NewNotFound(resource("reservations"), name)
}

// Get gives one that was not refunded.
func (r reservations) Get(ctx context.Context, name string, _ *metav1.GetOptions) (runtime.Object, error) {
	found, err := r.find(ctx, name)
	if err != nil {
		return nil, err
	}
	return r.object(found), nil
}

// List gives those that were not refunded, or those in the state that is asked for.
func (r reservations) List(ctx context.Context, options *internalversion.ListOptions) (runtime.Object, error) {
	want, err := selectors(options, v1alpha1.StateField)
	if err != nil {
		return nil, err
	}
	state, asked := want.asked[v1alpha1.StateField]
	states := []string{string(journal.Active), string(journal.Expired), string(journal.Refunded)}
	if asked && !slices.Contains(states, state) {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("field %s: %q: want %s", v1alpha1.StateField, state, strings.Join(states, ", ")))
	}
	all, err := r.s.cfg.Journal.Reservations(ctx)
	if err != nil {
		return nil, failed(ctx, err)
	}
	list := &v1alpha1.ReservationList{Items: []v1alpha1.Reservation{}}
	for _, have := range all {
		in := request.NamespaceValue(ctx)
		if in != "" && in != namespace(have) || !asked && !have.RefundedAt.IsZero() {
			continue
		}
		if o := r.object(have); want.has(o) && (!asked || o.Status.State == state) {
			list.Items = append(list.Items, *o)
		}
	}
	byName(list.Items)
	return list, nil
}

// object is a reservation as the API has it.
func (r reservations) object(b journal.Reservation) *v1alpha1.Reservation {
	from, until := metav1.NewTime(b.From), metav1.NewTime(b.Until)
	scope := v1alpha1.ScopeNamespace
	if b.Namespace == "" {
		scope = v1alpha1.ScopeCluster
	}
	o := &v1alpha1.Reservation{
		TypeMeta:   metav1.TypeMeta{APIVersion: v1alpha1.GroupVersion().String(), Kind: "Reservation"},
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace(b), Name: b.Name, UID: types.UID(b.ID), CreationTimestamp: from},
		Spec:       v1alpha1.ReservationSpec{Size: b.Size.String(), Type: b.Size.Type, Months: int32(b.Months), Node: b.Node, HoldCapacity: b.HoldCapacity, Scope: scope},
		Status: v1alpha1.ReservationStatus{
			ID: b.ID, State: string(b.State(r.s.cfg.Clock().Wall)), From: &from, Until: &until, Currency: b.Currency.Code,
			List: b.List.Format(b.Currency.Digits), Paid: b.Paid.Format(b.Currency.Digits),
		},
	}
	if !b.RefundedAt.IsZero() {
		at := metav1.NewTime(b.RefundedAt)
		o.Status.RefundedAt, o.Status.Refund = &at, b.Refund.Format(b.Currency.Digits)
	}
	return o
}

// Create buys one: at once, and for the hour that goes on as well.
func (r reservations) Create(ctx context.Context, object runtime.Object, validate rest.ValidateObjectFunc, options *metav1.CreateOptions) (runtime.Object, error) {
	o, ok := object.(*v1alpha1.Reservation)
	if !ok {
		return nil, apierrors.NewInternalError(errKind(object))
	}
	o.Namespace = request.NamespaceValue(ctx)
	bought := journal.NewID()
	if o.Name == "" && o.GenerateName != "" {
		o.Name = o.GenerateName + strings.TrimPrefix(bought, "eksri-")
	}
	b, faults := r.s.reservation(o, r.s.cfg.Clock().Wall)
	if len(faults) > 0 {
		return nil, apierrors.NewInvalid(v1alpha1.GroupVersion().WithKind("Reservation").GroupKind(), o.Name, faults)
	}
	b.ID = bought
	if validate != nil {
		if err := validate(ctx, o.DeepCopyObject()); err != nil {
			return nil, err
		}
	}
	if options != nil && len(options.DryRun) > 0 {
		if _, err := r.find(ctx, b.Name); err == nil {
			return nil, apierrors.NewAlreadyExists(resource("reservations"), b.Name)
		}
		return r.object(b), nil
	}
	switch err := r.s.cfg.Journal.Buy(ctx, b); {
	case errors.Is(err, journal.ErrExists):
		return nil, apierrors.NewAlreadyExists(resource("reservations"), b.Name)
	case err != nil:
		return nil, failed(ctx, err)
	}
	r.s.log.Info("reservation bought", "id", b.ID, "namespace", b.Namespace, "name", b.Name, "spec", b.Size, "type", b.Size.Type, "months", b.Months,
		"paid", b.Paid.Format(b.Currency.Digits), "currency", b.Currency.Code)
	return r.object(b), nil
}

// reservation is what an object asks for, or everything that is wrong with it.
func (s *Server) reservation(o *v1alpha1.Reservation, now time.Time) (journal.Reservation, field.ErrorList) {
	var faults field.ErrorList
	at := field.NewPath("spec")
	now = now.UTC().Truncate(time.Second)
	b := journal.Reservation{
		Namespace: o.Namespace, Name: o.Name, Node: o.Spec.Node, Months: int(o.Spec.Months), From: now, Currency: s.currency(), HoldCapacity: o.Spec.HoldCapacity,
	}
	for _, wrong := range validation.IsDNS1123Subdomain(o.Name) {
		faults = append(faults, field.Invalid(field.NewPath("metadata", "name"), o.Name, wrong))
	}
	if b.Node != "" {
		for _, wrong := range validation.IsDNS1123Subdomain(b.Node) {
			faults = append(faults, field.Invalid(at.Child("node"), b.Node, wrong))
		}
	}
	switch cmp.Or(o.Spec.Scope, v1alpha1.ScopeNamespace) {
	case v1alpha1.ScopeNamespace:
	case v1alpha1.ScopeCluster:
		if b.Namespace = ""; o.Namespace != v1alpha1.ClusterNamespace {
			faults = append(faults, field.Invalid(at.Child("scope"), o.Spec.Scope, "reservations of the whole cluster are made in namespace "+v1alpha1.ClusterNamespace))
		}
	default:
		faults = append(faults, field.NotSupported(at.Child("scope"), o.Spec.Scope, []string{v1alpha1.ScopeNamespace, v1alpha1.ScopeCluster}))
	}
	hundredths, err := bill.TermHundredths(b.Months)
	if err != nil {
		faults = append(faults, field.Invalid(at.Child("months"), o.Spec.Months, "want 1 to 11, 12, 24, 36, 48 or 60"))
	} else {
		b.Until = bill.ValidUntil(now, b.Months)
	}
	size, fault := s.offered(o.Spec.Size, cmp.Or(o.Spec.Type, bill.Common))
	if fault != nil {
		return b, append(faults, fault)
	}
	b.Size = size
	if err != nil {
		return b, faults
	}
	var priced error
	b.List, priced = s.cfg.Prices.Reservation(size, b.Months, 100)
	if priced == nil {
		b.Paid, priced = s.cfg.Prices.Reservation(size, b.Months, hundredths)
	}
	if priced != nil {
		faults = append(faults, field.Invalid(at.Child("type"), size.Type, priced.Error()))
	}
	return b, faults
}

// offered is a spec of the catalog: of any type of CPU when the kind is common, else of the kind.
func (s *Server) offered(text, kind string) (podsize.Size, *field.Error) {
	at := field.NewPath("spec")
	var kinds []string
	for _, size := range s.cfg.Catalog.Sizes() {
		if size.Type != "intel" && !slices.Contains(kinds, size.Type) { // Intel alone is not sold
			kinds = append(kinds, size.Type)
		}
	}
	kinds = append([]string{bill.Common}, kinds...)
	if !slices.Contains(kinds, kind) {
		return podsize.Size{}, field.NotSupported(at.Child("type"), kind, kinds)
	}
	size, err := podsize.ParseSize(text, kind)
	if err != nil {
		return podsize.Size{}, field.Invalid(at.Child("size"), text, `want a spec such as "2C4Gi", or with GPUs "8C40Gi 1×V100"`)
	}
	for _, offered := range s.cfg.Catalog.Sizes() {
		same := size
		if kind == bill.Common && offered.GPU == 0 {
			same.Type = offered.Type
		}
		if offered == same {
			return size, nil
		}
	}
	return podsize.Size{}, field.Invalid(at.Child("size"), text, "the catalog has no such spec of type "+kind+"; docs/billing.md says how to read it")
}

// Delete refunds one, or puts one away that has expired: the end of its namespace does that as well, and must not wait for it.
func (r reservations) Delete(ctx context.Context, name string, validate rest.ValidateObjectFunc, options *metav1.DeleteOptions) (runtime.Object, bool, error) {
	found, err := r.find(ctx, name)
	if err != nil {
		return nil, false, err
	}
	o := r.object(found)
	if options != nil && options.Preconditions != nil && options.Preconditions.UID != nil && *options.Preconditions.UID != o.UID {
		return nil, false, conflict("reservation %s has UID %s, and not %s", name, o.UID, *options.Preconditions.UID)
	}
	if validate != nil {
		if err := validate(ctx, o.DeepCopyObject()); err != nil {
			return nil, false, err
		}
	}
	now := r.s.cfg.Clock().Wall
	if options != nil && len(options.DryRun) > 0 {
		return o, true, nil
	}
	amount, err := r.s.cfg.Journal.Refund(ctx, found.ID, now)
	switch {
	case errors.Is(err, journal.ErrEnded):
		return nil, false, conflict("reservation %s was given back by somebody else", name)
	case err != nil:
		return nil, false, failed(ctx, err)
	}
	r.s.log.Info("reservation refunded", "id", found.ID, "namespace", found.Namespace, "name", found.Name, "refund", amount.Format(found.Currency.Digits), "currency", found.Currency.Code)
	found.RefundedAt, found.Refund = now.UTC().Truncate(time.Second), amount
	return r.object(found), true, nil
}

// ConvertToTable is what `kubectl get` prints.
func (reservations) ConvertToTable(_ context.Context, object, _ runtime.Object) (*metav1.Table, error) {
	t := table(nil, column("Name", "string", "Name of the reservation"), column("ID", "string", "What bills call it"), column("Size", "string", "The spec it pays for"),
		column("Type", "string", "common, amd, or a model of GPU"), column("Scope", "string", "Whose Pods it pays for"), column("Months", "integer", "Its term"),
		column("State", "string", "Active, Expired or Refunded"), column("Until", "string", "When it ends"), column("Paid", "string", "What was paid"),
		wide("Currency", "string", "What amounts are in"), wide("Node", "string", "The only node on which it pays"), wide("Refund", "string", "What was given back"))
	add := func(o *v1alpha1.Reservation) {
		until := ""
		if o.Status.Until != nil {
			until = o.Status.Until.UTC().Format(time.RFC3339)
		}
		addRow(t, o, o.Name, o.Status.ID, o.Spec.Size, o.Spec.Type, o.Spec.Scope, o.Spec.Months, o.Status.State, until, o.Status.Paid,
			o.Status.Currency, o.Spec.Node, o.Status.Refund)
	}
	switch o := object.(type) {
	case *v1alpha1.Reservation:
		add(o)
	case *v1alpha1.ReservationList:
		for i := range o.Items {
			add(&o.Items[i])
		}
	default:
		return nil, apierrors.NewInternalError(errKind(object))
	}
	return t, nil
}
