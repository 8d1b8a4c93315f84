// Package recipe reads bundle/versions.yaml, the list of everything in the bundle that is not our own source.
// The build tools beside it call it; nothing of the product does.
package recipe

import (
	"errors"
	"fmt"
	"os"

	"sigs.k8s.io/yaml"
)

// Versions is the content of versions.yaml.
type Versions struct {
	Debian  Debian   `json:"debian"`
	Machine Machine  `json:"machine"`
	Guest   Guest    `json:"guest"`
	Go      []Module `json:"go"`
}

// Machine is what of the build machine decides which bytes come out.
type Machine struct {
	Release  string              `json:"release"`  // Debian's codename
	Go       string              `json:"go"`       // version of the toolchain, as it calls itself
	Packages map[string]HostPart `json:"packages"` // Debian's, by name
}

// HostPart is a package that the build machine has installed.
type HostPart struct {
	Version string `json:"version"`
	Licence string `json:"licence"`
	Ships   string `json:"ships"` // where it is in what ships; empty: only its work is
}

// Debian names the packages whose files are packed.
type Debian struct {
	Release   string             `json:"release"`
	Packages  []Package          `json:"packages"`
	Libraries map[string]Library `json:"libraries"` // what the programs of Packages load, by package name
}

// Library is a package of which only shared libraries are taken.
type Library struct {
	Version string `json:"version"`
	Licence string `json:"licence"`
}

// Package is one Debian package and what is taken from it.
type Package struct {
	Name    string            `json:"name"`
	Version string            `json:"version"`
	Licence string            `json:"licence"`
	Why     string            `json:"why"`
	Follow  bool              `json:"follow"` // an empty package: its one dependency of the same version holds the files
	Files   map[string]string `json:"files"`  // path in the package (or a pattern) to path in the bundle
}

// Guest says what the guest kernel needs beside what is built into it.
type Guest struct {
	Modules []string `json:"modules"`
}

// Module is a Go module of note: what we ship rather than merely use.
type Module struct {
	Module  string `json:"module"`
	Version string `json:"version"`
	Gomod   string `json:"gomod"` // the go.mod that selects it, relative to the repository
	Licence string `json:"licence"`
	Why     string `json:"why"`
}

// Load reads and checks the file at path.
func Load(path string) (Versions, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return Versions{}, fmt.Errorf("read recipe: %w", err)
	}
	var v Versions
	if err := yaml.UnmarshalStrict(raw, &v); err != nil {
		return Versions{}, fmt.Errorf("parse %s: %w", path, err)
	}
	return v, v.validate()
}

func (v Versions) validate() error {
	var errs []error
	if v.Debian.Release == "" || v.Machine.Release == "" {
		errs = append(errs, errors.New("debian.release or machine.release is empty"))
	}
	seen := map[string]bool{}
	for _, p := range v.Debian.Packages {
		if p.Name == "" || p.Version == "" || p.Licence == "" || p.Why == "" {
			errs = append(errs, fmt.Errorf("debian package %q lacks one of name, version, licence, why", p.Name))
		}
		if _, twice := v.Debian.Libraries[p.Name]; twice || seen[p.Name] {
			errs = append(errs, fmt.Errorf("debian package %q is listed twice", p.Name))
		}
		seen[p.Name] = true
	}
	for name, l := range v.Debian.Libraries {
		if l.Version == "" || l.Licence == "" {
			errs = append(errs, fmt.Errorf("debian library %q lacks one of version, licence", name))
		}
	}
	for name, p := range v.Machine.Packages {
		if p.Version == "" || p.Licence == "" {
			errs = append(errs, fmt.Errorf("package %q of the build machine lacks one of version, licence", name))
		}
	}
	for _, m := range v.Go {
		if m.Module == "" || m.Version == "" || m.Gomod == "" || m.Licence == "" || m.Why == "" {
			errs = append(errs, fmt.Errorf("go module %q lacks one of module, version, gomod, licence, why", m.Module))
		}
	}
	return errors.Join(errs...)
}
