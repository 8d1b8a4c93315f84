// Package podsize sizes Pods: from what a Pod asks for it finds the spec, of a catalog, that the Pod's microVM is made
// to, scheduled by and billed as. pkg/admission calls it for every Pod, pkg/price for what a spec costs. It is pure.
//
// The catalog and the rules are those of Tencent Kubernetes Engine Serverless ("Resource specifications", "Pod resource
// specification calculation"); where its text allows two readings, Rules has a switch.
package podsize

import (
	_ "embed"
	"errors"
	"fmt"
	"math"
	"regexp"
	"slices"
	"strconv"

	"k8s.io/apimachinery/pkg/api/resource"
	"sigs.k8s.io/yaml"
)

// Gi is 1 GiB in bytes, what specs count memory in.
const Gi = 1 << 30

// Size is what a Pod gets.
type Size struct {
	Type   string // "intel", "amd", or the model of the GPU
	CPU    int64  // thousandths of a core
	Memory int64  // bytes
	GPU    int64  // GPUs
}

// String is the way the cloud writes it: 1C2Gi, 0.25C0.5Gi, 36C160Gi 4×V100.
func (s Size) String() string {
	text := fmt.Sprintf("%vC%vGi", float64(s.CPU)/1000, float64(s.Memory)/Gi)
	if s.GPU > 0 {
		text += fmt.Sprintf(" %d×%s", s.GPU, s.Type)
	}
	return text
}

// ParseSize reads what String writes; kind is the type, which that leaves out where there is no GPU.
func ParseSize(text, kind string) (Size, error) {
	m := sizeForm.FindStringSubmatch(text)
	if m == nil || kind == "" || m[3] != "" && m[4] != kind {
		return Size{}, fmt.Errorf("read spec %q of type %q: want one such as \"4C8Gi\" of type \"intel\"", text, kind)
	}
	var errs []error
	number := func(text string, unit float64) int64 {
		n, err := strconv.ParseFloat(text, 64)
		errs = append(errs, err)
		return int64(math.Round(n * unit))
	}
	s := Size{Type: kind, CPU: number(m[1], 1000), Memory: number(m[2], Gi)}
	if m[3] != "" {
		s.GPU = number(m[3], 1)
	}
	if err := errors.Join(errs...); err != nil {
		return Size{}, fmt.Errorf("read spec %q: %w", text, err)
	}
	return s, nil
}

// sizeForm bounds the digits, so that the numbers fit.
var sizeForm = regexp.MustCompile(`^([0-9]{1,6}(?:\.[0-9]{1,3})?)C([0-9]{1,9}(?:\.[0-9]{1,12})?)Gi(?: ([0-9]{1,6})×(.+))?$`)

// covers says that nobody who asked for d gets less with s.
func (s Size) covers(d Demand) bool { return s.CPU >= d.CPU && s.Memory >= d.Memory && s.GPU >= d.GPU }

// Catalog is what an operator offers. The zero Catalog offers nothing.
type Catalog struct {
	Rules    Rules // how demands are rounded to it
	cpu, gpu []row
}

// row is one number of CPUs with the sizes of memory that go with it, rising.
type row struct {
	Size   // its Memory is unused
	memory []int64
	listed bool // one by one, not as a range: each is as good as the other
}

// fileRow is a row as the file has it.
type fileRow struct {
	Type   string              `json:"type"`
	CPU    resource.Quantity   `json:"cpu"`
	GPU    int64               `json:"gpu,omitempty"`
	Memory []resource.Quantity `json:"memory,omitempty"`
	Range  *struct {
		From resource.Quantity `json:"from"`
		To   resource.Quantity `json:"to"`
		Step resource.Quantity `json:"step"`
	} `json:"range,omitempty"`
}

//go:embed catalog.yaml
var builtIn []byte

// DefaultCatalog is the cloud's.
func DefaultCatalog() (Catalog, error) { return ParseCatalog(builtIn) }

