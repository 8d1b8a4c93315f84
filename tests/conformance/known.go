package main

import (
	_ "embed"
	"fmt"
	"slices"
	"strings"
)

// The two ways to size Pods that a server has.
const (
	native = "native"
	bySpec = "spec"
)

// known is a test that fails, and why.
type known struct {
	Sizing string // under which it fails: native, spec or both
	Name   string
	Cause  string
}

// knownTable has a line for each: sizing, name, cause, with tabs between them.
//
//go:embed testdata/known.tsv
var knownTable string

func readKnown(table string) (all []known, err error) {
	for i, line := range lines(table) {
		f := strings.Split(line, "\t")
		if len(f) != 3 || !slices.Contains([]string{native, bySpec, "both"}, f[0]) || f[1] == "" || f[2] == "" {
			return nil, fmt.Errorf("known.tsv, entry %d: %q: want sizing, name and cause", i+1, line)
		}
		all = append(all, known{f[0], f[1], f[2]})
	}
	return all, nil
}

// causes are those of one way to size Pods, by test.
func causes(all []known, sizing string) map[string]string {
	out := map[string]string{}
	for _, k := range all {
		if k.Sizing == sizing || k.Sizing == "both" {
			out[k.Name] = k.Cause
		}
	}
	return out
}
