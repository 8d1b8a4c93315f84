package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
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
