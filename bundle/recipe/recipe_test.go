package recipe_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/nodeless/nodeless/bundle/recipe"
)

func TestVersionsFileIsComplete(t *testing.T) {
	v, err := recipe.Load("../versions.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if len(v.Debian.Packages) == 0 || len(v.Debian.Libraries) == 0 || len(v.Guest.Modules) == 0 || len(v.Go) == 0 || len(v.Machine.Packages) == 0 || v.Machine.Go == "" {
		t.Errorf("versions.yaml lacks a section: %d packages, %d libraries, %d kernel modules, %d Go modules",
			len(v.Debian.Packages), len(v.Debian.Libraries), len(v.Guest.Modules), len(v.Go))
	}
}

// A version in versions.yaml that no go.mod selects would be a lie in bundle.json.
func TestGoVersionsAreThoseOfGoMod(t *testing.T) {
	v, err := recipe.Load("../versions.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range v.Go {
		raw, err := os.ReadFile(filepath.Join("../..", m.Gomod))
		if err != nil {
			t.Errorf("%s: %v", m.Module, err)
			continue
		}
		// The last mention counts: a replace line comes after the require line.
		mention := regexp.MustCompile(`(?m)` + regexp.QuoteMeta(m.Module) + `\s+(v\S+)`)
		all := mention.FindAllStringSubmatch(string(raw), -1)
		if len(all) == 0 {
			t.Errorf("%s is not in %s", m.Module, m.Gomod)
			continue
		}
		if got := all[len(all)-1][1]; got != m.Version {
			t.Errorf("%s: versions.yaml says %s, %s says %s", m.Module, m.Version, m.Gomod, got)
		}
	}
}

func TestIncompleteRecipeIsRefused(t *testing.T) {
	tests := []struct {
		name, text, want string
	}{
		{name: "unknown key", text: "debian: {release: bookworm, colour: red}", want: "colour"},
		{name: "no release", text: "debian: {}", want: "release"},
		{name: "package without version", text: "debian: {release: x, packages: [{name: qemu, licence: GPL-2, why: y}]}", want: `"qemu"`},
		{name: "package twice", text: "debian: {release: x, packages: [{name: a, version: '1', licence: b, why: c}], libraries: {a: {version: '1', licence: b}}}", want: "twice"},
		{name: "library without licence", text: "debian: {release: x, libraries: {liba: {version: '1'}}}", want: `"liba"`},
		{name: "build machine's package without licence", text: "debian: {release: x}\nmachine: {release: y, packages: {gcc: {version: '1'}}}", want: `"gcc"`},
		{name: "go module without reason", text: "debian: {release: x}\ngo: [{module: m, version: v1, gomod: go.mod, licence: MIT}]", want: `"m"`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "versions.yaml")
			if err := os.WriteFile(path, []byte(tt.text), 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := recipe.Load(path); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Load = %v, want an error about %s", err, tt.want)
			}
		})
	}
}
