package main

import (
	"fmt"
	"io"
	"sort"
	"strings"
	"time"
)

// percentile gives the p-th percentile (0 < p ≤ 100) of samples by the nearest-rank method, 0 for none.
func percentile(samples []float64, p float64) float64 {
	if len(samples) == 0 {
		return 0
	}
	s := append([]float64(nil), samples...)
	sort.Float64s(s)
	rank := int(p/100*float64(len(s)) + 0.999999)
	return s[min(max(rank, 1), len(s))-1]
}

func median(samples []float64) float64 { return percentile(samples, 50) }

func seconds(ds []time.Duration) []float64 {
	out := make([]float64, len(ds))
	for i, d := range ds {
		out[i] = d.Seconds()
	}
	return out
}

// printer writes the lines that SPECIFICATION.md names.
type printer struct{ out io.Writer }

func (p printer) line(name string, value float64, unit string) {
	text := strings.TrimRight(strings.TrimRight(fmt.Sprintf("%.3f", value), "0"), ".")
	fmt.Fprintf(p.out, "bench %s %s %s\n", name, text, unit)
}

// note writes a line for people, which no script reads.
func (p printer) note(format string, args ...any) { fmt.Fprintf(p.out, "# "+format+"\n", args...) }
