package billing

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nodeless/nodeless/pkg/api"
	"github.com/nodeless/nodeless/pkg/bill"
	"github.com/nodeless/nodeless/pkg/bill/journal"
	"github.com/nodeless/nodeless/pkg/meter"
	"github.com/nodeless/nodeless/pkg/podsize"
	"github.com/nodeless/nodeless/pkg/price"
	"github.com/nodeless/nodeless/pkg/sandboxrecord"
)

// total adds amounts up.
func total(entries []entry) price.Amount {
	var sum price.Amount
	for _, e := range entries {
		sum += e.Amount
	}
	return sum
}

// TestTheCloudsExamples holds the sums of the cloud's own pages, from the ledger to the text of the bill.
func TestTheCloudsExamples(t *testing.T) {
	for _, tt := range []struct {
		name, currency, size, charge string
		pods                         int
		ran                          time.Duration
		want                         string
	}{
		{"two Pods of 2C4Gi for five minutes", "CNY", "2C4Gi", api.ChargePostPaid, 2, 5 * time.Minute, "0.073344"},
		{"the same in dollars", "USD", "2C4Gi", api.ChargePostPaid, 2, 5 * time.Minute, "0.010946"},
		{"twenty Pods of 4C8Gi for ten minutes", "CNY", "4C8Gi", api.ChargePostPaid, 20, 10 * time.Minute, "2.933760"},
		{"the same twenty in dollars", "USD", "4C8Gi", "", 20, 10 * time.Minute, "0.437856"},
		{"spot costs a fifth", "CNY", "4C8Gi", api.ChargeSpot, 20, 10 * time.Minute, "0.586752"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t, tt.currency)
			w.pass(55 * time.Minute) // over the end of an hour, so that both are added up
			for n := range tt.pods {
				w.start(id(n), "shop", tt.size, "intel", tt.charge)
			}
			w.pass(tt.ran)
			if got := total(w.statement(morning, morning.Add(2*time.Hour), nil)).Format(6); got != tt.want {
				t.Errorf("as they run: %s, want %s", got, tt.want)
			}
			for n := range tt.pods {
				w.end(id(n))
			}
			w.pass(2 * time.Hour)
			w.settle()
			if got := total(w.statement(morning, morning.Add(2*time.Hour), nil)).Format(6); got != tt.want {
				t.Errorf("on the bill: %s, want %s", got, tt.want)
			}
			w.everySecondOnce()
		})
	}
}

// days has Pods come and go at random for three days; then all end, and the rest is settled.
func days(t *testing.T, meanwhile func(w *world, random *rand.Rand)) {
	t.Helper()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random, w := rand.New(rand.NewPCG(seed, 1)), newWorld(t, "CNY")
	_, err := w.journal.Reservations(t.Context())
	must(t, err)
	must(t, w.journal.Buy(t.Context(), journal.Reservation{ID: "eksri-00000001", Namespace: "shop", Name: "one", Months: 1, From: morning, Until: morning.AddDate(0, 1, 0),
		Size: podsize.Size{Type: bill.Common, CPU: 1000, Memory: 2 * podsize.Gi}, Currency: journal.Currency{Code: "CNY", Digits: 6}}))
	next := 0
	for range 72 * 4 {
		w.pass(15*time.Minute + time.Duration(random.Int64N(int64(time.Second))))
		for id := range w.starts {
			if random.IntN(3) == 0 {
				w.end(id)
			}
		}
		for len(w.starts) < 3 {
			w.start(id(next), []string{"shop", "other"}[random.IntN(2)], "1C2Gi", []string{"intel", "amd"}[random.IntN(2)], []string{api.ChargePostPaid, api.ChargeSpot}[random.IntN(2)])
			next++
		}
		meanwhile(w, random)
	}
	for id := range w.starts {
		w.end(id)
	}
	w.pass(2 * time.Hour)
	w.set(48 * time.Hour) // whatever the clock was set to
	w.settle()
	w.everySecondOnce()
}

func TestDays(t *testing.T) {
	days(t, func(w *world, _ *rand.Rand) { w.settle() })
}

func TestServerIsDownForHours(t *testing.T) {
	days(t, func(w *world, random *rand.Rand) {
		if random.IntN(30) == 0 {
			w.restart("CNY")
			w.settle()
		}
	})
}

