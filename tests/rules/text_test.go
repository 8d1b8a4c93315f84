package rules

import (
	"bytes"
	"go/ast"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"
)

// Folders of somebody's machine and hosts of package registries have no business in the repository: it must build anywhere,
// from whatever mirror the machine has been given. The patterns are put together so that this file does not match itself.
var (
	machinePath  = regexp.MustCompile(`(^|[\s"'=:(\x60,>])/(` + "wo" + `rk|` + "ro" + `ot)/`)
	registryHost = regexp.MustCompile(strings.Join([]string{
		"proxy" + `\.golang\.org`, "sum" + `\.golang\.org`, "goproxy" + `\.(io|cn)`, "deb" + `\.debian\.org`, "security" + `\.debian\.org`, "snapshot" + `\.debian\.org`,
		"pypi" + `\.org`, "registry" + `\.npmjs\.org`, "index" + `\.crates\.io`, "static" + `\.crates\.io`,
	}, "|"))
)

func TestNoMachinePathsOrRegistryHosts(t *testing.T) {
	for _, name := range tracked(t) {
		data, err := os.ReadFile(filepath.Join(root(t), name))
		if err != nil {
			t.Fatal(err)
		}
		if !utf8.Valid(data) || bytes.IndexByte(data, 0) >= 0 {
			continue // not text
		}
		for i, line := range strings.Split(string(data), "\n") {
			if m := machinePath.FindString(line); m != "" {
				t.Errorf("%s:%d names a folder of one machine: %q", name, i+1, strings.TrimSpace(m))
			}
			if m := registryHost.FindString(line); m != "" {
				t.Errorf("%s:%d names a package registry: %q", name, i+1, m)
			}
		}
	}
}

func TestNoLargeOrBuiltFiles(t *testing.T) {
	const limit = 1 << 20
	for _, name := range tracked(t) {
		info, err := os.Stat(filepath.Join(root(t), name))
		if err != nil {
			t.Fatal(err)
		}
		if info.Size() > limit {
			t.Errorf("%s has %d bytes; what is built or fetched stays out of the repository", name, info.Size())
		}
	}
}

// generatedText is the first line of a script or a YAML file that a program wrote, as Go has it.
var generatedText = regexp.MustCompile(`^# Code generated .* DO NOT EDIT\.$`)

// maxComment is how many columns a line with a comment has, where a tab is one.
const maxComment = 140

// TestCommentsAreNarrow: comments of Go files, also those behind code, and lines of comment in shell scripts and YAML. Generated files may
// have longer ones, and so may what others wrote.
func TestCommentsAreNarrow(t *testing.T) {
	check := func(name string, lines []string, i int) {
		if n := utf8.RuneCountInString(lines[i]); n > maxComment {
			t.Errorf("%s:%d: a line with a comment has %d columns, more than %d; say one idea a sentence", name, i+1, n, maxComment)
		}
	}
	for _, f := range goFiles(t) {
		if f.generated() {
			continue
		}
		lines := textLines(t, f.path)
		for _, group := range f.ast.Comments {
			for _, c := range group.List {
				for i := f.fset.Position(c.Pos()).Line; i <= f.fset.Position(c.End()).Line; i++ {
					check(f.path, lines, i-1)
				}
			}
		}
	}
	for _, name := range tracked(t) {
		if !strings.HasSuffix(name, ".sh") && !strings.HasSuffix(name, ".yaml") || strings.Contains("/"+name, "/testdata/") {
			continue
		}
		lines := textLines(t, name)
		if generatedText.MatchString(lines[0]) {
			continue
		}
		for i, line := range lines {
			if strings.HasPrefix(strings.TrimSpace(line), "#") {
				check(name, lines, i)
			}
		}
	}
}

func textLines(t *testing.T, name string) []string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root(t), name))
	if err != nil {
		t.Fatal(err)
	}
	return strings.Split(string(text), "\n")
}

// TestWarningsGoThroughOnePlace, where they are made so that the apiserver can send them and name their object. The apiserver drops
// others without a word.
func TestWarningsGoThroughOnePlace(t *testing.T) {
	const home = "pkg/server/apiserver/admission/tell.go"
	found := false
	for _, f := range goFiles(t) {
		if f.test {
			continue
		}
		ast.Inspect(f.ast, func(n ast.Node) bool {
			call, ok := n.(*ast.SelectorExpr)
			if !ok || call.Sel.Name != "AddWarning" {
				return true
			}
			found = found || f.path == home
			if f.path != home {
				t.Errorf("%s: warns by itself; call tell of %s", at(f, call.Pos()), home)
			}
			return true
		})
	}
	if !found {
		t.Errorf("%s does not warn", home)
	}
}
