// Package sandboxrecord is the record of a microVM's life, as a file: nodeless-vmm (pkg/vmm) writes it when QEMU starts and when
// QEMU has ended, pkg/meter takes it into the ledger and removes it. The two never speak to each other, and either may be
// killed at any moment: what is needed to bill a life is on the disk before Kata learns that the microVM runs.
//
// Durations are differences of CLOCK_BOOTTIME, which nobody can set and which goes on while the host sleeps. The wall clock
// is read once, for the start. The package reads no clock itself.
package sandboxrecord

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"
	"unicode/utf8"

	"github.com/nodeless/nodeless/pkg/contract"
)

// Record is one microVM's life.
type Record struct {
	Sandbox string `json:"sandbox"`
	Pod
	Cluster string `json:"cluster,omitempty"` // the id of the cluster whose Pod it is: a host may have several
	Node    string `json:"node,omitempty"`    // where it runs

	BootID    string        `json:"bootID"`            // of the boot that the times below count from
	QEMU      Process       `json:"qemu"`              // what lives
	VMM       Process       `json:"vmm"`               // what writes this record
	Start     time.Time     `json:"start"`             // StartBoot by the wall clock
	StartBoot time.Duration `json:"startBoot"`         // nanoseconds since the boot, as the kernel noted QEMU's start
	EndBoot   time.Duration `json:"endBoot,omitempty"` // nanoseconds since the boot; 0 while QEMU runs
	Resizes   []Resize      `json:"resizes,omitempty"` // in the order of time
}

// Pod is whose microVM it is and how it is paid for. All of it is empty when that is not known.
type Pod struct {
	Namespace string            `json:"namespace,omitempty"`
	Name      string            `json:"pod,omitempty"`
	UID       string            `json:"podUID,omitempty"`
	Workload  string            `json:"workload,omitempty"`   // as contract.Workload
	Spec      string            `json:"spec,omitempty"`       // as contract.Spec
	SpecType  string            `json:"specType,omitempty"`   // as contract.SpecType
	Charge    string            `json:"chargeType,omitempty"` // as contract.ChargeType
	Tags      map[string]string `json:"tags,omitempty"`       // as contract.ResourceTag
}

// Resize says that a microVM has another spec from a moment on.
type Resize struct {
	At       time.Duration `json:"at"` // nanoseconds since the boot
	Spec     string        `json:"spec"`
	SpecType string        `json:"specType"`
}

// Process names a process for the time of one boot: a pid is used again, a pid with a start is not.
type Process struct {
	PID   int   `json:"pid"`
	Ticks int64 `json:"ticks"` // its start, as /proc counts it
}

// Bounds of what a record may say. They keep every sum of times within 64 bits.
const (
	longestLife = 50 * 365 * 24 * time.Hour
	firstYear   = 1970
	lastYear    = 2200
)

// Bounds of what a Pod may say of itself, in bytes. More than the first cannot come from Kubernetes.
const (
	longestText = 1 << 10
	longestTags = 8 << 10
)

// End is the end by the wall clock as it was at the start; zero while it runs. Setting the clock does not change it.
func (r Record) End() time.Time {
	if r.EndBoot == 0 {
		return time.Time{}
	}
	return r.Start.Add(r.EndBoot - r.StartBoot)
}

// Validate names everything that no nodeless-vmm would write.
func (r Record) Validate() error {
	var errs []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	check(validID(r.Sandbox), "sandbox %q: want letters, digits, '_', '.' and '-'", r.Sandbox)
	check(validID(r.BootID), "bootID %q: want the kernel's boot id", r.BootID)
	check(r.QEMU.PID > 0 && r.QEMU.Ticks > 0, "qemu: pid %d, ticks %d: want a process", r.QEMU.PID, r.QEMU.Ticks)
	check(r.VMM.PID > 0 && r.VMM.Ticks > 0, "vmm: pid %d, ticks %d: want a process", r.VMM.PID, r.VMM.Ticks)
	check(r.Start.Year() >= firstYear && r.Start.Year() <= lastYear, "start is in the year %d, want %d to %d", r.Start.Year(), firstYear, lastYear)
	check(r.StartBoot > 0 && r.StartBoot < longestLife, "startBoot is %v after the boot", r.StartBoot)
	check(r.EndBoot == 0 || r.EndBoot >= r.StartBoot && r.EndBoot-r.StartBoot < longestLife, "endBoot is %v after the boot, startBoot %v", r.EndBoot, r.StartBoot)
	last := r.StartBoot
	for i, s := range r.Resizes {
		check(s.At > last && s.At-r.StartBoot < longestLife, "resizes[%d] is %v after the boot, what is before it %v: want them to rise", i, s.At, last)
		check(r.EndBoot == 0 || s.At <= r.EndBoot, "resizes[%d] is %v after the boot, the end %v", i, s.At, r.EndBoot)
		check(validText(s.Spec) && validText(s.SpecType), "resizes[%d]: a spec of more than %d bytes, or no text", i, longestText)
		last = s.At
	}
	return errors.Join(append(errs, r.Pod.validate(), textError("node", r.Node), textError("cluster", r.Cluster))...)
}

