package journal

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nodeless/nodeless/pkg/bill"
	"github.com/nodeless/nodeless/pkg/podsize"
	"github.com/nodeless/nodeless/pkg/price"
)

var hour = time.Date(2026, 3, 1, 10, 0, 0, 0, time.UTC)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func yuan() Currency { return Currency{Code: "CNY", Digits: 6} }

func open(t *testing.T, dir string) *Journal {
	t.Helper()
	b, err := Open(t.Context(), filepath.Join(dir, "bills.db"))
	must(t, err)
	t.Cleanup(func() { b.Close() })
	return b
}

func cycle(at time.Time) Cycle {
	return Cycle{Hour: at, Prices: prices("1"), Now: at.Add(time.Hour + 2*time.Minute)}
}

// prices is a table in which a core costs so much.
func prices(core string) price.Table {
	tables, err := price.ParseTables(fmt.Appendf(nil, "CNY: {digits: 6, rates: {intel: {cpu: %q, memory: '1'}}}", core))
	if err != nil {
		panic(err) // the test is wrong
	}
	return tables["CNY"]
}

func charge(at time.Time, usage, namespace string, seconds int64) Charge {
	return Charge{
		Line:    bill.Line{Usage: usage, Cycle: at, Seconds: seconds, Charge: bill.PostPaid, Amount: price.Amount(seconds) * 1000},
		Cluster: "cls-00000001", Namespace: namespace, Pod: "web-0", Workload: "Deployment/web", Spec: "2C4Gi", SpecType: "intel", Billed: at, Currency: yuan(),
	}
}

func TestAnHourIsSettledOnce(t *testing.T) {
	b := open(t, t.TempDir())
	lines := []Charge{charge(hour, "a/0", "shop", 3600), charge(hour, "b/0", "other", 60)}
	lines[1].Charge, lines[1].Why, lines[1].Amount = bill.Unpriced, "no price", 0
	must(t, b.Settle(t.Context(), cycle(hour), lines))
	again := cycle(hour)
	again.Now = again.Now.Add(time.Hour)
	must(t, b.Settle(t.Context(), again, lines))
	other := []Charge{charge(hour, "a/0", "shop", 3599)}
	if err := b.Settle(t.Context(), cycle(hour), other); !errors.Is(err, ErrSettled) {
		t.Errorf("with other lines: %v, want %v", err, ErrSettled)
	}
	dearer := cycle(hour)
	dearer.Prices = prices("2")
	if err := b.Settle(t.Context(), dearer, lines); !errors.Is(err, ErrSettled) {
		t.Errorf("with other prices: %v, want %v", err, ErrSettled)
	}
	if err := b.Settle(t.Context(), cycle(hour.Add(time.Minute)), nil); err == nil {
		t.Error("a part of an hour was settled")
	}
	if err := b.Settle(t.Context(), cycle(hour.Add(time.Hour)), lines); err == nil {
		t.Error("lines of another hour were settled")
	}
	must(t, b.Settle(t.Context(), cycle(hour.Add(2*time.Hour)), nil))
	got, err := b.Hour(t.Context(), hour)
	must(t, err)
	if diff := cmp.Diff(lines, got); diff != "" {
		t.Errorf("charges (-want +got):\n%s", diff)
	}
	for _, other := range []time.Time{hour.Add(time.Hour), hour.Add(2 * time.Hour)} {
		if got, err := b.Hour(t.Context(), other); err != nil || len(got) != 0 {
			t.Errorf("charges of %s: %+v, %v, want none", other, got, err)
		}
	}
	hours, err := b.Settled(t.Context(), time.Time{}, time.Time{})
	must(t, err)
	if diff := cmp.Diff([]time.Time{hour, hour.Add(2 * time.Hour)}, hours); diff != "" {
		t.Errorf("settled hours (-want +got):\n%s", diff)
	}
}

