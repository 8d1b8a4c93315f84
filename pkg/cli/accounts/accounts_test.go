package accounts

import (
	"encoding/csv"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/nodeless/nodeless/pkg/api/billing/v1alpha1"
	"github.com/nodeless/nodeless/pkg/hint"
)

var now = time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestSpan(t *testing.T) {
	for _, tt := range []struct{ from, to, month, want, says string }{
		{want: ""},
		{month: "2026-11", want: "period=2026-11"},
		{from: "2026-11-01", want: "from=2026-11-01T00:00:00Z"},
		{from: "2026-11-01T08:00:00+08:00", to: "2026-11-02", want: "from=2026-11-01T00:00:00Z,to=2026-11-02T00:00:00Z"},
		{to: "2026-11-02", want: "to=2026-11-02T00:00:00Z"},
		{month: "2026-11", from: "2026-11-01", says: "read flags: --month and --from or --to are both given"},
		{month: "11/2026", says: `read --month: "11/2026" is no month`},
		{month: "2026-1", says: `read --month: "2026-1" is no month`},
		{from: "yesterday", says: `read --from: "yesterday" is not a time`},
		{to: "2026-02-30", says: `read --to: "2026-02-30" is not a time`},
		{from: "2026-11-02", to: "2026-11-02", says: "read flags: --from 2026-11-02 is not before --to 2026-11-02"},
	} {
		got, err := Span(tt.from, tt.to, tt.month, now)
		if tt.says != "" {
			if err == nil || err.Error() != tt.says || len(hint.Of(err)) == 0 {
				t.Errorf("Span(%q, %q, %q) = %v, want %q and what to do", tt.from, tt.to, tt.month, err, tt.says)
			}
			continue
		}
		if err != nil || got != tt.want {
			t.Errorf("Span(%q, %q, %q) = %q, %v; want %q", tt.from, tt.to, tt.month, got, err, tt.want)
		}
	}
}

func TestNamespaces(t *testing.T) {
	if got, err := Namespaces("shop, blog,shop"); err != nil || !cmp.Equal(got, []string{"shop", "blog"}) {
		t.Errorf("Namespaces = %q, %v", got, err)
	}
	for _, text := range []string{",", "shop,", "../x", "a b"} {
		if got, err := Namespaces(text); err == nil || len(hint.Of(err)) == 0 {
			t.Errorf("Namespaces(%q) = %q, %v", text, got, err)
		}
	}
}

func hostile() []v1alpha1.Usage {
	end := metav1.NewTime(now)
	return []v1alpha1.Usage{
		{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web"}, Pod: "=cmd()|'x", Workload: "@SUM(A1)\n\x1b[2J", Spec: "2C4Gi", SpecType: "intel", ChargeType: "SPOT",
			Start: metav1.NewTime(now.Add(-time.Hour)), End: &end, Seconds: 3600, Tags: map[string]string{"a": "=1"}},
		{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "job"}, Pod: "job", Spec: "unsized", ChargeType: "POSTPAID_BY_HOUR", Start: metav1.NewTime(now.Add(-time.Minute)), Seconds: 60, Running: true},
	}
}

func TestWriteUsages(t *testing.T) {
	write := func(form string) string {
		var out strings.Builder
		must(t, WriteUsages(&out, hostile(), form))
		return out.String()
	}
	rows, err := csv.NewReader(strings.NewReader(write(CSV))).ReadAll()
	must(t, err)
	want := [][]string{
		{"namespace", "pod", "workload", "spec", "type", "charge", "start", "end", "seconds", "running", "estimated", "tags"},
		{"shop", "'=cmd()|'x", "'@SUM(A1)\n\x1b[2J", "2C4Gi", "intel", "SPOT", "2026-11-28T11:00:00Z", "2026-11-28T12:00:00Z", "3600", "false", "false", `{"a":"=1"}`},
		{"shop", "job", "", "unsized", "", "POSTPAID_BY_HOUR", "2026-11-28T11:59:00Z", "", "60", "true", "false", ""},
	}
	if diff := cmp.Diff(want, rows); diff != "" {
		t.Errorf("CSV (-want +got):\n%s", diff)
	}
	if table := write(Table); strings.Contains(table, "\x1b") || strings.Count(table, "\n") != 3 || !strings.HasPrefix(table, "NAMESPACE  POD") {
		t.Errorf("table:\n%q", table)
	}
	var back []v1alpha1.Usage
	must(t, json.Unmarshal([]byte(write(JSON)), &back))
	if len(back) != 2 || back[0].Pod != "=cmd()|'x" {
		t.Errorf("JSON: %+v", back)
	}
	text := write(Prometheus)
	for _, line := range []string{
		`nodeless_sandbox_seconds_total{namespace="shop",workload="",spec="unsized",type="",charge="POSTPAID_BY_HOUR"} 60`,
		`nodeless_sandbox_seconds_total{namespace="shop",workload="@SUM(A1)\n` + "\x1b" + `[2J",spec="2C4Gi",type="intel",charge="SPOT"} 3600`,
		`nodeless_sandboxes_running{namespace="shop",workload="",spec="unsized",type="",charge="POSTPAID_BY_HOUR"} 1`,
	} {
		if !strings.Contains(text, line+"\n") {
			t.Errorf("no line %q in\n%s", line, text)
		}
	}
	var empty strings.Builder
	must(t, WriteUsages(&empty, nil, JSON))
	if empty.String() != "[]\n" {
		t.Errorf("nothing in JSON: %q", empty.String())
	}
}

