// Package attack is how an attack of the threat list (docs/security.md) is written as a test: what a tenant, a guest, an image, a
// neighbour on the network or a local user would try, against the real thing. Each attack names its threat, T1 to T24. It ends refused,
// when the request was answered with an error, or contained, when it was let in and harmed nobody. One that succeeds fails its test.
//
// Tests of attacks are called TestAttack…, in the package of what they attack. `make attacks` runs all of them and counts. The fast ones
// are part of `make test`. A slow one calls Slow first.
package attack

import (
	"encoding/json"
	"os"
	"strings"
	"testing"
)

// File is the environment variable with the file to which each attack's end is added, a line of JSON each. Nothing is written without it.
const File = "NODELESS_ATTACKS"

// all is the environment variable that has slow attacks tried as well.
const all = "NODELESS_ATTACKS_ALL"

// Outcome is how an attack ended.
type Outcome string

// Refused is an attack that was answered with an error, Contained one that was let in and did no harm, Succeeded one that did.
const (
	Refused   Outcome = "refused"
	Contained Outcome = "contained"
	Succeeded Outcome = "succeeded"
)

// Line is what is written of one attack.
type Line struct {
	Threat  string // "T1"
	What    string // what was tried
	Test    string
	Outcome Outcome
}

// Try runs one attack as a subtest. f tells how it ended and returns; where it cannot tell it fails its test. An attack whose test fails
// counts as succeeded: what it was to show has not been seen.
func Try(t *testing.T, threat, what string, f func(t *testing.T) Outcome) {
	t.Helper()
	t.Run(threat+"/"+strings.ReplaceAll(what, " ", "_"), func(t *testing.T) {
		end := Succeeded
		t.Cleanup(func() {
			if t.Skipped() {
				return
			}
			if t.Failed() {
				end = Succeeded
			}
			note(t, Line{Threat: threat, What: what, Test: t.Name(), Outcome: end})
		})
		if end = f(t); end != Refused && end != Contained {
			t.Errorf("%s: %s: the attack %s", threat, what, end)
		}
	})
}

// Slow skips an attack that takes longer than `make test` has, unless all are asked for.
func Slow(t *testing.T) {
	t.Helper()
	if os.Getenv(all) == "" {
		t.Skip("skipped: a slow attack; `make attacks` tries it")
	}
}

// note adds the line to the file. Lines are short and written at once, so tests of several processes may share it.
func note(t *testing.T, l Line) {
	name := os.Getenv(File)
	if name == "" {
		return
	}
	text, err := json.Marshal(l)
	if err != nil {
		t.Error(err)
		return
	}
	f, err := os.OpenFile(name, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		t.Error(err)
		return
	}
	if _, err := f.Write(append(text, '\n')); err != nil {
		t.Error(err)
	}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
}
