package billing

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/nodeless/nodeless/pkg/bill/journal"
	"github.com/nodeless/nodeless/pkg/meter"
	"github.com/nodeless/nodeless/pkg/podsize"
	"github.com/nodeless/nodeless/pkg/price"
	"github.com/nodeless/nodeless/pkg/sandboxrecord"
)

const thisBoot = "00000000-0000-0000-0000-000000000001"

var morning = time.Date(2026, 3, 1, 10, 0, 0, 0, time.UTC)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// world is a host with a clock that the test sets, a ledger and a journal.
type world struct {
	t       *testing.T
	dir     string
	now     meter.Instant
	ledger  *meter.Ledger
	journal *journal.Journal
	server  *Server
	ran     map[string]time.Duration // how long each that was ended ran, in truth
	starts  map[string]sandboxrecord.Record
}

func newWorld(t *testing.T, currency string) *world {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "billing-")
	if err != nil {
		dir = t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	w := &world{t: t, dir: dir, now: meter.Instant{Wall: morning, BootID: thisBoot, Boot: time.Hour}, ran: map[string]time.Duration{}, starts: map[string]sandboxrecord.Record{}}
	w.ledger, err = meter.Open(t.Context(), filepath.Join(dir, "ledger.db"))
	must(t, err)
	t.Cleanup(func() { w.ledger.Close() })
	w.restart(currency)
	return w
}

// restart is what a start of the server does.
func (w *world) restart(currency string) {
	w.t.Helper()
	if w.journal != nil {
		must(w.t, w.journal.Close())
	}
	var err error
	w.journal, err = journal.Open(w.t.Context(), filepath.Join(w.dir, "bills.db"))
	must(w.t, err)
	w.t.Cleanup(func() { w.journal.Close() })
	tables, err := price.DefaultTables()
	must(w.t, err)
	catalog, err := podsize.DefaultCatalog()
	must(w.t, err)
	w.server = New(Config{Ledger: w.ledger, Journal: w.journal, Catalog: catalog, Prices: tables[currency], Clock: func() meter.Instant { return w.now }}, slog.New(slog.DiscardHandler))
}

// pass lets time go by.
func (w *world) pass(d time.Duration) {
	w.now.Wall, w.now.Boot = w.now.Wall.Add(d), w.now.Boot+d
}

// set sets the wall clock, as NTP or an operator does.
func (w *world) set(d time.Duration) { w.now.Wall = w.now.Wall.Add(d) }

// record is a life that begins now.
func (w *world) record(sandbox, namespace, size, kind, charge string) sandboxrecord.Record {
	return sandboxrecord.Record{
		Sandbox: sandbox, Cluster: "cls-00000001", Node: "host-1",
		Pod:    sandboxrecord.Pod{Namespace: namespace, Name: "pod-" + sandbox, UID: "uid-" + sandbox, Workload: "Deployment/web", Spec: size, SpecType: kind, Charge: charge},
		BootID: w.now.BootID, QEMU: sandboxrecord.Process{PID: 12, Ticks: 345}, VMM: sandboxrecord.Process{PID: 11, Ticks: 344},
		Start: w.now.Wall, StartBoot: w.now.Boot,
	}
}

func (w *world) put(r sandboxrecord.Record) {
	w.t.Helper()
	conflicts, err := w.ledger.Put(w.t.Context(), meter.Life{Record: r})
	for _, c := range conflicts {
		err = errors.Join(err, c)
	}
	must(w.t, err)
}

func (w *world) start(sandbox, namespace, size, kind, charge string) {
	w.t.Helper()
	r := w.record(sandbox, namespace, size, kind, charge)
	w.starts[sandbox] = r
	w.put(r)
}

// resize gives a life that runs another spec from now on.
func (w *world) resize(sandbox, size string) {
	w.t.Helper()
	r := w.starts[sandbox]
	r.Resizes = append(slices.Clone(r.Resizes), sandboxrecord.Resize{At: w.now.Boot, Spec: size, SpecType: r.SpecType})
	w.starts[sandbox] = r
	w.put(r)
}

