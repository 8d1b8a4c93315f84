package journal

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// settlerEnv makes the test binary settle hour after hour, into the journal in the folder that it names, until it is killed.
const settlerEnv = "NODELESS_TEST_SETTLER"

// usages run through all hours of the test, each for another part of every hour.
const usages = 40

func TestMain(m *testing.M) {
	if dir := os.Getenv(settlerEnv); dir != "" {
		fmt.Fprintln(os.Stderr, settleOn(context.Background(), dir))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

func settleOn(ctx context.Context, dir string) error {
	b, err := Open(ctx, filepath.Join(dir, "bills.db"))
	if err != nil {
		return err
	}
	hours, err := b.Settled(ctx, time.Time{}, time.Time{})
	if err != nil {
		return err
	}
	for at := hour.Add(time.Duration(len(hours)) * time.Hour); ; at = at.Add(time.Hour) {
		if len(hours) > 0 { // the last one again, as after a crash before the answer
			last := at.Add(-time.Hour)
			if err := b.Settle(ctx, cycle(last), linesOf(last)); err != nil {
				return err
			}
		}
		if err := b.Settle(ctx, cycle(at), linesOf(at)); err != nil {
			return err
		}
		hours = append(hours, at)
		if found, err := b.Hour(ctx, at); err != nil || len(found) != usages {
			return errors.Join(err, fmt.Errorf("%d lines", len(found)))
		}
	}
}

func linesOf(at time.Time) []Charge {
	var lines []Charge
	for n := range int64(usages) {
		lines = append(lines, charge(at, fmt.Sprintf("%d/0", n), "shop", 3600-n))
	}
	return lines
}

func TestKillAtRandom(t *testing.T) {
	const kills = 60
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random, dir := rand.New(rand.NewPCG(seed, 1)), t.TempDir()
	for range kills {
		child := exec.Command(os.Args[0])
		child.Env = append(os.Environ(), settlerEnv+"="+dir)
		child.Stderr = os.Stderr
		must(t, child.Start())
		<-time.After(time.Duration(random.IntN(60_000)) * time.Microsecond)
		must(t, child.Process.Kill())
		if err := child.Wait(); err == nil || child.ProcessState.ExitCode() != -1 {
			t.Fatalf("the settler ended by itself: %v", err)
		}
	}
	b := open(t, dir)
	hours, err := b.Settled(t.Context(), time.Time{}, time.Time{})
	must(t, err)
	if len(hours) == 0 {
		t.Fatal("no settler lived long enough to write anything")
	}
	var all []string
	for n := range usages {
		all = append(all, fmt.Sprintf("%d/0", n))
	}
	sums, err := b.Charged(t.Context(), all)
	must(t, err)
	for n := range int64(usages) {
		if got, want := sums[all[n]], int64(len(hours))*(3600-n); got != want {
			t.Errorf("%s is charged for %d seconds in %d hours, want %d", all[n], got, len(hours), want)
		}
	}
	for i, at := range hours {
		if want := hour.Add(time.Duration(i) * time.Hour); !at.Equal(want) {
			t.Fatalf("the %d. hour is %v, want %v", i+1, at, want)
		}
	}
	t.Logf("%d hours of %d lines after %d kills", len(hours), usages, kills)
}
