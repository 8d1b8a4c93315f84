package meter

import (
	"bufio"
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"
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

func (s series) String() string {
	return fmt.Sprintf(`{namespace="%s",workload="%s",spec="%s",type="%s",charge="%s"}`,
		label(s.namespace), label(s.workload), label(s.spec), label(s.kind), label(s.charge))
}

// label escapes a value as Prometheus's text format wants it.
func label(value string) string {
	return strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`).Replace(value)
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
	out := bufio.NewWriter(w)
	fmt.Fprintln(out, "# HELP "+secondsName+" "+secondsHelp+"\n# TYPE "+secondsName+" counter") // Flush says it
	for _, key := range keys {
		fmt.Fprintf(out, "%s%s %d.%09d\n", secondsName, key, all[key].seconds, all[key].nanos)
	}
	fmt.Fprintln(out, "# HELP "+runningName+" "+runningHelp+"\n# TYPE "+runningName+" gauge")
	for _, key := range keys {
		fmt.Fprintf(out, "%s%s %d\n", runningName, key, all[key].running)
	}
	if err := out.Flush(); err != nil {
		return fmt.Errorf("write metrics: %w", err)
	}
	return nil
}