func bills() []v1alpha1.Bill {
	line := func(day, workload, amount string, seconds int64, settled bool) v1alpha1.BillLine {
		return v1alpha1.BillLine{Day: day, Workload: workload, Spec: "2C4Gi", ChargeType: "POSTPAID_BY_HOUR", Seconds: seconds, Amount: amount, Currency: "CNY", Settled: settled}
	}
	dollars := line("2026-11-01", "Deployment/web", "0.000002000", 1, true)
	dollars.Currency = "USD"
	return []v1alpha1.Bill{
		{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "2026-11"}, Currency: "CNY", Total: "0.000002", Pending: "0.036672", OtherTotals: []string{"USD 0.000002"}, Lines: []v1alpha1.BillLine{
			line("2026-11-01", "Deployment/web", "0.000000750", 10, true), line("2026-11-02", "Deployment/web", "0.000000750", 10, true), line("2026-11-02", "", "0.036672000", 300, false), dollars}},
		{ObjectMeta: metav1.ObjectMeta{Namespace: "blog", Name: "2026-11"}, Currency: "CNY", Total: "-0.100000", Pending: "0.000000", Lines: []v1alpha1.BillLine{line("2026-11-02", "=x", "-0.100000000", -5, true)}},
	}
}

func TestWriteBills(t *testing.T) {
	for _, tt := range []struct{ by, form, want string }{
		{ByNamespace, Table, `NAMESPACE  SECONDS  CURRENCY  TOTAL      PENDING
blog       -5       CNY       -0.100000  0.000000
shop       320      CNY       0.000002   0.036672
shop       1        USD       0.000002   0.000000
all        315      CNY       -0.099999  0.036672
all        1        USD       0.000002   0.000000
`},
		{ByDay, Table, `DAY         SECONDS  CURRENCY  TOTAL      PENDING
2026-11-01  10       CNY       0.000001   0.000000
2026-11-02  305      CNY       -0.099999  0.036672
2026-11-01  1        USD       0.000002   0.000000
all         315      CNY       -0.099999  0.036672
all         1        USD       0.000002   0.000000
`},
		{ByWorkload, CSV, `namespace,workload,seconds,currency,total,pending
blog,'=x,-5,CNY,-0.100000,0.000000
shop,,300,CNY,0.000000,0.036672
shop,Deployment/web,20,CNY,0.000002,0.000000
shop,Deployment/web,1,USD,0.000002,0.000000
`},
	} {
		var out strings.Builder
		must(t, WriteBills(&out, bills(), tt.by, tt.form))
		if diff := cmp.Diff(tt.want, out.String()); diff != "" {
			t.Errorf("by %s as %s (-want +got):\n%s", tt.by, tt.form, diff)
		}
	}
}

// serve answers every request with an object, or an error.
func serve(t *testing.T, answer func(r *http.Request) any) *Client {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		got := answer(r)
		if failed, ok := got.(*apierrors.StatusError); ok {
			failed.ErrStatus.APIVersion, failed.ErrStatus.Kind = "v1", "Status"
			w.WriteHeader(int(failed.ErrStatus.Code))
			got = failed.ErrStatus
		}
		if err := json.NewEncoder(w).Encode(got); err != nil {
			t.Error(err)
		}
	}))
	t.Cleanup(server.Close)
	c, err := NewClient(&rest.Config{Host: server.URL})
	must(t, err)
	return c
}

