package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nodeless/nodeless/pkg/bundle"
)

func TestTreeMustBeWholeAndClean(t *testing.T) {
	tree := t.TempDir()
	put := func(name, content string) {
		path := filepath.Join(tree, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range required {
		put(name, "x")
	}
	if err := complete(tree); err != nil {
		t.Errorf("a whole tree: %v", err)
	}
	put("bin/nodeless", "")
	put("bin/crictl.tmp", "x")
	if err := os.Remove(filepath.Join(tree, "guest/initrd")); err != nil {
		t.Fatal(err)
	}
	err := complete(tree)
	for _, want := range []string{"lacks bin/nodeless", "lacks guest/initrd", "has bin/crictl.tmp"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("complete = %v, want it to say %q", err, want)
		}
	}
}

func TestClassify(t *testing.T) {
	tests := []struct{ text, want string }{
		{text: "                                 Apache License\n   Version 2.0", want: "Apache-2.0"},
		{text: "Permission is hereby granted, free\nof charge, to any person", want: "MIT"},
		{text: "Redistribution and use in source and binary forms ... Neither the name of", want: "BSD-3-Clause"},
		{text: "Redistribution and use in source and binary forms", want: "BSD-2-Clause"},
		{text: "all rights reserved", want: "see the module"},
	}
	for _, tt := range tests {
		if got := classify(tt.text); got != tt.want {
			t.Errorf("classify(%q) = %q, want %q", tt.text, got, tt.want)
		}
	}
}

// TestSameTreeSameManifest: folder and umask of the one who builds are not in it.
func TestSameTreeSameManifest(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	program, err := os.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	var first []byte
	for _, mode := range []os.FileMode{0o755, 0o700} {
		dir := t.TempDir()
		tree, debian := filepath.Join(dir, mode.String()), filepath.Join(dir, "debian.json")
		if err := os.MkdirAll(filepath.Join(tree, "bin"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(tree, "bin/test"), program, mode); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(debian, []byte(`[{"name":"qemu","version":"1"}]`), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := installed("busybox-static"); err != nil {
			t.Skipf("skipped: %v", err)
		}
		if err := run(options{tree: tree, versions: "../versions.yaml", debian: debian, version: "v1", partial: true}); err != nil {
			t.Fatal(err)
		}
		raw, err := os.ReadFile(filepath.Join(tree, bundle.ManifestName))
		if err != nil {
			t.Fatal(err)
		}
		if first != nil && !bytes.Equal(first, raw) {
			t.Errorf("two builders of the same tree make different manifests:\n%s\n%s", first, raw)
		}
		first = raw
	}
}
