package main

import (
	"errors"
	"strings"
	"testing"

	"github.com/nodeless/nodeless/bundle/recipe"
	"github.com/nodeless/nodeless/pkg/bundle"
)

func TestPins(t *testing.T) {
	want := recipe.Versions{
		Debian: recipe.Debian{
			Packages:  []recipe.Package{{Name: "qemu", Version: "1"}, {Name: "linux-image", Version: "6", Follow: true}},
			Libraries: map[string]recipe.Library{"liba": {Version: "2"}},
		},
		Machine: recipe.Machine{Go: "go1.26.8", Packages: map[string]recipe.HostPart{"busybox": {Version: "3", Ships: "in an image"}, "e2fsprogs": {Version: "4"}}},
	}
	right := []bundle.Part{{Name: "qemu", Version: "1"}, {Name: "linux-image-6.1.0-57", Version: "6"}, {Name: "liba", Version: "2"}}
	if err := unpinned(want, right); err != nil {
		t.Errorf("pinned versions: %v", err)
	}
	wrong := []bundle.Part{{Name: "qemu", Version: "6"}, {Name: "linux-image-6.1.0-58", Version: "7"}, {Name: "liba", Version: "9"}}
	err := unpinned(want, wrong)
	for _, p := range wrong {
		if err == nil || !strings.Contains(err.Error(), p.Name+" is "+p.Version) {
			t.Errorf("unpinned = %v, want it to name %s", err, p.Name)
		}
	}

	versions := map[string]string{"busybox": "3", "e2fsprogs": "5"}
	m, err := machineParts(want.Machine, func(name string) (string, error) { return versions[name], nil })
	if err != nil || len(m.ship) != 1 || m.ship[0].Name != "busybox" || m.ship[0].Version != "3" {
		t.Errorf("parts of the machine = %+v, %v; want busybox 3 alone", m.ship, err)
	}
	if err := m.unpinned(want.Machine); err == nil || !strings.Contains(err.Error(), "e2fsprogs 5") || strings.Contains(err.Error(), "busybox") {
		t.Errorf("unpinned = %v, want e2fsprogs named and busybox not", err)
	}
	if _, err := machineParts(want.Machine, func(string) (string, error) { return "", errors.ErrUnsupported }); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("a package that is not installed: %v", err)
	}
	if err := otherToolchain("go1.26.8", []bundle.Part{{Version: "go1.26.8", Origin: bundle.OriginGo}, {Version: "v2", Origin: bundle.OriginModule}}); err != nil {
		t.Errorf("the pinned toolchain: %v", err)
	}
	if err := otherToolchain("go1.26.8", []bundle.Part{{Version: "go1.27", Origin: bundle.OriginGo}}); err == nil {
		t.Error("another toolchain was taken")
	}
}
