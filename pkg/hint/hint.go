// Package hint carries errors that an operator can mend together with the way to mend them.
// Every layer returns *Error where it knows the next step; only pkg/cli prints the step.
package hint

import "errors"

// Error is a fault with a remedy. Its text follows "op on: cause", such as "open /dev/kvm: permission denied".
type Error struct {
	Op  string // what was tried, a verb: "open"
	On  string // what it was tried on: "/dev/kvm"; may be empty
	Err error  // the cause; may be nil when Op and On say it all
	Do  string // what the operator does next, one sentence
}

// Error gives the text without the remedy.
func (e *Error) Error() string {
	s := e.Op
	if e.On != "" {
		s += " " + e.On
	}
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

// Unwrap gives the cause to errors.Is and errors.As.
func (e *Error) Unwrap() error { return e.Err }

// Of collects the remedies in err, the most specific (deepest) first, each once.
func Of(err error) []string {
	var found []string
	walk(err, &found)
	return found
}

func walk(err error, found *[]string) {
	if err == nil {
		return
	}
	switch inner := err.(type) {
	case interface{ Unwrap() []error }:
		for _, e := range inner.Unwrap() {
			walk(e, found)
		}
	default:
		walk(errors.Unwrap(err), found)
	}
	if e, ok := err.(*Error); ok && e.Do != "" && !contains(*found, e.Do) {
		*found = append(*found, e.Do)
	}
}

func contains(list []string, s string) bool {
	for _, have := range list {
		if have == s {
			return true
		}
	}
	return false
}
