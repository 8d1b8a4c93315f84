package main

import (
	"bytes"
	"testing"
)

func TestPercentileIsNearestRank(t *testing.T) {
	samples := []float64{5, 1, 4, 2, 3}
	for p, want := range map[float64]float64{1: 1, 20: 1, 50: 3, 99: 5, 100: 5} {
		if got := percentile(samples, p); got != want {
			t.Errorf("percentile(%v) = %v, want %v", p, got, want)
		}
	}
	if got := percentile(nil, 50); got != 0 {
		t.Errorf("percentile of nothing = %v, want 0", got)
	}
	if samples[0] != 5 {
		t.Error("the samples were reordered")
	}
}

func TestLine(t *testing.T) {
	var out bytes.Buffer
	p := printer{&out}
	p.line("server_rss", 412.5, "MB")
	p.line("server_idle_cpu", 3, "%")
	if got, want := out.String(), "bench server_rss 412.5 MB\nbench server_idle_cpu 3 %\n"; got != want {
		t.Errorf("lines = %q, want %q", got, want)
	}
}
