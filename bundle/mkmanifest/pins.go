package main

import (
	"errors"
	"fmt"
	"maps"
	"os/exec"
	"slices"

	"github.com/nodeless/nodeless/bundle/recipe"
	"github.com/nodeless/nodeless/pkg/bundle"
)

// machine is what the build machine has of what the recipe names.
type machine struct {
	have map[string]string // version by package
	ship []bundle.Part     // the packages that are in what ships
}

// machineParts asks for the version of each package of the build machine that the recipe names.
func machineParts(want recipe.Machine, version func(name string) (string, error)) (machine, error) {
	m := machine{have: map[string]string{}}
	for _, name := range slices.Sorted(maps.Keys(want.Packages)) {
		v, err := version(name)
		if err != nil {
			return machine{}, err
		}
		m.have[name] = v
		if p := want.Packages[name]; p.Ships != "" {
			m.ship = append(m.ship, bundle.Part{Name: name, Version: v, Origin: bundle.OriginDebian, Licence: p.Licence})
		}
	}
	return m, nil
}

// installed asks dpkg for the version of an installed package.
func installed(name string) (string, error) {
	out, err := exec.Command("dpkg-query", "-W", "-f", "${Version}", name).Output()
	if err != nil {
		return "", fmt.Errorf("find version of %s: %w (scripts/deps.sh installs it)", name, err)
	}
	return string(out), nil
}

// unpinned names each package whose version is not that of the recipe. What follows a package that is empty has the version of that.
func unpinned(want recipe.Versions, got []bundle.Part) error {
	pins, followed := map[string]string{}, map[string]bool{}
	for _, p := range want.Debian.Packages {
		pins[p.Name] = p.Version
		if p.Follow {
			followed[p.Version] = true
		}
	}
	for name, l := range want.Debian.Libraries {
		pins[name] = l.Version
	}
	var errs []error
	for _, p := range got {
		if pin := pins[p.Name]; pin != p.Version && (pin != "" || !followed[p.Version]) {
			errs = append(errs, fmt.Errorf("package %s is %s, not as bundle/versions.yaml pins it", p.Name, p.Version))
		}
	}
	return errors.Join(errs...)
}

func (m machine) unpinned(want recipe.Machine) error {
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(want.Packages)) {
		if pin := want.Packages[name].Version; m.have[name] != pin {
			errs = append(errs, fmt.Errorf("this machine has %s %s, bundle/versions.yaml pins %s", name, m.have[name], pin))
		}
	}
	return errors.Join(errs...)
}

// otherToolchain names each other Go toolchain by which a program was built.
func otherToolchain(pin string, parts []bundle.Part) error {
	var errs []error
	for _, p := range parts {
		if p.Origin == bundle.OriginGo && p.Version != pin {
			errs = append(errs, fmt.Errorf("a program was built by %s, bundle/versions.yaml pins %s", p.Version, pin))
		}
	}
	return errors.Join(errs...)
}
