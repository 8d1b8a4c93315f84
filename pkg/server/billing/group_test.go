package billing

import (
	"encoding/json"
	"errors"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	extensionsopenapi "k8s.io/apiextensions-apiserver/pkg/generated/openapi"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/util/validation"
	openapinamer "k8s.io/apiserver/pkg/endpoints/openapi"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/client-go/rest"
	basecompatibility "k8s.io/component-base/compatibility"
	"k8s.io/kube-openapi/pkg/common"

	"github.com/nodeless/nodeless/manifests"
	"github.com/nodeless/nodeless/pkg/api"
	"github.com/nodeless/nodeless/pkg/api/billing/v1alpha1"
	"github.com/nodeless/nodeless/pkg/kube"
	"github.com/nodeless/nodeless/pkg/meter"
	"github.com/nodeless/nodeless/pkg/sandboxrecord"
)

// serve has a whole apiserver serve the group, and gives its URL.
func (w *world) serve() string {
	w.t.Helper()
	group := w.server.Group()
	definitions := func(ref common.ReferenceCallback) map[string]common.OpenAPIDefinition {
		all := extensionsopenapi.GetOpenAPIDefinitions(ref)
		maps.Copy(all, v1alpha1.Definitions(ref))
		return all
	}
	named := runtime.NewScheme()
	named.AddKnownTypes(v1alpha1.GroupVersion(), &v1alpha1.Usage{}, &v1alpha1.UsageList{}, &v1alpha1.Bill{}, &v1alpha1.BillList{}, &v1alpha1.Reservation{}, &v1alpha1.ReservationList{})
	namer := openapinamer.NewDefinitionNamer(named)
	config := genericapiserver.NewConfig(serializer.NewCodecFactory(group.Scheme))
	config.ExternalAddress = "127.0.0.1:443"
	config.LoopbackClientConfig = &rest.Config{}
	config.EffectiveVersion = basecompatibility.NewEffectiveVersionFromString("1.37", "", "")
	config.OpenAPIConfig = genericapiserver.DefaultOpenAPIConfig(definitions, namer)
	config.OpenAPIV3Config = genericapiserver.DefaultOpenAPIV3Config(definitions, namer)
	server, err := config.Complete(nil).New("billing", genericapiserver.NewEmptyDelegate())
	must(w.t, err)
	must(w.t, server.InstallAPIGroup(group))
	server.PrepareRun()
	listener := httptest.NewServer(server.Handler)
	w.t.Cleanup(listener.Close)
	return listener.URL
}

const root = "/apis/billing.nodeless.dev/v1alpha1"

// ask sends a request and reads the answer, of which the code must be as wanted, into an object.
func ask(t *testing.T, method, address, body string, code int, into any) string {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, address, strings.NewReader(body))
	must(t, err)
	r.Header.Set("Content-Type", "application/json")
	if _, ok := into.(*metav1.Table); ok {
		r.Header.Set("Accept", "application/json;as=Table;v=v1;g=meta.k8s.io")
	}
	response, err := http.DefaultClient.Do(r)
	must(t, err)
	defer response.Body.Close()
	raw, err := io.ReadAll(response.Body)
	must(t, err)
	if response.StatusCode != code {
		t.Fatalf("%s %s says %d, want %d: %s", method, address, response.StatusCode, code, raw)
	}
	if into != nil {
		must(t, json.Unmarshal(raw, into))
	}
	return string(raw)
}

func message(t *testing.T, method, address, body string, code int) string {
	t.Helper()
	var status metav1.Status
	ask(t, method, address, body, code, &status)
	return status.Message
}

// tenants is a world in which two of them have run something.
func tenants(t *testing.T) *world {
	w := newWorld(t, "CNY")
	w.start(id(0xabcdef), "shop", "2C4Gi", "intel", api.ChargePostPaid)
	r := w.record("feedbeef"+strings.Repeat("0", 56), "other", "1C2Gi", "amd", api.ChargeSpot)
	r.Name, r.Tags, r.Workload = "web-0", map[string]string{"team": "=cmd()|'<script>"}, "StatefulSet/web"
	w.starts["other"] = r
	w.put(r)
	w.pass(90 * time.Minute)
	w.settle()
	w.end("other")
	w.pass(10 * time.Minute)
	return w
}

