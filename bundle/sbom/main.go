// Command sbom writes the bill of materials of a release, as CycloneDX 1.5 in JSON: every part of the bundle's own manifest with its
// version, licence and package URL, and for each Go program in the bundle what it was built from. It names no path of the machine, and the
// same bundle gives the same bytes. scripts/release.sh calls it.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/nodeless/nodeless/bundle/recipe"
	"github.com/nodeless/nodeless/pkg/atomicfile"
	"github.com/nodeless/nodeless/pkg/bundle"
)

func main() {
	var o options
	var seconds int64
	flag.StringVar(&o.tree, "tree", "dist/bundle", "the bundle tree, bundle.json included")
	flag.StringVar(&o.versions, "versions", "bundle/versions.yaml", "the recipe: names the Debian release")
	flag.StringVar(&o.program, "program", "", "the file that ships")
	flag.StringVar(&o.commit, "commit", "", "the commit it was built from")
	flag.Int64Var(&seconds, "time", 0, "time of the commit, in seconds")
	flag.StringVar(&o.out, "out", "", "where the bill goes")
	flag.Usage = func() {
		fmt.Fprintln(os.Stderr, "usage: sbom [flags] [Go program that is inside another file of the tree...]")
		flag.PrintDefaults()
	}
	flag.Parse()
	o.inside, o.time = flag.Args(), time.Unix(seconds, 0).UTC()
	if err := run(o); err != nil {
		fmt.Fprintln(os.Stderr, "sbom:", err)
		os.Exit(1)
	}
}

type options struct {
	tree, versions, program, commit, out string
	inside                               []string
	time                                 time.Time
}

func run(o options) error {
	want, err := recipe.Load(o.versions)
	if err != nil {
		return err
	}
	manifest, err := bundle.ReadManifest(o.tree)
	if err != nil {
		return err
	}
	programs, err := readPrograms(o.tree, manifest, o.inside)
	if err != nil {
		return err
	}
	hash, err := fileHash(o.program)
	if err != nil {
		return err
	}
	r := release{version: manifest.Version, commit: o.commit, time: o.time, name: filepath.Base(o.program), hash: hash, debian: want.Debian.Release}
	text, err := json.MarshalIndent(describe(r, manifest.Parts, programs), "", " ")
	if err != nil {
		return fmt.Errorf("encode bill: %w", err)
	}
	return atomicfile.Write(o.out, append(text, '\n'), 0o644)
}
