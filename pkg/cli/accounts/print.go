package accounts

import (
	"cmp"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/nodeless/nodeless/pkg/api/billing/v1alpha1"
	"github.com/nodeless/nodeless/pkg/hint"
	"github.com/nodeless/nodeless/pkg/meter"
	"github.com/nodeless/nodeless/pkg/podsize"
	"github.com/nodeless/nodeless/pkg/price"
)

// Forms of output.
const (
	Table      = "table"
	JSON       = "json"
	CSV        = "csv"
	Prometheus = "prometheus"
)

// Form reads --output, which is a table by default.
func Form(text string, forms ...string) (string, error) {
	if text == "" {
		return Table, nil
	}
	if !slices.Contains(forms, text) {
		return "", &hint.Error{Op: "read --output", Err: fmt.Errorf("%q is not a format of output", text), Do: "choose " + strings.Join(forms, ", ")}
	}
	return text, nil
}

// sheet is rows of cells, the first of which is the header.
type sheet [][]string

func (s sheet) writeTable(w io.Writer) error {
	out := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, row := range s {
		cells := make([]string, len(row))
		for i, cell := range row {
			cells[i] = printable(cell)
		}
		fmt.Fprintln(out, strings.Join(cells, "\t")) // Flush says it
	}
	return out.Flush()
}

// printable keeps what a name has from moving a terminal's cursor or a table's columns.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if !strconv.IsPrint(r) {
			return '?'
		}
		return r
	}, s)
}

// writeCSV writes cells such that a spreadsheet takes none for a formula. Numbers of ours may begin with a minus.
func (s sheet) writeCSV(w io.Writer, numbers ...string) error {
	out := csv.NewWriter(w)
	for n, row := range s {
		cells := make([]string, len(row))
		for i, cell := range row {
			if cells[i] = strings.ToLower(cell); n > 0 {
				if cells[i] = cell; !slices.Contains(numbers, s[0][i]) {
					cells[i] = inert(cell)
				}
			}
		}
		_ = out.Write(cells) // Error says it
	}
	out.Flush()
	return out.Error()
}

// inert keeps a spreadsheet from reading a formula out of a text. White space in front does not keep it from that.
func inert(s string) string {
	if rest := strings.TrimLeft(s, " \t\r\n\v\f\u00a0\ufeff"); rest != "" && strings.ContainsRune("=+-@|%＝＋－＠", []rune(rest)[0]) || s != "" && strings.ContainsRune("\t\r\n", rune(s[0])) {
		return "'" + s
	}
	return s
}

// WriteJSON writes anything, indented.
func WriteJSON(w io.Writer, v any) error {
	out := json.NewEncoder(w)
	out.SetIndent("", "  ")
	return out.Encode(v)
}

// WriteUsages writes usages in a form.
func WriteUsages(w io.Writer, usages []v1alpha1.Usage, form string) error {
	switch form {
	case JSON:
		return WriteJSON(w, notNil(usages))
	case Prometheus:
		return meter.WritePrometheus(w, measured(usages), meter.Instant{})
	}
	s := sheet{{"NAMESPACE", "POD", "WORKLOAD", "SPEC", "TYPE", "CHARGE", "START", "END", "SECONDS", "RUNNING", "ESTIMATED"}}
	if form == CSV {
		s[0] = append(s[0], "TAGS")
	}
	for _, u := range usages {
		end := ""
		if u.End != nil {
			end = u.End.UTC().Format(time.RFC3339)
		}
		row := []string{u.Namespace, u.Pod, u.Workload, u.Spec, u.SpecType, u.ChargeType, u.Start.UTC().Format(time.RFC3339), end,
			strconv.FormatInt(u.Seconds, 10), strconv.FormatBool(u.Running), strconv.FormatBool(u.Estimated)}
		if form == CSV {
			tags := ""
			if len(u.Tags) > 0 {
				raw, err := json.Marshal(u.Tags)
				if err != nil {
					return fmt.Errorf("write CSV: %w", err)
				}
				tags = string(raw)
			}
			row = append(row, tags)
		}
		s = append(s, row)
	}
	if form == CSV {
		return s.writeCSV(w, "SECONDS")
	}
	return s.writeTable(w)
}

// measured are usages as the meter exports them: in whole seconds.
func measured(usages []v1alpha1.Usage) []meter.Usage {
	var out []meter.Usage
	for _, u := range usages {
		m := meter.Usage{Namespace: u.Namespace, Workload: u.Workload, Charge: u.ChargeType, Start: u.Start.Time}
		if size, err := podsize.ParseSize(u.Spec, u.SpecType); err == nil {
			m.Spec = size
		}
		ran := time.Duration(u.Seconds) * time.Second
		if m.StartBoot = -ran; !u.Running { // by the clock of the zero Instant
			m.End = m.Start.Add(ran)
		}
		out = append(out, m)
	}
	return out
}

// Ways to add a bill up.
const (
	ByNamespace = "namespace"
	ByWorkload  = "workload"
	ByDay       = "day"
)