func TestUsages(t *testing.T) {
	w := tenants(t)
	server := w.serve()
	var list v1alpha1.UsageList
	raw := ask(t, "GET", server+root+"/namespaces/other/usages", "", 200, &list)
	end := metav1.NewTime(morning.Add(90 * time.Minute).Local())
	want := []v1alpha1.Usage{{
		TypeMeta:   metav1.TypeMeta{APIVersion: "billing.nodeless.dev/v1alpha1", Kind: "Usage"},
		ObjectMeta: metav1.ObjectMeta{Namespace: "other", Name: "web-0.feedbeef", UID: list.Items[0].UID, CreationTimestamp: metav1.NewTime(morning.Local())},
		Pod:        "web-0", Workload: "StatefulSet/web", Spec: "1C2Gi", SpecType: "amd", ChargeType: "SPOT", Start: metav1.NewTime(morning.Local()), End: &end,
		Seconds: 5400, Tags: map[string]string{"team": "=cmd()|'<script>"},
	}}
	if diff := cmp.Diff(want, list.Items); diff != "" {
		t.Errorf("usages of other (-want +got):\n%s", diff)
	}
	for _, secret := range []string{"host-1", thisBoot, "shop"} {
		if strings.Contains(raw, secret) {
			t.Errorf("%s is told to a tenant: %s", secret, raw)
		}
	}
	names := func(query string) (found []string) {
		t.Helper()
		var list v1alpha1.UsageList
		ask(t, "GET", server+root+"/usages"+query, "", 200, &list)
		for _, u := range list.Items {
			found = append(found, u.Namespace+"/"+u.Name)
		}
		return found
	}
	shop := "shop/pod-" + id(0xabcdef) + ".00000000"
	field := func(selector string) string { return "?fieldSelector=" + url.QueryEscape(selector) }
	for _, tt := range []struct {
		query string
		want  []string
	}{
		{"", []string{"other/web-0.feedbeef", shop}},
		{field("metadata.name=web-0.feedbeef"), []string{"other/web-0.feedbeef"}},
		{field("metadata.namespace!=other"), []string{shop}},
		{"?labelSelector=a%3Db", nil},
		{field("period=2026-03"), []string{"other/web-0.feedbeef", shop}},
		{field("period=2026-02"), nil},
		{field("from=2026-03-01T11:35:00Z,metadata.namespace=shop"), []string{shop}},
		{field("from=2026-03-01T11:35:00Z"), []string{shop}},
		{field("to=2026-03-01T10:00:00Z"), nil},
	} {
		if diff := cmp.Diff(tt.want, names(tt.query)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.query, diff)
		}
	}
	w.pass(48 * time.Hour)
	if diff := cmp.Diff([]string{shop}, names("")); diff != "" {
		t.Errorf("two days later (-want +got):\n%s", diff)
	}
	var one v1alpha1.Usage
	ask(t, "GET", server+root+"/namespaces/other/usages/web-0.feedbeef", "", 200, &one)
	message(t, "GET", server+root+"/namespaces/shop/usages/web-0.feedbeef", "", 404)
	for selector, want := range map[string]string{
		"period=2026-13": `field period: "2026-13": want a month such as 2026-11`, "period!=2026-03": "field period: want period=VALUE",
		"period=2026-03,from=2026-03-01T00:00:00Z": "fields period and from: want one or the other",
		"from=yesterday": `field from: "yesterday": want a moment such as 2026-11-28T00:00:00Z`,
		"from=2026-03-02T00:00:00Z,to=2026-03-01T00:00:00Z": "fields from and to: 2026-03-02T00:00:00Z is not before 2026-03-01T00:00:00Z",
	} {
		if got := message(t, "GET", server+root+"/usages"+field(selector), "", 400); got != want {
			t.Errorf("%s: %q, want %q", selector, got, want)
		}
	}
	message(t, "POST", server+root+"/namespaces/other/usages", "{}", 405)
}

