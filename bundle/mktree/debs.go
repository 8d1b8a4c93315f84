package main

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/nodeless/nodeless/bundle/recipe"
)

// deb is one fetched package.
type deb struct {
	name    string
	version string
	licence string
	file    string // the .deb
	root    string // where it is unpacked
	used    bool   // at least one file of it is in the bundle
}

// fetcher gets packages by apt into the folder cache.
type fetcher struct {
	cache string
	apt   *apt
}

// fetch makes sure that the pinned packages are in the folder cache and lists them.
func fetch(want recipe.Versions, work string) ([]*deb, error) {
	have, err := machineRelease()
	if err != nil {
		return nil, err
	}
	if have != want.Machine.Release {
		return nil, fmt.Errorf("this machine runs Debian %q; the bundle is made on Debian %q, whose compilers and tools versions.yaml pins", have, want.Machine.Release)
	}
	f := fetcher{cache: filepath.Join(work, "debs")}
	if err := os.MkdirAll(f.cache, 0o755); err != nil {
		return nil, fmt.Errorf("make package cache: %w", err)
	}
	if f.apt, err = newApt(filepath.Join(work, "apt"), have, want.Debian.Release); err != nil {
		return nil, err
	}
	return f.all(want.Debian)
}

// all gives the packages in the order of the recipe, then those of which only libraries are taken.
func (f *fetcher) all(want recipe.Debian) ([]*deb, error) {
	var debs []*deb
	for _, p := range want.Packages {
		d, err := f.fetch(p.Name, p.Version)
		if err != nil {
			return nil, err
		}
		if p.Follow {
			if d, err = f.follow(d); err != nil {
				return nil, err
			}
		}
		d.licence = p.Licence
		debs = append(debs, d)
	}
	for _, name := range slices.Sorted(maps.Keys(want.Libraries)) {
		library := want.Libraries[name]
		d, err := f.fetch(name, library.Version)
		if err != nil {
			return nil, err
		}
		d.licence = library.Licence
		debs = append(debs, d)
	}
	return debs, nil
}

// fetch gives the pinned package. Debian removes a version from its mirrors when a security update replaces it;
// then the newest version of the same release is taken, with a warning, so that a fresh machine still builds.
func (f *fetcher) fetch(name, pinned string) (*deb, error) {
	pinErr := f.get(name, pinned)
	if pinErr == nil {
		return f.cached(name, pinned), nil
	}
	if err := f.apt.refresh(); err != nil {
		return nil, errors.Join(pinErr, err)
	}
	if pinErr = f.get(name, pinned); pinErr == nil {
		return f.cached(name, pinned), nil
	}
	newest, err := f.apt.candidate(name)
	if err != nil {
		return nil, errors.Join(err, pinErr)
	}
	if newest == pinned {
		return nil, pinErr
	}
	if err := f.get(name, newest); err != nil {
		return nil, fmt.Errorf("%w (instead of the pinned version %s, which is gone)", err, pinned)
	}
	fmt.Fprintf(os.Stderr, "WARNING: package %s: the pinned version %s is no longer offered; taking %s. Test with it and pin it in bundle/versions.yaml.\n", name, pinned, newest)
	return f.cached(name, newest), nil
}

// get makes sure that one version of a package is in the cache.
func (f *fetcher) get(name, version string) error {
	if f.cached(name, version) != nil {
		return nil
	}
	if err := f.apt.download(name, version, f.cache); err != nil {
		return err
	}
	if f.cached(name, version) == nil {
		return fmt.Errorf("fetch package %s=%s: apt-get left no such file in %s", name, version, f.cache)
	}
	return nil
}

// cached finds a package in the cache folder. Fetched files are named name_version_architecture.deb with ":" as %3a.
func (f *fetcher) cached(name, version string) *deb {
	escaped := strings.ReplaceAll(version, ":", "%3a")
	for _, arch := range []string{"amd64", "all"} {
		file := filepath.Join(f.cache, fmt.Sprintf("%s_%s_%s.deb", name, escaped, arch))
		if _, err := os.Stat(file); err == nil {
			return &deb{name: name, version: version, file: file}
		}
	}
	return nil
}

// follow goes from an empty package to the one package it depends on: linux-image-cloud-amd64 to the kernel of the day.
func (f *fetcher) follow(meta *deb) (*deb, error) {
	out, err := exec.Command("dpkg-deb", "-f", meta.file, "Depends").Output()
	if err != nil {
		return nil, fmt.Errorf("read dependencies of %s: %w", meta.name, err)
	}
	name, _, _ := strings.Cut(strings.TrimSpace(string(out)), " ")
	if name == "" || strings.Contains(name, ",") {
		return nil, fmt.Errorf("package %s depends on %q; want exactly one package", meta.name, out)
	}
	return f.fetch(name, meta.version)
}

// unpack extracts each package into a folder of its own below stage, once.
func unpack(debs []*deb, stage string) error {
	for _, d := range debs {
		d.root = filepath.Join(stage, strings.TrimSuffix(filepath.Base(d.file), ".deb"))
		if _, err := os.Stat(d.root); err == nil {
			continue
		}
		half := d.root + ".half"
		if err := errors.Join(os.RemoveAll(half), os.MkdirAll(half, 0o755)); err != nil {
			return fmt.Errorf("make stage: %w", err)
		}
		if out, err := exec.Command("dpkg-deb", "-x", d.file, half).CombinedOutput(); err != nil {
			return fmt.Errorf("unpack %s: %w: %s", d.file, err, out)
		}
		if err := os.Rename(half, d.root); err != nil {
			return fmt.Errorf("unpack %s: %w", d.file, err)
		}
	}
	return nil
}
