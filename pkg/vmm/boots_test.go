package vmm

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"
)

// TestBootsInARow boots the bundled guest as a Pod's is booted, one time after the other: one panic or hang of many boots is one too many.
// NODELESS_BOOTS says how many, NODELESS_ACCEL by what; without them it is two, emulated.
func TestBootsInARow(t *testing.T) {
	bundle, err := filepath.Abs("../../dist/bundle")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(bundle, "guest", "initrd")); err != nil || os.Geteuid() != 0 {
		t.Skip("skipped: no bundle (make build), or not root")
	}
	times, accel := 2, AccelTCG
	if s := os.Getenv("NODELESS_BOOTS"); s != "" {
		if times, err = strconv.Atoi(s); err != nil || times < 1 {
			t.Fatalf("NODELESS_BOOTS: %q is not a number of boots", s)
		}
	}
	if s := os.Getenv("NODELESS_ACCEL"); s != "" {
		accel = s
	}
	cfg := HostConfig{Bundle: bundle, Accel: accel}
	if accel == AccelTCG {
		cfg.TSCKHz, _, _ = TSCKHz() // as the worker: without it the guest measures
	}
	var took []time.Duration
	failed, first := 0, time.Now()
	for i := range times {
		begun := time.Now()
		if err := TryBoot(t.Context(), cfg); err != nil {
			failed++
			t.Errorf("boot %d: %v", i+1, err)
			continue
		}
		took = append(took, time.Since(begun))
	}
	slices.Sort(took)
	if len(took) > 0 {
		t.Logf("boots: %d on %s, %d failed, in %v; median %v, longest %v", times, accel, failed, time.Since(first).Round(time.Second),
			took[len(took)/2].Round(time.Millisecond), took[len(took)-1].Round(time.Millisecond))
	}
}
