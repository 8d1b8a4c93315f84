package podsize

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/nodeless/nodeless/pkg/api"
)

// Sizes of the writable disk, in GiB: what everybody has for nothing, and the largest that pkg/vmm makes (the cloud goes to 32000).
const (
	FreeRootDisk = 20
	mostRootDisk = 2048
)

// Wish is what a Pod's annotations say of its size. The zero Wish says nothing.
type Wish struct {
	cpu, memory int64 // both or none
	gpus        int64
	cpuTypes    []string
	gpuTypes    []string
	Upgrade     bool  // to the next larger spec, once, where there is no room
	RootDisk    int64 // GiB; 0 when nothing is said, else at least FreeRootDisk
}

// AnnotationError is an annotation that cannot be understood.
type AnnotationError struct {
	Key, Value string
	Err        error // what is wanted instead
}

// Error names the annotation and what is wrong with it.
func (e *AnnotationError) Error() string {
	return fmt.Sprintf("annotation %s: %q: %v", e.Key, e.Value, e.Err)
}

// Unwrap is what is wanted instead.
func (e *AnnotationError) Unwrap() error { return e.Err }

// Named tells that a spec is named, so that requests and limits count for nothing.
func (w Wish) Named() bool { return w.cpu > 0 }

// CPUTypes are the types of CPU that will do, the best first; none when all will.
func (w Wish) CPUTypes() []string { return w.cpuTypes }

// Narrow is a wish for only those of its types of CPU that there are, if there are any of them.
func (w Wish) Narrow(there func(kind string) bool) Wish {
	some := slices.DeleteFunc(slices.Clone(w.cpuTypes), func(kind string) bool { return !there(kind) })
	if len(some) > 0 {
		w.cpuTypes = some
	}
	return w
}

// memoryForm is what the cloud takes for memory: "2Gi", and in older text "512Mi". "2G" is a frequent mistake.
var memoryForm = regexp.MustCompile(`^[0-9]{1,9}(\.[0-9]{1,9})?(Gi|Mi)$`)

// ParseWish reads the annotations of a Pod. The error names every one that is wrong, by its key.
func ParseWish(annotations map[string]string) (Wish, error) {
	var w Wish
	var errs []error
	read := func(key string, parse func(string) error) {
		if value, ok := annotations[key]; ok {
			if err := parse(value); err != nil {
				errs = append(errs, &AnnotationError{key, value, err})
			}
		}
	}
	read(api.CPU, func(v string) (err error) { w.cpu, err = cores(v); return err })
	read(api.Memory, func(v string) (err error) { w.memory, err = memory(v); return err })
	read(api.CPUType, func(v string) (err error) { w.cpuTypes, err = list(v); return err })
	read(api.GPUType, func(v string) (err error) { w.gpuTypes, err = list(v); return err })
	read(api.GPUCount, func(v string) (err error) { w.gpus, err = whole(v, 1, 1<<10); return err })
	read(api.RootDiskSize, func(v string) (err error) { w.RootDisk, err = whole(v, FreeRootDisk, mostRootDisk); return err })
	read(api.SpecAutoUpgrade, func(v string) (err error) { w.Upgrade, err = truth(v); return err })
	_, hasCPU := annotations[api.CPU]
	_, hasMemory := annotations[api.Memory]
	if hasCPU != hasMemory {
		there, missing := api.CPU, api.Memory
		if hasMemory {
			there, missing = missing, there
		}
		errs = append(errs, &AnnotationError{there, annotations[there], fmt.Errorf("a spec is named by both or by none; add %s, or remove this one", missing)})
	}
	if err := errors.Join(errs...); err != nil {
		return Wish{}, err
	}
	return w, nil
}

// On is a demand as the annotations change it: a named spec takes the place of requests and limits.
func (w Wish) On(d Demand) Demand {
	if w.cpu > 0 {
		d.CPU, d.Memory, d.Exact = w.cpu, w.memory, true
	}
	switch {
	case w.gpus > 0:
		d.GPU = w.gpus
	case len(w.gpuTypes) > 0 && d.GPU == 0:
		d.GPU = 1 // who names a model wants a GPU
	}
	d.Types = w.cpuTypes
	if d.GPU > 0 {
		d.Types = w.gpuTypes
	}
	return d
}

func cores(value string) (int64, error) {
	q, err := resource.ParseQuantity(value)
	if err != nil || q.Sign() <= 0 || q.CmpInt64(1<<20) > 0 {
		return 0, errors.New(`want cores of a spec, such as "0.25" or "4"`)
	}
	return q.MilliValue(), nil
}

func memory(value string) (int64, error) {
	if memoryForm.MatchString(value) {
		if q, err := resource.ParseQuantity(value); err == nil && q.Sign() > 0 {
			return q.Value(), nil
		}
	}
	return 0, errors.New(`want memory of a spec in GiB, such as "4Gi"`)
}

// list is names parted by commas.
func list(value string) ([]string, error) {
	var names []string
	for name := range strings.SplitSeq(value, ",") {
		if name = strings.TrimSpace(name); name == "" {
			return nil, errors.New("want names parted by commas, the preferred first")
		}
		names = append(names, name)
	}
	return names, nil
}

func whole(value string, least, most int64) (int64, error) {
	n, err := strconv.ParseInt(value, 10, 64)
	if err != nil || n < least || n > most {
		return 0, fmt.Errorf("want a whole number from %d to %d", least, most)
	}
	return n, nil
}

func truth(value string) (bool, error) {
	switch value {
	case "true":
		return true, nil
	case "false":
		return false, nil
	}
	return false, errors.New(`want "true" or "false"`)
}
