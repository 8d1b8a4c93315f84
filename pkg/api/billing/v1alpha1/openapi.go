package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/kube-openapi/pkg/common"
	"k8s.io/kube-openapi/pkg/validation/spec"
)

const modelPrefix = "dev.nodeless.billing.v1alpha1."

// OpenAPIModelName is the name of its definition.
func (Usage) OpenAPIModelName() string { return modelPrefix + "Usage" }

// OpenAPIModelName is the name of its definition.
func (UsageList) OpenAPIModelName() string { return modelPrefix + "UsageList" }

// OpenAPIModelName is the name of its definition.
func (Bill) OpenAPIModelName() string { return modelPrefix + "Bill" }

// OpenAPIModelName is the name of its definition.
func (BillLine) OpenAPIModelName() string { return modelPrefix + "BillLine" }

// OpenAPIModelName is the name of its definition.
func (BillList) OpenAPIModelName() string { return modelPrefix + "BillList" }

// OpenAPIModelName is the name of its definition.
func (Reservation) OpenAPIModelName() string { return modelPrefix + "Reservation" }

// OpenAPIModelName is the name of its definition.
func (ReservationSpec) OpenAPIModelName() string { return modelPrefix + "ReservationSpec" }

// OpenAPIModelName is the name of its definition.
func (ReservationStatus) OpenAPIModelName() string { return modelPrefix + "ReservationStatus" }

// OpenAPIModelName is the name of its definition.
func (ReservationList) OpenAPIModelName() string { return modelPrefix + "ReservationList" }

// field describes one of an object's. Its kind is "string", "integer", "boolean", or the name of a definition.
type field struct {
	name, kind, says string
	list, tags       bool // an array or a map of the kind
	required         bool
}

// Definitions describe the API's kinds to OpenAPI, and so to `kubectl explain`.
func Definitions(ref common.ReferenceCallback) map[string]common.OpenAPIDefinition {
	moment := metav1.Time{}.OpenAPIModelName()
	all := map[string]common.OpenAPIDefinition{
		BillLine{}.OpenAPIModelName(): describe(ref, "BillLine is what the Pods of one kind cost on a day.",
			field{name: "day", kind: "string", says: "The day, in UTC: 2026-11-28.", required: true},
			field{name: "workload", kind: "string", says: "What made the Pods: Deployment/web."},
			field{name: "spec", kind: "string", says: "The spec: 2C4Gi, or unsized when it is not known.", required: true},
			field{name: "specType", kind: "string", says: "The type of CPU or model of GPU."},
			field{name: "chargeType", kind: "string", says: "POSTPAID_BY_HOUR, SPOT, RESERVED_INSTANCE, or UNPRICED when there is no price.", required: true},
			field{name: "seconds", kind: "integer", says: "For how long, all Pods together.", required: true},
			field{name: "amount", kind: "string", says: "What it costs: an exact decimal, which the bill's total is rounded from.", required: true},
			field{name: "currency", kind: "string", says: "In which currency.", required: true},
			field{name: "settled", kind: "boolean", says: "Whether it is settled; what is not can change.", required: true}),
		ReservationSpec{}.OpenAPIModelName(): describe(ref, "ReservationSpec is what is bought.",
			field{name: "size", kind: "string", says: "The spec, exactly: 2C4Gi, or 8C40Gi 1×V100.", required: true},
			field{name: "type", kind: "string", says: "common (Intel first, then AMD; the default), amd, or a model of GPU."},
			field{name: "months", kind: "integer", says: "The term: 1 to 11, 12, 24, 36, 48 or 60 months.", required: true},
			field{name: "node", kind: "string", says: "The only node on which it pays; all when empty."},
			field{name: "holdCapacity", kind: "boolean", says: "Whether a place for a Pod of its size is kept free."},
			field{name: "scope", kind: "string", says: "Namespace (the default), or Cluster, in kube-system, for the Pods of all namespaces."}),
		ReservationStatus{}.OpenAPIModelName(): describe(ref, "ReservationStatus is what the server says of it.",
			field{name: "id", kind: "string", says: "What bills call it."},
			field{name: "state", kind: "string", says: "Active, Expired or Refunded."},
			field{name: "from", kind: moment, says: "When it was bought. It pays for all of that hour."},
			field{name: "until", kind: moment, says: "The first moment at which it is not valid any more."},
			field{name: "currency", kind: "string", says: "What the amounts are in."},
			field{name: "list", kind: "string", says: "The list price."},
			field{name: "paid", kind: "string", says: "What was paid: the list price times the factor of the term."},
			field{name: "refundedAt", kind: moment, says: "When it was given back."},
			field{name: "refund", kind: "string", says: "What was paid back."}),
	}
	objects := map[string][]field{
		Usage{}.OpenAPIModelName(): {
			{kind: "Usage is the time that a Pod ran with one spec. Without selectors a list has the last 24 hours and what runs; " +
				"by the field period it has a month, by from and to what ran in between."},
			{name: "pod", kind: "string", says: "The Pod's name.", required: true},
			{name: "workload", kind: "string", says: "What made the Pod: Deployment/web."},
			{name: "spec", kind: "string", says: "The spec: 2C4Gi, or unsized when it is not known.", required: true},
			{name: "specType", kind: "string", says: "The type of CPU or model of GPU."},
			{name: "chargeType", kind: "string", says: "POSTPAID_BY_HOUR or SPOT. Reservations are on the bill only.", required: true},
			{name: "start", kind: moment, says: "When its microVM was started.", required: true},
			{name: "end", kind: moment, says: "When it ended; absent while it runs."},
			{name: "seconds", kind: "integer", says: "How long it ran until now, as it is billed.", required: true},
			{name: "running", kind: "boolean", says: "Whether it runs.", required: true},
			{name: "estimated", kind: "boolean", says: "Whether nobody saw the end: it is when it was last seen to run.", required: true},
			{name: "tags", kind: "string", says: "The Pod's resource tags.", tags: true},
		},
		Bill{}.OpenAPIModelName(): {
			{kind: "Bill is what a namespace owes for a month, whose name it has."},
			{name: "currency", kind: "string", says: "What total and pending are in.", required: true},
			{name: "total", kind: "string", says: "What is settled, a decimal.", required: true},
			{name: "pending", kind: "string", says: "What is not settled yet, as it would be now.", required: true},
			{name: "otherTotals", kind: "string", says: "What is settled in other currencies.", list: true},
			{name: "settledUntil", kind: moment, says: "Up to when all hours are settled.", required: true},
			{name: "status", kind: "string", says: "Open, or Closed when the month is over and settled.", required: true},
			{name: "lines", kind: BillLine{}.OpenAPIModelName(), says: "What it is for, by day.", list: true, required: true},
		},
		Reservation{}.OpenAPIModelName(): {
			{kind: "Reservation is bought for months, it pays in each hour for Pods of its spec, for as long as one of them would run. " +
				"To delete one is to give it back."},
			{name: "spec", kind: ReservationSpec{}.OpenAPIModelName(), says: "What is bought.", required: true},
			{name: "status", kind: ReservationStatus{}.OpenAPIModelName(), says: "What the server says of it."},
		},
	}
	for name, fields := range objects {
		all[name] = describe(ref, fields[0].kind, append(head(metav1.ObjectMeta{}.OpenAPIModelName()), fields[1:]...)...)
		all[name+"List"] = describe(ref, "A list of them.",
			append(head(metav1.ListMeta{}.OpenAPIModelName()), field{name: "items", kind: name, says: "The objects.", list: true, required: true})...)
	}
	return all
}

