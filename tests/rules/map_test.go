package rules

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestMapNamesEveryFolder: the table of docs/ARCHITECTURE.md has a row for each folder of pkg, and none for one that has gone.
func TestMapNamesEveryFolder(t *testing.T) {
	const page = "docs/ARCHITECTURE.md"
	named := map[string]bool{}
	for _, line := range textLines(t, page) {
		cells := strings.Split(line, "|")
		if len(cells) < 3 || cells[0] != "" {
			continue
		}
		for i, name := range strings.Split(cells[1], "`") {
			rest, inPkg := strings.CutPrefix(name, "pkg/")
			if i%2 == 0 || !inPkg {
				continue
			}
			if info, err := os.Stat(filepath.Join(root(t), name)); err != nil || !info.IsDir() {
				t.Errorf("%s has a row for %s, and there is no such folder", page, name)
			}
			top, _, _ := strings.Cut(rest, "/")
			named[top] = true
		}
	}
	entries, err := os.ReadDir(filepath.Join(root(t), "pkg"))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.IsDir() && !named[e.Name()] {
			t.Errorf("%s has no row for pkg/%s", page, e.Name())
		}
	}
}