// ParseCatalog reads a catalog in the form of catalog.yaml. The error names every row that is wrong.
func ParseCatalog(text []byte) (Catalog, error) {
	var file struct {
		CPU []fileRow `json:"cpu"`
		GPU []fileRow `json:"gpu"`
		// Rules left out are the default ones.
		Rules struct {
			Even     *bool `json:"even"`
			Init2026 *bool `json:"init2026"`
		} `json:"rules"`
	}
	if err := yaml.UnmarshalStrict(text, &file); err != nil {
		return Catalog{}, fmt.Errorf("read catalog of specs: %w", err)
	}
	c := Catalog{Rules: DefaultRules()}
	if file.Rules.Even != nil {
		c.Rules.Even = *file.Rules.Even
	}
	if file.Rules.Init2026 != nil {
		c.Rules.Init2026 = *file.Rules.Init2026
	}
	var errs []error
	for i, f := range file.CPU {
		r, err := f.row()
		if err == nil && f.GPU != 0 {
			err = errors.New("a row with a GPU belongs below gpu")
		}
		if errs = append(errs, at("cpu", i, err)); err == nil {
			c.cpu = append(c.cpu, r)
		}
	}
	for i, f := range file.GPU {
		r, err := f.row()
		if err == nil && f.GPU < 1 {
			err = fmt.Errorf("gpu is %d, want the number of GPUs", f.GPU)
		}
		if errs = append(errs, at("gpu", i, err)); err == nil {
			c.gpu = append(c.gpu, r)
		}
	}
	errs = append(errs, rising("cpu", c.cpu), rising("gpu", c.gpu))
	if len(file.CPU) == 0 {
		errs = append(errs, errors.New("cpu: no rows"))
	}
	if err := errors.Join(errs...); err != nil {
		return Catalog{}, fmt.Errorf("read catalog of specs: %w", err)
	}
	return c, nil
}

func at(list string, i int, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s[%d]: %w", list, i, err)
}

// mostSizes bounds a row: a range with a step of one byte is a mistake.
const mostSizes = 1 << 12

func (f fileRow) row() (row, error) {
	r := row{Size: Size{Type: f.Type, CPU: f.CPU.MilliValue(), GPU: f.GPU}, listed: f.Range == nil}
	switch {
	case f.Type == "":
		return r, errors.New("type is missing")
	case r.CPU <= 0:
		return r, fmt.Errorf("cpu is %s, want more than 0", f.CPU.String())
	case (f.Range == nil) == (len(f.Memory) == 0):
		return r, errors.New("want either memory, a list, or range")
	case f.Range == nil:
		for _, m := range f.Memory {
			r.memory = append(r.memory, m.Value())
		}
	default:
		from, to, step := f.Range.From.Value(), f.Range.To.Value(), f.Range.Step.Value()
		if step <= 0 || to < from || (to-from)%step != 0 || (to-from)/step >= mostSizes {
			return r, fmt.Errorf("range from %s to %s by %s: want whole steps, at most %d", f.Range.From.String(), f.Range.To.String(), f.Range.Step.String(), mostSizes)
		}
		for m := from; m <= to; m += step {
			r.memory = append(r.memory, m)
		}
	}
	if r.memory[0] <= 0 || !slices.IsSorted(r.memory) {
		return r, errors.New("memory: want sizes above 0, rising")
	}
	return r, nil
}

// rising checks that the rows of each type grow: the search takes the first that is enough.
func rising(list string, rows []row) error {
	var errs []error
	last := map[string]row{}
	for i, r := range rows {
		if before, ok := last[r.Type]; ok && (r.GPU < before.GPU || r.CPU <= before.CPU) {
			errs = append(errs, fmt.Errorf("%s[%d]: %s of %s stands behind %s; want rows of a type to rise", list, i, r.Size.kind(), r.Type, before.Size.kind()))
		}
		last[r.Type] = r
	}
	return errors.Join(errs...)
}

// kind is a size without its memory.
func (s Size) kind() string {
	if s.GPU > 0 {
		return fmt.Sprintf("%v cores with %d GPUs", float64(s.CPU)/1000, s.GPU)
	}
	return fmt.Sprintf("%v cores", float64(s.CPU)/1000)
}

// Types lists the types of CPU or, with gpu, the models of GPU that there are, in the catalog's order.
func (c Catalog) Types(gpu bool) []string {
	rows := c.cpu
	if gpu {
		rows = c.gpu
	}
	var types []string
	for _, r := range rows {
		if !slices.Contains(types, r.Type) {
			types = append(types, r.Type)
		}
	}
	return types
}

// Sizes lists every size that there is.
func (c Catalog) Sizes() []Size {
	var all []Size
	for _, r := range slices.Concat(c.cpu, c.gpu) {
		for _, m := range r.memory {
			all = append(all, r.with(m))
		}
	}
	return all
}

func (r row) with(memory int64) Size {
	s := r.Size
	s.Memory = memory
	return s
}
