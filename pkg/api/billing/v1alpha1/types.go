// Package v1alpha1 is the API billing.nodeless.dev: what Pods used, what it costs, and what was reserved. pkg/server/billing
// serves it, pkg/cli reads it.
package v1alpha1

import (
	"errors"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// GroupName is the API's.
const GroupName = "billing.nodeless.dev"

// GroupVersion is what objects are of.
func GroupVersion() schema.GroupVersion {
	return schema.GroupVersion{Group: GroupName, Version: "v1alpha1"}
}

// Fields by which a list of usages can be selected, besides names: a month such as 2026-11, or the moments between which something
// ran, by RFC 3339, the second excluded.
const (
	PeriodField = "period"
	FromField   = "from"
	ToField     = "to"
	// StateField selects reservations. Those that are refunded are listed only when they are asked for by it.
	StateField = "status.state"
)

// ClusterNamespace is where reservations of the whole cluster are.
const ClusterNamespace = "kube-system"

// Usage is the time that a Pod's sandbox ran with one spec.
type Usage struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Pod        string            `json:"pod"`
	Workload   string            `json:"workload,omitempty"` // "Deployment/web"
	Spec       string            `json:"spec"`               // "2C4Gi", or "unsized" when it is not known
	SpecType   string            `json:"specType,omitempty"`
	ChargeType string            `json:"chargeType"`
	Start      metav1.Time       `json:"start"`
	End        *metav1.Time      `json:"end,omitempty"`
	Seconds    int64             `json:"seconds"` // as they are billed
	Running    bool              `json:"running"`
	Estimated  bool              `json:"estimated"` // nobody saw the end
	Tags       map[string]string `json:"tags,omitempty"`
}

// UsageList is several.
type UsageList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []Usage `json:"items"`
}

// States of a bill.
const (
	BillOpen   = "Open"
	BillClosed = "Closed" // the month is over, and all of it is settled
)

// Bill is what a namespace owes for a month, whose name it has: "2026-11". Amounts are decimals of the currency.
type Bill struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Currency string `json:"currency"`
	Total    string `json:"total"`   // of what is settled
	Pending  string `json:"pending"` // of what is not settled yet, as it would be now
	// OtherTotals is what is settled in another currency, one after the other as in "USD 1.20": that of bills was changed.
	OtherTotals  []string    `json:"otherTotals,omitempty"`
	SettledUntil metav1.Time `json:"settledUntil"`
	Status       string      `json:"status"`
	Lines        []BillLine  `json:"lines"`
}

// BillLine is what the Pods of one kind cost on a day.
type BillLine struct {
	Day        string `json:"day"` // "2026-11-28", in UTC
	Workload   string `json:"workload,omitempty"`
	Spec       string `json:"spec"`
	SpecType   string `json:"specType,omitempty"`
	ChargeType string `json:"chargeType"`
	Seconds    int64  `json:"seconds"`
	Amount     string `json:"amount"` // with nine decimals, none of them rounded
	Currency   string `json:"currency"`
	Settled    bool   `json:"settled"`
}

// BillList is several.
type BillList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []Bill `json:"items"`
}

// Scopes of a reservation.
const (
	ScopeNamespace = "Namespace"
	ScopeCluster   = "Cluster"
)

// Reservation is bought for months, it pays in each hour for Pods of its spec, for as long as one of them would run.
type Reservation struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   ReservationSpec   `json:"spec"`
	Status ReservationStatus `json:"status,omitempty"`
}

// ReservationSpec is what is bought.
type ReservationSpec struct {
	Size         string `json:"size"`           // "2C4Gi"
	Type         string `json:"type,omitempty"` // common (when empty), amd, or a model of GPU
	Months       int32  `json:"months"`
	Node         string `json:"node,omitempty"`         // the only one on which it pays
	HoldCapacity bool   `json:"holdCapacity,omitempty"` // keep its place free
	Scope        string `json:"scope,omitempty"`        // Namespace when empty
}

// ReservationStatus is what came of it. The server fills it.
type ReservationStatus struct {
	ID         string       `json:"id,omitempty"` // "eksri-…"
	State      string       `json:"state,omitempty"`
	From       *metav1.Time `json:"from,omitempty"`
	Until      *metav1.Time `json:"until,omitempty"` // the first moment at which it is not valid any more
	Currency   string       `json:"currency,omitempty"`
	List       string       `json:"list,omitempty"` // before the factor of the term
	Paid       string       `json:"paid,omitempty"`
	RefundedAt *metav1.Time `json:"refundedAt,omitempty"`
	Refund     string       `json:"refund,omitempty"`
}

// ReservationList is several.
type ReservationList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []Reservation `json:"items"`
}

// AddToScheme teaches a scheme the API. An apiserver works with the same types inside.
func AddToScheme(scheme *runtime.Scheme) error {
	for _, version := range []string{GroupVersion().Version, runtime.APIVersionInternal} {
		scheme.AddKnownTypes(schema.GroupVersion{Group: GroupName, Version: version},
			&Usage{}, &UsageList{}, &Bill{}, &BillList{}, &Reservation{}, &ReservationList{})
	}
	metav1.AddToGroupVersion(scheme, GroupVersion())
	var errs []error
	for kind, more := range map[string][]string{"Usage": {PeriodField, FromField, ToField}, "Bill": nil, "Reservation": {StateField}} {
		errs = append(errs, scheme.AddFieldLabelConversionFunc(GroupVersion().WithKind(kind), func(label, value string) (string, string, error) {
			for _, field := range more {
				if label == field {
					return label, value, nil
				}
			}
			return runtime.DefaultMetaV1FieldSelectorConversion(label, value)
		}))
	}
	return errors.Join(errs...)
}

// Between selects usages of a time.
func Between(from, to string) fields.Selector {
	var terms []fields.Selector
	if from != "" {
		terms = append(terms, fields.OneTermEqualSelector(FromField, from))
	}
	if to != "" {
		terms = append(terms, fields.OneTermEqualSelector(ToField, to))
	}
	return fields.AndSelectors(terms...)
}