// head are the fields that every object has.
func head(meta string) []field {
	return []field{
		{name: "apiVersion", kind: "string", says: "The version of this form of the object."},
		{name: "kind", kind: "string", says: "What the object is."},
		{name: "metadata", kind: meta, says: "Its name and where it belongs."},
	}
}

func describe(ref common.ReferenceCallback, says string, fields ...field) common.OpenAPIDefinition {
	schema := spec.Schema{SchemaProps: spec.SchemaProps{Description: says, Type: []string{"object"}, Properties: map[string]spec.Schema{}}}
	var dependencies []string
	for _, f := range fields {
		var value spec.Schema
		switch f.kind {
		case "string", "boolean":
			value.Type = []string{f.kind}
			if f.kind == "string" {
				value.Default = ""
			}
		case "integer":
			value.Type, value.Format = []string{f.kind}, "int64"
		default:
			value.Ref, value.Default = ref(f.kind), map[string]any{}
			if f.kind == (metav1.Time{}).OpenAPIModelName() {
				value.Default = nil
			}
			dependencies = append(dependencies, f.kind)
		}
		one := value
		switch {
		case f.list:
			value = spec.Schema{SchemaProps: spec.SchemaProps{Type: []string{"array"}, Items: &spec.SchemaOrArray{Schema: &one}},
				VendorExtensible: spec.VendorExtensible{Extensions: spec.Extensions{"x-kubernetes-list-type": "atomic"}}}
		case f.tags:
			value = spec.Schema{SchemaProps: spec.SchemaProps{Type: []string{"object"}, AdditionalProperties: &spec.SchemaOrBool{Allows: true, Schema: &one}}}
		case f.kind == "string":
			value.Default = nil
		}
		value.Description = f.says
		schema.Properties[f.name] = value
		if f.required {
			schema.Required = append(schema.Required, f.name)
		}
	}
	return common.OpenAPIDefinition{Schema: schema, Dependencies: dependencies}
}
