package main

import (
	_ "embed"
	"fmt"
	"os"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"
)

// groups are the parts that conformance is run in, in this order.
var groups = []string{"api", "node", "storage", "network", "apps", "auth", "cli", "scheduling", "webhooks"}

// groupOf is the group of a test: that of the SIG whose test it is.
func groupOf(name string) string {
	sig, rest, _ := strings.Cut(strings.TrimPrefix(name, "[sig-"), "] ")
	switch sig {
	case "api-machinery":
		for _, begin := range []string{"AdmissionWebhook ", "CustomResourceConversionWebhook ", "Aggregator "} {
			if strings.HasPrefix(rest, begin) {
				return "webhooks"
			}
		}
		return "api"
	case "instrumentation", "architecture":
		return "api"
	}
	return sig
}

// slow are tests that wait for minutes and do nothing meanwhile. They run beside the others of their group.
var slow = []string{
	"[sig-api-machinery] Servers with support for API chunking should support continue listing from the last key if the original version has been compacted",
	"[sig-api-machinery] ResourceQuota should apply changes to a resourcequota status",
}

func isSlow(name string) bool {
	return slices.ContainsFunc(slow, func(begin string) bool { return strings.HasPrefix(name, begin) })
}

// smokeTests are a few of each group, by name: quick ones that use a part of the product each.
//
//go:embed testdata/smoke.txt
var smokeTests string

// readList gives the names of all conformance tests from upstream's own list.
func readList(file string) ([]string, error) {
	raw, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var list []struct {
		Name string `json:"codename"`
	}
	if err := yaml.Unmarshal(raw, &list); err != nil {
		return nil, fmt.Errorf("read %s: %w", file, err)
	}
	var names []string
	for _, t := range list {
		names = append(names, t.Name)
	}
	return names, nil
}

// lines are those of a text that are neither empty nor a comment.
func lines(text string) (out []string) {
	for line := range strings.Lines(text) {
		if line = strings.TrimSuffix(line, "\n"); line != "" && !strings.HasPrefix(line, "#") {
			out = append(out, line)
		}
	}
	return out
}
