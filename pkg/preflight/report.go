package preflight

import (
	"errors"

	"github.com/nodeless/nodeless/pkg/hint"
)

// Status says how a fact stands.
type Status string

// The verdicts on a fact. Pass is as it should be. With Warn it works, but somebody should know. With Fail it cannot work. NotApplicable
// says nothing about this product.
const (
	Pass          Status = "pass"
	Warn          Status = "warn"
	Fail          Status = "fail"
	NotApplicable Status = "n/a"
)

// Result is one fact about the host.
type Result struct {
	Name   string `json:"name"`
	Status Status `json:"status"`
	Detail string `json:"detail"`       // what was found
	Do     string `json:"do,omitempty"` // what to do about it
}

// Report is all results, in the order in which they are shown.
type Report struct {
	Results []Result `json:"results"`
}

// Count tells how many results have the status.
func (r Report) Count(s Status) int {
	n := 0
	for _, res := range r.Results {
		if res.Status == s {
			n++
		}
	}
	return n
}

// Err joins all failed facts into one error with their remedies; nil when none failed.
func (r Report) Err() error {
	var errs []error
	for _, res := range r.Results {
		if res.Status == Fail {
			errs = append(errs, &hint.Error{Op: "check " + res.Name, Err: errors.New(res.Detail), Do: res.Do})
		}
	}
	return errors.Join(errs...)
}

func pass(name, detail string) Result { return Result{Name: name, Status: Pass, Detail: detail} }
func warn(name, detail, do string) Result {
	return Result{Name: name, Status: Warn, Detail: detail, Do: do}
}
func fail(name, detail, do string) Result {
	return Result{Name: name, Status: Fail, Detail: detail, Do: do}
}
