package billing

import (
	"context"
	"database/sql"
	"fmt"
	"net/url"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/nodeless/nodeless/pkg/api/billing/v1alpha1"
	"github.com/nodeless/nodeless/pkg/bill/journal"
	"github.com/nodeless/nodeless/tests/attack"
)

// TestUsagesComeInPages: a list that is taken in pages has each usage once, also of a sandbox that has had many specs.
func TestUsagesComeInPages(t *testing.T) {
	w := newWorld(t, "USD")
	var want []string
	for i := range 7 {
		w.start(id(i), "shop", "1C2Gi", "intel", "")
		want = append(want, fmt.Sprintf("pod-%s.%s", id(i), id(i)[:8]))
		if i == 3 {
			for n := range 5 {
				w.pass(time.Minute)
				w.resize(id(i), fmt.Sprintf("%dC4Gi", 2+n%2*2))
				want = append(want, fmt.Sprintf("pod-%s.%s-%d", id(i), id(i)[:8], n+1))
			}
		}
		if i%2 == 0 { // two of each moment
			w.pass(time.Minute)
		}
	}
	w.start(id(99), "other", "1C2Gi", "intel", "")
	slices.Sort(want)
	server := w.serve()
	for _, limit := range []int{1, 2, 3, 5, 12, 100} {
		var got []string
		pages := 0
		for next := ""; ; pages++ {
			var list v1alpha1.UsageList
			ask(t, "GET", fmt.Sprintf("%s%s/namespaces/shop/usages?limit=%d&continue=%s", server, root, limit, url.QueryEscape(next)), "", 200, &list)
			if len(list.Items) > limit {
				t.Errorf("limit %d: a page has %d", limit, len(list.Items))
			}
			for _, u := range list.Items {
				got = append(got, u.Name)
			}
			if next = list.Continue; next == "" {
				break
			}
		}
		slices.Sort(got)
		if !slices.Equal(got, want) || pages != (len(want)-1)/limit {
			t.Errorf("limit %d: %d pages with %q, want each of %q once", limit, pages+1, got, want)
		}
	}
	if got := message(t, "GET", server+root+"/namespaces/shop/usages?continue=abc", "", 400); got != "continue: it is not what a list of usages gave" {
		t.Errorf("a token of another's: %q", got)
	}
}

// TestAttackLargeLedger: a tenant has the whole of its ledger and of its bills loaded, as often as it likes.
func TestAttackLargeLedger(t *testing.T) {
	const few, many = 30_000, 300_000
	w := newWorld(t, "USD")
	n := few
	t.Run("fill", func(t *testing.T) {
		attack.Slow(t)
		n = many
	})
	began := time.Now()
	fillLedger(t, filepath.Join(w.dir, "ledger.db"), n)
	fillBooks(t, filepath.Join(w.dir, "bills.db"), n)
	t.Logf("%d rows in each file after %s", n, time.Since(began).Round(time.Millisecond))
	w.server.last = morning.Add(time.Duration(n) * time.Second) // all is settled
	w.now.Wall = morning.Add(time.Duration(n) * time.Second)
	server := w.serve()
	shop := server + root + "/namespaces/shop/"
	all := "fieldSelector=" + url.QueryEscape("from=2026-01-01T00:00:00Z")
	timed := func(t *testing.T, what string, f func()) {
		t.Helper()
		began := time.Now()
		f()
		t.Logf("%s took %s", what, time.Since(began).Round(100*time.Microsecond))
	}
	attack.Try(t, "T14", "list all usages at once", func(t *testing.T) attack.Outcome {
		timed(t, "the answer", func() { message(t, "GET", shop+"usages?"+all, "", 413) })
		return attack.Refused
	})
	attack.Try(t, "T14", "list all usages with a huge limit", func(t *testing.T) attack.Outcome {
		var list v1alpha1.UsageList
		timed(t, "a page", func() { ask(t, "GET", shop+"usages?limit=1000000000&"+all, "", 200, &list) })
		if len(list.Items) > mostListed || list.Continue == "" {
			return attack.Succeeded
		}
		return attack.Contained
	})
	attack.Try(t, "T14", "find one usage among many", func(t *testing.T) attack.Outcome {
		var one v1alpha1.Usage
		timed(t, "the usage", func() {
			ask(t, "GET", shop+fmt.Sprintf("usages/pod-%s.%s", fillID(n/2), fillID(n / 2)[:8]), "", 200, &one)
		})
		timed(t, "one that is not there", func() { message(t, "GET", shop+"usages/pod-x.ffffffff", "", 404) })
		timed(t, "those of the last day", func() { ask(t, "GET", shop+"usages?limit=500", "", 200, &v1alpha1.UsageList{}) })
		return attack.Contained
	})
	attack.Try(t, "T14", "have a bill of many workloads made", func(t *testing.T) attack.Outcome {
		var list v1alpha1.BillList
		timed(t, "the bills", func() { ask(t, "GET", shop+"bills", "", 200, &list) })
		lines, seconds := 0, int64(0)
		for _, b := range list.Items {
			lines += len(b.Lines)
			for _, l := range b.Lines {
				seconds += l.Seconds
				if l.Settled && l.Workload != journal.Many {
					t.Fatalf("a line of workload %q", l.Workload)
				}
			}
		}
		if seconds != int64(n) {
			t.Errorf("the bills have %d seconds, want %d", seconds, n)
		}
		t.Logf("%d lines", lines)
		if lines > mostLines {
			return attack.Succeeded
		}
		return attack.Contained
	})
}

