package rules

import (
	"go/ast"
	"go/constant"
	"go/token"
	"go/types"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// contract is the folder of the module that says what programs say to each other about a microVM.
const contract = "pkg/contract"

// TestContractNeedsNothing but the standard library and x/sys: what it required, both the main module and the shim's would be bound to.
func TestContractNeedsNothing(t *testing.T) {
	read := func(name string) string {
		t.Helper()
		raw, err := os.ReadFile(filepath.Join(root(t), name))
		if err != nil {
			t.Fatal(err)
		}
		return string(raw)
	}
	for line := range strings.Lines(read(contract + "/go.mod")) {
		line, _, _ = strings.Cut(line, "//")
		words := strings.Fields(strings.TrimPrefix(strings.TrimSpace(line), "require "))
		if len(words) == 2 && (words[0] == "module" && words[1] == module+"/"+contract || words[0] == "go" || words[0] == "golang.org/x/sys") {
			continue
		}
		if len(words) > 0 && words[0] != "require" && words[0] != ")" {
			t.Errorf("%s/go.mod: %q: it requires nothing but golang.org/x/sys, and replaces nothing", contract, strings.TrimSpace(line))
		}
	}
	for name, folder := range map[string]string{"go.mod": "./" + contract, "cmd/kata-shim/go.mod": "../../" + contract} {
		if want := module + "/" + contract + " => " + folder; !strings.Contains(read(name), want) {
			t.Errorf("%s does not replace the module by its folder: %q", name, want)
		}
	}
	for _, f := range goFiles(t) {
		for _, imp := range f.imports {
			host, _, _ := strings.Cut(imp, "/")
			if under(f.pkg, contract) && strings.Contains(host, ".") && !under(imp, "golang.org/x/sys") {
				t.Errorf("%s imports %s", f.path, imp)
			}
		}
	}
}

// saidElsewhere are words of the contract that have another meaning as well, and what that is.
var saidElsewhere = map[string]string{
	"api/v1": "the path of Kubernetes' own API", // APIPrefix
	"k8s.io": "the host of Kubernetes' modules", // CRINamespace
}

// TestWordsOfTheContractAreSaidThere and nowhere else: a literal with one of them, as a whole or as part of a path, names what the
// contract has a constant for. Plain words, such as the serial "scratch", mean other things as well and are not looked for. Tests may have
// words of their own: they say what is to be seen from outside.
func TestWordsOfTheContractAreSaidThere(t *testing.T) {
	words := contractWords(t)
	for _, want := range []string{"NODELESS_VMM_CONFIG", "nodeless-share", "nodeless.dev/spec", "run/kata-containers/sandbox/ephemeral"} {
		if words[want] == "" {
			t.Fatalf("%q is not among the words of the contract: %v", want, words)
		}
	}
	for _, f := range goFiles(t) {
		if f.test || under(f.pkg, contract) || under(f.pkg, "tests") {
			continue
		}
		for _, lit := range literals(f) {
			for word, name := range words {
				if saidElsewhere[word] == "" && partOfPath(word, lit.text) {
					t.Errorf("%s: %q is said by the contract: use contract.%s", at(f, lit.pos), lit.text, name)
				}
			}
		}
	}
}

func TestPartOfPath(t *testing.T) {
	for _, tt := range []struct {
		word, text string
		want       bool
	}{
		{"run/vc/vm", "run/vc/vm", true}, {"run/vc/vm", "/run/vc/vm/", true}, {"run/vc/vm", "unix:///run/vc/vm/%s/x", true},
		{"run/vc/vm", "run/vc/vms", false}, {"run/vc/vm", "/outrun/vc/vm", false}, {"held.json", "a/held.json", true},
		{"held.json", "upheld.json", false}, {"nodeless-vmm", "nodeless-vmm:", false},
	} {
		if got := partOfPath(tt.word, tt.text); got != tt.want {
			t.Errorf("partOfPath(%q, %q) = %v", tt.word, tt.text, got)
		}
	}
}

// partOfPath tells whether word is text, or what is between two slashes of it.
func partOfPath(word, text string) bool {
	return strings.Contains("/"+text+"/", "/"+word+"/")
}

// contractWords are the contract's constants that are no plain words, without slashes around them, and their names.
func contractWords(t *testing.T) map[string]string {
	t.Helper()
	plain := regexp.MustCompile(`^[a-z]+$`)
	fset := token.NewFileSet()
	var files []*ast.File
	for _, f := range goFiles(t) {
		if f.pkg == contract && !f.test {
			fset, files = f.fset, append(files, f.ast)
		}
	}
	// Packages that it imports are not looked at; no constant depends on them.
	conf := types.Config{IgnoreFuncBodies: true, Error: func(error) {}}
	pkg, _ := conf.Check(module+"/"+contract, fset, files, nil)
	words := map[string]string{}
	for _, name := range pkg.Scope().Names() {
		c, ok := pkg.Scope().Lookup(name).(*types.Const)
		if !ok || c.Val().Kind() != constant.String {
			continue
		}
		if word := strings.Trim(constant.StringVal(c.Val()), "/"); !plain.MatchString(word) {
			words[word] = name
		}
	}
	return words
}

// literal is a string in a program.
type literal struct {
	text string
	pos  token.Pos
}

// literals are the strings of a file that it works with: neither what it imports nor how fields are written.
func literals(f goFile) []literal {
	var passed []*ast.BasicLit
	for _, imp := range f.ast.Imports {
		passed = append(passed, imp.Path)
	}
	var all []literal
	ast.Inspect(f.ast, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.Field:
			passed = append(passed, n.Tag)
		case *ast.BasicLit:
			if text, err := strconv.Unquote(n.Value); n.Kind == token.STRING && err == nil && !slices.Contains(passed, n) {
				all = append(all, literal{text, n.Pos()})
			}
		}
		return true
	})
	return all
}
