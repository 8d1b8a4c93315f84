// Command mktree makes the parts of the bundle that come from Debian: it fetches the packages pinned in
// versions.yaml, unpacks each into a folder of its own and copies out the listed files, with the shared
// libraries they load. Nothing is taken from the machine it runs on except the names of its mirrors, so two build
// machines make the same tree, of a release that neither need run.
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/nodeless/nodeless/bundle/recipe"
	"github.com/nodeless/nodeless/pkg/atomicfile"
)

func main() {
	versions := flag.String("versions", "bundle/versions.yaml", "what to pack")
	work := flag.String("work", "dist", "folder for fetched and unpacked packages and for parts-debian.json")
	out := flag.String("out", "dist/bundle", "the bundle tree")
	flag.Parse()
	if err := build(*versions, *work, *out); err != nil {
		fmt.Fprintln(os.Stderr, "mktree:", err)
		os.Exit(1)
	}
}

func build(versions, work, out string) error {
	want, err := recipe.Load(versions)
	if err != nil {
		return err
	}
	debs, err := fetch(want, work)
	if err != nil {
		return err
	}
	if err := unpack(debs, filepath.Join(work, "stage")); err != nil {
		return err
	}
	c := newCollector(debs, out)
	if err := c.collect(want.Debian.Packages); err != nil {
		return err
	}
	if err := linkKernel(debs, filepath.Join(work, "kernel")); err != nil {
		return err
	}
	parts, err := json.MarshalIndent(c.parts(), "", "  ")
	if err != nil {
		return fmt.Errorf("encode parts: %w", err)
	}
	return atomicfile.Write(filepath.Join(work, "parts-debian.json"), parts, 0o644)
}

// linkKernel leaves a link to the unpacked kernel package, whose name changes with each release.
func linkKernel(debs []*deb, link string) error {
	for _, d := range debs {
		if !strings.HasPrefix(d.name, "linux-image-") {
			continue
		}
		root, err := filepath.Abs(d.root)
		if err != nil {
			return fmt.Errorf("link kernel: %w", err)
		}
		if err := os.Remove(link); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("link kernel: %w", err)
		}
		if err := os.Symlink(root, link); err != nil {
			return fmt.Errorf("link kernel: %w", err)
		}
		return nil
	}
	return errors.New("link kernel: no linux-image package is listed")
}