func TestCharges(t *testing.T) {
	b := open(t, t.TempDir())
	next := hour.Add(time.Hour)
	must(t, b.Settle(t.Context(), cycle(hour), []Charge{charge(hour, "a/0", "shop", 3600), charge(hour, "b/0", `o"]'; --`, 60)}))
	must(t, b.Settle(t.Context(), cycle(next), []Charge{charge(next, "a/0", "shop", 10)}))
	for _, tt := range []struct {
		name       string
		from, to   time.Time
		namespaces []string
		want       []int64
	}{
		{"all", time.Time{}, time.Time{}, nil, []int64{60, 3610}},
		{"no namespace", time.Time{}, time.Time{}, []string{}, nil},
		{"one", time.Time{}, time.Time{}, []string{"shop"}, []int64{3610}},
		{"one of a hostile name", time.Time{}, time.Time{}, []string{`o"]'; --`}, []int64{60}},
		{"until the second hour", time.Time{}, next, nil, []int64{60, 3600}},
		{"from the second hour", next, time.Time{}, nil, []int64{10}},
	} {
		found, err := b.DailyUpTo(t.Context(), tt.from, tt.to, tt.namespaces, 100)
		must(t, err)
		var got []int64
		for _, c := range found {
			got = append(got, c.Seconds)
		}
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.name, diff)
		}
	}
	daily, err := b.DailyUpTo(t.Context(), time.Time{}, time.Time{}, []string{"shop"}, 100)
	must(t, err)
	if diff := cmp.Diff([]Sum{{Day: hour.Truncate(24 * time.Hour), Cluster: "cls-00000001", Namespace: "shop", Workload: "Deployment/web", Spec: "2C4Gi", SpecType: "intel", Charge: "POSTPAID_BY_HOUR",
		Currency: yuan(), Seconds: 3610, Amount: 3_610_000}}, daily); diff != "" {
		t.Errorf("days (-want +got):\n%s", diff)
	}
	sums, err := b.Charged(t.Context(), []string{"a/0", "c/0"})
	must(t, err)
	if diff := cmp.Diff(map[string]int64{"a/0": 3610}, sums); diff != "" {
		t.Errorf("sums (-want +got):\n%s", diff)
	}
	hours, err := b.Hours(t.Context(), "a/0")
	must(t, err)
	if diff := cmp.Diff([]time.Time{hour, next}, hours); diff != "" {
		t.Errorf("hours (-want +got):\n%s", diff)
	}
}

func TestCorrect(t *testing.T) {
	b := open(t, t.TempDir())
	must(t, b.Settle(t.Context(), cycle(hour), []Charge{charge(hour, "a/0", "shop", 3600)}))
	more := charge(hour, "b/0", "shop", 60)
	more.Billed = hour.AddDate(0, 1, 0)
	must(t, b.Correct(t.Context(), hour, 1, []Charge{more}))
	if err := b.Correct(t.Context(), hour, 1, []Charge{more}); !errors.Is(err, ErrChanged) {
		t.Errorf("twice: %v, want %v", err, ErrChanged)
	}
	if err := b.Correct(t.Context(), hour.Add(time.Hour), 0, []Charge{charge(hour.Add(time.Hour), "b/0", "shop", 60)}); err == nil {
		t.Error("an hour that is not settled was corrected")
	}
	found, err := b.Hour(t.Context(), hour)
	must(t, err)
	if len(found) != 2 || found[1].Usage != "b/0" {
		t.Errorf("lines of the hour: %+v", found)
	}
	if closed, err := b.DailyUpTo(t.Context(), hour, hour.Add(time.Hour), nil, 100); err != nil || len(closed) != 1 || closed[0].Seconds != 3600 {
		t.Errorf("the closed bill: %+v, %v", closed, err)
	}
	must(t, b.Settle(t.Context(), cycle(hour), []Charge{charge(hour, "a/0", "shop", 3600)})) // as it was settled
}

func reserved(name string) Reservation {
	return Reservation{
		ID: NewID(), Namespace: "shop", Name: name, Size: podsize.Size{Type: bill.Common, CPU: 2000, Memory: 4 * podsize.Gi}, Months: 1,
		From: hour, Until: bill.ValidUntil(hour, 1), Paid: 178 * price.Unit, List: 178 * price.Unit, Currency: yuan(), HoldCapacity: true,
	}
}