// By reads --by.
func By(text string) (string, error) {
	switch text {
	case "":
		return ByNamespace, nil
	case ByNamespace, ByWorkload, ByDay:
		return text, nil
	}
	return "", &hint.Error{Op: "read --by", Err: fmt.Errorf("%q is no way to add a bill up", text), Do: "choose namespace, workload or day"}
}

// key is what a row of a bill is about.
type key struct{ currency, namespace, workload, day string }

// sums is what a row comes to.
type sums struct {
	seconds        int64
	total, pending price.Amount
	digits         int
}

// WriteBills writes bills of a month, added up in a way, in a form.
func WriteBills(w io.Writer, bills []v1alpha1.Bill, by, form string) error {
	if form == JSON {
		return WriteJSON(w, notNil(bills))
	}
	rows, totals, err := addUp(bills, by)
	if err != nil {
		return err
	}
	head := map[string][]string{ByNamespace: {"NAMESPACE"}, ByWorkload: {"NAMESPACE", "WORKLOAD"}, ByDay: {"DAY"}}[by]
	s := sheet{append(slices.Clone(head), "SECONDS", "CURRENCY", "TOTAL", "PENDING")}
	order := func(a, b key) int {
		return cmp.Or(cmp.Compare(a.currency, b.currency), cmp.Compare(a.day, b.day), cmp.Compare(a.namespace, b.namespace), cmp.Compare(a.workload, b.workload))
	}
	row := func(names []string, currency string, v *sums) []string {
		return append(names, strconv.FormatInt(v.seconds, 10), currency, v.total.Format(v.digits), v.pending.Format(v.digits))
	}
	for _, k := range slices.SortedFunc(maps.Keys(rows), order) {
		names := map[string][]string{ByNamespace: {k.namespace}, ByWorkload: {k.namespace, k.workload}, ByDay: {k.day}}[by]
		s = append(s, row(names, k.currency, rows[k]))
	}
	if form == CSV {
		return s.writeCSV(w, "SECONDS", "TOTAL", "PENDING")
	}
	for _, currency := range slices.Sorted(maps.Keys(totals)) {
		names := make([]string, len(head))
		names[0] = "all"
		s = append(s, row(names, currency, totals[currency]))
	}
	return s.writeTable(w)
}

// addUp adds the lines of bills, which are exact. Unlike sums of rounded ones, they come to the totals of the bills.
func addUp(bills []v1alpha1.Bill, by string) (map[key]*sums, map[string]*sums, error) {
	rows, totals := map[key]*sums{}, map[string]*sums{}
	for _, b := range bills {
		for _, l := range b.Lines {
			amount, err := price.ParseAmount(l.Amount)
			if err != nil {
				return nil, nil, fmt.Errorf("bill %s of namespace %s: %w", b.Name, b.Namespace, err)
			}
			k := map[string]key{ByNamespace: {namespace: b.Namespace}, ByWorkload: {namespace: b.Namespace, workload: l.Workload}, ByDay: {day: l.Day}}[by]
			k.currency = l.Currency
			if rows[k] == nil {
				rows[k] = &sums{}
			}
			if totals[l.Currency] == nil {
				totals[l.Currency] = &sums{}
			}
			for _, sum := range []*sums{rows[k], totals[l.Currency]} {
				sum.digits = digits(b, l.Currency)
				sum.seconds += l.Seconds
				if l.Settled {
					sum.total += amount
				} else {
					sum.pending += amount
				}
			}
		}
	}
	return rows, totals, nil
}

// digits is with how many decimals a bill writes a currency.
func digits(b v1alpha1.Bill, currency string) int {
	text := ""
	if b.Currency == currency {
		text = b.Total
	}
	for _, other := range b.OtherTotals {
		if amount, ok := strings.CutPrefix(other, currency+" "); ok {
			text = amount
		}
	}
	_, decimals, _ := strings.Cut(text, ".")
	return len(decimals)
}

// WriteReservations writes reservations in a form.
func WriteReservations(w io.Writer, all []v1alpha1.Reservation, form string) error {
	if form == JSON {
		return WriteJSON(w, notNil(all))
	}
	s := sheet{{"NAMESPACE", "NAME", "ID", "SIZE", "TYPE", "SCOPE", "NODE", "MONTHS", "STATE", "UNTIL", "PAID", "REFUND", "CURRENCY"}}
	for _, r := range all {
		until := ""
		if r.Status.Until != nil {
			until = r.Status.Until.UTC().Format(time.RFC3339)
		}
		s = append(s, []string{r.Namespace, r.Name, r.Status.ID, r.Spec.Size, r.Spec.Type, r.Spec.Scope, r.Spec.Node, strconv.Itoa(int(r.Spec.Months)),
			r.Status.State, until, r.Status.Paid, r.Status.Refund, r.Status.Currency})
	}
	if form == CSV {
		return s.writeCSV(w, "MONTHS", "PAID", "REFUND")
	}
	return s.writeTable(w)
}

func notNil[T any](items []T) []T {
	if items == nil {
		return []T{}
	}
	return items
}