func TestBills(t *testing.T) {
	w := tenants(t)
	server := w.serve()
	var list v1alpha1.BillList
	ask(t, "GET", server+root+"/namespaces/other/bills", "", 200, &list)
	if len(list.Items) != 1 {
		t.Fatalf("bills: %+v", list.Items)
	}
	got := list.Items[0]
	lines := []v1alpha1.BillLine{
		{Day: "2026-03-01", Workload: "StatefulSet/web", Spec: "1C2Gi", SpecType: "amd", ChargeType: "SPOT", Seconds: 3600, Amount: "0.023803200", Currency: "CNY", Settled: true},
		{Day: "2026-03-01", Workload: "StatefulSet/web", Spec: "1C2Gi", SpecType: "amd", ChargeType: "SPOT", Seconds: 1800, Amount: "0.011901600", Currency: "CNY"},
	}
	if diff := cmp.Diff(lines, got.Lines); diff != "" {
		t.Errorf("lines (-want +got):\n%s", diff)
	}
	if got.Name != "2026-03" || got.Total != "0.023803" || got.Pending != "0.011902" || got.Currency != "CNY" || got.Status != "Open" || !got.SettledUntil.Equal(&metav1.Time{Time: morning.Add(time.Hour)}) {
		t.Errorf("bill %+v", got)
	}
	w.set(40 * 24 * time.Hour)
	w.settle()
	ask(t, "GET", server+root+"/namespaces/other/bills/2026-03", "", 200, &got)
	if got.Total != "0.035705" || got.Pending != "0.000000" || got.Status != "Closed" || len(got.Lines) != 1 {
		t.Errorf("bill of a month that is over: %+v", got)
	}
	ask(t, "GET", server+root+"/bills", "", 200, &list)
	if len(list.Items) != 2 {
		t.Errorf("bills of all: %+v", list.Items)
	}
	for _, name := range []string{"2026-02", "2026-3", "x", "2026-03-01"} {
		message(t, "GET", server+root+"/namespaces/other/bills/"+name, "", 404)
	}
	ask(t, "GET", server+root+"/namespaces/nobody/bills", "", 200, &list)
	if len(list.Items) != 0 {
		t.Errorf("bills of nobody: %+v", list.Items)
	}
}

func TestABillInTwoCurrencies(t *testing.T) {
	w := tenants(t)
	w.restart("USD")
	w.pass(time.Hour)
	w.settle()
	var got v1alpha1.Bill
	ask(t, "GET", w.serve()+root+"/namespaces/other/bills/2026-03", "", 200, &got)
	if got.Currency != "USD" || got.Total != "0.001703" || !slices.Equal(got.OtherTotals, []string{"CNY 0.023803"}) {
		t.Errorf("bill %+v", got)
	}
}

func body(name, spec string) string {
	return `{"apiVersion": "billing.nodeless.dev/v1alpha1", "kind": "Reservation", "metadata": {"name": "` + name + `"}, "spec": ` + spec + `}`
}

