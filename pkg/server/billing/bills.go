package billing

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	"github.com/nodeless/nodeless/pkg/api/billing/v1alpha1"
	"github.com/nodeless/nodeless/pkg/bill/journal"
	"github.com/nodeless/nodeless/pkg/price"
)

// bills serves bills.billing.nodeless.dev.
type bills struct{ s *Server }

var _ served = bills{}

func (bills) New() runtime.Object     { return &v1alpha1.Bill{} }
func (bills) NewList() runtime.Object { return &v1alpha1.BillList{} }
func (bills) Destroy()                {}
func (bills) NamespaceScoped() bool   { return true }
func (bills) GetSingularName() string { return "bill" }

// Get gives the bill of a month in which something ran.
func (b bills) Get(ctx context.Context, name string, _ *metav1.GetOptions) (runtime.Object, error) {
	from, to, err := month(name)
	if err != nil {
		return nil, apierrors.NewNotFound(resource("bills"), name)
	}
	found, err := b.find(ctx, from, to)
	if err != nil {
		return nil, err
	}
	if len(found) == 0 {
		return nil, apierrors.NewNotFound(resource("bills"), name)
	}
	return &found[0], nil
}

// List gives the bills of all months in which something ran.
func (b bills) List(ctx context.Context, options *internalversion.ListOptions) (runtime.Object, error) {
	want, err := selectors(options)
	if err != nil {
		return nil, err
	}
	list := &v1alpha1.BillList{Items: []v1alpha1.Bill{}}
	var from, to time.Time
	if name, ok := want.fields.RequiresExactMatch("metadata.name"); ok {
		if from, to, err = month(name); err != nil {
			return list, nil // no bill has that name
		}
	}
	found, err := b.find(ctx, from, to)
	if err != nil {
		return nil, err
	}
	for i := range found {
		if want.has(&found[i]) {
			list.Items = append(list.Items, found[i])
		}
	}
	byName(list.Items)
	return list, nil
}

// draft is a bill as it is added up.
type draft struct {
	bill           v1alpha1.Bill
	settled        map[journal.Currency]price.Amount
	pending        price.Amount
	pendingAny     bool
	month, nextOne time.Time
}

func (b bills) find(ctx context.Context, from, to time.Time) ([]v1alpha1.Bill, error) {
	done, err := b.s.read(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	stated, err := b.s.Statement(ctx, from, to, namespacesOf(ctx))
	if err != nil {
		return nil, failed(ctx, err)
	}
	drafts := map[string]*draft{}
	get := func(s journal.Sum) *draft {
		first := time.Date(s.Day.Year(), s.Day.Month(), 1, 0, 0, 0, 0, time.UTC)
		key := shownIn(s.Namespace) + "/" + first.Format(monthForm)
		if drafts[key] == nil {
			drafts[key] = &draft{month: first, nextOne: first.AddDate(0, 1, 0), settled: map[journal.Currency]price.Amount{}, bill: v1alpha1.Bill{
				TypeMeta:   metav1.TypeMeta{APIVersion: v1alpha1.GroupVersion().String(), Kind: "Bill"},
				ObjectMeta: metav1.ObjectMeta{Namespace: shownIn(s.Namespace), Name: first.Format(monthForm), UID: types.UID(key), CreationTimestamp: metav1.NewTime(first)},
			}}
		}
		return drafts[key]
	}
	for _, s := range stated.Settled {
		d := get(s)
		d.settled[s.Currency] += s.Amount
		d.bill.Lines = append(d.bill.Lines, billLine(s, true))
	}
	for _, s := range stated.Pending {
		d := get(s)
		d.pending, d.pendingAny = d.pending+s.Amount, true
		d.bill.Lines = append(d.bill.Lines, billLine(s, false))
	}
	out := make([]v1alpha1.Bill, 0, len(drafts))
	for _, key := range slices.Sorted(maps.Keys(drafts)) {
		out = append(out, drafts[key].finish(b.s.currency(), stated.Until))
	}
	return out, nil
}

// finish writes the sums down. The bill's currency is that of today, unless all of it is in another.
func (d *draft) finish(today journal.Currency, until time.Time) v1alpha1.Bill {
	codes := slices.SortedFunc(maps.Keys(d.settled), func(a, b journal.Currency) int {
		return cmp.Or(cmp.Compare(a.Code, b.Code), cmp.Compare(a.Digits, b.Digits))
	})
	main := today
	if _, ok := d.settled[today]; !ok && !d.pendingAny && len(codes) > 0 {
		main = codes[0]
	}
	d.bill.Currency, d.bill.Total, d.bill.Pending = main.Code, d.settled[main].Format(main.Digits), d.pending.Format(today.Digits)
	for _, c := range codes {
		if c != main {
			d.bill.OtherTotals = append(d.bill.OtherTotals, c.Code+" "+d.settled[c].Format(c.Digits))
		}
	}
	d.bill.Status = v1alpha1.BillOpen
	if !until.Before(d.nextOne) && !d.pendingAny {
		d.bill.Status, until = v1alpha1.BillClosed, d.nextOne
	}
	d.bill.SettledUntil = metav1.NewTime(until)
	return d.bill
}

// exact is the decimals of a line: all that there are, so that lines add up to the total, which is rounded once.
const exact = 9

func billLine(s journal.Sum, settled bool) v1alpha1.BillLine {
	return v1alpha1.BillLine{
		Day: s.Day.Format(time.DateOnly), Workload: s.Workload, Spec: s.Spec, SpecType: s.SpecType, ChargeType: s.Charge,
		Seconds: s.Seconds, Amount: s.Amount.Format(exact), Currency: s.Currency.Code, Settled: settled,
	}
}

// ConvertToTable is what `kubectl get` prints.
func (bills) ConvertToTable(_ context.Context, object, _ runtime.Object) (*metav1.Table, error) {
	t := table(nil, column("Name", "string", "The month"), column("Currency", "string", "What amounts are in"), column("Total", "string", "What is settled"),
		column("Pending", "string", "What is not settled yet"), column("Status", "string", "Open or Closed"),
		column("Settled-Until", "string", "Up to when all is settled"), wide("Lines", "integer", "What it has"))
	add := func(o *v1alpha1.Bill) {
		addRow(t, o, o.Name, o.Currency, o.Total, o.Pending, o.Status, o.SettledUntil.UTC().Format(time.RFC3339), len(o.Lines))
	}
	switch o := object.(type) {
	case *v1alpha1.Bill:
		add(o)
	case *v1alpha1.BillList:
		for i := range o.Items {
			add(&o.Items[i])
		}
	default:
		return nil, apierrors.NewInternalError(errKind(object))
	}
	return t, nil
}
