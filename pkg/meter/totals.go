package meter

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

const (
	totalsBatch = 10_000 // ends read at a time: a ledger of years does not fit into memory
	totalsLimit = 20 * time.Second
)

// Totals tells Prometheus how long all sandboxes of the ledger ran, and how many run. It asks again and again, so what has ended is
// read once; a resize of such that comes to light later counts from the next start on. There is no series for each workload: every run
// of a Job would leave one behind for good.
type Totals struct {
	ledger *Ledger
	clock  Clock

	mu        sync.Mutex
	ended     sums            // guarded by mu
	lastEnd   int64           // the newest end in it; guarded by mu
	open      map[string]bool // the sandboxes that had not ended; guarded by mu
	lastStart int64           // the newest start that was looked at; guarded by mu
}

var _ prometheus.Collector = (*Totals)(nil)

// NewTotals counts what is in a ledger.
func NewTotals(ledger *Ledger, clock Clock) *Totals {
	return &Totals{ledger: ledger, clock: clock, ended: sums{}, open: map[string]bool{}}
}

var (
	totalsLabels = []string{"namespace", "spec", "type", "charge"}
	secondsDesc  = prometheus.NewDesc(secondsName, secondsHelp, totalsLabels, nil)
	runningDesc  = prometheus.NewDesc(runningName, runningHelp, totalsLabels, nil)
)

// Describe is for Prometheus.
func (t *Totals) Describe(to chan<- *prometheus.Desc) {
	to <- secondsDesc
	to <- runningDesc
}

// Collect is for Prometheus.
func (t *Totals) Collect(to chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), totalsLimit)
	defer cancel()
	all, err := t.sums(ctx)
	if err != nil {
		to <- prometheus.NewInvalidMetric(secondsDesc, err)
		return
	}
	for key, sum := range all {
		labels := []string{key.namespace, key.spec, key.kind, key.charge}
		to <- prometheus.MustNewConstMetric(secondsDesc, prometheus.CounterValue, sum.float(), labels...)
		to <- prometheus.MustNewConstMetric(runningDesc, prometheus.GaugeValue, float64(sum.running), labels...)
	}
}

// sums reads what is new in the ledger, and adds what runs.
func (t *Totals) sums(ctx context.Context) (sums, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	all, err := t.read(ctx)
	if err != nil {
		return nil, fmt.Errorf("add ledger up: %w", err)
	}
	return all, nil
}

// read is sums; mu is held. What ends meanwhile is in it either as what runs or not at all, and as what has ended the next time.
func (t *Totals) read(ctx context.Context) (sums, error) {
	now := t.clock()
	for more := true; more; {
		ended, last, err := t.ledger.ended(ctx, t.lastEnd, totalsBatch)
		if err != nil {
			return nil, err
		}
		for _, life := range ended {
			t.ended.addLife(life, now)
			delete(t.open, life.Sandbox)
		}
		more, t.lastEnd = last != t.lastEnd, last
	}
	if err := t.started(ctx); err != nil {
		return nil, err
	}
	names, err := json.Marshal(slices.Collect(maps.Keys(t.open)))
	if err != nil {
		return nil, err
	}
	running, err := lives(ctx, t.ledger.db, "WHERE s.sandbox IN (SELECT value FROM json_each(?))", string(names))
	if err != nil {
		return nil, err
	}
	all := sums{}
	for key, s := range t.ended {
		one := *s
		all[key] = &one
	}
	for _, life := range running {
		all.addLife(life, now)
	}
	return all, nil
}

// started notes what has started since and not ended.
func (t *Totals) started(ctx context.Context) error {
	rows, err := t.ledger.db.QueryContext(ctx, "SELECT s.rowid, s.sandbox FROM starts s LEFT JOIN ends e ON e.sandbox = s.sandbox "+
		"WHERE s.rowid > ? AND e.sandbox IS NULL ORDER BY s.rowid", t.lastStart)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var sandbox string
		if err := rows.Scan(&t.lastStart, &sandbox); err != nil {
			return err
		}
		t.open[sandbox] = true
	}
	return rows.Err()
}

// addLife adds a life by the specs that it had.
func (s sums) addLife(life Life, now Instant) {
	for _, u := range stretches(life) {
		s.add(series{namespace: u.Namespace, spec: u.specText(), kind: u.Spec.Type, charge: u.Charge}, u, now)
	}
}

// ended gives the lives whose ends were written after the given one, in that order, and the last of these ends. They are at most n.
func (l *Ledger) ended(ctx context.Context, after int64, n int) (ended []Life, last int64, err error) {
	const newest = "SELECT ifnull(max(rowid), ?1) FROM (SELECT rowid FROM ends WHERE rowid > ?1 ORDER BY rowid LIMIT ?2)"
	if err := l.db.QueryRowContext(ctx, newest, after, n).Scan(&last); err != nil || last == after {
		return nil, after, err
	}
	ended, err = lives(ctx, l.db, "WHERE e.rowid > ? AND e.rowid <= ?", after, last)
	if err != nil {
		return nil, after, err
	}
	return ended, last, nil
}
