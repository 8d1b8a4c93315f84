package main

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
)

// tally is how many tests of a list passed, failed, and were not run; unknown are those that fail without a known cause.
type tally struct {
	passed, failed, missing int
	unknown                 []string
}

func count(names []string, have verdicts, why map[string]string) (t tally) {
	for _, name := range names {
		v, ran := have[name]
		switch {
		case !ran:
			t.missing++
		case v.Passed:
			t.passed++
		default:
			t.failed++
			if why[name] == "" {
				t.unknown = append(t.unknown, name)
			}
		}
	}
	return t
}

// printTable says what passed by group, and of each test that failed why.
func printTable(out io.Writer, names []string, have verdicts, why map[string]string) {
	fmt.Fprintf(out, "\n%-12s %6s %6s %7s\n", "group", "passed", "failed", "not run")
	for _, group := range groups {
		t := count(slices.DeleteFunc(slices.Clone(names), func(n string) bool { return groupOf(n) != group }), have, why)
		fmt.Fprintf(out, "%-12s %6d %6d %7d\n", group, t.passed, t.failed, t.missing)
	}
	for _, name := range names {
		v, ran := have[name]
		switch {
		case ran && v.Again:
			fmt.Fprintf(out, "\npassed alone, after it failed beside others: %s\n  it said: %s\n", name, brief(v.Message))
		case ran && v.Passed && why[name] != "":
			fmt.Fprintf(out, "\npasses, though testdata/known.tsv says that it fails: %s\n", name)
		case ran && !v.Passed && why[name] != "":
			fmt.Fprintf(out, "\nfailed: %s\n  cause: %s\n", name, why[name])
		case ran && !v.Passed:
			fmt.Fprintf(out, "\nfailed: %s\n  cause: not known: %s\n", name, brief(v.Message))
		}
	}
	if n := have.builds(); n > 1 {
		fmt.Fprintf(out, "\nthese are verdicts on %d builds of the product\n", n)
	}
	t := count(names, have, why)
	fmt.Fprintf(out, "\nconformance: passed=%d failed=%d not-run=%d of %d\n", t.passed, t.failed, t.missing, len(names))
}

// brief is a message of a few lines.
func brief(message string) string {
	const most = 1000
	if len(message) > most {
		message = message[:most] + " …"
	}
	return strings.ReplaceAll(strings.TrimSpace(message), "\n", "\n    ")
}

// writeEvents writes the verdicts of the tests as `go test -json` does. One that fails with a known cause counts as skipped.
func writeEvents(out io.Writer, names []string, have verdicts, why map[string]string) error {
	enc := json.NewEncoder(out)
	event := func(name, action, output string) error {
		e := map[string]any{"Package": "conformance", "Test": name, "Action": action}
		if output != "" {
			e["Output"] = output + "\n"
		}
		return enc.Encode(e)
	}
	worst := "pass"
	for _, name := range names {
		v, ran := have[name]
		action, said := "pass", ""
		switch {
		case !ran:
			action, said = "fail", "not run"
		case !v.Passed && why[name] != "":
			action, said = "skip", "known: "+why[name]
		case !v.Passed:
			action, said = "fail", v.Message
		case v.Again:
			said = "failed beside others, and passed alone: " + v.Message
		}
		if action == "fail" {
			worst = action
		}
		name = strings.ReplaceAll(name, "/", "∕") // no subtest
		if said != "" {
			if err := event(name, "output", said); err != nil {
				return err
			}
		}
		if err := event(name, action, ""); err != nil {
			return err
		}
	}
	return enc.Encode(map[string]any{"Package": "conformance", "Action": worst})
}