func TestReservations(t *testing.T) {
	b := open(t, t.TempDir())
	one, all := reserved("one"), reserved("all")
	all.Namespace = ""
	must(t, b.Buy(t.Context(), one))
	must(t, b.Buy(t.Context(), all))
	inSystem := reserved("all")
	inSystem.Namespace = "kube-system"
	for what, r := range map[string]Reservation{"the same name": reserved("one"), "that of one of the cluster": inSystem, "the same ID": {ID: one.ID, Name: "new", Size: one.Size, From: one.From, Until: one.Until}} {
		if err := b.Buy(t.Context(), r); !errors.Is(err, ErrExists) {
			t.Errorf("%s: %v, want %v", what, err, ErrExists)
		}
	}
	got, err := b.Reservations(t.Context())
	must(t, err)
	want := []Reservation{one, all}
	if one.ID > all.ID {
		want = []Reservation{all, one}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("reservations (-want +got):\n%s", diff)
	}
	for at, want := range map[time.Time]State{hour: Active, one.Until.Add(-1): Active, one.Until: Expired} {
		if got := one.State(at); got != want {
			t.Errorf("at %v it is %s, want %s", at, got, want)
		}
	}
}

func TestRefund(t *testing.T) {
	b := open(t, t.TempDir())
	first, second, third := reserved("first"), reserved("second"), reserved("third")
	for _, r := range []Reservation{first, second, third} {
		must(t, b.Buy(t.Context(), r))
	}
	later := hour.Add(4*24*time.Hour + 30*time.Minute)
	for _, tt := range []struct {
		what string
		id   string
		at   time.Time
		want string // of 178 for 32 days: until the end of April 1
		err  error
	}{
		{"the first within five days", first.ID, later, "178.000000", nil},
		{"again", first.ID, later, "", ErrEnded},
		{"the second within five days", second.ID, later, "150.187500", nil},
		{"after the end", third.ID, third.Until, "0.000000", nil},
		{"one that nobody bought", "eksri-00000000", later, "", ErrUnknown},
	} {
		got, err := b.Refund(t.Context(), tt.id, tt.at)
		if !errors.Is(err, tt.err) || err == nil && got.Format(6) != tt.want {
			t.Errorf("%s: %s, %v; want %s, %v", tt.what, got.Format(6), err, tt.want, tt.err)
		}
	}
	again := reserved("first")
	again.Until = third.Until
	must(t, b.Buy(t.Context(), again)) // the name is free
	_, err := b.Refund(t.Context(), again.ID, hour)
	must(t, err)
	reservations, err := b.Terms(t.Context())
	must(t, err)
	for _, c := range reservations {
		want := later.Truncate(time.Hour)
		switch c.ID {
		case third.ID:
			want = third.Until
		case again.ID:
			want = hour
		}
		if !c.Until.Equal(want) {
			t.Errorf("reservation %+v, want it to end %v", c, want)
		}
	}
}

func TestRowsStay(t *testing.T) {
	b := open(t, t.TempDir())
	r := reserved("one")
	must(t, b.Buy(t.Context(), r))
	_, err := b.Refund(t.Context(), r.ID, hour)
	must(t, err)
	must(t, b.Settle(t.Context(), cycle(hour), []Charge{charge(hour, "a/0", "shop", 3600)}))
	for _, table := range []string{"reservations", "refunds", "prices", "cycles", "charges"} {
		column := map[string]string{"reservations": "paid", "refunds": "amount", "prices": "content", "cycles": "content", "charges": "amount"}[table]
		for _, statement := range []string{
			"UPDATE " + table + " SET " + column + " = 1", "DELETE FROM " + table, "INSERT OR REPLACE INTO " + table + " SELECT * FROM " + table,
		} {
			for _, recursive := range []string{"ON", "OFF"} { // whatever opens the file
				conn, err := b.db.Conn(t.Context())
				must(t, err)
				_, err = conn.ExecContext(t.Context(), "PRAGMA recursive_triggers = "+recursive)
				must(t, err)
				if _, err := conn.ExecContext(t.Context(), statement); err == nil || !strings.Contains(err.Error(), "append-only") {
					t.Errorf("%s: %v, want it refused", statement, err)
				}
				must(t, conn.Close())
			}
		}
	}
}

