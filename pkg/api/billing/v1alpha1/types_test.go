package v1alpha1

import (
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/kube-openapi/pkg/util"
	"k8s.io/kube-openapi/pkg/validation/spec"
)

// fieldsOf are the names that a type has in JSON.
func fieldsOf(t reflect.Type) []string {
	var names []string
	for i := range t.NumField() {
		f := t.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case name != "":
			names = append(names, name)
		case f.Anonymous:
			names = append(names, fieldsOf(f.Type)...)
		}
	}
	slices.Sort(names)
	return names
}

// TestDefinitionsDescribeTheTypes keeps what is written by hand in step.
func TestDefinitionsDescribeTheTypes(t *testing.T) {
	definitions := Definitions(func(name string) spec.Ref { return spec.MustCreateRef("#/" + name) })
	types := []util.OpenAPIModelNamer{Usage{}, UsageList{}, Bill{}, BillLine{}, BillList{}, Reservation{}, ReservationSpec{}, ReservationStatus{}, ReservationList{}}
	for _, of := range types {
		d, ok := definitions[of.OpenAPIModelName()]
		if !ok {
			t.Errorf("%T is not described", of)
			continue
		}
		if diff := cmp.Diff(fieldsOf(reflect.TypeOf(of)), slices.Sorted(maps.Keys(d.Schema.Properties))); diff != "" {
			t.Errorf("%T (-type +definition):\n%s", of, diff)
		}
		for _, name := range d.Dependencies {
			if _, own := definitions[name]; strings.HasPrefix(name, modelPrefix) && !own {
				t.Errorf("%T is said to have a %s, which is not described", of, name)
			}
		}
	}
	if len(definitions) != len(types) {
		t.Errorf("%d are described, want %d", len(definitions), len(types))
	}
}

func TestCopiesShareNothing(t *testing.T) {
	at := metav1.NewTime(time.Date(2026, 11, 28, 0, 0, 0, 0, time.UTC))
	stamp := func() *metav1.Time { return at.DeepCopy() }
	meta := func() metav1.ObjectMeta { return metav1.ObjectMeta{Name: "a", Labels: map[string]string{"a": "b"}} }
	usage := Usage{ObjectMeta: meta(), End: stamp(), Tags: map[string]string{"a": "b"}}
	bill := Bill{ObjectMeta: meta(), OtherTotals: []string{"USD 1"}, Lines: []BillLine{{Day: "2026-11-28"}}}
	reservation := Reservation{ObjectMeta: meta(), Status: ReservationStatus{From: stamp(), Until: stamp(), RefundedAt: stamp()}}
	for _, tt := range []struct {
		object runtime.Object
		change func(copied runtime.Object)
	}{
		{&UsageList{Items: []Usage{usage}}, func(o runtime.Object) {
			u := &o.(*UsageList).Items[0]
			u.Labels["a"], u.Tags["a"], u.Name = "c", "c", "c"
			u.End.Time = time.Time{}
		}},
		{&BillList{Items: []Bill{bill}}, func(o runtime.Object) {
			b := &o.(*BillList).Items[0]
			b.Labels["a"], b.OtherTotals[0], b.Lines[0].Day = "c", "c", "c"
		}},
		{&ReservationList{Items: []Reservation{reservation}}, func(o runtime.Object) {
			r := &o.(*ReservationList).Items[0]
			r.Labels["a"] = "c"
			r.Status.From.Time, r.Status.Until.Time, r.Status.RefundedAt.Time = time.Time{}, time.Time{}, time.Time{}
		}},
	} {
		first, second := tt.object.DeepCopyObject(), tt.object.DeepCopyObject()
		if diff := cmp.Diff(tt.object, first); diff != "" {
			t.Errorf("a copy differs (-want +got):\n%s", diff)
		}
		tt.change(first)
		if diff := cmp.Diff(tt.object, second); diff != "" || cmp.Equal(first, second) {
			t.Errorf("a change of one copy is seen in another:\n%s", diff)
		}
	}
}