func TestClientAsksForEachNamespace(t *testing.T) {
	var asked []string
	c := serve(t, func(r *http.Request) any {
		asked = append(asked, r.Method+" "+r.URL.RequestURI())
		list := v1alpha1.UsageList{TypeMeta: metav1.TypeMeta{APIVersion: v1alpha1.GroupVersion().String(), Kind: "UsageList"}, Items: hostile()[:1]}
		return list
	})
	found, err := c.Usages(t.Context(), []string{"shop", "blog"}, "period=2026-11")
	if err != nil || len(found) != 2 {
		t.Errorf("Usages = %+v, %v", found, err)
	}
	_, err = c.Usages(t.Context(), nil, "")
	must(t, err)
	const root = "GET /apis/billing.nodeless.dev/v1alpha1/"
	want := []string{root + "namespaces/shop/usages?fieldSelector=period%3D2026-11&limit=1000", root + "namespaces/blog/usages?fieldSelector=period%3D2026-11&limit=1000", root + "usages?limit=1000"}
	for i := range asked {
		asked[i] = strings.Replace(strings.Replace(asked[i], "?timeout=1m0s", "", 1), "&timeout=1m0s", "", 1)
	}
	if diff := cmp.Diff(want, asked); diff != "" {
		t.Errorf("asked (-want +got):\n%s", diff)
	}
}

func TestErrorsSayWhatToDo(t *testing.T) {
	resource := v1alpha1.GroupVersion().WithResource("reservations").GroupResource()
	for _, tt := range []struct {
		name   string
		answer *apierrors.StatusError
		call   func(c *Client) error
		do     string
	}{
		{"a tenant asks for all", apierrors.NewForbidden(resource, "", nil), func(c *Client) error { _, err := c.Bills(t.Context(), nil, "2026-11"); return err }, "--namespace"},
		{"a stranger", apierrors.NewForbidden(resource, "", nil), func(c *Client) error { _, err := c.Bills(t.Context(), []string{"shop"}, "2026-11"); return err }, "the role view"},
		{"a tenant buys", apierrors.NewForbidden(resource, "web", nil), func(c *Client) error {
			_, err := c.Buy(t.Context(), &v1alpha1.Reservation{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web"}}, true)
			return err
		}, "nodeless:billing-admin"},
		{"nobody", apierrors.NewUnauthorized("who"), func(c *Client) error { _, err := c.Reservations(t.Context(), nil, true); return err }, "--kubeconfig"},
		{"an older server", apierrors.NewGenericServerResponse(404, "get", resource, "", "404 page not found", 0, true), func(c *Client) error { _, err := c.Usages(t.Context(), nil, ""); return err }, "older than this program"},
		{"what is not there", apierrors.NewNotFound(resource, "web"), func(c *Client) error { _, err := c.Refund(t.Context(), "shop", "web"); return err }, "nodeless reservation list"},
	} {
		err := tt.call(serve(t, func(*http.Request) any { return tt.answer }))
		if do := strings.Join(hint.Of(err), " "); err == nil || !strings.Contains(do, tt.do) {
			t.Errorf("%s: %v, hint %q; want %q in it", tt.name, err, do, tt.do)
		}
	}
	c, err := NewClient(&rest.Config{Host: "http://127.0.0.1:1"})
	must(t, err)
	if _, err := c.Usages(t.Context(), nil, ""); !strings.Contains(strings.Join(hint.Of(err), " "), "see that the server runs") {
		t.Errorf("nobody there: %v, %q", err, hint.Of(err))
	}
}

// TestNoCellIsAFormula: what Pods and their tags are called is anybody's, and is read in a spreadsheet.
func TestNoCellIsAFormula(t *testing.T) {
	for _, text := range []string{
		"=cmd|' /C calc'!A0", "+1", "-2+3", "@SUM(1)", "\t=1", "\r=1", "  =1", "\u00a0=1", "＝1", "|x", "a,b", `say "hi"`, "two\nlines", `back\slash`, "ok", "", "é", ";=1",
	} {
		var out strings.Builder
		if err := (sheet{{"POD"}, {text}}).writeCSV(&out); err != nil {
			t.Fatal(err)
		}
		rows, err := csv.NewReader(strings.NewReader(out.String() + "end\n")).ReadAll() // an empty line is no row
		if err != nil || len(rows) < 2 {
			t.Fatalf("%q makes %d rows, %v:\n%s", text, len(rows), err, out.String())
		}
		cell := rows[1][0]
		if trimmed := strings.TrimLeft(cell, " \t\r\n\u00a0"); trimmed != "" && strings.ContainsAny(trimmed[:1], "=+-@|") || strings.HasPrefix(trimmed, "＝") {
			t.Errorf("%q makes the cell %q", text, cell)
		}
		if got := strings.TrimPrefix(cell, "'"); text != "" && got != strings.ReplaceAll(text, "\r\n", "\n") {
			t.Errorf("%q is read back as %q", text, cell)
		}
	}
}
