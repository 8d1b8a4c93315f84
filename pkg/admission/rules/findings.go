package rules

import (
	"fmt"
	"strconv"
	"unicode/utf8"

	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Bounds on what an answer says, so that a hostile object does not make a hostile answer. The apiserver cuts warnings of
// its own accord, to 256 characters each, once they are more than 4096 together.
const (
	maxDenials  = 64
	maxWarnings = 32
	maxGuesses  = 64  // keys that are compared with all that are known
	maxQuoted   = 64  // bytes of a value or a name that somebody made up
	maxKey      = 317 // bytes of the longest valid key of an annotation: 253 of its prefix, the slash, 63 of its name
)

// Findings are what there is to say about an object.
type Findings struct {
	Denials  field.ErrorList // why it is refused, every reason at once; empty when it is not
	Warnings []string        // what has no effect or another one than its author may think; valid UTF-8 on one line
}

// report gathers findings, within bounds.
type report struct {
	found                     Findings
	moreDenials, moreWarnings int
	guesses                   int // see maxGuesses
}

func (r *report) deny(e *field.Error) {
	if len(r.found.Denials) >= maxDenials {
		r.moreDenials++
		return
	}
	r.found.Denials = append(r.found.Denials, e)
}

func (r *report) warn(at *field.Path, text string) {
	if !r.roomToWarn() {
		r.moreWarnings++
		return
	}
	r.found.Warnings = append(r.found.Warnings, at.String()+": "+text)
}

// roomToWarn says whether one more warning will be shown; a text that is dear to make need not be made if not.
func (r *report) roomToWarn() bool { return len(r.found.Warnings) < maxWarnings }

// findings is all that was gathered; denials beyond the bounds are counted at a path.
func (r *report) findings(at *field.Path) Findings {
	if r.moreDenials > 0 {
		r.found.Denials = append(r.found.Denials, field.Forbidden(at, fmt.Sprintf("%d more faults that are not listed", r.moreDenials)))
	}
	if r.moreWarnings > 0 {
		r.found.Warnings = append(r.found.Warnings, fmt.Sprintf("%d more warnings that are not listed", r.moreWarnings))
	}
	return r.found
}

// cut shortens what somebody made up.
func cut(s string) string {
	if len(s) <= maxQuoted {
		return s
	}
	end := maxQuoted
	for end > 0 && !utf8.RuneStart(s[end]) && end > maxQuoted-utf8.UTFMax {
		end--
	}
	return s[:end] + "..."
}

// quote shortens and quotes what somebody made up: the result is printable and on one line.
func quote(s string) string { return strconv.Quote(cut(s)) }

// shown is a key as a field path has it: as it is when that is safe, else shortened and quoted.
func shown(key string) string {
	if len(key) > maxKey {
		return quote(key)
	}
	for i := range len(key) {
		if key[i] <= ' ' || key[i] > '~' {
			return quote(key)
		}
	}
	return key
}
