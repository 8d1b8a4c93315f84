package meter

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
)

// What Prometheus knows usages by.
const (
	secondsName, secondsHelp = "nodeless_sandbox_seconds_total", "Time that sandboxes ran."
	runningName, runningHelp = "nodeless_sandboxes_running", "Sandboxes that run."
)

// series is what Prometheus tells apart.
type series struct{ namespace, workload, spec, kind, charge string }

func (s series) compare(other series) int {
	return cmp.Or(cmp.Compare(s.namespace, other.namespace), cmp.Compare(s.workload, other.workload), cmp.Compare(s.spec, other.spec),
		cmp.Compare(s.kind, other.kind), cmp.Compare(s.charge, other.charge))
}

// labels are the series' labels as Prometheus's own code writes them.
func (s series) labels() []*dto.LabelPair {
	var pairs []*dto.LabelPair
	for _, l := range [][2]string{{"namespace", s.namespace}, {"workload", s.workload}, {"spec", s.spec}, {"type", s.kind}, {"charge", s.charge}} {
		pairs = append(pairs, &dto.LabelPair{Name: new(l[0]), Value: new(l[1])})
	}
	return pairs
}

// sum is a time that a Duration may be too short for: many sandboxes for years.
type sum struct {
	seconds int64
	nanos   time.Duration // below a second
	running int
}

func (s *sum) add(d time.Duration) {
	s.nanos += d % time.Second
	s.seconds += int64(d/time.Second) + int64(s.nanos/time.Second)
	s.nanos %= time.Second
}

// float is the sum in seconds.
func (s *sum) float() float64 { return float64(s.seconds) + s.nanos.Seconds() }

// unsized stands in the place of a spec that is not known.
const unsized = "unsized"

// specText is a usage's spec for people.
func (u Usage) specText() string {
	if u.Unsized() {
		return unsized
	}
	return u.Spec.String()
}

// sums adds usages up by what tells them apart.
type sums map[series]*sum

func (s sums) add(key series, u Usage, now Instant) {
	if s[key] == nil {
		s[key] = &sum{}
	}
	s[key].add(u.Until(now))
	if u.End.IsZero() {
		s[key].running++
	}
}

// WritePrometheus writes, in Prometheus's text format, how long sandboxes ran and how many run. The first is a counter only
// when usages are all that there ever were.
func WritePrometheus(w io.Writer, usages []Usage, now Instant) error {
	all := sums{}
	for _, u := range usages {
		all.add(series{u.Namespace, u.Workload, u.specText(), u.Spec.Type, u.Charge}, u, now)
	}
	keys := slices.SortedFunc(maps.Keys(all), series.compare)
	ran := &dto.MetricFamily{Name: new(secondsName), Help: new(secondsHelp), Type: dto.MetricType_COUNTER.Enum()}
	run := &dto.MetricFamily{Name: new(runningName), Help: new(runningHelp), Type: dto.MetricType_GAUGE.Enum()}
	for _, key := range keys {
		labels := key.labels()
		ran.Metric = append(ran.Metric, &dto.Metric{Label: labels, Counter: &dto.Counter{Value: new(all[key].float())}})
		run.Metric = append(run.Metric, &dto.Metric{Label: labels, Gauge: &dto.Gauge{Value: new(float64(all[key].running))}})
	}
	for _, family := range []*dto.MetricFamily{ran, run} {
		if len(family.Metric) == 0 {
			continue // there is nothing to say, and no form for it
		}
		if _, err := expfmt.MetricFamilyToText(w, family); err != nil {
			return fmt.Errorf("write metrics: %w", err)
		}
	}
	return nil
}