func TestReservations(t *testing.T) {
	w := newWorld(t, "CNY")
	server := w.serve()
	mine, system := server+root+"/namespaces/shop/reservations", server+root+"/namespaces/kube-system/reservations"
	var o v1alpha1.Reservation
	ask(t, "POST", mine+"?dryRun=All", body("web", `{"size": "2C4Gi", "months": 6}`), 201, &o)
	ask(t, "POST", mine, body("web", `{"size": "2C4Gi", "months": 6, "holdCapacity": true}`), 201, &o)
	if o.Spec.Type != "common" || o.Spec.Scope != "Namespace" || !o.Spec.HoldCapacity || o.Status.State != "Active" || o.Status.List != "1068.000000" || o.Status.Paid != "939.840000" ||
		!strings.HasPrefix(o.Status.ID, "eksri-") || !o.Status.Until.Equal(&metav1.Time{Time: time.Date(2026, 9, 2, 0, 0, 0, 0, time.UTC)}) {
		t.Errorf("bought %+v", o)
	}
	if got := message(t, "POST", mine, body("web", `{"size": "2C4Gi", "months": 1}`), 409); got != `reservations.billing.nodeless.dev "web" already exists` {
		t.Errorf("the same name: %q", got)
	}
	ask(t, "POST", system, body("all", `{"size": "1C2Gi", "type": "amd", "months": 1, "scope": "Cluster", "node": "host-1"}`), 201, &o)
	w.start(id(0), "other", "1C2Gi", "amd", "")
	w.start(id(1), "other", "2C4Gi", "intel", "")
	w.start(id(2), "shop", "2C4Gi", "intel", "")
	w.hourly(2)
	paid := map[string]string{}
	for _, e := range w.statement(time.Time{}, morning.Add(time.Hour), nil) {
		paid[e.Usage] = string(e.Line.Charge)
	}
	if diff := cmp.Diff(map[string]string{id(0) + "/0": "RESERVED_INSTANCE", id(1) + "/0": "POSTPAID_BY_HOUR", id(2) + "/0": "RESERVED_INSTANCE"}, paid); diff != "" {
		t.Errorf("paid by (-want +got):\n%s", diff)
	}
	var list v1alpha1.ReservationList
	ask(t, "GET", server+root+"/reservations", "", 200, &list)
	if len(list.Items) != 2 || list.Items[0].Name != "all" || list.Items[1].Name != "web" {
		t.Errorf("reservations %+v", list.Items)
	}
	ask(t, "GET", server+root+"/namespaces/other/reservations", "", 200, &list)
	if len(list.Items) != 0 {
		t.Errorf("reservations of other: %+v", list.Items)
	}
	message(t, "DELETE", server+root+"/namespaces/other/reservations/web", "", 404)
	if got := message(t, "DELETE", mine+"/web", `{"kind": "DeleteOptions", "apiVersion": "v1", "preconditions": {"uid": "x"}}`, 409); !strings.Contains(got, "and not x") {
		t.Errorf("another UID: %q", got)
	}
	ask(t, "DELETE", mine+"/web?dryRun=All", "", 200, &o)
	ask(t, "DELETE", mine+"/web", "", 200, &o)
	if o.Status.State != "Refunded" || o.Status.Refund != "939.840000" {
		t.Errorf("the first one within five days: %+v", o.Status)
	}
	message(t, "GET", mine+"/web", "", 404)
	message(t, "DELETE", mine+"/web", "", 404)
	ask(t, "GET", mine+"?fieldSelector=status.state%3DRefunded", "", 200, &list)
	if len(list.Items) != 1 || list.Items[0].Name != "web" {
		t.Errorf("refunded: %+v", list.Items)
	}
	w.pass(40 * 24 * time.Hour)
	ask(t, "GET", system+"/all", "", 200, &o)
	if o.Status.State != "Expired" {
		t.Errorf("state %q", o.Status.State)
	}
	ask(t, "DELETE", system+"/all", "", 200, &o)
	if o.Status.State != "Expired" || o.Status.Refund != "0.000000" {
		t.Errorf("one that has ended: %+v", o.Status)
	}
	message(t, "GET", system+"/all", "", 404)
	ask(t, "GET", server+root+"/reservations", "", 200, &list)
	if len(list.Items) != 0 {
		t.Errorf("in the end: %+v", list.Items)
	}
}

// What is wrong is said exactly, all at once, and nothing is written.
func TestReservationsThatAreRefused(t *testing.T) {
	w := newWorld(t, "CNY")
	server := w.serve()
	mine := server + root + "/namespaces/shop/reservations"
	before, err := os.ReadFile(filepath.Join(w.dir, "bills.db"))
	must(t, err)
	const invalid = `Reservation.billing.nodeless.dev "web" is invalid: `
	for _, tt := range []struct{ spec, want string }{
		{`{"size": "2C4Gi", "months": 13}`, invalid + `spec.months: Invalid value: 13: want 1 to 11, 12, 24, 36, 48 or 60`},
		{`{"size": "2C4Gi"}`, invalid + `spec.months: Invalid value: 0: want 1 to 11, 12, 24, 36, 48 or 60`},
		{`{"size": "2C3Gi", "months": 1}`, ""}, // AMD has it, and a common one pays for AMD
		{`{"size": "3C3Gi", "months": 1}`, invalid + `spec.size: Invalid value: "3C3Gi": the catalog has no such spec of type common; docs/billing.md says how to read it`},
		{`{"size": "2", "months": 1}`, invalid + `spec.size: Invalid value: "2": want a spec such as "2C4Gi", or with GPUs "8C40Gi 1×V100"`},
		{`{"size": "2C4Gi", "type": "amd", "months": 0, "scope": "World"}`, invalid + `[spec.scope: Unsupported value: "World": supported values: "Namespace", "Cluster", spec.months: Invalid value: 0: want 1 to 11, 12, 24, 36, 48 or 60]`},
		{`{"size": "2C4Gi", "months": 1, "scope": "Cluster"}`, invalid + `spec.scope: Invalid value: "Cluster": reservations of the whole cluster are made in namespace kube-system`},
		{`{"size": "8C40Gi 1×V100", "type": "V100", "months": 1}`, invalid + `spec.type: Invalid value: "V100": reservations of type V100 in CNY: no price; set one below reservations in the table of prices`},
		{`{"size": "2C4Gi", "months": 1, "node": "$(reboot)"}`, invalid + `spec.node: Invalid value: "$(reboot)": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character`},
	} {
		if tt.want == "" {
			ask(t, "POST", mine+"?dryRun=All", body("web", tt.spec), 201, nil)
			continue
		}
		got := message(t, "POST", mine, body("web", tt.spec), 422)
		if got, _, _ = strings.Cut(got, " (e.g."); got != tt.want {
			t.Errorf("%s:\n %q, want\n %q", tt.spec, got, tt.want)
		}
	}
	for name, code := range map[string]int{"": 422, "A B": 422, "../../x": 422, strings.Repeat("x", 300): 422} {
		message(t, "POST", mine, body(name, `{"size": "2C4Gi", "months": 1}`), code)
	}
	message(t, "POST", mine, "{", 400)
	message(t, "POST", mine, `{"apiVersion": "v1", "kind": "Pod"}`, 400)
	message(t, "PUT", mine+"/web", body("web", `{"size": "2C4Gi", "months": 1}`), 405)
	if after, err := os.ReadFile(filepath.Join(w.dir, "bills.db")); err != nil || string(after) != string(before) {
		t.Errorf("the journal changed: %v", err)
	}
	dollars := newWorld(t, "USD")
	got := message(t, "POST", dollars.serve()+root+"/namespaces/shop/reservations", body("web", `{"size": "2C4Gi", "months": 1}`), 422)
	if want := invalid + `spec.type: Invalid value: "common": reservations of type common in USD: no price; set one below reservations in the table of prices`; got != want {
		t.Errorf("in dollars: %q, want %q", got, want)
	}
}