func TestPricesAreThoseOfTheHour(t *testing.T) {
	b := open(t, t.TempDir())
	for i, core := range []string{"1", "2", "1"} {
		c := cycle(hour.Add(time.Duration(i) * time.Hour))
		c.Prices = prices(core)
		must(t, b.Settle(t.Context(), c, nil))
	}
	for i, core := range []string{"1", "2", "1"} {
		got, err := b.Prices(t.Context(), hour.Add(time.Duration(i)*time.Hour))
		must(t, err)
		if diff := cmp.Diff(prices(core), got, cmp.Comparer(sameText)); diff != "" {
			t.Errorf("prices of hour %d (-want +got):\n%s", i, diff)
		}
	}
	if got, err := b.Prices(t.Context(), hour.Add(-time.Hour)); err == nil {
		t.Errorf("an hour that is not settled has prices: %+v", got)
	}
	var tables int
	must(t, b.db.QueryRowContext(t.Context(), "SELECT count(*) FROM prices").Scan(&tables))
	if tables != 2 {
		t.Errorf("%d tables of prices, want each once", tables)
	}
}

func sameText(a, b price.Table) bool {
	one, err1 := a.Text()
	other, err2 := b.Text()
	return err1 == nil && err2 == nil && one == other
}

func TestReadersSeeWholeHours(t *testing.T) {
	dir := t.TempDir()
	b := open(t, dir)
	ctx, done := context.WithCancel(t.Context())
	var wait sync.WaitGroup
	for range 3 {
		reader := open(t, dir) // as another process has it
		wait.Go(func() {
			for ctx.Err() == nil {
				found, err := reader.DailyUpTo(ctx, time.Time{}, time.Time{}, nil, 100)
				if ctx.Err() != nil {
					return
				}
				var seconds int64
				for _, s := range found {
					seconds += s.Seconds
				}
				if err != nil || seconds%(7*3600) != 0 {
					t.Errorf("a reader sees %d seconds, %v", seconds, err)
					return
				}
			}
		})
	}
	for i := range 40 {
		at := hour.Add(time.Duration(i) * time.Hour)
		var lines []Charge
		for n := range 7 {
			lines = append(lines, charge(at, fmt.Sprintf("%d/0", n), "shop", 3600))
		}
		must(t, b.Settle(t.Context(), cycle(at), lines))
	}
	done()
	wait.Wait()
}

func TestTheFileIsClosedToOthers(t *testing.T) {
	dir := t.TempDir()
	b := open(t, dir)
	must(t, b.Settle(t.Context(), cycle(hour), nil))
	info, err := os.Stat(filepath.Join(dir, "bills.db"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v; want mode 0600", info, err)
	}
}

// TestBillsOfANamespaceAreFoundByAnIndex keeps what a tenant asks for from reading everybody's lines.
func TestBillsOfANamespaceAreFoundByAnIndex(t *testing.T) {
	b := open(t, t.TempDir())
	for index, namespaces := range map[string][]string{"charges_by_bill": nil, "charges_by_namespace": {"shop"}} {
		where, args, err := billed(hour, hour.Add(time.Hour), namespaces)
		must(t, err)
		rows, err := b.db.QueryContext(t.Context(), "EXPLAIN QUERY PLAN SELECT sum(amount) FROM charges WHERE "+where, args...)
		must(t, err)
		var plan []string
		for rows.Next() {
			var id, parent, unused int
			var detail string
			must(t, rows.Scan(&id, &parent, &unused, &detail))
			plan = append(plan, detail)
		}
		must(t, errors.Join(rows.Err(), rows.Close()))
		if text := strings.Join(plan, "; "); !strings.Contains(text, "SEARCH charges USING INDEX "+index+" ") {
			t.Errorf("of %q: %s; want index %s", namespaces, text, index)
		}
	}
}

// TestHeldIsReadOnce: the scheduler, which asks for each Pod, costs no query for each, and sees at once what is bought.
func TestHeldIsReadOnce(t *testing.T) {
	b := open(t, t.TempDir())
	one, other := reserved("one"), reserved("other")
	one.HoldCapacity, other.HoldCapacity = true, true
	held := func() int {
		t.Helper()
		reservations, err := b.Held(t.Context(), one.From)
		must(t, err)
		return len(reservations)
	}
	must(t, b.Buy(t.Context(), one))
	if n := held(); n != 1 {
		t.Errorf("%d are held, want 1", n)
	}
	must(t, b.Buy(t.Context(), other))
	if n := held(); n != 2 {
		t.Errorf("%d are held after one more was bought, want 2", n)
	}
	must(t, b.db.Close()) // a query would fail
	if n := held(); n != 2 {
		t.Errorf("%d are held, want 2", n)
	}
}
