package meter

import (
	"bufio"
	"cmp"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"
)

// unsized stands in the place of a spec that is not known.
const unsized = "unsized"

// specText is a usage's spec for people.
func (u Usage) specText() string {
	if u.Unsized() {
		return unsized
	}
	return u.Spec.String()
}

// sorted orders usages the way that all exports have them: by start, sandbox and stretch.
func sorted(usages []Usage) []Usage {
	usages = slices.Clone(usages)
	slices.SortFunc(usages, func(a, b Usage) int {
		return cmp.Or(a.Start.Compare(b.Start), cmp.Compare(a.Sandbox, b.Sandbox), cmp.Compare(a.Stretch, b.Stretch))
	})
	return usages
}

// stamp is empty for a moment that is still to come.
func stamp(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339Nano)
}

// seconds writes a duration in seconds, exactly.
func seconds(d time.Duration) string {
	return fmt.Sprintf("%d.%09d", d/time.Second, d%time.Second)
}

// WriteCSV writes usages with a header. Times are RFC 3339, seconds up to now for what runs. Names and tags are the Pods' own and
// thus anybody's: fields are quoted by RFC 4180, and a text that a spreadsheet would take for a formula has an apostrophe in
// front, by which spreadsheets know a text. WriteJSON has them unchanged.
func WriteCSV(w io.Writer, usages []Usage, now Instant) error {
	out := csv.NewWriter(w)
	_ = out.Write([]string{"sandbox", "stretch", "namespace", "pod", "pod_uid", "workload", "node", "spec", "type", "cpu_milli", "memory_bytes", "gpu",
		"charge", "tags", "start", "end", "seconds", "estimated"}) // Error says it
	for _, u := range sorted(usages) {
		tags, err := tagText(u.Tags)
		if err != nil {
			return fmt.Errorf("write CSV: %w", err)
		}
		_ = out.Write([]string{
			Inert(u.Sandbox), strconv.Itoa(u.Stretch), Inert(u.Namespace), Inert(u.Pod), Inert(u.PodUID), Inert(u.Workload), Inert(u.Node),
			Inert(u.specText()), Inert(u.Spec.Type), strconv.FormatInt(u.Spec.CPU, 10), strconv.FormatInt(u.Spec.Memory, 10), strconv.FormatInt(u.Spec.GPU, 10),
			Inert(u.Charge), Inert(tags), stamp(u.Start), stamp(u.End), seconds(u.Until(now)), strconv.FormatBool(u.Estimated),
		})
	}
	out.Flush()
	if err := out.Error(); err != nil {
		return fmt.Errorf("write CSV: %w", err)
	}
	return nil
}

// tagText is tags as a JSON object, sorted by name; empty without any.
func tagText(tags map[string]string) (string, error) {
	if len(tags) == 0 {
		return "", nil
	}
	raw, err := json.Marshal(tags)
	return string(raw), err
}

// Inert keeps a spreadsheet from reading a formula out of a text. White space in front does not keep it from that.
func Inert(s string) string {
	if rest := strings.TrimLeft(s, " \t\r\n\v\f\u00a0\ufeff"); rest != "" && strings.ContainsRune("=+-@|%＝＋－＠", []rune(rest)[0]) || s != "" && strings.ContainsRune("\t\r\n", rune(s[0])) {
		return "'" + s
	}
	return s
}

// row is a usage in JSON.
type row struct {
	Sandbox   string            `json:"sandbox"`
	Stretch   int               `json:"stretch"`
	Namespace string            `json:"namespace"`
	Pod       string            `json:"pod"`
	PodUID    string            `json:"podUID"`
	Workload  string            `json:"workload"`
	Node      string            `json:"node"`
	Spec      string            `json:"spec"`
	Type      string            `json:"type"`
	CPU       int64             `json:"cpuMilli"`
	Memory    int64             `json:"memoryBytes"`
	GPU       int64             `json:"gpu"`
	Charge    string            `json:"charge"`
	Tags      map[string]string `json:"tags,omitempty"`
	Start     string            `json:"start"`
	End       string            `json:"end,omitempty"`
	Seconds   json.Number       `json:"seconds"`
	Estimated bool              `json:"estimated"`
}

// WriteJSON writes usages as one array, with an object on each line. A usage that goes on has no end, and its seconds up to now.
func WriteJSON(w io.Writer, usages []Usage, now Instant) error {
	out := bufio.NewWriter(w)
	between := "["
	for _, u := range sorted(usages) {
		raw, err := json.Marshal(row{
			Sandbox: u.Sandbox, Stretch: u.Stretch, Namespace: u.Namespace, Pod: u.Pod, PodUID: u.PodUID, Workload: u.Workload, Node: u.Node,
			Spec: u.specText(), Type: u.Spec.Type, CPU: u.Spec.CPU, Memory: u.Spec.Memory, GPU: u.Spec.GPU, Charge: u.Charge, Tags: u.Tags,
			Start: stamp(u.Start), End: stamp(u.End), Seconds: json.Number(seconds(u.Until(now))), Estimated: u.Estimated,
		})
		if err != nil {
			return fmt.Errorf("write JSON: %w", err)
		}
		fmt.Fprintf(out, "%s\n%s", between, raw) // Flush says it
		between = ","
	}
	if len(usages) == 0 {
		fmt.Fprint(out, between)
	}
	fmt.Fprintln(out, "\n]")
	if err := out.Flush(); err != nil {
		return fmt.Errorf("write JSON: %w", err)
	}
	return nil
}

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

// WritePrometheus writes, in Prometheus's text format, how long sandboxes ran and how many run. The first is a counter only
// when usages are all that there ever were.
func WritePrometheus(w io.Writer, usages []Usage, now Instant) error {
	sums := map[series]*sum{}
	for _, u := range usages {
		key := series{u.Namespace, u.Workload, u.specText(), u.Spec.Type, u.Charge}
		if sums[key] == nil {
			sums[key] = &sum{}
		}
		sums[key].add(u.Until(now))
		if u.End.IsZero() {
			sums[key].running++
		}
	}
	var keys []series
	for key := range sums {
		keys = append(keys, key)
	}
	slices.SortFunc(keys, series.compare)
	out := bufio.NewWriter(w)
	fmt.Fprintln(out, "# HELP nodeless_sandbox_seconds_total Time that sandboxes ran.\n# TYPE nodeless_sandbox_seconds_total counter") // Flush says it
	for _, key := range keys {
		fmt.Fprintf(out, "nodeless_sandbox_seconds_total%s %d.%09d\n", key, sums[key].seconds, sums[key].nanos)
	}
	fmt.Fprintln(out, "# HELP nodeless_sandboxes_running Sandboxes that run.\n# TYPE nodeless_sandboxes_running gauge")
	for _, key := range keys {
		fmt.Fprintf(out, "nodeless_sandboxes_running%s %d\n", key, sums[key].running)
	}
	if err := out.Flush(); err != nil {
		return fmt.Errorf("write metrics: %w", err)
	}
	return nil
}
