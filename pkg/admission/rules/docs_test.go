package rules

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const root = "../../.."

// document is the lines of docs/annotations.md.
func document(t *testing.T) []string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(root, "docs", "annotations.md"))
	if err != nil {
		t.Fatal(err)
	}
	return strings.Split(string(data), "\n")
}

// TestDocumentHasEveryKey: the table of docs/annotations.md is the one of the program, row by row.
func TestDocumentHasEveryKey(t *testing.T) {
	var want, got []string
	for _, k := range table {
		want = append(want, "| `"+k.Key+"` | "+k.State.String()+" | "+k.Here+" | `"+k.Test+"` |")
	}
	for _, line := range document(t) {
		if cells := strings.Split(line, "|"); len(cells) > 1 && strings.Contains(cells[1], tke) {
			got = append(got, line)
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("rows of docs/annotations.md (-program +document):\n%s", diff)
	}
}

// TestDocumentNamesTestsThatExist looks for each test in the whole tree.
func TestDocumentNamesTestsThatExist(t *testing.T) {
	declared := regexp.MustCompile(`(?m)^func (Test\w+)\(t \*testing\.T\)`)
	have := map[string]bool{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (d.Name() == ".git" || d.Name() == "dist" || d.Name() == "vendor"):
			return filepath.SkipDir
		case d.IsDir() || !strings.HasSuffix(path, "_test.go"):
			return nil
		}
		data, err := os.ReadFile(path)
		for _, m := range declared.FindAllStringSubmatch(string(data), -1) {
			have[m[1]] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range table {
		if !have[k.Test] {
			t.Errorf("%s: there is no test %s", k.Key, k.Test)
		}
	}
}

// TestDocumentHasTheMessages: the messages that the document shows are those that the tests of each rule hold the program to.
func TestDocumentHasTheMessages(t *testing.T) {
	var got []string
	inside := false
	for _, line := range document(t) {
		if strings.HasPrefix(line, "```") {
			inside = line == "```text"
			continue
		}
		if inside {
			got = append(got, line)
		}
	}
	want := []string{sayHostPath, saySource, sayHost, sayFileKeyRef, sayHostPort, sayTaken, sayHostIP, saySysctl, sayHostUsers, sayHostNetwork, sayReserved, saySCTP, sayShared, sayNetworkPolicy, sayLoadBalancer, sayIngress, sayNoClass, sayPark, sayDaemonSet, sayRun, sayNoWish, sayNoTaint, sayLabel, sayVolume, sayInit, sayDSPort}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("messages of docs/annotations.md (-program +document):\n%s", diff)
	}
}