// TestClientsThatWouldRatherHaveProtobuf: the namespace controller is one, and has to get an answer for the namespace to go.
func TestClientsThatWouldRatherHaveProtobuf(t *testing.T) {
	server := newWorld(t, "CNY").serve()
	mine := server + root + "/namespaces/shop/reservations"
	ask(t, "POST", mine, body("web", `{"size": "2C4Gi", "months": 1}`), 201, nil)
	for _, tt := range []struct{ method, address, as string }{
		{"GET", mine, ""}, {"GET", mine, ";as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"}, {"GET", server + root, ""}, {"DELETE", mine + "/web", ""},
	} {
		r, err := http.NewRequestWithContext(t.Context(), tt.method, tt.address, nil)
		must(t, err)
		r.Header.Set("Accept", runtime.ContentTypeProtobuf+tt.as+", application/json"+tt.as)
		response, err := http.DefaultClient.Do(r)
		must(t, err)
		raw, err := io.ReadAll(response.Body)
		must(t, errors.Join(err, response.Body.Close()))
		own := tt.as == "" && tt.address != server+root // what is the API's own has protobuf
		if response.StatusCode != 200 || own && !json.Valid(raw) {
			t.Errorf("%s %s as %q says %d: %q", tt.method, tt.address, tt.as, response.StatusCode, raw)
		}
	}
}

func TestTables(t *testing.T) {
	w := tenants(t)
	server := w.serve()
	ask(t, "POST", server+root+"/namespaces/other/reservations", body("web", `{"size": "2C4Gi", "months": 1}`), 201, nil)
	for kind, want := range map[string][]any{
		"usages":       {"web-0.feedbeef", "StatefulSet/web", "1C2Gi", "amd", "SPOT", float64(5400), false, "100m", false},
		"bills":        {"2026-03", "CNY", "0.023803", "0.011902", "Open", "2026-03-01T11:00:00Z", float64(2)},
		"reservations": {"web", "", "2C4Gi", "common", "Namespace", float64(1), "Active", "2026-04-02T00:00:00Z", "178.000000", "CNY", "", ""},
	} {
		var table metav1.Table
		ask(t, "GET", server+root+"/namespaces/other/"+kind, "", 200, &table)
		if len(table.Rows) != 1 || len(table.Rows[0].Cells) != len(table.ColumnDefinitions) {
			t.Fatalf("%s: %+v", kind, table)
		}
		got := table.Rows[0].Cells
		if kind == "reservations" {
			got[1] = ""
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", kind, diff)
		}
	}
	for _, kind := range []served{usages{w.server}, bills{w.server}, reservations{w.server}} {
		if _, err := kind.ConvertToTable(t.Context(), &metav1.Status{}, nil); err == nil {
			t.Errorf("%T printed a Status", kind)
		}
	}
}

