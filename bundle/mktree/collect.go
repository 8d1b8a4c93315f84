package main

import (
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/nodeless/nodeless/bundle/recipe"
	"github.com/nodeless/nodeless/pkg/bundle"
)

// libDirs is where Debian keeps shared libraries; the second belongs to a few packages that predate the merged /usr.
var libDirs = []string{"usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"}

// loader is the dynamic linker that starts every packed program.
const loader = "ld-linux-x86-64.so.2"

// dlopened libraries appear in no header: glibc loads this one when a thread is cancelled.
var dlopened = []string{"libgcc_s.so.1"}

// collector copies files out of unpacked packages and remembers which packages gave something.
type collector struct {
	debs []*deb
	out  string
}

func newCollector(debs []*deb, out string) *collector { return &collector{debs: debs, out: out} }

// collect makes the trees afresh: files of an earlier recipe do not stay behind.
func (c *collector) collect(packages []recipe.Package) error {
	for _, tree := range []string{"qemu", "netfilter", "licences"} {
		if err := os.RemoveAll(filepath.Join(c.out, tree)); err != nil {
			return fmt.Errorf("clear tree: %w", err)
		}
	}
	for i, p := range packages {
		if err := c.files(c.debs[i], p.Files); err != nil {
			return fmt.Errorf("package %s: %w", c.debs[i].name, err)
		}
	}
	for _, tree := range []string{"qemu", "netfilter"} {
		if err := c.libraries(tree); err != nil {
			return fmt.Errorf("libraries of %s: %w", tree, err)
		}
	}
	return c.licences()
}

// files copies what the recipe lists. An empty target means that another build step reads the unpacked file.
func (c *collector) files(d *deb, files map[string]string) error {
	for _, pattern := range slices.Sorted(maps.Keys(files)) {
		found, err := filepath.Glob(filepath.Join(d.root, pattern))
		if err != nil || len(found) == 0 {
			return errors.Join(fmt.Errorf("no file matches %s in version %s", pattern, d.version), err)
		}
		d.used = true
		for _, file := range found {
			target := files[pattern]
			if target == "" {
				continue
			}
			if strings.HasSuffix(target, "/") {
				target += filepath.Base(file)
			}
			if err := copyFile(file, filepath.Join(c.out, target)); err != nil {
				return err
			}
		}
	}
	return nil
}

// libraries follows the headers of everything in tree and copies each library into tree/lib.
func (c *collector) libraries(tree string) error {
	var queue []string
	err := filepath.WalkDir(filepath.Join(c.out, tree), func(path string, e os.DirEntry, err error) error {
		if err == nil && e.Type().IsRegular() {
			queue = append(queue, path)
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("list files: %w", err)
	}
	lib := filepath.Join(c.out, tree, "lib")
	done := map[string]bool{}
	add := func(name, neededBy string) error {
		if done[name] {
			return nil
		}
		done[name] = true
		file, err := c.findLibrary(name)
		if err != nil {
			return fmt.Errorf("%w (needed by %s)", err, neededBy)
		}
		queue = append(queue, filepath.Join(lib, name))
		return copyFile(file, filepath.Join(lib, name))
	}
	for _, name := range append([]string{loader}, dlopened...) {
		if err := add(name, "every program"); err != nil {
			return err
		}
	}
	for len(queue) > 0 {
		file := queue[0]
		queue = queue[1:]
		for _, name := range needed(file) {
			if err := add(name, file); err != nil {
				return err
			}
		}
	}
	return nil
}

// needed lists the libraries in the header of an ELF file; none for other files.
func needed(path string) []string {
	f, err := elf.Open(path)
	if err != nil {
		return nil
	}
	defer f.Close()
	names, err := f.ImportedLibraries()
	if err != nil {
		return nil
	}
	return names
}

func (c *collector) findLibrary(name string) (string, error) {
	for _, d := range c.debs {
		for _, dir := range libDirs {
			file := filepath.Join(d.root, dir, name)
			if _, err := os.Stat(file); err == nil {
				d.used = true
				return file, nil
			}
		}
	}
	return "", fmt.Errorf("library %s is in none of the packages of bundle/versions.yaml", name)
}

// licences keeps the copyright file of each package that gave something.
func (c *collector) licences() error {
	for _, d := range c.debs {
		if !d.used {
			continue
		}
		from := filepath.Join(d.root, "usr/share/doc", d.name, "copyright")
		if _, err := os.Stat(from); errors.Is(err, os.ErrNotExist) {
			if from = c.foreignCopyright(d.name); from == "" {
				return fmt.Errorf("package %s has no copyright file", d.name)
			}
		}
		if err := copyFile(from, filepath.Join(c.out, "licences", d.name+".txt")); err != nil {
			return err
		}
	}
	return nil
}

// foreignCopyright serves packages whose doc folder is a link to that of a sibling, as libgcc-s1 to gcc-12-base.
func (c *collector) foreignCopyright(name string) string {
	for _, d := range c.debs {
		link, err := os.Readlink(filepath.Join(d.root, "usr/share/doc", name))
		if err != nil {
			continue
		}
		for _, other := range c.debs {
			file := filepath.Join(other.root, "usr/share/doc", filepath.Base(link), "copyright")
			if _, err := os.Stat(file); err == nil {
				return file
			}
		}
	}
	return ""
}

// parts describes the packages that gave something, for bundle.json.
func (c *collector) parts() []bundle.Part {
	var parts []bundle.Part
	for _, d := range c.debs {
		if d.used {
			parts = append(parts, bundle.Part{Name: d.name, Version: d.version, Origin: bundle.OriginDebian, Licence: d.licence})
		}
	}
	return parts
}

// copyFile copies content and permission bits, following links.
func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return fmt.Errorf("copy: %w", err)
	}
	defer in.Close()
	info, err := in.Stat()
	if err != nil {
		return fmt.Errorf("copy %s: %w", from, err)
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return fmt.Errorf("copy: %w", err)
	}
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, info.Mode().Perm())
	if err != nil {
		return fmt.Errorf("copy: %w", err)
	}
	_, err = io.Copy(out, in)
	if err = errors.Join(err, out.Close()); err != nil {
		return fmt.Errorf("copy %s: %w", from, err)
	}
	return nil
}
