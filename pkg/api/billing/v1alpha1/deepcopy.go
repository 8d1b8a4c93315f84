package v1alpha1

import (
	"maps"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

func copyTime(t *metav1.Time) *metav1.Time {
	if t == nil {
		return nil
	}
	return t.DeepCopy()
}

func copyItems[T any](items []T, one func(*T) T) []T {
	if items == nil {
		return nil
	}
	out := make([]T, len(items))
	for i := range items {
		out[i] = one(&items[i])
	}
	return out
}

func (u *Usage) copy() Usage {
	out := *u
	u.ObjectMeta.DeepCopyInto(&out.ObjectMeta)
	out.Start, out.End, out.Tags = *u.Start.DeepCopy(), copyTime(u.End), maps.Clone(u.Tags)
	return out
}

func (b *Bill) copy() Bill {
	out := *b
	b.ObjectMeta.DeepCopyInto(&out.ObjectMeta)
	out.SettledUntil, out.Lines, out.OtherTotals = *b.SettledUntil.DeepCopy(), slices.Clone(b.Lines), slices.Clone(b.OtherTotals)
	return out
}

func (r *Reservation) copy() Reservation {
	out := *r
	r.ObjectMeta.DeepCopyInto(&out.ObjectMeta)
	out.Status.From, out.Status.Until, out.Status.RefundedAt = copyTime(r.Status.From), copyTime(r.Status.Until), copyTime(r.Status.RefundedAt)
	return out
}

// DeepCopyObject makes a Usage an object.
func (u *Usage) DeepCopyObject() runtime.Object {
	out := u.copy()
	return &out
}

// DeepCopyObject makes a Bill an object.
func (b *Bill) DeepCopyObject() runtime.Object {
	out := b.copy()
	return &out
}

// DeepCopyObject makes a Reservation an object.
func (r *Reservation) DeepCopyObject() runtime.Object {
	out := r.copy()
	return &out
}

// DeepCopyObject makes a UsageList an object.
func (l *UsageList) DeepCopyObject() runtime.Object {
	out := &UsageList{TypeMeta: l.TypeMeta, Items: copyItems(l.Items, (*Usage).copy)}
	l.ListMeta.DeepCopyInto(&out.ListMeta)
	return out
}

// DeepCopyObject makes a BillList an object.
func (l *BillList) DeepCopyObject() runtime.Object {
	out := &BillList{TypeMeta: l.TypeMeta, Items: copyItems(l.Items, (*Bill).copy)}
	l.ListMeta.DeepCopyInto(&out.ListMeta)
	return out
}

// DeepCopyObject makes a ReservationList an object.
func (l *ReservationList) DeepCopyObject() runtime.Object {
	out := &ReservationList{TypeMeta: l.TypeMeta, Items: copyItems(l.Items, (*Reservation).copy)}
	l.ListMeta.DeepCopyInto(&out.ListMeta)
	return out
}