// TestExplain asks for what `kubectl explain` reads.
func TestExplain(t *testing.T) {
	server := newWorld(t, "CNY").serve()
	text := ask(t, "GET", server+"/openapi/v3/apis/billing.nodeless.dev/v1alpha1", "", 200, nil)
	for _, want := range []string{
		`"dev.nodeless.billing.v1alpha1.Usage"`, `"dev.nodeless.billing.v1alpha1.BillLine"`, "Nobody saw the end", `"x-kubernetes-group-version-kind":[{"group":"billing.nodeless.dev","kind":"Usage","version":"v1alpha1"}]`,
	} {
		if want = strings.ReplaceAll(want, "Nobody saw", "nobody saw"); !strings.Contains(text, want) {
			t.Errorf("OpenAPI does not have %s", want)
		}
	}
}

// TestNamesOfUsages feeds names that no Pod could have, since the ledger takes what the records say.
func TestNamesOfUsages(t *testing.T) {
	for pod, want := range map[string]string{
		"web-0": "web-0.feedbeef", "": "unknown.feedbeef", "..": "unknown.feedbeef", "../../etc/passwd": "etc-passwd.feedbeef", "A B;drop": "a-b-drop.feedbeef",
		"a..b": "a.b.feedbeef", "-a-.-b-": "a.b.feedbeef", "日本": "unknown.feedbeef", strings.Repeat("x", 500): strings.Repeat("x", 220) + ".feedbeef", "a%2e%2e": "a-2e-2e.feedbeef",
	} {
		got := usageName(meter.Usage{Pod: pod, Sandbox: "feedbeefcafe"})
		if wrong := validation.IsDNS1123Subdomain(got); got != want || len(wrong) > 0 {
			t.Errorf("name of %q is %q, want %q; %v", pod, got, want, wrong)
		}
	}
	if got := usageName(meter.Usage{Pod: "a", Sandbox: "feedbeefcafe", Stretch: 2}); got != "a.feedbeef-2" {
		t.Errorf("the third spec: %q", got)
	}
}

func TestUnknownNamespacesAreShownToOperators(t *testing.T) {
	w := newWorld(t, "CNY")
	r := w.record(id(0), "", "1C2Gi", "intel", "")
	r.Pod = sandboxrecord.Pod{}
	w.put(r)
	w.pass(10 * time.Minute)
	server := w.serve()
	var list v1alpha1.UsageList
	ask(t, "GET", server+root+"/namespaces/kube-system/usages", "", 200, &list)
	if len(list.Items) != 1 || list.Items[0].Spec != "unsized" || list.Items[0].Seconds != 600 || !list.Items[0].Running {
		t.Errorf("usages: %+v", list.Items)
	}
	var bill v1alpha1.Bill
	ask(t, "GET", server+root+"/namespaces/kube-system/bills/2026-03", "", 200, &bill)
	if len(bill.Lines) != 1 || bill.Lines[0].ChargeType != "UNPRICED" || bill.Lines[0].Seconds != 600 {
		t.Errorf("bill: %+v", bill)
	}
}

// TestGroupServesWhatTheManifestsAnnounce holds the places together in which the API and its rights are written.
func TestGroupServesWhatTheManifestsAnnounce(t *testing.T) {
	objects, err := kube.Manifests(manifests.System(), manifests.BillingDir, nil)
	must(t, err)
	var announced []string
	for _, o := range objects {
		if o.GetKind() == "APIService" {
			announced = append(announced, o.GetName())
			continue
		}
		raw, err := json.Marshal(o.Object["rules"])
		must(t, err)
		for label := range o.GetLabels() {
			if strings.Contains(label, "aggregate-to") && (strings.Contains(string(raw), "create") || strings.Contains(string(raw), "delete") || strings.Contains(string(raw), "*")) {
				t.Errorf("%s gives tenants more than reading: %s", o.GetName(), raw)
			}
		}
	}
	group := newWorld(t, "CNY").server.Group()
	if diff := cmp.Diff([]string{group.PrioritizedVersions[0].Version + "." + group.PrioritizedVersions[0].Group}, announced); diff != "" {
		t.Errorf("announced (-served +announced):\n%s", diff)
	}
	if len(objects) != 3 {
		t.Errorf("%d objects, want the APIService and two roles", len(objects))
	}
}