func fillID(i int) string { return fmt.Sprintf("%08x%056x", uint32(i)*2654435761, i) }

// fillLedger adds lives of a second each, one after the other, of which all have ended.
func fillLedger(t *testing.T, file string, n int) {
	t.Helper()
	insert(t, file, n, "SELECT 1", "INSERT INTO starts (sandbox, namespace, pod, pod_uid, workload, node, spec, spec_type, charge, tags, boot_id, qemu_pid, qemu_ticks, vmm_pid, vmm_ticks, start_wall, start_boot) "+
		"VALUES (?, 'shop', ?, '', '', 'host', '1C2Gi', 'intel', '', 'null', ?, 1, 1, 1, 1, ?, ?)",
		"INSERT INTO ends (sandbox, end_boot, end_wall, estimated) VALUES (?, ?, ?, 0)",
		func(i int) [][]any {
			at, boot := morning.Add(time.Duration(i)*time.Second).UnixNano(), time.Hour+time.Duration(i)*time.Second
			return [][]any{{fillID(i), "pod-" + fillID(i), thisBoot, at, int64(boot)}, {fillID(i), int64(boot + time.Second), at + int64(time.Second)}}
		})
}

// fillBooks adds charges of a second each, all of workloads with names of their own, and settles the hours.
func fillBooks(t *testing.T, file string, n int) {
	t.Helper()
	insert(t, file, n, "INSERT INTO prices (id, content) VALUES (1, 'x')", "INSERT OR IGNORE INTO cycles (cycle, settled, prices, content) VALUES (?, 0, 1, '')",
		"INSERT INTO charges (cycle, line, billed, usage, namespace, pod, workload, spec, spec_type, charge, coupon, seconds, amount, currency, digits, why) "+
			"VALUES (?, ?, ?, ?, 'shop', 'p', ?, '1C2Gi', 'intel', 'POSTPAID_BY_HOUR', '', 1, 1000, 'USD', 2, '')",
		func(i int) [][]any {
			hour := morning.Add(time.Duration(i) * time.Second).Truncate(time.Hour).Unix()
			return [][]any{{hour}, {hour, i, hour, fillID(i), "Pod/" + fillID(i)}}
		})
}

// insert adds rows to two tables in one transaction; one for the first table that is as the row before is left out.
func insert(t *testing.T, file string, n int, before, first, second string, row func(int) [][]any) {
	t.Helper()
	db, err := sql.Open("sqlite3", file) // the driver of pkg/sqlfile
	must(t, err)
	defer db.Close()
	_, err = db.Exec(before)
	must(t, err)
	tx, err := db.Begin()
	must(t, err)
	one, err := tx.Prepare(first)
	must(t, err)
	two, err := tx.Prepare(second)
	must(t, err)
	last := ""
	for i := range n {
		values := row(i)
		if key := fmt.Sprint(values[0]); key != last {
			_, err = one.Exec(values[0]...)
			must(t, err)
			last = key
		}
		_, err = two.Exec(values[1]...)
		must(t, err)
	}
	must(t, tx.Commit())
}

// TestAttackOneTenantReads: a tenant asks again and again for what takes long to read, and others wait.
func TestAttackOneTenantReads(t *testing.T) {
	attack.Try(t, "T14", "keep others from reading by many slow requests", func(t *testing.T) attack.Outcome {
		line := newTurns()
		ctx, cancel := context.WithCancel(t.Context())
		var busy sync.WaitGroup
		for range 100 {
			busy.Go(func() {
				if line.Acquire(ctx, "shop", 1) == nil {
					<-ctx.Done() // it reads for ever
					line.Release("shop", 1)
				}
			})
		}
		for range 1000 {
			must(t, line.Acquire(t.Context(), "other", 1))
			line.Release("other", 1)
		}
		cancel()
		busy.Wait()
		now, over := context.WithTimeout(t.Context(), 10*time.Second)
		defer over()
		for n := range readers { // all places are free again
			must(t, line.Acquire(now, fmt.Sprint("reader-", n), 1))
		}
		return attack.Contained
	})
}
