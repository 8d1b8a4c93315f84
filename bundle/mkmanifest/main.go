// Command mkmanifest ends the making of a bundle tree: it proves that every part is there, that the Go modules are
// the ones that versions.yaml names, and writes bundle.json.
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/nodeless/nodeless/bundle/recipe"
	"github.com/nodeless/nodeless/pkg/atomicfile"
	"github.com/nodeless/nodeless/pkg/bundle"
	"github.com/nodeless/nodeless/pkg/contract"
)

func main() {
	var o options
	flag.StringVar(&o.tree, "tree", "dist/bundle", "the bundle tree")
	flag.StringVar(&o.versions, "versions", "bundle/versions.yaml", "the recipe")
	flag.StringVar(&o.debian, "debian", "dist/parts-debian.json", "what mktree took from Debian")
	flag.StringVar(&o.version, "version", "", "version of nodeless")
	flag.BoolVar(&o.pinned, "pinned", false, "insist on the versions of the recipe: for releases")
	flag.BoolVar(&o.partial, "partial", false, "accept missing parts: for work on a part of the tree")
	flag.Usage = func() {
		fmt.Fprintln(os.Stderr, "usage: mkmanifest [flags] [Go program that is inside another file of the tree...]")
		flag.PrintDefaults()
	}
	flag.Parse()
	o.inside = flag.Args()
	if err := run(o); err != nil {
		fmt.Fprintln(os.Stderr, "mkmanifest:", err)
		os.Exit(1)
	}
}

type options struct {
	tree, versions, debian, version string
	partial, pinned                 bool
	inside                          []string // Go programs that are packed within another file, as the guest's in the initrd
}

// required is every file without which no Pod starts.
var required = []string{
	"bin/nodeless", "bin/" + contract.VMM, "bin/nodeless-converter", "bin/virtiofsd", "bin/" + contract.Shim, "bin/crictl", "cni/nodeless",
	"aux/iptables", "aux/iptables-save", "aux/iptables-restore", "aux/ip6tables", "aux/ip6tables-save", "aux/ip6tables-restore", "aux/nft",
	"netfilter/bin/xtables-nft-multi", "netfilter/bin/nft", "netfilter/lib/ld-linux-x86-64.so.2",
	"qemu/bin/qemu-system-x86_64", "qemu/bin/virtiofsd", "qemu/lib/ld-linux-x86-64.so.2",
	"qemu/share/bios-256k.bin", "qemu/share/kvmvapic.bin", "qemu/share/linuxboot_dma.bin", "qemu/share/pvh.bin",
	"guest/vmlinux", "guest/initrd", "guest/scratch.ext4", "images/pause.tar", "images/hello.tar", "images/inference.tar",
}

func run(o options) error {
	if err := complete(o.tree); err != nil && !o.partial {
		return err
	}
	want, err := recipe.Load(o.versions)
	if err != nil {
		return err
	}
	m := bundle.Manifest{Version: o.version}
	if m.Parts, err = parts(o, want); err != nil {
		return err
	}
	if m.Files, err = bundle.Scan(o.tree); err != nil {
		return err
	}
	raw, err := m.Encode()
	if err != nil {
		return err
	}
	return atomicfile.Write(filepath.Join(o.tree, bundle.ManifestName), raw, 0o644)
}

func complete(tree string) error {
	var errs []error
	for _, name := range required {
		if info, err := os.Stat(filepath.Join(tree, name)); err != nil || info.Size() == 0 {
			errs = append(errs, fmt.Errorf("bundle lacks %s", name))
		}
	}
	return errors.Join(append(errs, noStrangers(tree))...)
}

// noStrangers finds what an earlier recipe or a broken-off build left in the folders whose content is fixed.
func noStrangers(tree string) error {
	var errs []error
	for _, dir := range []string{"bin", "cni", "aux", "guest"} {
		files, err := filepath.Glob(filepath.Join(tree, dir, "*"))
		if err != nil {
			return fmt.Errorf("list %s: %w", dir, err)
		}
		for _, file := range files {
			if name := dir + "/" + filepath.Base(file); !slices.Contains(required, name) {
				errs = append(errs, fmt.Errorf("bundle has %s, which no recipe makes: remove %s", name, file))
			}
		}
	}
	return errors.Join(errs...)
}

func parts(o options, want recipe.Versions) ([]bundle.Part, error) {
	list := []bundle.Part{{Name: "nodeless", Version: o.version, Origin: bundle.OriginOwn, Licence: "Apache-2.0"}}
	raw, err := os.ReadFile(o.debian)
	if err != nil {
		return nil, fmt.Errorf("read Debian parts: %w", err)
	}
	var debian []bundle.Part
	if err := json.Unmarshal(raw, &debian); err != nil {
		return nil, fmt.Errorf("parse %s: %w", o.debian, err)
	}
	machine, err := machineParts(want.Machine, installed)
	if err != nil {
		return nil, err
	}
	modules, err := goParts(o, want.Go)
	if err != nil {
		return nil, err
	}
	list = slices.Concat(list, debian, machine.ship, modules)
	if o.pinned {
		err = errors.Join(unpinned(want, debian), machine.unpinned(want.Machine), otherToolchain(want.Machine.Go, modules))
	}
	return list, err
}
