package main

import (
	"cmp"
	"debug/buildinfo"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/nodeless/nodeless/bundle/recipe"
	"github.com/nodeless/nodeless/pkg/bundle"
)

// programs are the Go programs of the tree; each tells which modules are in it.
var programs = []string{"bin/*", "cni/*", "aux/nft"}

// goParts lists every module linked into a program of the tree, with the licence found in the module's own files.
// The modules that versions.yaml names must be there in the version it names.
func goParts(o options, named []recipe.Module) ([]bundle.Part, error) {
	linked := map[string]bundle.Part{}
	files := o.inside
	for _, pattern := range programs {
		found, err := filepath.Glob(filepath.Join(o.tree, pattern))
		if err != nil {
			return nil, fmt.Errorf("find programs: %w", err)
		}
		files = append(files, found...)
	}
	for _, file := range files {
		if err := addModules(linked, file); err != nil {
			return nil, err
		}
	}
	var errs []error
	for _, m := range named {
		p, ok := linked[m.Module+"@"+m.Version]
		if !ok && !o.partial {
			errs = append(errs, fmt.Errorf("versions.yaml names %s %s, but no program was built with it", m.Module, m.Version))
		}
		if ok {
			p.Licence = m.Licence
			linked[m.Module+"@"+m.Version] = p
		}
	}
	list := make([]bundle.Part, 0, len(linked))
	for _, p := range linked {
		list = append(list, p)
	}
	slices.SortFunc(list, func(a, b bundle.Part) int {
		return cmp.Or(strings.Compare(a.Name, b.Name), strings.Compare(a.Version, b.Version))
	})
	return list, errors.Join(errs...)
}

func addModules(linked map[string]bundle.Part, program string) error {
	info, err := buildinfo.ReadFile(program)
	if err != nil {
		return fmt.Errorf("read what %s was built from: %w", program, err)
	}
	linked["go@"+info.GoVersion] = bundle.Part{Name: "Go standard library", Version: info.GoVersion, Origin: bundle.OriginGo, Licence: "BSD-3-Clause"}
	// crictl is another module's program: its own module is the main one. Ours has no version to tell.
	for _, m := range append(info.Deps, &info.Main) {
		source := m
		if m.Replace != nil {
			source = m.Replace
		}
		key := m.Path + "@" + source.Version
		if _, done := linked[key]; done || source.Version == "" || source.Version == "(devel)" {
			continue
		}
		linked[key] = bundle.Part{Name: m.Path, Version: source.Version, Origin: bundle.OriginModule, Licence: moduleLicence(source.Path, source.Version)}
	}
	return nil
}

// moduleLicence reads the licence file of a module in the module cache.
func moduleLicence(path, version string) string {
	dir := filepath.Join(moduleCache(), escape(path)+"@"+escape(version))
	files, err := filepath.Glob(filepath.Join(dir, "[LlCc][IiOo][CcPp][EeYy][NnIi]*"))
	if err != nil || len(files) == 0 {
		return "see the module"
	}
	text, err := os.ReadFile(files[0])
	if err != nil {
		return "see the module"
	}
	return classify(string(text))
}

func moduleCache() string {
	if dir := os.Getenv("GOMODCACHE"); dir != "" {
		return dir
	}
	if dir := os.Getenv("GOPATH"); dir != "" {
		return filepath.Join(dir, "pkg", "mod")
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return ""
	}
	return filepath.Join(home, "go", "pkg", "mod")
}

// escape writes capitals as the module cache does: "!" and the small letter.
func escape(s string) string {
	var b strings.Builder
	for _, r := range s {
		if 'A' <= r && r <= 'Z' {
			b.WriteByte('!')
			r += 'a' - 'A'
		}
		b.WriteRune(r)
	}
	return b.String()
}

// marks are sentences that tell licences apart, the more specific first.
var marks = []struct{ sentence, name string }{
	{"Apache License", "Apache-2.0"},
	{"Mozilla Public License", "MPL-2.0"},
	{"GNU LESSER GENERAL PUBLIC LICENSE", "LGPL"},
	{"GNU GENERAL PUBLIC LICENSE", "GPL"},
	{"Neither the name", "BSD-3-Clause"},
	{"names of its contributors", "BSD-3-Clause"},
	{"Redistribution and use in source and binary forms", "BSD-2-Clause"},
	{"Permission to use, copy, modify, and/or distribute this software", "ISC"},
	{"Permission to use, copy, modify, and distribute this software", "ISC"},
	{"Permission is hereby granted, free of charge", "MIT"},
	{"This is free and unencumbered software released into the public domain", "Unlicense"},
	{"CC0 1.0 Universal", "CC0-1.0"},
}

func classify(text string) string {
	words := strings.Join(strings.Fields(text), " ")
	for _, m := range marks {
		if strings.Contains(words, m.sentence) {
			return m.name
		}
	}
	return "see the module"
}