// end ends a life now.
func (w *world) end(sandbox string) {
	w.t.Helper()
	r := w.starts[sandbox]
	r.EndBoot = w.now.Boot
	w.ran[sandbox] = r.EndBoot - r.StartBoot
	w.put(r)
	delete(w.starts, sandbox)
}

func (w *world) settle() {
	w.t.Helper()
	must(w.t, w.server.Settle(w.t.Context(), w.now))
}

// hourly lets whole hours go by and settles after each, as Run does.
func (w *world) hourly(n int) {
	w.t.Helper()
	for range n {
		w.pass(time.Hour)
		w.settle()
	}
}

// entry is a line of a bill.
type entry struct {
	journal.Charge
	Settled bool
}

// statement is every line of a time, and has what it comes to compared with the server's own statement.
func (w *world) statement(from, to time.Time, namespaces []string) []entry {
	w.t.Helper()
	var entries []entry
	var settled, open price.Amount
	for _, c := range w.charges(from, to, namespaces) {
		entries = append(entries, entry{c, true})
		settled += c.Amount
	}
	p, err := w.server.pending(w.t.Context(), from, to, namespaces)
	must(w.t, err)
	for _, c := range p.charges {
		entries = append(entries, entry{c, false})
		open += c.Amount
	}
	stated, err := w.server.Statement(w.t.Context(), from, to, namespaces)
	must(w.t, err)
	for _, s := range stated.Settled {
		settled -= s.Amount
	}
	for _, s := range stated.Pending {
		open -= s.Amount
	}
	if settled != 0 || open != 0 {
		w.t.Errorf("the statement lacks %s that are settled and %s that are not", settled.Format(9), open.Format(9))
	}
	return entries
}

// charges lists what is on the bills of a time, in the order in which it was billed; a zero moment is no bound.
func (w *world) charges(from, to time.Time, namespaces []string) (found []journal.Charge) {
	w.t.Helper()
	hours, err := w.journal.Settled(w.t.Context(), time.Time{}, time.Time{})
	must(w.t, err)
	for _, hour := range hours {
		lines, err := w.journal.Hour(w.t.Context(), hour)
		must(w.t, err)
		for _, c := range lines {
			within := !c.Billed.Before(from) && (to.IsZero() || c.Billed.Before(to))
			if within && (namespaces == nil || slices.Contains(namespaces, c.Namespace)) {
				found = append(found, c)
			}
		}
	}
	slices.SortStableFunc(found, func(a, b journal.Charge) int { return a.Billed.Compare(b.Billed) })
	return found
}

// everySecondOnce compares what was charged with what was lived. All must have ended and be settled.
func (w *world) everySecondOnce() {
	w.t.Helper()
	entries := w.statement(time.Time{}, time.Time{}, nil)
	got := map[string]int64{}
	for _, e := range entries {
		if !e.Settled {
			w.t.Errorf("not settled: %+v", e)
		}
		got[e.Usage] += e.Seconds
	}
	usages, err := w.ledger.Usages(w.t.Context(), time.Time{}, time.Time{}, meter.Filter{})
	must(w.t, err)
	var sum time.Duration
	for _, u := range usages {
		want := u.End.Unix() - u.Start.Unix()
		if got[usageID(u)] != want {
			w.t.Errorf("%s is charged for %d seconds, want %d", usageID(u), got[usageID(u)], want)
		}
		delete(got, usageID(u))
		sum += w.ran[u.Sandbox]
	}
	if len(got) > 0 {
		w.t.Errorf("charged are also %v", got)
	}
	w.t.Logf("%d usages, %v, %d lines", len(usages), sum, len(entries))
}

func id(n int) string { return fmt.Sprintf("%064x", n) }
