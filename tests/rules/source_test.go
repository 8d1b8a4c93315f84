package rules

import (
	"bytes"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/nodeless/nodeless"

// goFile is one parsed Go file of the repository.
type goFile struct {
	path    string // relative to the root, with slashes
	pkg     string // its folder
	test    bool
	ast     *ast.File
	fset    *token.FileSet
	imports []string
	lines   int
}

// root is the top folder of the repository.
func root(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// tracked lists the files that belong to the repository: known to git, or about to be added and not ignored.
// Without git (a source archive) it is every file outside of the folders that builds make.
func tracked(t *testing.T) []string {
	t.Helper()
	dir := root(t)
	cmd := exec.Command("git", "-C", dir, "ls-files", "-z", "--cached", "--others", "--exclude-standard")
	if out, err := cmd.Output(); err == nil {
		var files []string
		for _, name := range strings.Split(strings.TrimSuffix(string(out), "\x00"), "\x00") {
			if info, err := os.Lstat(filepath.Join(dir, name)); err == nil && info.Mode().IsRegular() {
				files = append(files, name)
			}
		}
		return files
	}
	var files []string
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (d.Name() == "vendor" || d.Name() == "dist" || d.Name() == ".git") {
			return filepath.SkipDir
		}
		if d.Type().IsRegular() {
			rel, err := filepath.Rel(dir, p)
			files = append(files, filepath.ToSlash(rel))
			return err
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// goFiles parses every Go file of the repository.
func goFiles(t *testing.T) []goFile {
	t.Helper()
	var out []goFile
	for _, name := range tracked(t) {
		if !strings.HasSuffix(name, ".go") || strings.Contains("/"+name, "/testdata/") {
			continue
		}
		src, err := os.ReadFile(filepath.Join(root(t), name))
		if err != nil {
			t.Fatal(err)
		}
		fset := token.NewFileSet()
		file, err := parser.ParseFile(fset, name, src, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		f := goFile{path: name, pkg: path.Dir(name), test: strings.HasSuffix(name, "_test.go"), ast: file, fset: fset, lines: bytes.Count(src, []byte("\n"))}
		for _, spec := range file.Imports {
			p, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				t.Fatal(err)
			}
			f.imports = append(f.imports, p)
		}
		out = append(out, f)
	}
	return out
}

// under tells whether pkg is dir or below it.
func under(pkg, dir string) bool { return pkg == dir || strings.HasPrefix(pkg, dir+"/") }

// generated tells whether a program wrote the file.
func (f goFile) generated() bool { return ast.IsGenerated(f.ast) }

// ownModule tells whether the file is in the main module (cmd/kata-shim is a module of its own).
func (f goFile) ownModule() bool { return !under(f.pkg, "cmd/kata-shim") }
