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
