// Command mkinitrd writes the first root filesystem of a microVM: /init, which is nodeless-guest, and the kernel
// modules it loads, with /modules/order naming them in an order in which each finds those it depends on.
package main

import (
	"flag"
	"fmt"
	"os"
	"strings"

	"github.com/nodeless/nodeless/bundle/recipe"
	"github.com/nodeless/nodeless/pkg/atomicfile"
)

func main() {
	versions := flag.String("versions", "bundle/versions.yaml", "names the modules")
	modules := flag.String("modules", "", "folder lib/modules/<release> of the kernel package")
	initBin := flag.String("init", "", "static program that becomes /init")
	out := flag.String("out", "", "where the initrd goes")
	flag.Parse()
	if err := build(*versions, *modules, *initBin, *out); err != nil {
		fmt.Fprintln(os.Stderr, "mkinitrd:", err)
		os.Exit(1)
	}
}

func build(versions, moduleDir, initBin, out string) error {
	want, err := recipe.Load(versions)
	if err != nil {
		return err
	}
	tree, err := openModules(moduleDir)
	if err != nil {
		return err
	}
	files, err := tree.order(want.Guest.Modules)
	if err != nil {
		return err
	}
	program, err := os.ReadFile(initBin)
	if err != nil {
		return fmt.Errorf("read /init: %w", err)
	}
	image, err := assemble(program, files)
	if err != nil {
		return err
	}
	return atomicfile.Write(out, image, 0o644)
}

// assemble lays the initrd out. /dev/console is there because the kernel opens it for /init before anything is mounted.
func assemble(program []byte, moduleFiles []string) ([]byte, error) {
	var a archive
	for _, dir := range []string{"dev", "modules", "proc", "run", "sys", "tmp"} {
		a.dir(dir)
	}
	a.device("dev/console", 5, 1)
	a.device("dev/null", 1, 3)
	a.file("init", program, 0o755)
	var order strings.Builder
	for _, file := range moduleFiles {
		content, err := readModule(file)
		if err != nil {
			return nil, err
		}
		name := moduleName(file) + ".ko"
		a.file("modules/"+name, content, 0o644)
		fmt.Fprintln(&order, name)
	}
	a.file("modules/order", []byte(order.String()), 0o644)
	return a.bytes(), nil
}
