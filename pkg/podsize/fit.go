package podsize

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Kinds of answers that are no size.
var (
	ErrNoSuchSpec = errors.New("no such spec")
	ErrTooLarge   = errors.New("more than the largest spec")
)

// Demand is what a Pod asks for in all.
type Demand struct {
	CPU    int64 // thousandths of a core
	Memory int64 // bytes
	GPU    int64 // GPUs
	// Exact says that CPU and memory were named as a spec and have to be one.
	Exact bool
	// Types are the types of CPU or the models of GPU that will do, the best first; empty for CPU: all, in the catalog's order.
	Types []string
	// Usual says that the Pod asks for nothing, and that CPU and Memory are what such Pods are given.
	Usual bool
}

// String is what is asked for, in words.
func (d Demand) String() string {
	var parts []string
	add := func(n int64, unit float64, name string) {
		if n > 0 {
			parts = append(parts, strconv.FormatFloat(float64(n)/unit, 'g', 6, 64)+" "+name)
		}
	}
	if !d.Usual {
		add(d.CPU, 1000, "cores")
		add(d.Memory, Gi, "GiB")
	}
	add(d.GPU, 1, "GPUs")
	if len(parts) == 0 {
		return "nothing"
	}
	return strings.Join(parts, ", ")
}

// Rules are the readings of the cloud's text where it has several.
type Rules struct {
	// Even rounds memory inside of a range up to even GiB, as the text on the calculation says; without it each step of the
	// range is taken, as the table says. A row's smallest memory stays as it is, and so do lists.
	Even bool
	// Init2026 sizes init containers as the text says since 2026: one that sets nothing counts as one core and 2 GiB.
	Init2026 bool
}

// DefaultRules are those of the calculation's text as it stands.
func DefaultRules() Rules { return Rules{Even: true, Init2026: true} }

// Fit finds the spec for a demand: the first type that has one. The error is ErrNoSuchSpec or ErrTooLarge, with what there is.
func (c Catalog) Fit(d Demand) (Size, error) {
	rows, types := c.cpu, d.Types
	if d.GPU > 0 {
		rows = c.gpu
	}
	known := c.Types(d.GPU > 0)
	if len(types) == 0 && d.GPU == 0 {
		types = known
	}
	if len(types) == 0 {
		return Size{}, fmt.Errorf("%d GPUs of no type: %w; the types are %s", d.GPU, ErrNoSuchSpec, strings.Join(known, ", "))
	}
	var errs []error
	for _, t := range types {
		if !slices.Contains(known, t) {
			errs = append(errs, fmt.Errorf("type %q: %w; the types are %s", t, ErrNoSuchSpec, strings.Join(known, ", ")))
			continue
		}
		s, err := fit(rowsOf(rows, t), d, c.Rules)
		if err == nil {
			return s, nil
		}
		errs = append(errs, fmt.Errorf("type %s: %w", t, err))
	}
	return Size{}, errors.Join(errs...)
}

func rowsOf(rows []row, kind string) []row {
	return slices.DeleteFunc(slices.Clone(rows), func(r row) bool { return r.Type != kind })
}

// fit finds the smallest spec among the rows of one type.
func fit(rows []row, d Demand, rules Rules) (Size, error) {
	for _, r := range rows {
		if d.Exact {
			if r.CPU == d.CPU && r.GPU >= d.GPU && slices.Contains(r.memory, d.Memory) {
				return r.with(d.Memory), nil
			}
			continue
		}
		if m, ok := r.enough(d.Memory, rules); ok && r.CPU >= d.CPU && r.GPU >= d.GPU {
			return r.with(m), nil
		}
	}
	asked := Size{CPU: d.CPU, Memory: d.Memory, GPU: d.GPU, Type: "GPU"}
	if d.Exact {
		return Size{}, fmt.Errorf("%s is %w; %s", asked, ErrNoSuchSpec, nearest(rows, d))
	}
	last := rows[len(rows)-1]
	return Size{}, fmt.Errorf("%s is %w, %s", asked, ErrTooLarge, last.with(last.memory[len(last.memory)-1]))
}

// enough is the smallest memory of the row that is no less than asked for.
func (r row) enough(memory int64, rules Rules) (int64, bool) {
	for i, m := range r.memory {
		if m >= memory && (i == 0 || r.listed || !rules.Even || m%(2*Gi) == 0) {
			return m, true
		}
	}
	return 0, false
}

// nearest says which memory goes with a number of CPUs, or which numbers of CPUs there are.
func nearest(rows []row, d Demand) string {
	var cpus []string
	for _, r := range rows {
		if r.CPU == d.CPU && r.GPU >= d.GPU {
			smallest, largest := r.with(r.memory[0]), r.with(r.memory[len(r.memory)-1])
			return fmt.Sprintf("there is %s to %s", smallest, largest)
		}
		cpus = append(cpus, fmt.Sprint(float64(r.CPU)/1000))
	}
	return "there are " + strings.Join(cpus, ", ") + " cores"
}

// Upgrade is the spec with the next larger number of CPUs of the same type, and no less memory, for a Pod that finds no room;
// false when there is none.
func (c Catalog) Upgrade(s Size) (Size, bool) {
	if s.GPU > 0 {
		return Size{}, false
	}
	larger, err := c.Fit(Demand{CPU: s.CPU + 1, Memory: s.Memory, Types: []string{s.Type}})
	return larger, err == nil
}