func TestClockIsSet(t *testing.T) {
	days(t, func(w *world, random *rand.Rand) {
		w.settle()
		if random.IntN(10) == 0 {
			w.set(time.Duration(random.Int64N(int64(10*time.Hour))) - 5*time.Hour)
		}
	})
}

// TestBrokenOff breaks settling off at any statement.
func TestBrokenOff(t *testing.T) {
	days(t, func(w *world, random *rand.Rand) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Duration(random.IntN(3000))*time.Microsecond)
		defer cancel()
		_ = w.server.Settle(ctx, w.now) // whatever it says, the next one goes on
		if random.IntN(10) == 0 {
			w.restart("CNY")
		}
	})
}

func TestWhatComesLateIsCharged(t *testing.T) {
	w := newWorld(t, "CNY")
	late := w.record(id(1), "shop", "1C2Gi", "intel", "") // its record is not taken in: the disk is full
	w.start(id(0), "shop", "1C2Gi", "intel", "")
	w.hourly(3)
	w.starts[id(1)] = late
	w.end(id(1))
	w.end(id(0))
	w.hourly(2)
	w.everySecondOnce()
}

func TestWhatWasTooMuchIsTakenBack(t *testing.T) {
	w := newWorld(t, "CNY")
	w.start(id(0), "shop", "1C2Gi", "intel", "")
	w.start(id(1), "shop", "1C2Gi", "intel", "")
	w.pass(90 * time.Minute)
	dead := w.starts[id(1)] // it ends, and nobody can write that down for a while
	dead.EndBoot = w.now.Boot
	w.hourly(3)
	w.put(dead)
	delete(w.starts, id(1))
	w.hourly(1)
	w.end(id(0))
	w.hourly(2)
	w.everySecondOnce()
	entries := w.statement(time.Time{}, time.Time{}, nil)
	var back price.Amount
	for _, e := range entries {
		if e.Seconds < 0 {
			back += e.Amount
		}
	}
	if cost, want := total(entries), back; cost <= 0 || want >= 0 {
		t.Errorf("in all %s, of which %s were given back", cost.Format(6), want.Format(6))
	}
}

// A correction is of its hour's prices and currency, whatever they are by now.
func TestLateTimeIsPricedAsItsHourWas(t *testing.T) {
	w := newWorld(t, "CNY")
	late := w.record(id(1), "shop", "1C2Gi", "intel", "")
	w.start(id(0), "shop", "1C2Gi", "intel", "")
	w.hourly(2)
	before, err := w.journal.Settled(t.Context(), time.Time{}, time.Time{})
	must(t, err)
	w.restart("USD")
	w.starts[id(1)] = late
	w.end(id(1))
	w.end(id(0))
	w.hourly(2)
	w.everySecondOnce()
	tables, err := price.DefaultTables()
	must(t, err)
	lines := map[string]int{}
	for _, e := range w.statement(time.Time{}, time.Time{}, nil) {
		table := tables["USD"]
		if slices.ContainsFunc(before, e.Cycle.Equal) {
			table = tables["CNY"]
		}
		want, err := table.Cost(podsize.Size{Type: "intel", CPU: 1000, Memory: 2 * podsize.Gi}, e.Seconds, 100)
		must(t, err)
		if e.Amount != want || e.Currency != journal.CurrencyOf(table) {
			t.Errorf("%d seconds of %v cost %s %s, want %s %s", e.Seconds, e.Cycle, e.Currency.Code, e.Amount.Format(9), table.Currency, want.Format(9))
		}
		lines[e.Usage+" "+e.Currency.Code]++
	}
	if len(lines) != 4 {
		t.Errorf("lines %v, want each of both Pods in both currencies", lines)
	}
}

// After a restore on another host the ledger has running sandboxes that nobody knows the end of.
func TestAnEndThatNobodySawTakesNothingBack(t *testing.T) {
	w := newWorld(t, "CNY")
	w.start(id(0), "shop", "1C2Gi", "intel", "")
	w.hourly(5)
	before := w.statement(time.Time{}, time.Time{}, nil)
	r := w.starts[id(0)]
	r.EndBoot = r.StartBoot
	_, err := w.ledger.Put(t.Context(), meter.Life{Record: r, Estimated: true})
	must(t, err)
	w.pass(10 * time.Hour)
	w.settle()
	if diff := cmp.Diff(before[:4], w.statement(time.Time{}, time.Time{}, nil)); diff != "" {
		t.Errorf("charges (-before +after):\n%s", diff)
	}
}

