package billing

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/nodeless/nodeless/pkg/api"
	"github.com/nodeless/nodeless/pkg/bill/journal"
	"github.com/nodeless/nodeless/pkg/meter"
	"github.com/nodeless/nodeless/pkg/price"
)

// settlerEnv makes the test binary settle, hour after hour, the ledger in the folder that it names.
const settlerEnv = "NODELESS_TEST_SETTLER"

// killedHours is what the killed settlers have to settle.
const killedHours = 600

func TestMain(m *testing.M) {
	if dir := os.Getenv(settlerEnv); dir != "" {
		if err := settleAll(context.Background(), dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// settleAll does what a server does that is started again and again: it begins with the time at which the last one was.
func settleAll(ctx context.Context, dir string) error {
	ledger, err := meter.Open(ctx, filepath.Join(dir, "ledger.db"))
	if err != nil {
		return err
	}
	bills, err := journal.Open(ctx, filepath.Join(dir, "bills.db"))
	if err != nil {
		return err
	}
	tables, err := price.DefaultTables()
	if err != nil {
		return err
	}
	settled, err := bills.Settled(ctx, time.Time{}, time.Time{})
	if err != nil {
		return err
	}
	now := meter.Instant{Wall: morning.Add(10 * time.Minute), BootID: thisBoot}
	if n := len(settled); n > 0 {
		now.Wall = settled[n-1].Add(70 * time.Minute)
	}
	s := New(Config{Ledger: ledger, Journal: bills, Prices: tables["CNY"], Clock: func() meter.Instant { return now }}, slog.New(slog.DiscardHandler))
	for ; now.Wall.Before(morning.Add((killedHours + 2) * time.Hour)); now.Wall = now.Wall.Add(time.Hour) {
		if err := s.Settle(ctx, now); err != nil {
			return err
		}
	}
	return nil
}

// TestKillAtRandom kills sixty settlers while they settle what many Pods used. Every second is charged once.
func TestKillAtRandom(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random, w := rand.New(rand.NewPCG(seed, 1)), newWorld(t, "CNY")
	for n := range 120 {
		w.now.Wall, w.now.Boot = morning, time.Hour
		w.pass(time.Duration(random.Int64N(int64((killedHours - 60) * time.Hour))))
		w.start(id(n), []string{"shop", "other"}[n%2], "1C2Gi", []string{"intel", "amd"}[random.IntN(2)], []string{api.ChargePostPaid, api.ChargeSpot}[random.IntN(2)])
		w.pass(time.Duration(random.Int64N(int64(50 * time.Hour))))
		w.end(id(n))
	}
	kills := 0
	run := func(after time.Duration) {
		t.Helper()
		child := exec.Command(os.Args[0])
		child.Env, child.Stderr = append(os.Environ(), settlerEnv+"="+w.dir), os.Stderr
		must(t, child.Start())
		if after > 0 {
			<-time.After(after)
			must(t, child.Process.Kill())
		}
		if err := child.Wait(); err != nil && child.ProcessState.ExitCode() != -1 {
			t.Fatalf("a settler ended by itself: %v", err)
		} else if err != nil {
			kills++
		}
	}
	window := int64(45 * time.Millisecond) // in which one that has the machine for itself begins to settle
	for i := range 60 {
		run(time.Duration(1 + random.Int64N(window)))
		if settled, err := w.journal.Settled(t.Context(), time.Time{}, time.Time{}); err == nil && len(settled) == 0 && i%10 == 9 {
			window *= 2 // it has not
		}
	}
	before, err := w.journal.Settled(t.Context(), time.Time{}, time.Time{})
	must(t, err)
	run(0)
	w.now.Wall = morning.Add((killedHours + 2) * time.Hour)
	w.everySecondOnce()
	t.Logf("%d settlers were killed, and had settled %d hours", kills, len(before))
	if len(before) == 0 || kills == 0 {
		t.Error("no settler was killed at work")
	}
}
