package main

import (
	"cmp"
	crypto "crypto/sha256"
	"debug/buildinfo"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"github.com/nodeless/nodeless/pkg/bundle"
)

// program is a Go program of the bundle and what it was built from: "module@version", as the manifest's parts are named.
type program struct {
	name, hash string
	modules    []string
}

// readPrograms finds the Go programs of the tree by what is in them, and adds those that are inside another file.
func readPrograms(tree string, m bundle.Manifest, inside []string) ([]program, error) {
	var list []program
	for _, f := range m.Files {
		if f.Link != "" || f.Mode&0o111 == 0 {
			continue
		}
		info, err := buildinfo.ReadFile(filepath.Join(tree, f.Path))
		if err != nil {
			continue // a program in another language
		}
		list = append(list, program{name: f.Path, hash: f.SHA256, modules: modules(info)})
	}
	for _, file := range inside {
		info, err := buildinfo.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("read what a program was built from: %w", err)
		}
		sum, err := fileHash(file)
		if err != nil {
			return nil, err
		}
		list = append(list, program{name: filepath.Base(file), hash: sum, modules: modules(info)})
	}
	slices.SortFunc(list, func(a, b program) int { return cmp.Compare(a.name, b.name) })
	return list, nil
}

func modules(info *buildinfo.BuildInfo) []string {
	list := []string{"Go standard library@" + info.GoVersion}
	for _, m := range append(info.Deps, &info.Main) {
		version := m.Version
		if m.Replace != nil {
			version = m.Replace.Version
		}
		list = append(list, m.Path+"@"+version)
	}
	return list
}

func fileHash(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", fmt.Errorf("hash: %w", err)
	}
	defer f.Close()
	h := crypto.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", fmt.Errorf("hash %s: %w", path, err)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