func TestAResizeIsPricedFromItsMoment(t *testing.T) {
	w := newWorld(t, "CNY")
	w.start(id(0), "shop", "1C2Gi", "intel", "")
	w.pass(30 * time.Minute)
	w.resize(id(0), "2C4Gi")
	w.pass(30 * time.Minute)
	w.end(id(0))
	w.hourly(2)
	w.everySecondOnce()
	// (1×0.00003334 + 2×0.00001389) × 1800 + (2×0.00003334 + 4×0.00001389) × 1800
	if got := total(w.statement(time.Time{}, time.Time{}, nil)).Format(6); got != "0.330048" {
		t.Errorf("it costs %s, want 0.330048", got)
	}
}

func TestTimeWithoutAPriceIsTold(t *testing.T) {
	w := newWorld(t, "USD")
	var log strings.Builder
	w.server.log = slog.New(slog.NewTextHandler(&log, nil))
	w.start(id(0), "shop", "8C40Gi 1×V100", "V100", "")
	w.start(id(1), "shop", "=cmd()", "intel", "")
	w.start(id(2), "shop", "1C2Gi", "intel", "")
	w.pass(time.Hour)
	for n := range 3 {
		w.end(id(n))
	}
	w.hourly(2)
	w.everySecondOnce()
	charges := map[string]string{}
	for _, e := range w.statement(time.Time{}, time.Time{}, nil) {
		charges[e.Usage] = string(e.Line.Charge) + " " + e.Amount.Format(6) + " " + e.Spec + " " + e.Why
	}
	want := map[string]string{
		id(0) + "/0": "UNPRICED 0.000000 8C40Gi 1×V100 type V100 in USD: no price; set one in the table of prices",
		id(1) + "/0": "UNPRICED 0.000000 unsized its spec is not known",
		id(2) + "/0": "POSTPAID_BY_HOUR 0.032839 1C2Gi ",
	}
	if diff := cmp.Diff(want, charges); diff != "" {
		t.Errorf("charges (-want +got):\n%s", diff)
	}
	for _, says := range []string{"type V100 in USD: no price", "its spec is not known", "seconds=3600"} {
		if !strings.Contains(log.String(), says) {
			t.Errorf("the log does not say %q:\n%s", says, log.String())
		}
	}
}

func TestAClosedBillStaysAndAnOpenOneDoesNot(t *testing.T) {
	w := newWorld(t, "CNY")
	april := time.Date(2026, 4, 1, 0, 0, 0, 0, time.UTC)
	w.set(april.Add(-2 * time.Hour).Sub(w.now.Wall))
	late := w.record(id(1), "shop", "1C2Gi", "intel", "")
	w.start(id(0), "shop", "1C2Gi", "intel", "")
	w.hourly(3)
	march := w.statement(morning, april, nil)
	w.starts[id(1)] = late
	w.end(id(1))
	w.end(id(0))
	w.hourly(2)
	if diff := cmp.Diff(march, w.statement(morning, april, nil)); diff != "" {
		t.Errorf("the bill of March changed (-before +after):\n%s", diff)
	}
	w.everySecondOnce()
}

func TestStatementIsOfNamespaces(t *testing.T) {
	w := newWorld(t, "CNY")
	w.start(id(0), "shop", "1C2Gi", "intel", "")
	w.start(id(1), "other", "1C2Gi", "intel", "")
	w.hourly(2)
	w.pass(10 * time.Minute)
	for _, namespaces := range [][]string{{"shop"}, {"other"}, {"shop", "other"}, {}} {
		seen := map[string]bool{}
		open := 0
		for _, e := range w.statement(morning, morning.Add(24*time.Hour), namespaces) {
			seen[e.Namespace] = true
			if !e.Settled {
				open++
			}
		}
		if len(seen) != len(namespaces) || open != 2*len(namespaces) {
			t.Errorf("of %v: %v, %d lines that are not settled", namespaces, seen, open)
		}
		for _, n := range namespaces {
			if !seen[n] {
				t.Errorf("of %v: nothing of %s", namespaces, n)
			}
		}
	}
	stated, err := w.server.Statement(t.Context(), time.Time{}, time.Time{}, nil)
	if err != nil || !stated.Until.Equal(morning.Add(time.Hour)) {
		t.Errorf("settled until %v, %v", stated.Until, err)
	}
}

