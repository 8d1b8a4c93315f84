package meter

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/nodeless/nodeless/pkg/sandboxrecord"
)

// TestTotalsAreTheLedger compares what Prometheus gets, while lives begin, are resized and end, with the whole ledger added up anew.
func TestTotalsAreTheLedger(t *testing.T) {
	l := openLedger(t)
	now := Instant{Wall: noon.Add(time.Hour), BootID: thisBoot, Boot: time.Hour}
	totals := NewTotals(l, func() Instant { return now })
	registry := prometheus.NewPedanticRegistry()
	must(t, registry.Register(totals))
	random := rand.New(rand.NewPCG(1, 2))
	var running []Life
	for step := range 200 {
		now.Boot, now.Wall = now.Boot+time.Second, now.Wall.Add(time.Second)
		switch i := random.IntN(max(1, len(running))); {
		case len(running) < 3 || random.IntN(3) == 0:
			life := changed(sample(fmt.Sprint(step)), func(f *Life) {
				f.Namespace, f.StartBoot, f.Start = []string{"shop", "blog"}[random.IntN(2)], now.Boot, now.Wall
			})
			mustPut(t, l, life)
			running = append(running, life)
		case random.IntN(3) == 0:
			running[i] = changed(running[i], func(f *Life) {
				f.Resizes = append(f.Resizes, sandboxrecord.Resize{At: now.Boot, Spec: "2C4Gi", SpecType: "intel"})
			})
			mustPut(t, l, running[i])
		default:
			mustPut(t, l, changed(running[i], func(f *Life) { f.EndBoot = now.Boot }))
			running = append(running[:i], running[i+1:]...)
		}
		if random.IntN(4) == 0 || step == 199 { // not after each
			if diff := cmp.Diff(wanted(t, l, now), gathered(t, registry), cmpopts.EquateApprox(0, 1e-6)); diff != "" {
				t.Fatalf("step %d (-want +got):\n%s", step, diff)
			}
		}
	}
	if len(totals.open) != len(running) {
		t.Errorf("%d sandboxes are read each time, want the %d that run", len(totals.open), len(running))
	}
}

// wanted adds up all usages.
func wanted(t *testing.T, l *Ledger, now Instant) map[string]float64 {
	t.Helper()
	usages, err := l.Usages(t.Context(), time.Time{}, time.Time{}, Filter{})
	must(t, err)
	want := map[string]float64{}
	for _, u := range usages {
		labels := fmt.Sprintf(" charge=%s namespace=%s spec=%s type=%s", u.Charge, u.Namespace, u.Spec, u.Spec.Type)
		want["nodeless_sandbox_seconds_total"+labels] += u.Until(now).Seconds()
		want["nodeless_sandboxes_running"+labels] += map[bool]float64{true: 1}[u.End.IsZero()]
	}
	return want
}

func gathered(t *testing.T, from prometheus.Gatherer) map[string]float64 {
	t.Helper()
	families, err := from.Gather()
	must(t, err)
	got := map[string]float64{}
	for _, family := range families {
		for _, m := range family.Metric {
			var name strings.Builder
			name.WriteString(family.GetName())
			for _, label := range m.Label {
				fmt.Fprintf(&name, " %s=%s", label.GetName(), label.GetValue())
			}
			got[name.String()] = m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	return got
}

func TestTotalsOfALedgerThatCannotBeRead(t *testing.T) {
	l := openLedger(t)
	registry := prometheus.NewPedanticRegistry()
	must(t, registry.Register(NewTotals(l, func() Instant { return Instant{} })))
	must(t, l.Close())
	if _, err := registry.Gather(); err == nil || !strings.Contains(err.Error(), "add ledger up: ") {
		t.Errorf("Gather: %v, want it to say what failed", err)
	}
}
