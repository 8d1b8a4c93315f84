package rules

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	corev1 "k8s.io/api/core/v1"
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
	said                      []said // as warnings
	moreDenials, moreWarnings int
	guesses                   int             // see maxGuesses
	spec                      *corev1.PodSpec // whose containers are named, or nil
}

// said is a warning, which is given once however many places it is about.
type said struct {
	before, path, text string
	more               int // further places
}

func (r *report) deny(e *field.Error) {
	if len(r.found.Denials) >= maxDenials {
		r.moreDenials++
		return
	}
	r.found.Denials = append(r.found.Denials, e)
}

func (r *report) warn(at *field.Path, text string) {
	r.say(said{path: at.String(), text: text})
}

func (r *report) say(s said) {
	alike := likeness(s.path)
	same := slices.IndexFunc(r.said, func(other said) bool {
		return other.before == s.before && other.text == s.text && likeness(other.path) == alike
	})
	switch {
	case same >= 0:
		r.said[same].more++
	case !r.roomToWarn():
		r.moreWarnings++
	default:
		r.said = append(r.said, s)
	}
}

// likeness is what a path has in common with those of other containers, ports and volumes.
func likeness(path string) string {
	return indexForm.ReplaceAllString(containerForm.ReplaceAllString(path, "spec.containers[0]"), "[]")
}

var indexForm = regexp.MustCompile(`\[[0-9]+\]`)

// roomToWarn says whether one more warning will be shown; a text that is dear to make need not be made if not.
func (r *report) roomToWarn() bool { return len(r.said) < maxWarnings }

// in is the warning with its place, with the name of its container among those of a Pod, and how many others there are.
func (s said) in(spec *corev1.PodSpec) string {
	var about []string
	if name := containerAt(spec, s.path); name != "" {
		about = append(about, "container "+quote(name))
	}
	if s.more > 0 {
		about = append(about, fmt.Sprintf("and %d more", s.more))
	}
	place := s.path
	if len(about) > 0 {
		place += " (" + strings.Join(about, ", ") + ")"
	}
	return s.before + place + ": " + s.text
}

// containerForm finds a container in a path.
var containerForm = regexp.MustCompile(`(?:^|\.)spec\.(initContainers|containers|ephemeralContainers)\[([0-9]{1,4})\]`)

// containerAt is the name of the container that a path is in, or nothing.
func containerAt(spec *corev1.PodSpec, path string) string {
	m := containerForm.FindStringSubmatch(path)
	if m == nil || spec == nil {
		return ""
	}
	i, err := strconv.Atoi(m[2])
	switch {
	case err != nil:
	case m[1] == "initContainers" && i < len(spec.InitContainers):
		return spec.InitContainers[i].Name
	case m[1] == "containers" && i < len(spec.Containers):
		return spec.Containers[i].Name
	case m[1] == "ephemeralContainers" && i < len(spec.EphemeralContainers):
		return spec.EphemeralContainers[i].Name
	}
	return ""
}

// findings is all that was gathered; denials beyond the bounds are counted at a path.
func (r *report) findings(at *field.Path) Findings {
	if r.moreDenials > 0 {
		r.found.Denials = append(r.found.Denials, field.Forbidden(at, fmt.Sprintf("%d more faults that are not listed", r.moreDenials)))
	}
	for _, s := range r.said {
		r.found.Warnings = append(r.found.Warnings, s.in(r.spec))
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