func (p Pod) validate() error {
	var errs []error
	for _, field := range p.texts() {
		errs = append(errs, textError(field.name, *field.value))
	}
	size := 0
	for name, value := range p.Tags {
		size += len(name) + len(value)
		if !utf8.ValidString(name) || !utf8.ValidString(value) {
			errs = append(errs, fmt.Errorf("tags: %q: %q is no text", name, value))
		}
	}
	if size > longestTags {
		errs = append(errs, fmt.Errorf("tags: %d bytes, more than %d", size, longestTags))
	}
	return errors.Join(errs...)
}

type field struct {
	name  string
	value *string
}

func (p *Pod) texts() []field {
	return []field{
		{"namespace", &p.Namespace}, {"pod", &p.Name}, {"podUID", &p.UID}, {"workload", &p.Workload},
		{"spec", &p.Spec}, {"specType", &p.SpecType}, {"chargeType", &p.Charge},
	}
}

func textError(name, value string) error {
	if validText(value) {
		return nil
	}
	return fmt.Errorf("%s: %d bytes, want text of at most %d", name, len(value), longestText)
}

func validText(s string) bool { return len(s) <= longestText && utf8.ValidString(s) }

// validID tells whether s can be part of a file's name and is like what containerd gives a sandbox.
func validID(s string) bool {
	if s == "" || len(s) > 128 || s[0] == '.' || s[0] == '-' || s[0] == '_' {
		return false
	}
	for _, c := range []byte(s) {
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_' || c == '.' || c == '-') {
			return false
		}
	}
	return true
}

// Annotations of a sandbox that containerd itself sets.
const (
	criNamespace = contract.CRISandbox + "namespace"
	criName      = contract.CRISandbox + "name"
	criUID       = contract.CRISandbox + "uid"
)

// PodOf reads the annotations of a sandbox's OCI configuration. The Pod is good to be recorded whatever they are: what is
// wrong is left out, and named in the error.
func PodOf(annotations map[string]string) (Pod, error) {
	p := Pod{
		Namespace: annotations[criNamespace], Name: annotations[criName], UID: annotations[criUID],
		Workload: annotations[contract.Workload], Spec: annotations[contract.Spec], SpecType: annotations[contract.SpecType], Charge: annotations[contract.ChargeType],
	}
	var errs []error
	for _, key := range []string{criNamespace, criName, criUID} {
		if annotations[key] == "" {
			errs = append(errs, fmt.Errorf("annotation %s is missing", key))
		}
	}
	for _, f := range p.texts() {
		if err := textError(f.name, *f.value); err != nil {
			errs, *f.value = append(errs, err), ""
		}
	}
	text, tagged := annotations[contract.ResourceTag]
	if !tagged {
		return p, errors.Join(errs...)
	}
	if len(text) > longestTags {
		return p, errors.Join(append(errs, fmt.Errorf("annotation %s: %d bytes, more than %d", contract.ResourceTag, len(text), longestTags))...)
	}
	if err := json.Unmarshal([]byte(text), &p.Tags); err != nil {
		p.Tags = nil
		errs = append(errs, fmt.Errorf("annotation %s: want a JSON object of names and values: %w", contract.ResourceTag, err))
	}
	if err := (Pod{Tags: p.Tags}).validate(); err != nil { // what is not UTF-8 grows as it is read
		errs, p.Tags = append(errs, err), nil
	}
	return p, errors.Join(errs...)
}
