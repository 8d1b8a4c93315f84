package boot

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// orderFile lists the modules to load, one file name a line, in the order of their dependencies.
const orderFile = "order"

// loadModules loads the modules of the initrd. Those the kernel has already are passed over.
func loadModules(dir string) error {
	raw, err := os.ReadFile(filepath.Join(dir, orderFile))
	if errors.Is(err, os.ErrNotExist) {
		return nil // everything is built in
	}
	if err != nil {
		return fmt.Errorf("list kernel modules: %w", err)
	}
	for _, name := range moduleNames(string(raw)) {
		if err := loadModule(filepath.Join(dir, name)); err != nil {
			return fmt.Errorf("load kernel module %s: %w", name, err)
		}
	}
	return nil
}

// moduleNames reads the order file: a name a line, # begins a comment.
func moduleNames(order string) []string {
	var out []string
	for line := range strings.Lines(order) {
		line, _, _ = strings.Cut(line, "#")
		if line = strings.TrimSpace(line); line != "" {
			out = append(out, filepath.Base(line))
		}
	}
	return out
}

func loadModule(file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.FinitModule(int(f.Fd()), "", 0); err != nil && !errors.Is(err, unix.EEXIST) {
		return err
	}
	return nil
}
