package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nodeless/nodeless/pkg/bundle"
)

func TestPackageURLs(t *testing.T) {
	tests := []struct {
		part bundle.Part
		want string
	}{
		{part: bundle.Part{Name: "qemu-system-x86", Version: "1:7.2+dfsg-7+deb12u18+b3", Origin: bundle.OriginDebian},
			want: "pkg:deb/debian/qemu-system-x86@1:7.2%2Bdfsg-7%2Bdeb12u18%2Bb3?distro=bookworm"},
		{part: bundle.Part{Name: "github.com/BurntSushi/toml", Version: "v1.6.0", Origin: bundle.OriginModule}, want: "pkg:golang/github.com/burntsushi/toml@v1.6.0"},
		{part: bundle.Part{Name: "Go standard library", Version: "go1.26.8", Origin: bundle.OriginGo}, want: "pkg:golang/stdlib@1.26.8"},
	}
	for _, tt := range tests {
		if got := library(tt.part, "bookworm"); got.PURL != tt.want || got.Ref != tt.want {
			t.Errorf("%s: package URL %q, reference %q, want %q", tt.part.Name, got.PURL, got.Ref, tt.want)
		}
	}
}

// TestBill makes the bill of a tree whose one Go program is this test.
func TestBill(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	program, err := os.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	tree := filepath.Join(dir, "tree")
	if err := os.MkdirAll(filepath.Join(tree, "bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string][]byte{"bin/test": program, "bin/qemu": []byte("\x7fELF of another language")} {
		if err := os.WriteFile(filepath.Join(tree, name), content, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	files, err := bundle.Scan(tree)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := bundle.Manifest{Version: "v1.2.3", Files: files, Parts: []bundle.Part{
		{Name: "nodeless", Version: "v1.2.3", Origin: bundle.OriginOwn, Licence: "Apache-2.0"},
		{Name: "libaio1", Version: "0.3.113-4", Origin: bundle.OriginDebian, Licence: "LGPL-2.1+"},
		{Name: "sigs.k8s.io/yaml", Version: "v9.9.9", Origin: bundle.OriginModule, Licence: "MIT"},
	}}.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(tree, bundle.ManifestName), raw, 0o644); err != nil {
		t.Fatal(err)
	}
	var first []byte
	for _, name := range []string{"one.json", "two.json"} {
		o := options{tree: tree, versions: "../versions.yaml", program: self, commit: "abc", out: filepath.Join(dir, name), time: time.Unix(1_700_000_000, 0).UTC()}
		if err := run(o); err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(o.out)
		if err != nil {
			t.Fatal(err)
		}
		if first != nil && !bytes.Equal(first, text) {
			t.Error("the same bundle gave two different bills")
		}
		first = text
	}
	if strings.Contains(string(first), dir) || strings.Contains(string(first), filepath.Dir(self)) {
		t.Errorf("the bill names a folder of this machine:\n%s", first)
	}
	var b bill
	if err := json.Unmarshal(first, &b); err != nil {
		t.Fatal(err)
	}
	if b.Format != "CycloneDX" || b.Metadata.Timestamp != "2023-11-14T22:13:20Z" || b.Metadata.Component.Version != "v1.2.3" {
		t.Errorf("head = %+v", b.Metadata)
	}
	var refs []string
	for _, c := range b.Components {
		refs = append(refs, c.Ref)
	}
	if want := []string{"pkg:deb/debian/libaio1@0.3.113-4?distro=trixie", "pkg:golang/sigs.k8s.io/yaml@v9.9.9", "program:bin/test"}; !slices.Equal(refs, want) {
		t.Errorf("components = %q, want %q", refs, want)
	}
	if !bytes.Contains(first, []byte(`"license": {`)) || !bytes.Contains(first, []byte(`"id": "MIT"`)) || !bytes.Contains(first, []byte(`"name": "LGPL-2.1+"`)) {
		t.Errorf("licences are not written as CycloneDX has them:\n%s", first)
	}
}

func TestDependenciesOfAProgram(t *testing.T) {
	parts := []bundle.Part{
		{Name: "a.org/m", Version: "v1", Origin: bundle.OriginModule}, {Name: "a.org/m", Version: "v2", Origin: bundle.OriginModule},
		{Name: "Go standard library", Version: "go1.26.8", Origin: bundle.OriginGo},
	}
	b := describe(release{}, parts, []program{{name: "bin/x", modules: []string{"a.org/m@v2", "Go standard library@go1.26.8", "own@(devel)"}}})
	if want := []string{"pkg:golang/a.org/m@v2", "pkg:golang/stdlib@1.26.8"}; len(b.Dependencies) != 2 || !slices.Equal(b.Dependencies[1].On, want) {
		t.Errorf("dependencies = %+v, want the program on %q", b.Dependencies, want)
	}
}
