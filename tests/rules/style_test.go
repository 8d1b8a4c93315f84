package rules

import (
	"go/ast"
	"go/token"
	"strings"
	"testing"
)

const (
	maxFunc      = 120 // lines
	maxFile      = 800 // lines
	maxMethods   = 7   // of an interface
	maxFields    = 25  // of a struct
	qmpGreeting  = "qmp_" + "capabilities"
	qmpHome      = "pkg/vmm"
	allowedPanic = "must" // a function of this prefix may panic: a constant of the program is wrong
)

func TestEveryPackageSaysWhatItIsFor(t *testing.T) {
	documented := map[string]bool{}
	first := map[string]string{}
	for _, f := range goFiles(t) {
		if f.test {
			continue
		}
		if first[f.pkg] == "" {
			first[f.pkg] = f.path
		}
		if doc := f.ast.Doc.Text(); doc != "" {
			want := "Package " + f.ast.Name.Name + " "
			if f.ast.Name.Name != "main" && !strings.HasPrefix(doc, want) {
				t.Errorf("%s: the package comment begins %.40q, not %q", f.path, doc, want)
			}
			documented[f.pkg] = true
		}
	}
	for pkg, file := range first {
		if !documented[pkg] {
			t.Errorf("%s: package %s has no comment that says what it is for", file, pkg)
		}
	}
}

func TestFilesAndFunctionsAreShort(t *testing.T) {
	for _, f := range goFiles(t) {
		if f.generated() {
			continue
		}
		if f.lines > maxFile {
			t.Errorf("%s has %d lines, more than %d", f.path, f.lines, maxFile)
		}
		for _, d := range f.ast.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if !ok {
				continue
			}
			if n := f.fset.Position(fn.End()).Line - f.fset.Position(fn.Pos()).Line + 1; n > maxFunc {
				t.Errorf("%s: %s has %d lines, more than %d", at(f, fn.Pos()), fn.Name.Name, n, maxFunc)
			}
		}
	}
}

func TestInterfacesAndStructsAreSmall(t *testing.T) {
	for _, f := range goFiles(t) {
		if f.generated() || f.test {
			continue
		}
		ast.Inspect(f.ast, func(n ast.Node) bool {
			spec, ok := n.(*ast.TypeSpec)
			if !ok {
				return true
			}
			switch typ := spec.Type.(type) {
			case *ast.InterfaceType:
				if typ.Methods.NumFields() > maxMethods {
					t.Errorf("%s: interface %s has %d methods, more than %d", at(f, n.Pos()), spec.Name.Name, typ.Methods.NumFields(), maxMethods)
				}
			case *ast.StructType:
				if typ.Fields.NumFields() > maxFields {
					t.Errorf("%s: struct %s has %d fields, more than %d", at(f, n.Pos()), spec.Name.Name, typ.Fields.NumFields(), maxFields)
				}
			}
			return true
		})
	}
}

func TestNoInitFunctions(t *testing.T) {
	for _, f := range goFiles(t) {
		for _, d := range f.ast.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil && fn.Name.Name == "init" {
				t.Errorf("%s: init() runs whether it is wanted or not; call it", at(f, fn.Pos()))
			}
		}
	}
}

// ends are the calls that end the process behind the caller's back.
var ends = map[string][]string{
	"os":      {"Exit"},
	"syscall": {"Exit"},
	"unix":    {"Exit"},
	"log":     {"Fatal", "Fatalf", "Fatalln", "Panic", "Panicf", "Panicln"},
	"klog":    {"Fatal", "Fatalf", "Fatalln", "Exit", "Exitf"},
}

func TestOnlyProgramsEndTheProcess(t *testing.T) {
	for _, f := range goFiles(t) {
		if f.test || under(f.pkg, "cmd") || under(f.pkg, "bundle") || under(f.pkg, "scripts") || under(f.pkg, "tests") {
			continue
		}
		for _, d := range f.ast.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if !ok || fn.Body == nil {
				continue
			}
			ast.Inspect(fn.Body, func(n ast.Node) bool {
				if call, ok := n.(*ast.CallExpr); ok {
					if name := ending(call); name != "" && !(name == "panic" && strings.HasPrefix(strings.ToLower(fn.Name.Name), allowedPanic)) {
						t.Errorf("%s: %s calls %s; return an error", at(f, n.Pos()), fn.Name.Name, name)
					}
				}
				return true
			})
		}
	}
}

// ending names the call if it ends the process, else "".
func ending(call *ast.CallExpr) string {
	switch fun := call.Fun.(type) {
	case *ast.Ident:
		if fun.Name == "panic" {
			return "panic"
		}
	case *ast.SelectorExpr:
		if x, ok := fun.X.(*ast.Ident); ok && contains(ends[x.Name], fun.Sel.Name) {
			return x.Name + "." + fun.Sel.Name
		}
	}
	return ""
}

func TestOnlyTheVMMSpeaksQMP(t *testing.T) {
	for _, f := range goFiles(t) {
		if f.test || under(f.pkg, qmpHome) { // tests may boot a machine of their own
			continue
		}
		ast.Inspect(f.ast, func(n ast.Node) bool {
			if lit, ok := n.(*ast.BasicLit); ok && lit.Kind == token.STRING && strings.Contains(lit.Value, qmpGreeting) {
				t.Errorf("%s speaks QMP; that is the job of %s", at(f, n.Pos()), qmpHome)
			}
			return true
		})
	}
}

func TestNoGrabBags(t *testing.T) {
	for _, f := range goFiles(t) {
		switch f.ast.Name.Name {
		case "util", "utils", "common", "helper", "helpers", "misc":
			t.Errorf("%s: package %s is a grab-bag; name it after what it is for", f.path, f.ast.Name.Name)
		}
	}
}

func at(f goFile, pos token.Pos) string { return f.fset.Position(pos).String() }