// TestRun has the component itself settle, by a clock that a bubble drives.
func TestRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{t: t, dir: t.TempDir(), ran: map[string]time.Duration{}, starts: map[string]sandboxrecord.Record{}}
		began := time.Now()
		clock := func() meter.Instant {
			return meter.Instant{Wall: time.Now(), BootID: thisBoot, Boot: time.Hour + time.Since(began)}
		}
		var err error
		w.ledger, err = meter.Open(t.Context(), filepath.Join(w.dir, "ledger.db"))
		must(t, err)
		w.restart("CNY")
		w.server.cfg.Clock = clock
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		w.now = clock()
		w.start(id(0), "shop", "1C2Gi", "intel", "")
		go func() { ended <- w.server.Run(ctx) }()
		time.Sleep(49*time.Hour + 3*time.Minute)
		synctest.Wait()
		settled, err := w.journal.Settled(t.Context(), time.Time{}, time.Time{})
		must(t, err)
		if len(settled) != 49 {
			t.Errorf("%d hours are settled after 49", len(settled))
		}
		cancel()
		must(t, <-ended)
		must(t, w.ledger.Close())
		must(t, w.journal.Close())
	})
}

func TestValidateNamesEveryFault(t *testing.T) {
	err := Config{Interval: -1}.Validate()
	for _, want := range []string{"no ledger", "no journal", "no clock", "no prices", "interval"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Validate = %v, want %q in it", err, want)
		}
	}
}

// TestARestartReadsWhatIsNew: a server that starts takes up what the last one had settled, and does not read the ledger of all years.
func TestARestartReadsWhatIsNew(t *testing.T) {
	w := newWorld(t, "USD")
	w.start(id(0), "shop", "1C2Gi", "intel", "")
	w.pass(time.Hour)
	w.end(id(0))
	w.hourly(1)
	w.pass(2 * memory)
	w.start(id(1), "shop", "1C2Gi", "intel", "")
	w.hourly(2)
	w.restart("USD")
	asked := &asks{Ledger: w.ledger}
	w.server.cfg.Ledger = asked
	before := len(w.statement(time.Time{}, time.Time{}, nil))
	asked.from = nil
	w.hourly(1)
	if len(asked.from) == 0 {
		t.Fatal("nothing was asked of the ledger")
	}
	for _, from := range asked.from {
		if oldest := w.now.Wall.Add(-memory - 3*time.Hour); from.Before(oldest) {
			t.Errorf("the ledger is read from %v on, want nothing before %v", from, oldest)
		}
	}
	if after := len(w.statement(time.Time{}, time.Time{}, nil)); after != before+1 {
		t.Errorf("%d lines after one more hour, there were %d", after, before)
	}
	w.end(id(1))
	w.hourly(2)
	w.everySecondOnce()
}

// asks notes what is asked of the ledger.
type asks struct {
	Ledger
	from []time.Time
}

func (a *asks) Usages(ctx context.Context, from, to time.Time, f meter.Filter) ([]meter.Usage, error) {
	a.from = append(a.from, from)
	return a.Ledger.Usages(ctx, from, to, f)
}

// TestWhatRunsElsewhereIsBilled: a Pod on another host, or of another boot, is charged for up to when the ledger was told that it ran, and
// for the rest once its end is known.
func TestWhatRunsElsewhereIsBilled(t *testing.T) {
	w := newWorld(t, "USD")
	r := w.record(id(0), "shop", "1C2Gi", "intel", "")
	r.BootID = "22222222-2222-2222-2222-222222222222"
	w.put(r)
	must(t, w.ledger.Saw(t.Context(), map[string]time.Duration{id(0): r.StartBoot + 3*time.Hour + 5*time.Minute}))
	w.hourly(4)
	seconds := func() (sum int64) {
		for _, e := range w.statement(time.Time{}, time.Time{}, nil) {
			sum += e.Seconds
		}
		return sum
	}
	if got := seconds(); got != 3*3600+300 {
		t.Errorf("charged for %d seconds of a Pod that was last seen after 3 h 5 min", got)
	}
	r.EndBoot = r.StartBoot + 3*time.Hour + 20*time.Minute
	w.put(r)
	w.hourly(1)
	if got := seconds(); got != 3*3600+1200 {
		t.Errorf("charged for %d seconds of a Pod that ended after 3 h 20 min", got)
	}
}
